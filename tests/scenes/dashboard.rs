//! The dashboard in a browser, over a real mesh: every page, and nothing for whom it is not. Pictures of it are kept in
//! target/dashboard.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, time::Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::{A, B, Browser, Place, World, programs_dir};
use serde_json::Value;

use crate::cast::policy;

fn pictures() -> Result<PathBuf> {
    Ok(programs_dir()?.parent().context("programs without a folder")?.join("dashboard"))
}

/// A mesh with a refusal: far may not be reached by client.
fn mesh() -> Result<World> {
    let mut world = World::new("dashboard")?;
    world.dashboard();
    let client = world.pod("shop", "client", A)?;
    let near = world.pod("shop", "near", A)?;
    let far = world.pod("shop", "far", B)?;
    for server in [&near, &far] {
        server.serve("echo", 7000)?;
    }
    let service = world.service("shop", "web", 80, 7000, &[&near])?;
    world.start()?;
    world.mesh("shop")?;
    world.apply("closed", &policy("closed", "far", "DENY", "[{ from: [{ source: { namespaces: [shop] } }] }]"))?;
    assert!(client.say(service.addr(), "hello")?.echoed());
    assert!(client.say(far.at(7000), "hello")?.turned_away());
    world.flow(B, "that was refused", |flow| flow.verdict == "dropped" && flow.policy == "shop/closed")?;
    world.flow(A, "that was served", |flow| flow.verdict == "forwarded")?;
    Ok(world)
}

/// The status of an answer, and its text.
fn asked(host: &Place, url: &str, headers: &[&str]) -> Result<(u16, String)> {
    let mut options = vec!["--compressed", "--write-out", "\n%{http_code}"];
    headers.iter().for_each(|header| options.extend(["--header", *header]));
    let text = host.curl_with(&options, url)?;
    let (body, status) = text.rsplit_once('\n').context("no status")?;
    Ok((status.parse()?, body.to_owned()))
}

fn only_for_the_token(world: &World, address: &str, token: &str) -> Result<()> {
    let file = world.controller()?.admin_socket().with_file_name("dashboard.token");
    assert_eq!(fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(&file)?.trim(), token);
    let host = world.beside_controller()?;
    let (right, wrong) =
        (format!("authorization: Bearer {token}"), format!("authorization: Bearer {}", "0".repeat(64)));
    for question in ["graph", "workloads", "services", "flows", "certificates", "agents", "explain/a/1"] {
        let url = format!("{address}/api/{question}");
        for headers in [vec![], vec![wrong.as_str()]] {
            let (status, text) = asked(&host, &url, &headers)?;
            assert_eq!((status, text.contains("shop")), (401, false), "{question}: {text}");
        }
    }
    let url = format!("{address}/api/workloads");
    let (status, text) = asked(&host, &url, &[&right])?;
    assert!(status == 200 && text.contains("shop"), "{status}: {text}");
    // A page of somebody else, whose name was made to lead here.
    assert_eq!(asked(&host, &url, &[&right, "host: rebound.example:15080"])?.0, 421);
    assert_eq!(asked(&host, &url, &[&right, "sec-fetch-site: cross-site"])?.0, 403);
    // By the network there is nothing.
    let from_outside = world.node(A).host.curl("http://172.19.0.1:15080/");
    assert!(from_outside.is_err(), "{from_outside:?}");
    Ok(())
}

#[test]
fn every_page_shows_the_mesh_and_only_to_whom_has_the_token() -> Result<()> {
    let world = mesh()?;
    let url = world.dashboard_url()?;
    let (address, token) = url.split_once("/#token=").context("the address has a token")?;
    only_for_the_token(&world, address, token)?;

    let mut browser = world.browser()?;
    browser.open(&format!("{address}/"))?;
    browser.shows("meshctl dashboard")?;
    browser.open("about:blank")?;
    assert_eq!(browser.complaints()?, [""; 0], "a page without its token asks nothing");

    browser.open(&url)?;
    browser.until("!!document.querySelector('canvas[data-placed]')")?;
    assert_eq!(browser.value("location.hash")?, "#/graph", "the token does not stay in the address");
    browser.screenshot(&pictures()?.join("graph.png"))?;
    browser.click("aside button", "shop/near")?;
    browser.shows("in the mesh")?;
    edges(&world, &mut browser, address, token)?;

    // From the graph to its service.
    browser.click("aside a", "shop/web")?;
    browser.until("document.querySelector('h1')?.innerText === 'shop/web'")?;
    browser.shows("shop/near")?;
    browser.screenshot(&pictures()?.join("service.png"))?;
    browser.click("nav a", "Services")?;
    browser.shows("shop/web")?;
    browser.click("nav a", "Workloads")?;
    browser.shows("shop/far")?;

    // From a refusal to why.
    browser.click("nav a", "Flows")?;
    browser.shows("POLICY_DENY")?;
    browser.screenshot(&pictures()?.join("flows.png"))?;
    browser.click("tr:has(.badge.bad) a[title*=' on b ']", ":")?;
    browser.shows("shop/closed")?;
    browser.shows("decided")?;
    browser.shows("namespaces")?;
    browser.screenshot(&pictures()?.join("explain.png"))?;

    browser.click("nav a", "Certificates")?;
    browser.shows("shop/far")?;
    browser.shows("valid")?;
    browser.prefer("dark")?;
    browser.screenshot(&pictures()?.join("certificates-dark.png"))?;
    browser.click("nav a", "Agents")?;
    browser.until("document.querySelectorAll('table[aria-label=Agents] tbody tr').length === 2")?;
    browser.shows("ready")?;
    browser.screenshot(&pictures()?.join("agents-dark.png"))?;
    assert_eq!(browser.complaints()?, [""; 0]);
    Ok(())
}

/// The client's edge, in the answer and on the page.
fn edges(world: &World, browser: &mut Browser, address: &str, token: &str) -> Result<()> {
    let right = format!("authorization: Bearer {token}");
    let (_, text) = asked(&world.beside_controller()?, &format!("{address}/api/graph"), &[&right])?;
    let graph: Value = serde_json::from_str(&text)?;
    let names = graph["nodes"].as_array().context("no nodes")?;
    let place = |name: &str| names.iter().position(|node| node["name"] == name);
    let (client, near) = (place("client").context("no client")?, place("near").context("no near")?);
    let edges = graph["edges"].as_array().context("no edges")?;
    let found = edges.iter().any(|edge| edge[0] == client && edge[1] == near);
    ensure!(found, "no edge from client to near: {text}");
    browser.shows("shop/client")
}

/// What the page does with 1,000 services and 10,000 edges; the mesh itself is small.
const LARGE: &str = "
    const columns = ['source', 'destination', 'rps', 'failed_rps', 'refused_rps', 'p50_ms', 'p95_ms', 'p99_ms', 'cps',
        'failed_cps', 'refused_cps', 'open', 'sent_bps', 'received_bps', 'mutual_tls', 'kernel_attested', 'plaintext',
        'direct', 'local', 'tunnel', 'passthrough', 'rtt_us'];
    const nodes = [...Array(1000).keys()].map((at) => ({ namespace: `ns-${at % 20}`, name: `app-${at}`, pods: 3,
        meshed: 3, services: [] }));
    const edges = [...Array(10000).keys()].map((at) => [at % 1000, (at * 7 + Math.floor(at / 1000) + 1) % 1000,
        at % 90, 0, 0, 1, 2, 3, 1, 0, 0, 1, 900, 900, 60, 0, 0, 0, 0, 60, 0, 300]);
    const graph = JSON.stringify({ seconds: 60, nodes, columns, edges, left_out: 0, errors: [] });
    const real = window.fetch;
    window.fetch = (question, options) => String(question).includes('api/graph')
        ? Promise.resolve(new Response(graph)) : real(question, options);
";

#[test]
fn a_large_graph_is_there_soon() -> Result<()> {
    let mut world = World::new("large dashboard")?;
    world.dashboard();
    world.start_controller()?;
    let url = world.dashboard_url()?;
    let mut browser = world.browser()?;
    browser.before_pages(LARGE)?;
    let start = Instant::now();
    browser.open(&url)?;
    browser.until("document.querySelector('canvas')?.dataset.placed === '20'")?;
    let closed = start.elapsed();
    browser.screenshot(&pictures()?.join("large-closed.png"))?;
    browser.click("aside button", "ns-7")?;
    browser.click("aside button", "Open this namespace")?;
    browser.until("document.querySelector('canvas')?.dataset.placed === '69'")?;
    let opened = start.elapsed();
    browser.screenshot(&pictures()?.join("large-open.png"))?;
    println!(
        "page of 1,000 services and 10,000 edges: placed after {} ms, with one namespace open after {} ms",
        closed.as_millis(),
        opened.as_millis(),
    );
    assert_eq!(browser.complaints()?, [""; 0]);
    Ok(())
}
