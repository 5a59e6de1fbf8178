//! Sample 003-2 as it stands, with 003-1 beside it: who may ask for what, row by row, as a table written here says.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result, ensure};
use mesh_tests::{A, Answer, Ask, B, NodeId, Pod, Service, World, refused};

use crate::http_cast::{HTTP, PORT, told};

const ROUTES: &str =
    include_str!("../../mesh-controller/src/translate/virtual_service/tests/samples/003-1-traffic-management.yaml");
const POLICIES: &str = include_str!("../../mesh-controller/src/analyze/tests/samples/003-2-mutual-tls.yaml");

const METHODS: [&str; 6] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"];

/// Paths as they are asked for, as they arrive, and what the sample's two patterns say of that: `order` is
/// `/api/v1/*`, `inventory` is `/api/v1/inventory/*`.
const PATHS: [(&str, &str, &str); 21] = [
    ("/api/v1/x", "/api/v1/x", "order"),
    ("/api/v1/x?p=/other", "/api/v1/x", "order"),
    ("/api/v1/", "/api/v1/", "order"),
    ("/api/v1/inventory/7", "/api/v1/inventory/7", "order inventory"),
    ("/api/v1/inventory/", "/api/v1/inventory/", "order inventory"),
    ("/api/v1/inventory", "/api/v1/inventory", "order"),
    ("/api/v1/inventoryx/7", "/api/v1/inventoryx/7", "order"),
    ("/api/v1/inventory/../x", "/api/v1/x", "order"),
    ("/other/../api/v1/inventory/./7", "/api/v1/inventory/7", "order inventory"),
    ("/%61pi/v1/inventor%79/8", "/api/v1/inventory/8", "order inventory"),
    ("/api/v1", "/api/v1", ""),
    ("/api/v1x", "/api/v1x", ""),
    ("/API/v1/x", "/API/v1/x", ""),
    ("/", "/", ""),
    ("/other", "/other", ""),
    ("/other?/api/v1/x", "/other", ""),
    ("/api/v1/../x", "/api/x", ""),
    ("/api/v1/%2e%2E/x", "/api/x", ""),
    // It is passed on as it is, and some servers take it for /api/x.
    ("/api/v1/..%2fx", "/api/v1/..%2fx", ""),
    ("/api/v1/..;a=b/x", "/api/v1/..;a=b/x", ""),
    ("/api/v1/a/%252e%252e/../../x", "/api/v1/x", "order"),
];

struct Table {
    world: World,
    service: Service,
    /// The subset `canary`, to which a header leads; the other is on the other node.
    canary: Arc<Pod>,
    stable: Arc<Pod>,
    clients: Vec<(Arc<Pod>, Grant)>,
    /// By path: what the applications must have seen.
    seen: BTreeMap<String, u64>,
}

/// What the sample permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grant {
    /// GET and POST of `order`.
    Order,
    /// GET of `inventory`.
    Inventory,
    Nothing,
}

impl Grant {
    fn permits(self, method: &str, patterns: &str) -> bool {
        let fits = |wanted: &str| patterns.split(' ').any(|pattern| pattern == wanted);
        match self {
            Self::Order => ["GET", "POST"].contains(&method) && fits("order"),
            Self::Inventory => method == "GET" && fits("inventory"),
            Self::Nothing => false,
        }
    }
}

impl Table {
    /// The canary is on this node, all clients are on node a.
    fn new(title: &str, canary: NodeId) -> Result<Self> {
        let mut world = World::new(title)?;
        let stable = world.pod("production", "stable", if canary == A { B } else { A })?;
        let canary = world.pod("production", "canary", canary)?;
        for (pod, version) in [(&stable, "v1"), (&canary, "v2")] {
            world.label(pod, "app", "order-service")?;
            world.label(pod, "version", version)?;
            pod.http(PORT)?;
        }
        let service = world.service("production", "order-service", 80, PORT, &[&stable, &canary])?;
        world.change_service(&service, &[&stable, &canary], &[("ports", HTTP)])?;
        let clients = [
            ("production", "api-gateway", Grant::Order),
            ("production", "payment-service", Grant::Order),
            ("production", "inventory-service", Grant::Inventory),
            ("production", "other", Grant::Nothing),
            // Of the same name, and of another namespace.
            ("staging", "api-gateway", Grant::Nothing),
        ];
        let mut made = Vec::new();
        for (namespace, account, grant) in clients {
            let pod = world.pod_as(namespace, &format!("{namespace}-{account}"), account, A)?;
            made.push((pod, grant));
        }
        world.start()?;
        world.mesh("production")?;
        world.mesh("staging")?;
        world.manifests.write("policies", POLICIES)?;
        // As `kubectl apply --namespace production` does.
        let routes = ROUTES.replace("metadata:\n", "metadata:\n  namespace: production\n");
        ensure!(routes.matches("namespace").count() == 2, "the sample's objects have a namespace of their own");
        world.manifests.write("routes", &routes)?;
        told(&mut world, 1)?;
        Ok(Self { world, service, canary, stable, clients: made, seen: BTreeMap::new() })
    }

    /// Every row, by the service, whose routes of 003-1 lead to the canary.
    fn by_service(mut self, http2: bool) -> Result<()> {
        self.play(&Ask { http2, ..Ask::at(self.service.addr(), "order-service").header("x-canary", "true") })
    }

    /// Every row at the canary itself, past all routes.
    fn by_pod(mut self, http2: bool) -> Result<()> {
        self.play(&Ask { http2, ..Ask::at(self.canary.at(PORT), "order-service:8080") })
    }

    fn play(&mut self, ask: &Ask) -> Result<()> {
        for (client, grant) in self.clients.clone() {
            self.rows(&client, grant, ask).with_context(|| client.name.clone())?;
        }
        self.count()
    }

    fn rows(&mut self, client: &Pod, grant: Grant, ask: &Ask) -> Result<()> {
        let rows: Vec<_> = METHODS.iter().flat_map(|method| PATHS.map(|path| (*method, path))).collect();
        let asked = ask.clone().rows(rows.iter().map(|(method, (path, ..))| (*method, *path)));
        let answers = client.ask_http(&asked)?;
        ensure!(answers.lost() == 0 && answers.rows.len() == rows.len(), "{:?}", answers.failed);
        for ((method, (path, arrives, patterns)), answer) in rows.iter().zip(&answers.rows) {
            let permits = grant.permits(method, patterns);
            let judged = if permits { permitted(answer, method, arrives) } else { denied(answer, method) };
            judged.with_context(|| format!("{method} {path} should be {}", if permits { "200" } else { "403" }))?;
            if !permits && path != arrives {
                let attack = format!("{method} {path} by {}, which is {arrives}", client.name);
                refused::row("X25", &attack, "403", "POLICY_NO_ALLOW", "the application's own count");
            }
            if permits {
                *self.seen.entry((*arrives).to_owned()).or_default() += 1;
            }
        }
        Ok(())
    }

    /// The applications saw what was permitted, once each, and nothing else.
    fn count(&self) -> Result<()> {
        ensure!(!self.seen.is_empty(), "nothing was permitted");
        let asked = self.canary.asked(PORT)?;
        ensure!(asked == self.seen, "the application saw {asked:?} instead of {:?}", self.seen);
        let asked = self.stable.asked(PORT)?;
        ensure!(asked.is_empty(), "the other application saw {asked:?}");
        Ok(())
    }
}

fn permitted(answer: &Answer, method: &str, arrives: &str) -> Result<()> {
    ensure!(answer.status == 200 && !answer.headers.contains_key("nodemesh-flag"), "{answer:?}");
    let path = answer.seen["path"].as_str().and_then(|path| path.split('?').next());
    ensure!(answer.seen["method"] == method && path == Some(arrives), "{answer:?}");
    Ok(())
}

/// A code, and nothing of what would have been needed.
fn denied(answer: &Answer, method: &str) -> Result<()> {
    let header = |name: &str| answer.headers.get(name).map(String::as_str);
    ensure!(answer.status == 403, "{answer:?}");
    ensure!(header("nodemesh-flag") == Some("UAEX") && header("nodemesh-reason") == Some("POLICY_NO_ALLOW"));
    let body = if method == "HEAD" { "" } else { "access denied: POLICY_NO_ALLOW\n" };
    ensure!(answer.seen == body, "{answer:?}");
    let known = ["content-length", "content-type", "date", "nodemesh-flag", "nodemesh-reason"];
    ensure!(answer.headers.keys().all(|name| known.contains(&name.as_str())), "{answer:?}");
    Ok(())
}

#[test]
fn authz_table_over_http1_on_one_node_by_service() -> Result<()> {
    Table::new("authz http1 near service", A)?.by_service(false)
}

#[test]
fn authz_table_over_http1_on_one_node_by_pod() -> Result<()> {
    Table::new("authz http1 near pod", A)?.by_pod(false)
}

#[test]
fn authz_table_over_http1_across_nodes_by_service() -> Result<()> {
    Table::new("authz http1 far service", B)?.by_service(false)
}

#[test]
fn authz_table_over_http1_across_nodes_by_pod() -> Result<()> {
    Table::new("authz http1 far pod", B)?.by_pod(false)
}

#[test]
fn authz_table_over_http2_on_one_node_by_service() -> Result<()> {
    Table::new("authz http2 near service", A)?.by_service(true)
}

#[test]
fn authz_table_over_http2_on_one_node_by_pod() -> Result<()> {
    Table::new("authz http2 near pod", A)?.by_pod(true)
}

#[test]
fn authz_table_over_http2_across_nodes_by_service() -> Result<()> {
    Table::new("authz http2 far service", B)?.by_service(true)
}

#[test]
fn authz_table_over_http2_across_nodes_by_pod() -> Result<()> {
    Table::new("authz http2 far pod", B)?.by_pod(true)
}

/// 003-1 sends one of ten to the canary: the answer is the same wherever a request goes.
#[test]
fn authz_table_is_the_same_at_every_endpoint() -> Result<()> {
    let table = Table::new("authz weights", B)?;
    for (client, grant) in &table.clients {
        for http2 in [false, true] {
            let ask = Ask { http2, ..Ask::at(table.service.addr(), "order-service") }.many(24, 2);
            let may = client.ask_http(&ask.clone().path("/api/v1/x"))?;
            let order = if *grant == Grant::Order { 24 } else { 0 };
            assert_eq!((may.status(200), may.status(403)), (order, 24 - order), "{}: {may:?}", client.name);
            let must_not = client.ask_http(&ask.path("/api/v1/x").method("DELETE"))?;
            assert_eq!((must_not.status(403), must_not.flag("UAEX")), (24, 24), "{}: {must_not:?}", client.name);
        }
    }
    let seen = [&table.stable, &table.canary].map(|pod| pod.asked(PORT).map(|asked| asked.values().sum::<u64>()));
    let [stable, canary] = seen;
    let (stable, canary) = (stable?, canary?);
    assert_eq!(stable + canary, 2 * 2 * 24);
    assert!(stable > canary && canary > 0, "{stable} {canary}");
    Ok(())
}

/// STRICT: who has no identity is not heard at all, whatever they ask for.
#[test]
fn authz_table_has_no_row_for_who_has_no_identity() -> Result<()> {
    let mut table = Table::new("authz nobody", B)?;
    let stranger = table.world.pod("legacy", "api-gateway", A)?;
    table.world.settle()?;
    for (pod, http2) in [(&table.stable, false), (&table.stable, true), (&table.canary, false), (&table.canary, true)] {
        let ask = Ask { http2, timeout_ms: 2000, ..Ask::at(pod.at(PORT), "order-service") };
        let answers =
            stranger.ask_http(&ask.rows([("GET", "/api/v1/x"), ("GET", "/api/v1/inventory/7"), ("GET", "/")]))?;
        assert_eq!((answers.lost(), answers.by_status.len()), (3, 0), "{answers:?}");
        let flow = table.world.flow(pod.node, "refused", |flow| flow.destination.pod == pod.full_name())?;
        assert_eq!((flow.verdict.as_str(), flow.reason.as_str()), ("dropped", "PLAINTEXT_STRICT"), "{flow:?}");
        assert!(pod.asked(PORT)?.is_empty());
    }
    Ok(())
}

/// The word for gRPC's clients is a status of gRPC's own.
#[test]
fn authz_table_speaks_to_grpc_in_its_own_words() -> Result<()> {
    let table = Table::new("authz grpc", B)?;
    for pod in [&table.stable, &table.canary] {
        for (client, grant) in &table.clients {
            let ask = Ask::at(pod.at(PORT), "order-service").http2().method("POST").path("/api/v1/shop.Cart/Add");
            let ask = ask.header("content-type", "application/grpc").header("te", "trailers");
            let answers = client.ask_http(&ask)?;
            let answer = answers.first.first().with_context(|| format!("no answer: {answers:?}"))?;
            assert_eq!(answer.status, 200, "{answer:?}");
            let header = |name: &str| answer.headers.get(name).map(String::as_str);
            if *grant == Grant::Order {
                assert_eq!((header("x-backend"), header("grpc-status")), (Some(pod.name.as_str()), None), "{answer:?}");
            } else {
                assert_eq!((header("x-backend"), header("grpc-status")), (None, Some("7")), "{answer:?}");
                assert_eq!(header("nodemesh-reason"), Some("POLICY_NO_ALLOW"), "{answer:?}");
                assert_eq!(header("content-type"), Some("application/grpc"), "{answer:?}");
                assert_eq!(answer.seen, "", "{answer:?}");
            }
        }
    }
    Ok(())
}
