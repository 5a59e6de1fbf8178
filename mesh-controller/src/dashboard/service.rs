//! One service: its endpoints by version, its routes with what they took, the policies that its workloads have, and
//! who speaks to it.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::{
    model::Seen,
    proto::nodemesh::{ConfigKind, PolicyInfo, RouteCounts, RoutesQuery, StatBy, WorkloadInfo, item, query},
};
use serde_json::{Value, json};

use super::{
    Said,
    api::{Refused, config, stat},
    asked::Asking,
    graph::{edges, infos, name_of, named, stats},
    tables::{by_service, by_workload, errors, service_infos, service_row},
    words,
};

pub async fn answer(asked: &Asking<'_>, namespace: &str, host: &str, seconds: u32) -> Result<Value, Refused> {
    let (services, workloads, rules, policies) = tokio::join!(
        config(asked, ConfigKind::Services, ""),
        config(asked, ConfigKind::Workloads, ""),
        config(asked, ConfigKind::Routes, namespace),
        config(asked, ConfigKind::Policies, ""),
    );
    let service = service_infos(&services).find(|service| service.namespace == namespace && service.hostname == host);
    let name = format!("{namespace}/{host}");
    let service = service.ok_or_else(|| Refused::unknown(format!("there is no service {name}")))?;
    let pods: Vec<&WorkloadInfo> = infos(&workloads).filter(|pod| pod.services.contains(&name)).collect();
    // Agents are asked about what is shown alone: sums of a large mesh are long.
    let theirs = match pods.as_slice() {
        [first, others @ ..] if others.iter().all(|pod| pod.namespace == first.namespace) => first.namespace.as_str(),
        [] => namespace,
        _ => "",
    };
    let counted = query::Kind::Routes(RoutesQuery { namespace: namespace.to_owned() });
    let (of_services, of_workloads, of_routes, of_edges, counts) = tokio::join!(
        asked.ask("", stat(StatBy::Service, namespace, seconds)),
        asked.ask("", stat(StatBy::Workload, theirs, seconds)),
        asked.ask("", stat(StatBy::Route, namespace, seconds)),
        asked.ask("", stat(StatBy::EdgeTo, theirs, seconds)),
        asked.ask("", counted),
    );
    let own = stats(&of_services).filter(|stat| stat.service == name);
    let seen = by_service(own, |stat| stat.service.as_str());
    let mut told = service_row(service, seen.get(name.as_str()));
    told["versions"] = versions(&pods, &of_workloads);
    told["routes"] = routes(&name, &of_routes, &counts);
    told["rules"] = written(&name, &rules);
    told["policies"] = applied(&pods, &policies);
    told["clients"] = clients(&pods, &of_edges);
    let all = [
        &*services,
        &*workloads,
        &*rules,
        &*policies,
        &*of_services,
        &*of_workloads,
        &*of_routes,
        &*of_edges,
        &*counts,
    ];
    told["errors"] = json!(errors(&all));
    Ok(told)
}

fn versions(pods: &[&WorkloadInfo], told: &Said) -> Value {
    let own = workloads(pods);
    let seen = by_workload(stats(told).filter(|stat| own.contains(&named(stat.destination.as_ref()))));
    let mut rows: BTreeMap<(&str, &str, &str), (u32, u32)> = BTreeMap::new();
    for pod in pods {
        let (all, healthy) = rows.entry((&pod.namespace, name_of(pod), &pod.revision)).or_default();
        *all += 1;
        *healthy += u32::from(pod.healthy);
    }
    let rows = rows.into_iter().map(|((namespace, workload, revision), (pods, healthy))| {
        json!({
            "namespace": namespace,
            "workload": workload,
            "revision": revision,
            "pods": pods,
            "healthy": healthy,
            "seen": words::seen(seen.get(&(namespace, workload))),
        })
    });
    rows.collect()
}

/// Routes that took something: of late, or since the agents started.
fn routes(service: &str, told: &Said, counts: &Said) -> Value {
    #[derive(Default)]
    struct Counts {
        requests: u64,
        retries: u64,
        mirrored: u64,
        flags: BTreeMap<String, u64>,
    }
    let own = stats(told).filter(|stat| stat.service == service);
    let seen: BTreeMap<&str, Seen> = by_service(own, |stat| stat.route.as_str());
    let mut since: BTreeMap<&str, Counts> = BTreeMap::new();
    for (_, kind) in &counts.items {
        let item::Kind::Route(RouteCounts { service: of, route, requests, retries, mirrored, flags, .. }) = kind else {
            continue;
        };
        if of == service {
            let sum = since.entry(route).or_default();
            sum.requests += requests;
            sum.retries += retries;
            sum.mirrored += mirrored;
            flags.iter().for_each(|(flag, count)| *sum.flags.entry(flag.clone()).or_default() += count);
        }
    }
    let names: BTreeSet<&str> = seen.keys().chain(since.keys()).copied().collect();
    let rows = names.into_iter().map(|route| {
        let Counts { requests, retries, mirrored, flags } = since.remove(route).unwrap_or_default();
        json!({
            "route": route,
            "requests": requests,
            "retries": retries,
            "mirrored": mirrored,
            "flags": flags,
            "seen": words::seen(seen.get(route)),
        })
    });
    rows.collect()
}

/// What agents are told, as it is; null: nothing.
fn written(service: &str, rules: &Said) -> Value {
    let mut told = rules.items.iter().filter_map(|(_, kind)| match kind {
        item::Kind::Traffic(told) if told.service == service => Some(&told.rules),
        _ => None,
    });
    told.next().and_then(|rules| serde_json::from_slice(rules).ok()).unwrap_or_default()
}

fn applied(pods: &[&WorkloadInfo], policies: &Said) -> Value {
    let own: BTreeSet<&str> = pods.iter().map(|pod| pod.uid.as_str()).collect();
    let rows = policies.items.iter().filter_map(|(_, kind)| match kind {
        item::Kind::Policy(PolicyInfo { namespace, name, scope, action, rules, workloads }) => {
            let concerned = workloads.iter().filter(|uid| own.contains(uid.as_str())).count();
            (concerned > 0).then(|| {
                json!({
                    "namespace": namespace,
                    "name": name,
                    "scope": scope,
                    "action": action,
                    "rules": rules,
                    "pods": concerned,
                })
            })
        }
        _ => None,
    });
    rows.collect()
}

fn workloads<'a>(pods: &[&'a WorkloadInfo]) -> BTreeSet<(&'a str, &'a str)> {
    pods.iter().map(|pod| (pod.namespace.as_str(), name_of(pod))).collect()
}

fn clients(pods: &[&WorkloadInfo], told: &Said) -> Value {
    let own = workloads(pods);
    let to_them = stats(told).filter(|stat| own.contains(&named(stat.destination.as_ref())));
    let rows = edges(to_them).at_destination().map(|((source, destination), seen)| {
        json!({
            "namespace": source.0,
            "name": source.1,
            "to": destination.1,
            "seen": words::seen(Some(&seen)),
        })
    });
    rows.collect()
}
