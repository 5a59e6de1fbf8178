//! The cases of `tests/gamma`, played by pods: the README there says what each line means.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{A, Answers, Ask, B, Pod, World};
use serde::Deserialize;

use crate::http_cast::{PORT, told};

#[derive(Deserialize)]
struct Case {
    case: String,
    apply: Vec<String>,
    requests: Vec<Line>,
}

/// `status.parents` and the names of rules are for the controller's tests, which play the same table.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct Line {
    from: String,
    to: String,
    port: u16,
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    status: Option<u16>,
    backend: Option<String>,
    shares: BTreeMap<String, u32>,
    request: BTreeMap<String, String>,
    no_request: Vec<String>,
    response: BTreeMap<String, String>,
    no_response: Vec<String>,
    path_seen: Option<String>,
    host_seen: Option<String>,
    location: Option<String>,
    mirrors: Vec<String>,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            from: "gamma".to_owned(),
            to: "echo".to_owned(),
            port: 80,
            method: "GET".to_owned(),
            path: "/".to_owned(),
            headers: BTreeMap::new(),
            status: None,
            backend: None,
            shares: BTreeMap::new(),
            request: BTreeMap::new(),
            no_request: Vec::new(),
            response: BTreeMap::new(),
            no_response: Vec::new(),
            path_seen: None,
            host_seen: None,
            location: None,
            mirrors: Vec::new(),
        }
    }
}

/// Of the services: name, namespace, address, the pods behind it.
const SERVICES: [(&str, &str, [u8; 4], &[&str]); 4] = [
    ("echo", "gamma", [10, 96, 1, 1], &["echo-v1", "echo-v2"]),
    ("echo-v1", "gamma", [10, 96, 1, 2], &["echo-v1"]),
    ("echo-v2", "gamma", [10, 96, 1, 3], &["echo-v2"]),
    ("pay", "elsewhere", [10, 96, 1, 4], &["pay"]),
];

struct Stage {
    world: World,
    servers: BTreeMap<String, Arc<Pod>>,
    /// By namespace.
    clients: BTreeMap<String, Arc<Pod>>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("gamma")
}

fn read(name: &str) -> Result<String> {
    let file = folder().join(name);
    fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
}

impl Stage {
    fn new(title: &str) -> Result<Self> {
        let mut world = World::new(title)?;
        let (mut servers, mut clients) = (BTreeMap::new(), BTreeMap::new());
        for (namespace, name, node) in [("gamma", "echo-v1", A), ("gamma", "echo-v2", B), ("elsewhere", "pay", B)] {
            let pod = world.pod(namespace, name, node)?;
            pod.http(PORT)?;
            servers.insert(name.to_owned(), pod);
        }
        for namespace in ["gamma", "consumers", "others"] {
            clients.insert(namespace.to_owned(), world.pod(namespace, &format!("from-{namespace}"), A)?);
        }
        world.manifests.write("services", &read("services.yaml")?)?;
        for (name, namespace, _, pods) in SERVICES {
            let mut slice = format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n  \
                 namespace: {namespace}\n  labels: {{ kubernetes.io/service-name: {name} }}\naddressType: IPv4\nports:\n"
            );
            for port in ["http", "http-alt", "grpc", "tcp-raw", "https"] {
                slice += &format!("- {{ name: {port}, protocol: TCP, port: {PORT} }}\n");
            }
            slice += "endpoints:\n";
            for name in pods {
                let pod = servers.get(*name).context("an unknown pod")?;
                slice += &format!(
                    "- addresses: ['{}']\n  conditions: {{ ready: true }}\n  nodeName: {}\n  \
                     targetRef: {{ kind: Pod, namespace: {namespace}, name: {name}, uid: {} }}\n",
                    pod.ip,
                    pod.node.name(),
                    pod.uid
                );
            }
            world.manifests.write(&format!("slice-{name}"), &slice)?;
        }
        world.start()?;
        for namespace in ["gamma", "elsewhere", "consumers", "others"] {
            world.mesh(namespace)?;
        }
        Ok(Self { world, servers, clients })
    }

    fn send(&self, line: &Line, count: u32) -> Result<Answers> {
        let (name, namespace) = line.to.split_once('.').unwrap_or((&line.to, "gamma"));
        let found = SERVICES.iter().find(|(other, of, ..)| (*other, *of) == (name, namespace));
        let (_, _, ip, _) = found.context("an unknown service")?;
        let ask = Ask::at(SocketAddr::from((*ip, line.port)), name).path(&line.path).method(&line.method);
        let ask = line.headers.iter().fold(ask, |ask, (name, value)| ask.header(name, value));
        let client = self.clients.get(&line.from).context("an unknown client")?;
        client.ask_http(&Ask { http2: line.port == 7070, ..ask.many(count, 4.min(count)) })
    }

    fn play(&self, line: &Line) -> Result<()> {
        if !line.shares.is_empty() {
            let answers = self.send(line, 400)?;
            for (backend, share) in &line.shares {
                let seen = match backend.as_str() {
                    "error" => 400 - answers.status(200),
                    backend => answers.of(backend),
                };
                // Five standard deviations of half and half are 50.
                ensure!(seen.abs_diff(share * 4) <= 50, "{backend}: {seen} of 400");
            }
            return Ok(());
        }
        let copies = self.copies(line)?;
        let answers = self.send(line, 1)?;
        let answer = answers.first.first().with_context(|| format!("no answer: {:?}", answers.failed))?;
        let status = line.status.unwrap_or(200);
        ensure!(answer.status == status, "status {}, not {status}: {answer:?}", answer.status);
        if let Some(backend) = &line.backend {
            let (name, _) = backend.split_once('.').unwrap_or((backend, ""));
            let (.., pods) = SERVICES.iter().find(|(other, ..)| *other == name).context("an unknown backend")?;
            let by = answer.headers.get("x-backend").map(String::as_str).unwrap_or_default();
            ensure!(pods.contains(&by), "answered by {by:?}: {answer:?}");
        }
        let seen = |name: &str| answer.seen["headers"][name].as_str().map(str::to_owned);
        for (name, value) in &line.request {
            // A value of its own each, or one with commas.
            let found = seen(name).map(|text| text.replace(", ", ","));
            ensure!(found.as_ref() == Some(value), "{name} is seen as {found:?}");
        }
        for (name, value) in &line.response {
            ensure!(answer.headers.get(name) == Some(value), "{name}: {answer:?}");
        }
        for name in &line.no_request {
            ensure!(seen(name).is_none(), "{name} is seen");
        }
        for name in &line.no_response {
            ensure!(!answer.headers.contains_key(name), "{name}: {answer:?}");
        }
        for (field, wanted) in [("path", &line.path_seen), ("authority", &line.host_seen)] {
            ensure!(wanted.as_deref().is_none_or(|wanted| answer.seen[field] == wanted), "{field}: {answer:?}");
        }
        let location = answer.headers.get("location");
        ensure!(line.location.is_none() || line.location.as_ref() == location, "location: {location:?}");
        if copies.is_empty() {
            return Ok(());
        }
        mesh_tests::eventually("it is mirrored", mesh_tests::Patience::SHORT, || {
            let now = self.copies(line)?;
            Ok(now.iter().zip(&copies).all(|(now, before)| *now == before + 1).then_some(()))
        })
    }

    /// How often those that get copies were asked so.
    fn copies(&self, line: &Line) -> Result<Vec<u64>> {
        let asked = |name: &String| {
            let pod = self.servers.get(name).context("an unknown mirror")?;
            Ok(pod.asked(PORT)?.get(&line.path).copied().unwrap_or(0))
        };
        line.mirrors.iter().map(asked).collect()
    }
}

/// Every second case of the table.
fn half(title: &str, which: usize) -> Result<()> {
    let cases: Vec<Case> = serde_yaml_ng::from_str(&read("table.yaml")?).context("read the table")?;
    ensure!(cases.len() >= 20, "{} cases", cases.len());
    let mut stage = Stage::new(title)?;
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate().filter(|(number, _)| number % 2 == which) {
        let texts = case.apply.iter().map(|name| read(name)).collect::<Result<Vec<_>>>()?;
        stage.world.manifests.write("case", &texts.join("\n---\n"))?;
        told(&mut stage.world, u8::try_from(number + 1)?)?;
        for line in &case.requests {
            if let Err(why) = stage.play(line) {
                wrong.push(format!("{}: {} {}:{} {}: {why:#}", case.case, line.from, line.to, line.port, line.path));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn the_odd_cases() -> Result<()> {
    half("gamma odd", 0)
}

#[test]
fn the_even_cases() -> Result<()> {
    half("gamma even", 1)
}
