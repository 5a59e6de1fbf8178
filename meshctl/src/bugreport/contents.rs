//! What a report holds, by the paths in it. A test compares the table with reports.

/// `*` stands for names. Those with a mark need a cluster.
const CONTENTS: &[(&str, bool, &str)] = &[
    ("contents.txt", false, "this table"),
    ("errors.txt", false, "what could not be had, and why"),
    ("report.json", false, "version of meshctl, time, and what was asked for"),
    ("doctor.jsonl", false, "the findings of meshctl doctor"),
    ("agents/*/*.jsonl", false, "each agent: status, configuration, certificates (no keys), connections, flows, edges"),
    ("controller/*.jsonl", false, "the controller's view of the same"),
    ("metrics/*.txt", false, "pages for Prometheus"),
    ("check.jsonl", true, "the findings of meshctl check"),
    ("cluster/version.json", true, "version of the API server"),
    ("cluster/nodes.json", true, "nodes, without their lists of images"),
    ("cluster/namespaces.json", true, "namespaces with labels and annotations"),
    ("cluster/pods.json", true, "pods of meshed namespaces: labels, annotations and status; no environment"),
    ("cluster/kinds.json", true, "CustomResourceDefinitions: names, versions and conditions"),
    ("cluster/policies.json", true, "AuthorizationPolicies and PeerAuthentications with their conditions"),
    ("cluster/networkpolicies.json", true, "NetworkPolicies of meshed namespaces"),
    ("cluster/events.json", true, "events of the mesh's and of meshed namespaces"),
    (
        "cluster/mesh/*.json",
        true,
        "objects of the mesh's own namespace, Leases among them; of Secrets only names and sizes",
    ),
    ("logs/*.log", true, "logs of controller and agents, the newest 4 MiB of each, and those before a restart"),
];

/// Path and what it is.
pub fn of(cluster: bool) -> impl Iterator<Item = (&'static str, &'static str)> {
    CONTENTS.iter().filter(move |(_, needs, _)| cluster || !needs).map(|(path, _, about)| (*path, *about))
}

/// Whether the table names such a path.
#[cfg(test)]
pub fn names(path: &str) -> bool {
    let is = |pattern: &str| {
        let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
        loop {
            match (pattern.next(), path.next()) {
                (None, None) => return true,
                (Some(pattern), Some(path)) => match pattern.split_once('*') {
                    Some((begin, end)) if path.starts_with(begin) && path.ends_with(end) => {}
                    None if pattern == path => {}
                    _ => return false,
                },
                _ => return false,
            }
        }
    };
    CONTENTS.iter().any(|(pattern, ..)| is(pattern))
}
