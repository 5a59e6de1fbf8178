//! Requests that go through several pods are one trace: what the agents tell a collector is its tree, whatever format
//! the applications speak. What a collector does not take is counted.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{A, Answers, Ask, B, Collector, Otlp, Patience, Pod, Service, Span, World, eventually};

use crate::http_cast;

const PORT: u16 = 8080;
/// Of the collector's service and pod.
const OTLP: u16 = 4317;
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// A client on node b asks the first on node a, that the second on node b, and that the third on node a.
struct Chain {
    world: World,
    client: Arc<Pod>,
    services: Vec<Service>,
    /// For the collector, on node a and outside the mesh.
    tools: Arc<Pod>,
}

impl Chain {
    /// Agents with these options. Requests are read at both ends: rules and policies ask for them.
    fn new(title: &str, otlp: Otlp, options: &[&str]) -> Result<Self> {
        let mut world = World::new(title)?;
        world.metrics();
        let protocol = if otlp == Otlp::Grpc { "grpc" } else { "http" };
        let own = [format!("--otlp-endpoint=http://traces.tools:{OTLP}"), format!("--otlp-protocol={protocol}")];
        world.agent_options.extend(own);
        world.agent_options.extend(options.iter().map(|option| (*option).to_owned()));
        let client = world.pod("default", "client", B)?;
        let tools = world.pod("tools", "traces", A)?;
        world.service("tools", "traces", OTLP, OTLP, &[&tools])?;
        let mut services = Vec::new();
        let mut rules = String::new();
        for (name, node) in [("one", A), ("two", B), ("three", A)] {
            let pod = world.pod("default", name, node)?;
            pod.http(PORT)?;
            let service = world.service("default", name, 80, PORT, &[&pod])?;
            world.change_service(&service, &[&pod], &[("ports", http_cast::HTTP)])?;
            services.push(service);
            rules += &format!(
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
                 metadata: {{ name: {name}, namespace: default }}\n\
                 spec: {{ hosts: [{name}], http: [{{ route: [{{ destination: {{ host: {name} }} }}] }}] }}\n---\n"
            );
        }
        rules += "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                  metadata: { name: read, namespace: default }\n\
                  spec: { action: AUDIT, rules: [{ to: [{ operation: { paths: ['/never'] } }] }] }\n";
        world.start()?;
        world.mesh("default")?;
        world.apply("rules", &rules)?;
        http_cast::told(&mut world, 1)?;
        Ok(Self { world, client, services, tools })
    }

    fn collector(&self, otlp: Otlp) -> Result<Collector> {
        Collector::start(&self.tools, OTLP, otlp)
    }

    /// Asks the first, which asks the second, which asks the third; each hears what the next one was asked.
    fn ask(&self, headers: &[(&str, &str)]) -> Result<Answers> {
        let [one, two, three] = &self.services[..] else { anyhow::bail!("three services") };
        let next = [two, three].map(|service| format!("{}={}", service.addr(), service.name)).join(",");
        let ask = Ask::service(one).header("x-next", &next);
        let ask = headers.iter().fold(ask, |ask, (name, value)| ask.header(name, value));
        let answers = self.client.ask_http(&ask)?;
        ensure!(answers.status(200) == 1, "{answers:?}");
        Ok(answers)
    }
}

/// Of what the server was asked that answered first, its next one, and so on: this header.
fn heard(answers: &Answers, header: &str) -> Vec<String> {
    let mut heard = Vec::new();
    let mut seen = answers.first.first().map(|answer| &answer.seen);
    while let Some(one) = seen.filter(|one| one.is_object()) {
        heard.push(one["headers"][header].as_str().unwrap_or_default().to_owned());
        seen = Some(&one["next"]);
    }
    heard
}

/// Each hop's span of the client and of the server, in order; each is the child of the one before. `root`: of the
/// first.
fn hops(spans: &[Span], root: &str) -> Result<Vec<(Span, Span)>> {
    let by_parent: BTreeMap<&str, &Span> = spans.iter().map(|span| (span.parent.as_str(), span)).collect();
    ensure!(by_parent.len() == spans.len(), "two spans have one parent: {spans:#?}");
    let mut parent = root;
    let mut hops = Vec::new();
    while let Some(client) = by_parent.get(parent) {
        let server = by_parent.get(client.id.as_str()).with_context(|| format!("no server's span of {client:#?}"))?;
        ensure!(!client.is_server && server.is_server, "{client:#?} {server:#?}");
        hops.push(((*client).clone(), (*server).clone()));
        parent = &server.id;
    }
    Ok(hops)
}

#[test]
fn three_services_on_two_nodes_are_one_tree() -> Result<()> {
    let chain = Chain::new("traces of three services", Otlp::Grpc, &["--tracing-sampling=100"])?;
    let collector = chain.collector(Otlp::Grpc)?;
    let answers = chain.ask(&[("x-amzn-trace-id", "Root=1-5759e988-bd862e3fe1be46a994272793")])?;
    let parents = heard(&answers, "traceparent");
    let trace = parents[0].split('-').nth(1).context("a traceparent")?.to_owned();
    let spans = collector.trace(&trace, 6)?;
    let found = hops(&spans, "")?;
    assert_eq!(found.len(), 3, "{spans:#?}");
    for (hop, (source, destination)) in [("client", "one"), ("one", "two"), ("two", "three")].into_iter().enumerate() {
        let (client, server) = &found[hop];
        // The application heard of its own agent's span.
        assert_eq!(parents[hop], format!("00-{trace}-{}-01", server.id));
        for (span, pod) in [(client, source), (server, destination)] {
            let node = if ["client", "two"].contains(&pod) { B } else { A };
            assert_eq!(span.resource["k8s.pod.name"], pod);
            assert_eq!(span.resource["k8s.node.name"], node.name());
            assert_eq!(span.resource["service.name"], pod);
            assert_eq!(span.attributes["source.workload"], source);
            assert_eq!(span.attributes["destination.workload"], destination);
            assert_eq!(span.attributes["http.response.status_code"], "200");
            assert_eq!(span.attributes["url.path"], if hop == 0 { "/" } else { "/next" });
            assert!(span.name.starts_with("GET") && !span.name.contains("/next") && !span.is_error, "{span:#?}");
        }

        assert_eq!(client.attributes["connection_security_policy"], "mutual_tls", "{client:#?}");
    }
    let ids: Vec<_> = heard(&answers, "x-request-id");
    assert!(ids[0].len() == 36 && ids.iter().all(|id| *id == ids[0]), "one id all the way: {ids:?}");
    assert!(spans.iter().all(|span| span.attributes["guid:x-request-id"] == ids[0]));
    assert!(heard(&answers, "x-amzn-trace-id").iter().all(|carried| carried.starts_with("Root=1-5759e988-")));

    // B3 in one header and in several, in and out; the sender's span is the root's parent.
    let answers = chain.ask(&[("b3", &format!("{TRACE}-{SPAN}-1"))])?;
    let hops_of = |trace: &str| hops(&collector.trace(trace, 6)?, SPAN);
    let first = hops_of(TRACE)?;
    for ((client, server), single) in first.iter().zip(heard(&answers, "b3")) {
        assert_eq!(single, format!("{TRACE}-{}-1-{}", server.id, client.id));
    }
    assert_eq!(first.len(), 3);
    let short = "a3ce929d0e0e4737";
    let answers = chain.ask(&[("x-b3-traceid", short), ("x-b3-spanid", SPAN), ("x-b3-flags", "1")])?;
    assert_eq!(hops_of(&format!("{:0>32}", short))?.len(), 3);
    assert!(heard(&answers, "x-b3-traceid").iter().all(|trace| trace == short), "{answers:?}");
    assert!(heard(&answers, "x-b3-flags").iter().all(|flags| flags == "1"), "{answers:?}");

    // An application that forgets them ends the trace, and another one begins.
    let answers = chain.ask(&[("x-forgets", "all"), ("traceparent", &format!("00-{SPAN}{SPAN}-{SPAN}-01"))])?;
    let traces: Vec<_> = heard(&answers, "traceparent").iter().map(|parent| parent[3..35].to_owned()).collect();
    assert!(traces[0] == format!("{SPAN}{SPAN}") && traces[1] != traces[0], "{traces:?}");
    assert_eq!(hops(&collector.trace(&traces[1], 4)?, "")?.len(), 2);
    Ok(())
}

#[test]
fn a_decision_stands_and_a_share_of_none_begins_none() -> Result<()> {
    let chain = Chain::new("sampling", Otlp::Http, &["--tracing-sampling=0"])?;
    let collector = chain.collector(Otlp::Http)?;
    let unsampled = chain.ask(&[])?;
    assert!(heard(&unsampled, "traceparent").iter().all(|parent| parent.ends_with("-00")), "{unsampled:?}");
    chain.ask(&[("traceparent", &format!("00-{}-{SPAN}-00", TRACE.replace('4', "5")))])?;
    chain.ask(&[("b3", "0")])?;
    chain.ask(&[("traceparent", &format!("00-{TRACE}-{SPAN}-01")), ("tracestate", "vendor=1")])?;
    let spans = collector.trace(TRACE, 6)?;
    assert_eq!(hops(&spans, SPAN)?.len(), 3);
    assert_eq!(collector.spans().len(), 6, "of the others nothing is told");
    Ok(())
}

#[test]
fn a_collector_that_is_away_gets_all_that_waits_and_the_rest_is_counted() -> Result<()> {
    let chain = Chain::new("no collector", Otlp::Grpc, &["--tracing-sampling=100", "--otlp-queue=10"])?;
    let [a, ..] = &chain.services[..] else { anyhow::bail!("services") };
    let answers = chain.client.ask_http(&Ask::service(a).many(8, 1))?;
    ensure!(answers.status(200) == 8, "{answers:?}");
    let count = |node, name: &str| -> Result<usize> { Ok(chain.world.metric(node, name).unwrap_or(0)) };
    std::thread::sleep(Duration::from_millis(1500));
    for node in [A, B] {
        assert_eq!(count(node, "mesh_spans_made_total")?, 8, "the client's are node b's, the server's node a's");
        assert_eq!(count(node, "mesh_spans_sent_total")?, 0);
    }
    let collector = chain.collector(Otlp::Grpc)?;
    eventually("all of them come", Patience::LONG, || Ok((collector.spans().len() == 16).then_some(())))?;
    drop(collector);
    // More than there is room for.
    let answers = chain.client.ask_http(&Ask::service(a).many(100, 1))?;
    ensure!(answers.status(200) == 100, "{answers:?}");
    let full = "mesh_spans_lost_total{why=\"full\"}";
    for node in [A, B] {
        let lost = eventually("some are lost", Patience::SHORT, || Ok(Some(count(node, full)?).filter(|n| *n > 0)))?;
        assert!(lost <= 90, "{lost}");
    }
    let collector = chain.collector(Otlp::Grpc)?;
    for node in [A, B] {
        eventually("what was made is sent or lost", Patience::LONG, || {
            let all = ["mesh_spans_made_total", "mesh_spans_sent_total", full].map(|name| count(node, name));
            let [made, sent, lost] =
                [all[0].as_ref(), all[1].as_ref(), all[2].as_ref()].map(|n| n.copied().unwrap_or(0));
            Ok((made == 108 && sent + lost == made).then_some(()))
        })?;
    }
    let sent = count(A, "mesh_spans_sent_total")? + count(B, "mesh_spans_sent_total")?;
    assert_eq!(collector.spans().len() + 16, sent, "the collectors have what is counted as sent");
    Ok(())
}
