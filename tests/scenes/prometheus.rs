//! A real Prometheus scrapes agents and controller: what they tell can be read, alerts fire when something is wrong and
//! only then, and neither the dashboards nor the alerts ask for anything that nobody tells.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use mesh_install::monitoring::{self, DASHBOARDS, GROUPS};
use mesh_tests::{
    A, Ask, B, Patience, Pod, Service, World, eventually,
    prometheus::{Programs, Prometheus},
    promql,
};

use crate::prometheus_others::{ABSENT, OTHERS};

const AGENT: u16 = 15020;
const CONTROLLER: u16 = 15014;
const PORT: u16 = 8080;
const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                      metadata: { name: default, namespace: shop }\nspec: { mtls: { mode: STRICT } }\n";
/// Requests are read where somebody says more of a service than its endpoints.
const ROUTE: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
                     metadata: { name: web, namespace: shop }\n\
                     spec: { hosts: [web], http: [{ route: [{ destination: { host: web } }] }] }\n";
const PORTS: &str = "[{ name: http, appProtocol: http, port: 80, targetPort: 8080 }]";

/// Labels that Prometheus itself adds when it scrapes.
const SCRAPED: [&str; 3] = ["instance", "job", "le"];
/// What dashboards and alerts ask for that nothing in this scene brings about. Each is told by programs, see
/// [`is_told_somewhere`].
const UNSEEN: &[(&str, &str)] = &[
    ("istio_request_messages_total", "nobody speaks gRPC"),
    ("istio_response_messages_total", "nobody speaks gRPC"),
    ("mesh_audit_faults_total", "nobody tears hooks out"),
    ("mesh_controller_watch_events_total", "the configuration is a folder"),
    ("mesh_controller_watch_failures_total", "the configuration is a folder"),
    ("mesh_controller_refused_total", "no agent asks for too much"),
    ("mesh_controller_problems", "all of the configuration is honoured"),
    ("mesh_ratelimited_total", "there are no limits"),
    ("mesh_requests_refused_total", "no policy is about requests"),
    ("mesh_tcp_retransmits_total", "only what the kernel carries itself is measured"),
    ("mesh_tcp_rtt_seconds_bucket", "only what the kernel carries itself is measured"),
];
/// Labels likewise: only series of gRPC have them.
const UNSEEN_LABELS: [&str; 1] = ["grpc_response_status"];
/// Names that promtool would have otherwise, and that are others' to choose.
const OTHERS_NAMES: &[&str] = &["istio_", "pilot_", "citadel_"];

struct Stage {
    world: World,
    client: Arc<Pod>,
    web: Arc<Pod>,
    /// On the other node.
    far: Arc<Pod>,
    /// Outside the mesh.
    stranger: Arc<Pod>,
    service: Service,
}

impl Stage {
    /// With certificates that end soon.
    fn new(mut world: World) -> Result<Self> {
        world.agent_options.push(format!("--metrics=0.0.0.0:{AGENT}"));
        world.controller_options.push(format!("--metrics=0.0.0.0:{CONTROLLER}"));
        world.controller_options.push("--certificate-ttl=600s".to_owned());
        let client = world.pod("shop", "client", A)?;
        let web = world.pod("shop", "web", A)?;
        let far = world.pod("shop", "far", B)?;
        let stranger = world.pod("legacy", "stranger", A)?;
        web.http(PORT)?;
        far.http(PORT)?;
        far.serve("echo", 7000)?;
        let service = world.service("shop", "web", 80, PORT, &[&web, &far])?;
        world.change_service(&service, &[&web, &far], &[("ports", PORTS)])?;
        world.start()?;
        world.mesh("shop")?;
        world.apply("route", ROUTE)?;
        Ok(Self { world, client, web, far, stranger, service })
    }

    /// Requests that go well, some that do not, and a connection.
    fn traffic(&self) -> Result<()> {
        let well = self.client.ask_http(&Ask { count: 20, ..Ask::service(&self.service) })?;
        ensure!(well.status(200) == 20, "{well:?}");
        let ask = Ask::service(&self.service).header("x-status", "503");
        let failed = self.client.ask_http(&Ask { count: 5, ..ask })?;
        ensure!(failed.status(503) == 5, "{failed:?}");
        ensure!(self.client.say(self.far.at(7000), "hello")?.echoed());
        Ok(())
    }

    /// What each serves, together: who tells what is not asked here.
    fn told(&self) -> Result<Vec<(&'static str, String)>> {
        let at = |address: String| self.world.node(A).host.curl(&format!("http://{address}/metrics"));
        Ok(vec![
            ("agent a", at(format!("127.0.0.1:{AGENT}"))?),
            ("agent b", at(format!("{}:{AGENT}", B.address()))?),
            ("controller", at(format!("{}:{CONTROLLER}", mesh_tests::CONTROLLER))?),
        ])
    }
}

#[test]
fn what_agents_and_controller_tell_is_as_prometheus_wants_it() -> Result<()> {
    let Some(programs) = Programs::find()? else {
        println!("skipped: there is no promtool");
        return Ok(());
    };
    let stage = Stage::new(World::new("metrics are checked")?)?;
    stage.traffic()?;
    let mut all = BTreeMap::<String, BTreeSet<String>>::new();
    for (who, text) in stage.told()? {
        let findings = programs.findings(&text)?;
        let ours = findings.iter().filter(|line| !OTHERS_NAMES.iter().any(|name| line.starts_with(name)));
        let ours = ours.collect::<Vec<_>>();
        assert!(ours.is_empty(), "{who}: {ours:#?}");
        for (metric, labels) in promql::told(&text) {
            all.entry(metric).or_default().extend(labels);
        }
    }
    let mut wrong = Vec::new();
    for (place, expression) in expressions() {
        wrong.extend(problems(&place, &expression, &all)?);
    }
    for (metric, why) in UNSEEN {
        if all.contains_key(*metric) {
            wrong.push(format!("{metric}: is told, though {why}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for (who, metric, labels) in OTHERS {
        let told = all.get(*metric);
        let told = told.or_else(|| UNSEEN.iter().any(|(unseen, _)| unseen == metric).then_some(&NONE));
        let Some(told) = told else {
            wrong.push(format!("{who} asks for {metric}, which nobody tells"));
            continue;
        };
        let unseen = |label: &&&str| SCRAPED.contains(label) || UNSEEN_LABELS.contains(label);
        let missing = labels.iter().filter(|label| !unseen(label) && !told.contains(**label));
        let missing = missing.collect::<Vec<_>>();
        if !missing.is_empty() && !std::ptr::eq(told, &NONE) {
            wrong.push(format!("{who} asks for {metric} by {missing:?}, which it has not"));
        }
    }
    for (metric, why) in ABSENT {
        if all.contains_key(*metric) {
            wrong.push(format!("{metric} is told, though {why}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

static NONE: BTreeSet<String> = BTreeSet::new();

/// Every expression of dashboards, of their variables, and of alerts, with the place where it stands.
fn expressions() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for dashboard in DASHBOARDS {
        let place = format!("dashboard {}", dashboard.uid);
        all.extend(dashboard.expressions().map(|expression| (place.clone(), expression.to_owned())));
        for variable in dashboard.variables {
            all.push((place.clone(), format!("sum by ({}) ({})", variable.label, variable.metric)));
        }
    }
    for alert in GROUPS.iter().flat_map(|group| group.alerts) {
        all.push((format!("alert {}", alert.name), alert.expression.to_owned()));
    }
    all
}

/// What this expression asks for and nobody tells.
fn problems(place: &str, expression: &str, told: &BTreeMap<String, BTreeSet<String>>) -> Result<Vec<String>> {
    let asked = promql::asked(expression);
    ensure!(!asked.metrics.is_empty(), "{place}: no metric in {expression}");
    let mut wrong = Vec::new();
    let mut known = [&SCRAPED[..], &UNSEEN_LABELS].concat().into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
    let mut unseen = false;
    for (metric, labels) in &asked.metrics {
        let Some(has) = told.get(metric) else {
            // Prometheus' own.
            if metric == "up" {
                continue;
            }
            unseen = true;
            if !UNSEEN.iter().any(|(name, _)| name == metric) || !is_told_somewhere(metric)? {
                wrong.push(format!("{place}: nobody tells {metric}"));
            }
            continue;
        };
        for label in labels.iter().filter(|label| !SCRAPED.contains(&label.as_str()) && !has.contains(*label)) {
            wrong.push(format!("{place}: {metric} has no label {label}"));
        }
        known.extend(has.iter().cloned());
    }
    for label in asked.grouped.iter().filter(|label| !unseen && !known.contains(*label)) {
        wrong.push(format!("{place}: {label} is a label of none of {:?}", asked.metrics.keys()));
    }
    Ok(wrong)
}

/// Whether a program has that name in its sources. So a metric that is gone is found, though no scene sees it.
fn is_told_somewhere(metric: &str) -> Result<bool> {
    let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| metric.strip_suffix(end)).unwrap_or(metric);
    let name = format!("\"{base}\"");
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?;
    let mut folders = ["mesh-agent/src", "mesh-controller/src"].map(|folder| root.join(folder)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") && std::fs::read_to_string(&path)?.contains(&name)
            {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// So many times faster than in earnest, so that minutes are seconds.
const FASTER: u32 = 300;

/// The shipped rules, with every time in them shortened.
fn shortened(rules: &str) -> Result<String> {
    let mut text = String::new();
    let mut rest = rules;
    let marks = ["[", "offset ", "for: "];
    while let Some((at, mark)) = marks.iter().filter_map(|mark| Some((rest.find(mark)?, *mark))).min() {
        let (before, after) = rest.split_at(at + mark.len());
        text.push_str(before);
        let after = after.strip_prefix('"').unwrap_or(after);
        let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        let Ok(number) = after[..digits].parse::<u32>() else {
            rest = after;
            continue;
        };
        let seconds = match after[digits..].chars().next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            other => anyhow::bail!("a time in {other:?}: {}", &after[..20.min(after.len())]),
        };
        text.push_str(&format!("{}ms", number * seconds * 1000 / FASTER));
        rest = &after[digits + 1..];
        rest = rest.strip_prefix('"').filter(|_| mark == "for: ").unwrap_or(rest);
    }
    Ok(text + rest)
}

fn configuration() -> String {
    let targets = |job: &str, targets: &[String]| {
        format!("- job_name: {job}\n  static_configs:\n  - targets: [{}]\n", targets.join(", "))
    };
    let agents = [format!("'127.0.0.1:{AGENT}'"), format!("'{}:{AGENT}'", B.address())];
    let controller = [format!("'{}:{CONTROLLER}'", mesh_tests::CONTROLLER)];
    format!(
        "global: {{ scrape_interval: 200ms, evaluation_interval: 200ms }}\nrule_files: [rules.yaml]\nscrape_configs:\n{}{}",
        targets("mesh-agent", &agents),
        targets("mesh-controller", &controller)
    )
}

#[test]
fn alerts_fire_when_something_is_wrong_and_only_then() -> Result<()> {
    let Some(programs) = Programs::find()? else {
        println!("skipped: there is no Prometheus");
        return Ok(());
    };
    let world = World::new("prometheus")?;
    let folder = world.root().join("prometheus");
    std::fs::create_dir_all(&folder)?;
    let rules = monitoring::files().into_iter().find(|file| file.path == "rules.yaml").context("no rules")?;
    std::fs::write(folder.join("rules.yaml"), shortened(&rules.text)?)?;
    // It begins to scrape some seconds after its start; the mesh starts meanwhile.
    let prometheus = Prometheus::start(&programs, &world.node(A).host, &folder, &configuration())?;
    let mut stage = Stage::new(world)?;
    stage.traffic()?;
    let number = |expression: &str| {
        eventually(format_args!("Prometheus knows {expression}"), Patience::LONG, || {
            Ok(prometheus.query(expression)?.first().map(|sample| sample.value).filter(|value| *value > 0.0))
        })
    };
    eventually("all are scraped", Patience::LONG, || {
        Ok((prometheus.query("sum(up)")?.first().map(|sample| sample.value) == Some(3.0)).then_some(()))
    })?;
    number(r#"sum(istio_tcp_connections_opened_total{reporter="source"})"#)?;
    number(
        r#"sum(istio_tcp_connections_closed_total{reporter="destination", connection_security_policy="mutual_tls"})"#,
    )?;
    number(r#"sum(istio_requests_total{reporter="source", response_code="200", destination_service_name="web"})"#)?;
    number(r#"histogram_quantile(0.99, sum by (le) (istio_request_duration_milliseconds_bucket{reporter="source"}))"#)?;
    number(r#"sum(istio_requests_total{reporter="source", response_code="503"})"#)?;
    assert!((number("sum(mesh_controller_agents)")? - 2.0).abs() < f64::EPSILON);
    assert!((number("sum(mesh_controller_leader)")? - 1.0).abs() < f64::EPSILON);
    number("sum(mesh_controller_certificates_signed_total)")?;
    number("sum(rate(process_cpu_seconds_total[2s]))")?;
    number("sum(mesh_controller_convergence_seconds_count)")?;

    // Certificates of ten minutes are about to end for those who expect a day.
    let fires = |name: &str| {
        let fired = eventually(format_args!("alert {name}"), Patience::LONG, || Ok(prometheus.firing()?.remove(name)))?;
        for alert in &fired {
            let text = alert["annotations"].to_string();
            ensure!(!text.contains("error expanding") && !text.contains("no value"), "{alert}");
        }
        anyhow::Ok(fired)
    };
    fires("MeshCertificateExpires")?;
    let expected = ["MeshCertificateExpires", "MeshRequestErrors"];
    eventually("nothing else fires", Patience::LONG, || {
        let firing = prometheus.firing()?;
        let others = firing.keys().filter(|name| !expected.contains(&name.as_str())).collect::<Vec<_>>();
        ensure!(others.is_empty(), "{others:?}");
        Ok(Some(()))
    })?;

    // Somebody outside the mesh dials pods that take no plaintext.
    stage.world.apply("strict", STRICT)?;
    assert!(!stage.stranger.say(stage.web.at(PORT), "hello")?.echoed());
    let fired = fires("MeshPlaintextUnderStrict")?;
    assert_eq!(fired[0]["labels"]["instance"], format!("127.0.0.1:{AGENT}"), "{fired:?}");

    stage.world.kill_agent(B)?;
    let fired = fires("MeshAgentDown")?;
    assert_eq!((fired.len(), &fired[0]["labels"]["severity"]), (1, &"critical".into()), "{fired:?}");
    assert_eq!(fired[0]["labels"]["instance"], format!("{}:{AGENT}", B.address()));

    stage.world.kill_controller()?;
    fires("MeshControllerDown")?;
    Ok(())
}

#[test]
fn times_are_shortened() -> Result<()> {
    let rules = "expr: \"rate(x{a=\\\"[5m\\\"}[5m]) and y offset 1h\"\nfor: 5m\n";
    assert_eq!(shortened(rules)?, "expr: \"rate(x{a=\\\"[1000ms\\\"}[1000ms]) and y offset 12000ms\"\nfor: 1000ms\n");
    assert_eq!(shortened("for: \"5m\"\n")?, "for: 1000ms\n");
    assert!(shortened("x: [1, 2]\n").is_err(), "a list is no time");
    Ok(())
}
