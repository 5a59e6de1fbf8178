//! `meshctl policy test` against an agent that has recorded this and that.

use std::{fs, path::Path};

use clap::Parser as _;
use mesh_common::proto::nodemesh::{Direction, Endpoint, Flow, FlowsWindow, HttpRequest, Path as Way, Verdict};

use serde_json::{Value, json};

use super::*;
use crate::{Verb, cluster::Access, tests::Served};

pub(crate) const SHOP: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {nodemesh.io/mode: mesh}}}
---
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop, uid: u-cart, labels: {app: cart}}
spec: {nodeName: node-a, serviceAccountName: cart, containers: [{name: c}]}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, uid: u-client, labels: {app: client}}
spec: {nodeName: node-b, serviceAccountName: client, containers: [{name: c}]}
status: {phase: Running, podIP: 10.0.1.1, podIPs: [{ip: 10.0.1.1}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], selector: {app: cart}, ports: [{name: x, port: 80}]}
";

pub(crate) fn policy(name: &str, action: &str, rules: &str) -> String {
    format!(
        "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {name}, namespace: shop}}, \
         spec: {{selector: {{matchLabels: {{app: cart}}}}, action: {action}, rules: {rules}}}}}\n"
    )
}

/// An inbound record of the cart's.
pub(crate) fn flow(identity: &str) -> Flow {
    let end = |pod: &str, identity: &str, address: &str| Endpoint {
        namespace: "shop".into(),
        pod: pod.into(),
        workload: pod.into(),
        identity: identity.into(),
        address: address.into(),
        ..Endpoint::default()
    };
    Flow {
        direction: Direction::Inbound.into(),
        verdict: Verdict::Forwarded.into(),
        path: Way::Tunnel.into(),
        source: Some(end("client", identity, "10.0.1.1:40000")),
        destination: Some(end("cart", "spiffe://cluster.local/ns/shop/sa/cart", "10.0.0.1:80")),
        rule: -1,
        ..Flow::default()
    }
}

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";

fn request(method: &str, path: &str) -> Flow {
    let http = HttpRequest { method: method.into(), path: path.into(), host: "cart".into(), ..HttpRequest::default() };
    Flow { http: Some(http), ..flow(CLIENT) }
}

pub(crate) struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    /// What runs, besides the shop, and what is to come.
    pub(crate) fn new(running: &str, new: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("now.yaml"), format!("{SHOP}{running}")).unwrap();
        fs::write(folder.path().join("new.yaml"), new).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// The command line of a verb.
    pub(crate) fn line(&self, verb: &str) -> crate::Arguments {
        let line = format!("meshctl {verb} -f {} --current {}", self.path("new.yaml"), self.path("now.yaml"));
        crate::Arguments::try_parse_from(line.split(' ')).unwrap()
    }
}

pub(crate) fn nowhere() -> Cluster {
    Cluster { access: Access::default(), mesh_namespace: "nodemesh-system".into() }
}

/// Whose records reach back for `hours`.
fn agent(flows: Vec<Flow>, hours: u64) -> Served {
    Served::of_nodes(move |_, kind| {
        let query = match kind {
            query::Kind::Flows(query) => query,
            query::Kind::Config(query) if query.kind() == ConfigKind::Policies => return Ok(Vec::new()),
            _ => return Err(tonic::Status::internal("another question")),
        };
        assert!(query.since.is_some());
        let from = SystemTime::now() - Duration::from_secs(hours * 3600);
        let window = FlowsWindow { from: Some(from.into()), replaced: 0, lost: 0 };
        let flows = flows.iter().cloned().map(|flow| item::Kind::Flow(flow.into()));
        Ok(flows.chain([item::Kind::Window(window)]).map(|kind| ("node-a".to_owned(), kind)).collect())
    })
}

async fn asked(files: &Files, socket: &Path, verb: &str) -> (Result<Outcome, Failure>, String) {
    let arguments = files.line(verb);
    let Verb::Policy(Question::Test(test)) = arguments.verb else { panic!("another verb") };
    let servers = Servers::of_sockets(vec![socket.to_owned()], String::new());
    let mut out = Vec::new();
    let mut screen = Screen::new(&mut out, arguments.common.output, false);
    let outcome = super::test(&test, &servers, &nowhere(), &mut screen).await;
    (outcome, String::from_utf8(out).unwrap())
}

/// The outcome, and `change method path count: needs` of each pair.
async fn tested(running: &str, new: &str, flows: Vec<Flow>) -> (Outcome, Vec<String>) {
    let (files, agent) = (Files::new(running, new), agent(flows, 2));
    let (outcome, text) = asked(&files, &agent.socket(), "policy test -o json").await;
    let all: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let pairs = all.iter().filter(|value| value["kind"] == "pair").map(|pair| {
        let text = |field: &str| pair[field].as_str().unwrap_or("-").to_owned();
        let needs: Vec<_> = pair["needs"].as_array().unwrap().iter().map(|of| of.as_str().unwrap()).collect();
        let needs = if needs.is_empty() { String::new() } else { format!(": {}", needs.join(", ")) };
        format!("{} {} {} {}{needs}", text("change"), text("method"), text("path"), pair["count"])
    });
    (outcome.unwrap(), pairs.collect())
}

const ONLY_GET: &str = "[{to: [{operation: {methods: [GET]}}]}]";

#[tokio::test]
async fn records_are_judged_before_and_after() {
    let deny = policy("deny", "DENY", "[{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]");
    let both = vec![flow(CLIENT), flow(CLIENT), flow("")];
    assert_eq!(tested("", &deny, both.clone()).await, (Outcome::Found, vec!["newly_denied - - 2".to_owned()]));
    let allow = policy("deny", "DENY", "[{from: [{source: {principals: [cluster.local/ns/x/sa/x]}}]}]");
    assert_eq!(tested(&deny, &allow, both.clone()).await, (Outcome::Found, vec!["newly_allowed - - 2".to_owned()]));
    let rewritten =
        deny.replace("v1,", "v1beta1,").replace("principals: [", "principals: ['").replace("client]", "client']");
    assert_ne!(rewritten, deny);
    assert_eq!(tested(&deny, &rewritten, both.clone()).await, (Outcome::Fine, vec![]));
    let dry = deny.replace("{name: deny", "{annotations: {istio.io/dry-run: 'true'}, name: deny");
    assert_eq!(tested("", &dry, both.clone()).await, (Outcome::Fine, vec![]), "it refuses nobody");
    let strict = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: ask, namespace: shop}, \
                  spec: {mtls: {mode: STRICT}}}";
    assert_eq!(tested("", strict, both).await, (Outcome::Found, vec!["newly_denied - - 1".to_owned()]));
}

#[tokio::test]
async fn what_was_not_recorded_is_unknown_where_it_decides() {
    let allow = policy("get", "ALLOW", ONLY_GET);
    let requests = || vec![request("GET", "/a"), request("POST", "/a")];
    assert_eq!(tested("", &allow, requests()).await, (Outcome::Found, vec!["newly_denied POST /a 1".to_owned()]));
    let unknown = "unknown - - 1: whether it carried requests, method".to_owned();
    assert_eq!(tested("", &allow, vec![flow(CLIENT)]).await, (Outcome::Unsure, vec![unknown.clone()]));
    let audit = policy("watch", "AUDIT", ONLY_GET);
    assert_eq!(tested("", &audit, vec![flow(CLIENT)]).await, (Outcome::Fine, vec![]));
    // Bytes are refused by ALLOW rules about requests; nobody knows whether it were bytes.
    let any =
        policy("get", "ALLOW", "[{to: [{operation: {methods: [GET]}}]}, {to: [{operation: {notMethods: [GET]}}]}]");
    let bytes = "unknown - - 1: whether it carried requests".to_owned();
    assert_eq!(tested("", &any, vec![flow(CLIENT)]).await, (Outcome::Unsure, vec![bytes]));
    let header = "[{when: [{key: 'request.headers[x-team]', values: [a]}], to: [{operation: {methods: [POST]}}]}]";
    let header = policy("teams", "DENY", header);
    let team = "unknown POST /a 1: header x-team".to_owned();
    assert_eq!(tested("", &header, requests()).await, (Outcome::Unsure, vec![team.clone()]));
    // Whatever the header is, it is the same before and after.
    let more = policy("put", "DENY", "[{to: [{operation: {methods: [PUT]}}]}]");
    assert_eq!(tested(&header, &more, requests()).await, (Outcome::Fine, vec![]));
    let all = policy("all", "DENY", "[{}]");
    let denied = ["newly_denied GET /a 1".to_owned(), team.clone()];
    assert_eq!(tested(&header, &all, requests()).await, (Outcome::Found, denied.to_vec()), "it may be denied already");
}

#[tokio::test]
async fn a_path_is_decided_on_as_others_may_read_it() {
    let admin = policy("admin", "DENY", "[{to: [{operation: {paths: [/admin]}}]}]");
    let paths = ["/%61dmin;x", "/%2561dmin", "/a%00", "/b"].map(|path| request("GET", path)).to_vec();
    let expected = ["/%2561dmin", "/%61dmin;x", "/a%00"].map(|path| format!("newly_denied GET {path} 1"));
    assert_eq!(tested("", &admin, paths).await, (Outcome::Found, expected.to_vec()));
}

#[tokio::test]
async fn tokens_are_known_by_their_principal() {
    let rules = |issuers: &[&str]| {
        let rules: Vec<_> = issuers
            .iter()
            .map(|issuer| format!("{{issuer: '{issuer}', jwksUri: 'https://keys.example/{}'}}", issuer.len()))
            .collect();
        format!(
            "---\n{{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {{name: jwt, namespace: shop}}, \
             spec: {{jwtRules: [{}]}}}}\n",
            rules.join(", ")
        )
    };
    let with = |principal: &str| {
        let mut flow = request("GET", "/");
        flow.http.as_mut().unwrap().principal = principal.to_owned();
        flow
    };
    let running = rules(&["https://a"]);
    let flows = || vec![with("https://a/bob"), with("https://a/eve"), with("")];
    let bob = policy("bob", "ALLOW", "[{from: [{source: {requestPrincipals: ['https://a/bob']}}]}]");
    assert_eq!(tested(&running, &bob, flows()).await, (Outcome::Found, vec!["newly_denied GET / 2".to_owned()]));
    let claim = policy("c", "ALLOW", "[{when: [{key: 'request.auth.claims[group]', values: [dev]}]}]");
    let expected = ["newly_denied GET / 1".to_owned(), "unknown GET / 2: claim group".to_owned()];
    assert_eq!(
        tested(&running, &claim, flows()).await,
        (Outcome::Found, expected.to_vec()),
        "without token there is none"
    );
    // By other rules the same token may be none.
    let unknown = vec!["unknown GET / 3: token".to_owned()];
    assert_eq!(tested(&running, &rules(&["https://a", "https://b"]), flows()).await, (Outcome::Unsure, unknown));
}

#[tokio::test]
async fn what_says_nothing_is_left_out_and_what_is_missing_is_said() {
    let deny = policy("deny", "DENY", "[{}]");
    let files = Files::new("", &deny);
    let outbound = Flow { direction: Direction::Outbound.into(), ..flow(CLIENT) };
    let refused = Flow { verdict: Verdict::Dropped.into(), reason: "CERT_EXPIRED".into(), ..flow("") };
    let mut gone = flow(CLIENT);
    gone.destination.as_mut().unwrap().pod = "another".into();
    let mut moved = flow(CLIENT);
    moved.destination.as_mut().unwrap().address = "10.0.0.99:80".into();
    let flows = vec![outbound, refused, gone, moved];
    let server = agent(flows.clone(), 2);
    let (outcome, text) = asked(&files, &server.socket(), "policy test -o json").await;
    let summary: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(outcome.unwrap(), Outcome::Fine, "{text}");
    let skipped = json!({
        "of_the_source": 1, "outside_policies": 0, "refused_otherwise": 1, "gone": 2, "unreadable": 0,
    });
    assert_eq!((&summary["skipped"], &summary["records"], &summary["judged"]), (&skipped, &json!(4), &json!(0)));

    let server = agent(flows, 0);
    let (outcome, text) = asked(&files, &server.socket(), "policy test").await;
    assert_eq!(outcome.unwrap(), Outcome::Unsure);
    assert!(text.contains("the records of node node-a reach back to "), "{text}");
    assert!(text.contains("1 of the source's side, 1 refused by something else than a policy, 2 to pods"), "{text}");
    let silent = Served::of_nodes(|_, _| Ok(Vec::new()));
    let (outcome, text) = asked(&files, &silent.socket(), "policy test").await;
    assert_eq!(outcome.unwrap(), Outcome::Unsure);
    assert!(text.ends_with("node node-a has told no records, and the change is about 1 of its pods\n"), "{text}");
}

#[tokio::test]
async fn an_agent_that_holds_other_policies_is_told_of() {
    let deny = |name: &str| policy(name, "DENY", "[{}]");
    for (held, said) in [("deny", false), ("other", true)] {
        let server = Served::of_nodes(move |_, kind| {
            let policy = |namespace: &str, name: &str| {
                let (namespace, name, action) = (namespace.into(), name.into(), "DENY".into());
                item::Kind::Policy(PolicyInfo { namespace, name, action, rules: 1, ..PolicyInfo::default() })
            };
            let kinds = match kind {
                // What STRICT is made of is always there.
                query::Kind::Config(_) => {
                    vec![policy("shop", held), policy("istio-system", "istio_converted_static_strict")]
                }
                _ => {
                    let from = Some(SystemTime::UNIX_EPOCH.into());
                    vec![item::Kind::Window(FlowsWindow { from, replaced: 0, lost: 0 })]
                }
            };
            Ok(kinds.into_iter().map(|kind| ("node-a".to_owned(), kind)).collect())
        });
        let (outcome, text) = asked(&Files::new(&deny("deny"), &deny("more")), &server.socket(), "policy test").await;
        assert_eq!(outcome.unwrap(), if said { Outcome::Unsure } else { Outcome::Fine });
        assert_eq!(text.contains("node node-a holds other policies than"), said, "{text}");
    }
}

#[tokio::test]
async fn a_wrong_change_names_its_field() {
    let server = agent(Vec::new(), 2);
    for (new, said) in [
        ("spec: [", "new.yaml: document 1: "),
        ("{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: 7}}", "Pod default/x: spec.containers: "),
        ("{apiVersion: v1, kind: Service, metadata: {name: x}}", "Service default/x: only AuthorizationPolicy, "),
        (
            "{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}}",
            "the files hold no object that the mesh reads",
        ),
        (&policy("a", "DENY", "[{}]").repeat(2), "AuthorizationPolicy shop/a: stands twice among the files"),
    ] {
        let (outcome, _) = asked(&Files::new("", new), &server.socket(), "policy test").await;
        let failure = outcome.unwrap_err();
        assert_eq!(failure.exit_code(), 2, "{failure}");
        assert!(failure.to_string().contains(said), "{failure}");
    }
    // What is read, and does not mean what it says, is what would be enforced.
    let typo = policy("a", "DENY", "[{from: [{source: {ipBlocks: [300.1.1.1]}}]}]");
    let (_, text) = asked(&Files::new("", &typo), &server.socket(), "policy test").await;
    assert!(text.contains("AuthorizationPolicy shop/a: spec.rules[0].from[0].source.ipBlocks[0]: error: "), "{text}");
    let files = Files::new("", &policy("a", "DENY", "[{}]"));
    for (line, said) in [("x", "KIND/NAMESPACE/NAME"), ("A//b", "KIND/NAMESPACE/NAME")] {
        let line = ["meshctl", "policy", "test", "--delete", line];
        let error = crate::Arguments::try_parse_from(line).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    let (outcome, _) = asked(&files, &server.socket(), "policy test --delete AuthorizationPolicy/shop/b").await;
    assert!(outcome.unwrap_err().to_string().contains("--delete: there is no AuthorizationPolicy shop/b"));
}
