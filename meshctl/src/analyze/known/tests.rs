//! Lists of an API that knows Services, VirtualServices of an old version and DestinationRules, and nothing else.

use std::{future::ready, sync::Arc};

use http::{Request, Response};
use kube::client::Body;
use serde_json::json;
use tower::service_fn;

use super::*;

fn api(answer: impl Fn(&str) -> (u16, Value) + Send + Sync + 'static) -> Client {
    let answer = Arc::new(answer);
    let service = service_fn(move |request: Request<Body>| {
        let (status, body) = answer(request.uri().path());
        let body = Body::from(body.to_string().into_bytes());
        ready(Ok::<_, std::io::Error>(Response::builder().status(status).body(body).unwrap()))
    });
    Client::new(service, "default")
}

fn list(name: &str) -> (u16, Value) {
    let items = json!([{ "metadata": { "name": name, "namespace": "shop" }, "spec": {} }]);
    (200, json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": items }))
}

fn refused(code: u16) -> (u16, Value) {
    let reason = if code == 404 { "NotFound" } else { "Forbidden" };
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": reason, "message": "no", "code": code,
    });
    (code, status)
}

#[tokio::test]
async fn every_kind_that_the_cluster_knows_is_asked_for_in_a_version_that_it_serves() {
    let client = api(|path| match path {
        "/api/v1/services" => list("cart"),
        "/apis/networking.istio.io/v1beta1/virtualservices" => list("old"),
        "/apis/networking.istio.io/v1/destinationrules" => list("rule"),
        "/apis/networking.istio.io/v1beta1/destinationrules" => panic!("asked for twice"),
        _ => refused(404),
    });
    let objects = objects(&client, mesh_controller::analyze::collections()).await.unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let named: Vec<_> =
        objects.iter().map(|object| format!("{} {}", text(&object["apiVersion"]), text(&object["kind"]))).collect();
    let expected =
        ["v1 Service", "networking.istio.io/v1beta1 VirtualService", "networking.istio.io/v1 DestinationRule"];
    assert_eq!(named, expected);
    assert_eq!(objects[0]["metadata"]["name"], "cart");
}

#[tokio::test]
async fn a_list_that_is_refused_is_named() {
    let client = api(|path| if path.ends_with("/services") { refused(403) } else { refused(404) });
    let failure = objects(&client, mesh_controller::analyze::collections()).await.unwrap_err();
    assert_eq!(failure.exit_code(), 3);
    assert!(failure.to_string().starts_with("cannot list services: no"), "{failure}");
}

#[tokio::test]
async fn the_controllers_arguments_are_read_from_its_deployment() {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "mesh-controller", "namespace": "mesh" },
        "spec": {
            "selector": {},
            "template": { "spec": { "containers": [
                { "name": "other", "args": ["--cluster-domain=wrong"] },
                { "name": "mesh-controller", "args": ["--cluster-domain=a.b"] },
            ] } },
        },
    });
    let client = api(move |path| match path {
        "/apis/apps/v1/namespaces/mesh/deployments/mesh-controller" => (200, deployment.clone()),
        "/apis/apps/v1/namespaces/hidden/deployments/mesh-controller" => refused(403),
        _ => refused(404),
    });
    assert_eq!(arguments(&client, "mesh").await.unwrap(), ["--cluster-domain=a.b"]);
    assert_eq!(arguments(&client, "elsewhere").await.unwrap(), [] as [String; 0]);
    let failure = arguments(&client, "hidden").await.unwrap_err();
    assert!(failure.to_string().starts_with("cannot read Deployment hidden/mesh-controller: no"), "{failure}");
}
