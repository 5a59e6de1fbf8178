//! What PeerAuthentication and AuthorizationPolicy mean, worked out slowly from the objects as they are written. It
//! shares no code with the mesh: it reads JSON, compares texts, and looks at every rule.

use std::net::IpAddr;

use serde_json::Value;

use crate::oracle_policies::ROOT;

/// One connection to come.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// Namespace and ServiceAccount of the client; `None`: it is not in the mesh and proves nothing.
    pub client: Option<(&'a str, &'a str)>,
    /// The client's ServiceAccount is deleted.
    pub is_revoked: bool,
    pub from: IpAddr,
    /// Namespace of the server, and its label `app`.
    pub server: (&'a str, &'a str),
    pub to: IpAddr,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub permitted: bool,
    /// Some policy that is not enforced has something to say of it, or some policy asks for requests, so the agent must
    /// see it.
    pub observed: bool,
    /// Some policy asks for requests.
    pub asks: bool,
}

pub fn decide(objects: &[Value], asked: &Asked<'_>) -> Answer {
    let about = || objects.iter().filter(|o| o["kind"] == "AuthorizationPolicy" && is_about(o, asked, true));
    let asks = about().any(|policy| !is_void(policy) && list(&policy["spec"]["rules"]).iter().any(is_of_requests));
    if asked.is_revoked {
        return Answer { permitted: false, observed: asks, asks };
    }
    let (mut denied, mut allowed, mut allows) = (asked.client.is_none() && is_strict(objects, asked), false, false);
    let (mut audited, mut idle_deny, mut idle_allow, mut idle_allows) = (false, false, false, false);
    for policy in about() {
        let rules = list(&policy["spec"]["rules"]);
        // What cannot be honoured permits nobody.
        let matches = match is_void(policy) {
            true => action(policy) == "DENY",
            false => rules.iter().any(|rule| holds(rule, policy, asked)),
        };
        let dry = policy["metadata"]["annotations"]["istio.io/dry-run"] == "true";
        match (action(policy), dry) {
            ("AUDIT", _) => audited |= matches,
            ("DENY", false) => denied |= matches,
            ("DENY", true) => idle_deny |= matches,
            (_, false) => (allows, allowed) = (true, allowed || matches),
            (_, true) => (idle_allows, idle_allow) = (true, idle_allow || matches),
        }
    }
    let permitted = !denied && (allowed || !allows);
    // What a dry run says counts if it would have turned the answer.
    let would_deny = permitted && idle_deny;
    let would_leave_out = permitted && !allows && idle_allows && !idle_allow;
    let would_let_in = !denied && !permitted && idle_allow;
    Answer { permitted, observed: asks || audited || would_deny || would_leave_out || would_let_in, asks }
}

/// It cannot be honoured: as Istio has it, who means anybody leaves the field out.
fn is_void(policy: &Value) -> bool {
    let is_empty = |list: &Value| list.as_array().is_some_and(Vec::is_empty);
    list(&policy["spec"]["rules"]).iter().any(|rule| is_empty(&rule["from"]) || is_empty(&rule["to"]))
}

fn is_of_requests(rule: &Value) -> bool {
    let written = rule.to_string();
    ["\"requestPrincipals\"", "\"methods\""].iter().any(|field| written.contains(field))
}

fn action(policy: &Value) -> &str {
    policy["spec"]["action"].as_str().unwrap_or("ALLOW")
}

/// The namespace and the labels fit. `everywhere`: with a selector too, one of the root namespace is about all.
fn is_about(object: &Value, asked: &Asked<'_>, everywhere: bool) -> bool {
    let (namespace, app) = asked.server;
    let selector = &object["spec"]["selector"]["matchLabels"];
    let labels_fit = match selector.as_object() {
        None => true,
        Some(wanted) => wanted.iter().filter(|(key, value)| !(*key == "app" && *value == app)).count() == 0,
    };
    let of = object["metadata"]["namespace"].as_str().unwrap_or_default();
    labels_fit && (of == namespace || of == ROOT && (selector.is_null() || everywhere))
}

/// The port asks for an identity: its own mode, else that of the workload, the namespace, the mesh.
fn is_strict(objects: &[Value], asked: &Asked<'_>) -> bool {
    let mut peers: Vec<&Value> =
        objects.iter().filter(|o| o["kind"] == "PeerAuthentication" && is_about(o, asked, false)).collect();
    // RFC 3339 in one zone: texts sort as times do.
    peers.sort_by_key(|peer| [text(&peer["metadata"]["creationTimestamp"]), text(&peer["metadata"]["name"])]);
    let of = |peer: &&&Value, namespace: &str, selecting: bool| {
        peer["metadata"]["namespace"] == namespace && peer["spec"]["selector"].is_null() != selecting
    };
    let workload = peers.iter().find(|peer| of(peer, asked.server.0, true));
    let namespace = peers.iter().find(|peer| of(peer, asked.server.0, false));
    let mesh = peers.iter().find(|peer| of(peer, ROOT, false));
    let port = workload.map(|peer| &peer["spec"]["portLevelMtls"][asked.port.to_string()]["mode"]);
    let modes = [workload, namespace, mesh].into_iter().flatten().map(|peer| &peer["spec"]["mtls"]["mode"]);
    let said = port.into_iter().chain(modes).find(|mode| !mode.is_null() && *mode != "UNSET");
    said.is_some_and(|mode| mode == "STRICT")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// HTTP conditions: an ALLOW or AUDIT rule with one never matches, a DENY rule goes by the rest.
fn holds(rule: &Value, policy: &Value, asked: &Asked<'_>) -> bool {
    if is_of_requests(rule) && action(policy) != "DENY" {
        return false;
    }
    let own = policy["metadata"]["namespace"].as_str().unwrap_or_default();
    let (from, to) = (list(&rule["from"]), list(&rule["to"]));
    let from_fits = from.iter().filter(|one| all_fit(&one["source"], own, asked)).count() > 0;
    let to_fits = to.iter().filter(|one| all_fit(&one["operation"], own, asked)).count() > 0;
    let broken = list(&rule["when"]).iter().filter(|one| !condition_fits(one, own, asked)).count();
    (from.is_empty() || from_fits) && (to.is_empty() || to_fits) && broken == 0
}

/// Every field of a source or an operation: one of the values, or none of those of a `not` field.
fn all_fit(part: &Value, own: &str, asked: &Asked<'_>) -> bool {
    let fields = part.as_object().into_iter().flatten();
    let broken = fields.filter(|(name, values)| match name.as_str() {
        "requestPrincipals" | "methods" => false,
        "principals" | "namespaces" | "serviceAccounts" | "ipBlocks" | "ports" => !any_fits(name, values, own, asked),
        "notPrincipals" => any_fits("principals", values, own, asked),
        "notNamespaces" => any_fits("namespaces", values, own, asked),
        "notServiceAccounts" => any_fits("serviceAccounts", values, own, asked),
        "notIpBlocks" => any_fits("ipBlocks", values, own, asked),
        "notPorts" => any_fits("ports", values, own, asked),
        other => panic!("the reference knows no {other}"),
    });
    broken.count() == 0
}

fn condition_fits(condition: &Value, own: &str, asked: &Asked<'_>) -> bool {
    let key = condition["key"].as_str().unwrap_or_default();
    let (values, not_values) = (&condition["values"], &condition["notValues"]);
    (list(values).is_empty() || any_fits(key, values, own, asked)) && !any_fits(key, not_values, own, asked)
}

fn any_fits(kind: &str, values: &Value, own: &str, asked: &Asked<'_>) -> bool {
    list(values).iter().filter(|value| fits(kind, &text(value), own, asked)).count() > 0
}

fn fits(kind: &str, value: &str, own: &str, asked: &Asked<'_>) -> bool {
    let client = asked.client;
    match kind {
        "principals" | "source.principal" => client.is_some_and(|(namespace, account)| {
            pattern_fits(value, &format!("cluster.local/ns/{namespace}/sa/{account}"))
        }),
        "namespaces" | "source.namespace" => client.is_some_and(|(namespace, _)| pattern_fits(value, namespace)),
        "serviceAccounts" | "source.serviceAccount" => {
            let whole = if value.contains('/') { value.to_owned() } else { format!("{own}/{value}") };
            client.is_some_and(|(namespace, account)| whole == format!("{namespace}/{account}"))
        }
        "ipBlocks" | "source.ip" => network_fits(value, asked.from),
        "destination.ip" => network_fits(value, asked.to),
        "ports" | "destination.port" => value == asked.port.to_string(),
        other => panic!("the reference knows no {other}"),
    }
}

fn pattern_fits(pattern: &str, value: &str) -> bool {
    match pattern.split('*').collect::<Vec<_>>()[..] {
        [whole] => whole == value,
        // With both empty: any.
        [start, end] => !value.is_empty() && value.starts_with(start) && value.ends_with(end),
        _ => panic!("{pattern}: one * at most"),
    }
}

/// Both as binary digits, IPv4 as the last 32 of ::ffff:0:0/96. An IPv6 network around all of IPv4 holds no IPv4
/// address.
fn network_fits(network: &str, ip: IpAddr) -> bool {
    let (address, length) = match network.split_once('/') {
        Some((address, length)) => (address, Some(length.parse::<usize>().expect("a length"))),
        None => (network, None),
    };
    let address: IpAddr = address.parse().expect("an address");
    let length = match (address, length) {
        (_, None) => 128,
        (IpAddr::V4(_), Some(length)) => 96 + length,
        (IpAddr::V6(_), Some(length)) => length,
    };
    let mapped = digits("::ffff:0:0".parse().expect("an address"));
    if length < 96 && digits(ip)[..96] == mapped[..96] {
        return false;
    }
    digits(address)[..length] == digits(ip)[..length]
}

fn digits(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => format!("{:0128b}", v4.to_ipv6_mapped().to_bits()),
        IpAddr::V6(v6) => format!("{:0128b}", v6.to_bits()),
    }
}

#[test]
fn the_reference_knows_the_rules() {
    use serde_json::json;
    let asked = Asked {
        client: Some(("shop", "cart")),
        is_revoked: false,
        from: [10, 0, 0, 7].into(),
        server: ("market", "api"),
        to: [10, 0, 0, 9].into(),
        port: 7000,
    };
    let policy = |namespace: &str, spec: Value| json!({ "kind": "AuthorizationPolicy", "metadata": { "namespace": namespace }, "spec": spec });
    let one = |spec: Value| decide(&[policy("market", spec)], &asked).permitted;
    let source = |source: Value| json!({ "action": "DENY", "rules": [{ "from": [{ "source": source }] }] });
    for (spec, permitted) in [
        (json!({}), false),
        (json!({ "rules": [{}] }), true),
        (json!({ "rules": [{}, { "to": [] }] }), false),
        (json!({ "action": "DENY", "rules": [{ "from": [] }] }), false),
        (json!({ "rules": [{ "when": [] }] }), true),
        (json!({ "action": "DENY", "rules": [{}] }), false),
        (json!({ "action": "DENY" }), true),
        (json!({ "action": "AUDIT", "rules": [{}] }), true),
        (source(json!({ "principals": ["*/sa/cart"] })), false),
        (source(json!({ "notPrincipals": ["*/sa/cart"] })), true),
        (source(json!({ "serviceAccounts": ["cart"] })), true),
        (source(json!({ "serviceAccounts": ["shop/cart"], "ipBlocks": ["10.0.0.6/31"] })), false),
        (source(json!({ "serviceAccounts": ["shop/cart"], "ipBlocks": ["10.0.0.8/31"] })), true),
        (source(json!({ "ipBlocks": ["::ffff:10.0.0.6/127"] })), false),
        (source(json!({ "ipBlocks": ["::/0"] })), true),
        (json!({ "selector": { "matchLabels": { "app": "web" } } }), true),
        (json!({ "action": "DENY", "rules": [{ "to": [{ "operation": { "methods": ["GET"] } }] }] }), false),
        (json!({ "rules": [{ "when": [{ "key": "destination.port", "notValues": ["7000"] }] }] }), false),
    ] {
        assert_eq!(one(spec.clone()), permitted, "{spec}");
    }
    assert!(decide(&[policy("shop", json!({}))], &asked).permitted);
    assert!(!decide(&[policy(ROOT, json!({}))], &asked).permitted);
    let peer = |namespace: &str, spec: Value| json!({ "kind": "PeerAuthentication", "metadata": { "namespace": namespace }, "spec": spec });
    let strict = |ports: Value| json!({ "mtls": { "mode": "STRICT" }, "selector": { "matchLabels": { "app": "api" } }, "portLevelMtls": ports });
    let plain = Asked { client: None, ..asked };
    for (object, permitted) in [
        (peer(ROOT, json!({ "mtls": { "mode": "STRICT" } })), false),
        (peer("shop", json!({ "mtls": { "mode": "STRICT" } })), true),
        (peer("market", strict(json!({ "7000": { "mode": "DISABLE" } }))), true),
        (peer("market", strict(json!({ "7000": { "mode": "UNSET" } }))), false),
        (peer(ROOT, strict(json!({}))), true),
    ] {
        assert_eq!(decide(std::slice::from_ref(&object), &plain).permitted, permitted, "{object}");
    }
}
