//! `meshctl analyze`: what is printed, and what the exit code says.

use std::fs;

use mesh_common::proto::nodemesh::ControllerStatus;
use tonic::Status;

use super::*;
use crate::cluster::Access;
use crate::tests::Served;
use crate::tests::asked;

const CANARY: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart]
  http:
  - route:
    - {destination: {host: cart, subset: v1}, weight: 90}
    - {destination: {host: cart, subset: v2}, weight: 10}
";
const SUBSETS: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart, namespace: shop}
spec:
  host: cart
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: cart, namespace: shop}}
";

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

async fn of_files(paths: &[PathBuf], format: Format) -> (Result<Outcome, Failure>, String) {
    let arguments = Arguments { files: paths.to_vec(), no_cluster: true, ..Arguments::default() };
    let mut out = Vec::new();
    let cluster = Cluster { access: Access::default(), mesh_namespace: "nodemesh-system".into() };
    let outcome = files(&arguments, &cluster, &mut Screen::new(&mut out, format, false)).await;
    (outcome, String::from_utf8(out).unwrap())
}

#[tokio::test]
async fn what_is_not_honoured_is_found() {
    let folder = folder(&[("canary.yaml", CANARY)]);
    let (outcome, text) = of_files(&[folder.path().join("canary.yaml")], Format::Table).await;
    assert_eq!(outcome.unwrap(), Outcome::Found);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert!(
        lines[1].starts_with("missing ")
            && lines[1].ends_with("`cart` is not among the files; the rest is looked at as if it were"),
        "{text}"
    );
    for (line, field) in [(lines[2], "route[0]"), (lines[3], "route[1]")] {
        assert!(line.starts_with("error ") && line.contains("VirtualService shop/cart"), "{text}");
        assert!(line.contains(&format!("spec.http[0].{field}.destination.subset")), "{text}");
    }
    assert_eq!(lines[4], "0 of 1 object is fine; no cluster was looked at");
}

#[tokio::test]
async fn what_is_missing_among_the_files_is_no_error() {
    let folder = folder(&[("canary.yaml", CANARY), ("subsets.yml", SUBSETS), ("notes.txt", ": [")]);
    let (outcome, text) = of_files(&[folder.path().to_owned()], Format::Json).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let severities: Vec<_> = records.iter().map(|record| record["severity"].as_str()).collect();
    assert_eq!(severities, [Some("missing"), Some("missing"), None], "{text}");
    assert_eq!(records[2], json!({ "kind": "summary", "objects": 2, "fine": 2, "others": 1, "cluster": false }));
}

#[tokio::test]
async fn what_is_all_there_is_fine() {
    let service =
        "{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {ports: [{port: 80}]}}";
    let folder = folder(&[("canary.yaml", CANARY), ("subsets.yaml", SUBSETS), ("service.yaml", service)]);
    let (outcome, text) = of_files(&[folder.path().to_owned()], Format::Table).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    assert_eq!(text, "3 of 3 objects are fine; 1 of kinds that the mesh does not read; no cluster was looked at\n");
}

#[test]
fn domains_are_the_controllers_but_for_what_is_typed() {
    let of_controller = ["--cluster-domain=a.b".to_owned(), "--root-namespace=mesh".to_owned()];
    let typed = Arguments { cluster_domain: Some("c.d".into()), ..Arguments::default() };
    let settings = typed.settings(&of_controller).unwrap();
    assert_eq!((settings.cluster_domain.as_str(), settings.root_namespace.as_str()), ("c.d", "mesh"));
    let wrong = Arguments { trust_domain: Some("A/b".into()), ..Arguments::default() };
    let failure = wrong.settings(&[]).unwrap_err();
    assert_eq!(failure.exit_code(), 2);
    assert!(failure.to_string().contains("--trust-domain"), "{failure}");
}

#[tokio::test]
async fn a_file_that_is_not_there_is_a_wrong_question() {
    let (outcome, text) = of_files(&["/nonexistent/a.yaml".into()], Format::Table).await;
    let failure = outcome.unwrap_err();
    assert_eq!((failure.exit_code(), text.as_str()), (2, ""));
    assert!(failure.to_string().starts_with("--file /nonexistent/a.yaml: "), "{failure}");
}

#[tokio::test]
async fn the_controller_is_asked_for_its_problems() {
    let controller = |problems: &'static [&'static str]| {
        Served::new(move |_| {
            let problems = problems.iter().map(|problem| (*problem).to_owned()).collect();
            Ok(vec![item::Kind::Controller(ControllerStatus { problems, ..Default::default() })])
        })
    };
    let served = controller(&["a.yaml: Pod shop/web: spec: missing"]);
    let (outcome, text) = asked("meshctl analyze", &[&served.socket()]).await;
    assert_eq!((outcome.unwrap(), text.as_str()), (Outcome::Found, "a.yaml: Pod shop/web: spec: missing\n"));
    let (_, text) = asked("meshctl analyze -o json", &[&served.socket()]).await;
    assert_eq!(text, "{\"kind\":\"problem\",\"text\":\"a.yaml: Pod shop/web: spec: missing\"}\n");
    let served = controller(&[]);
    let (outcome, text) = asked("meshctl analyze", &[&served.socket()]).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    assert_eq!(text, "the controller honours everything as it was written\n");
    let agent = Served::new(|_| Ok(Vec::new()));
    let (outcome, _) = asked("meshctl analyze", &[&agent.socket()]).await;
    assert_eq!(outcome.unwrap_err().exit_code(), 2);
    let dead = Served::new(|_| Err(Status::unavailable("ends")));
    let (outcome, _) = asked("meshctl analyze", &[&dead.socket()]).await;
    assert_eq!(outcome.unwrap_err().exit_code(), 3);
}
