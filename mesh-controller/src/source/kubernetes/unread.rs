//! Objects of Istio's kinds that the mesh does not read, and whose authors may think that it does: each is named, so
//! that nobody relies on it. They are asked for now and then by their names alone; nothing waits for the answer.

use std::time::Duration;

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use kube::{
    Api, Client, Error,
    api::{ApiResource, DynamicObject, ListParams},
    core::GroupVersionKind,
};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::{
    source::{Key, documents::not_read},
    status::{Extent, Problem},
};

/// Group, kind, as in paths, versions of which the first that is served is asked for.
type Unread = (&'static str, &'static str, &'static str, &'static [&'static str]);

const NETWORKING: &str = "networking.istio.io";
const USUAL: &[&str] = &["v1", "v1beta1", "v1alpha3"];
const KINDS: [Unread; 7] = [
    (NETWORKING, "EnvoyFilter", "envoyfilters", &["v1alpha3"]),
    (NETWORKING, "Gateway", "gateways", USUAL),
    (NETWORKING, "ProxyConfig", "proxyconfigs", &["v1beta1"]),
    (NETWORKING, "Sidecar", "sidecars", USUAL),
    (NETWORKING, "WorkloadEntry", "workloadentries", USUAL),
    (NETWORKING, "WorkloadGroup", "workloadgroups", USUAL),
    ("extensions.istio.io", "WasmPlugin", "wasmplugins", &["v1alpha1"]),
];
const EVERY: Duration = Duration::from_secs(60);
/// One request takes no longer.
const REQUEST: Duration = Duration::from_secs(5);
/// Objects of one kind that are named; of the others there is the number.
const NAMED: u32 = 20;

/// All of them, again and again.
pub fn watched(client: Client) -> BoxStream<'static, Vec<Problem>> {
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let next = async |(client, mut every): (Client, tokio::time::Interval)| {
        loop {
            every.tick().await;
            if let Some(found) = problems(&client).await {
                return Some((found, (client, every)));
            }
        }
    };
    stream::unfold((client, every), next).boxed()
}

/// `None`: the API does not answer; what was known stays, and that it does not the watches say.
async fn problems(client: &Client) -> Option<Vec<Problem>> {
    let mut all = Vec::new();
    for unread in &KINDS {
        all.extend(of_kind(client, unread).await?);
    }
    Some(all)
}

async fn of_kind(client: &Client, (group, kind, plural, versions): &Unread) -> Option<Vec<Problem>> {
    let problem = |object: String, why: String, extent| {
        let (file, field) = (String::new(), String::new());
        Problem { file, object, field, why, extent }
    };
    for version in *versions {
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let list = match timeout(REQUEST, api.list_metadata(&ListParams::default().limit(NAMED))).await.ok()? {
            Ok(list) => list,
            Err(Error::Api(status)) if status.code == 404 => continue,
            Err(Error::Api(status)) if status.code == 403 => {
                let unknown = "whether there are some that are not honoured is unknown";
                let why = format!("cannot be listed ({}): {unknown}", status.message);
                return Some(vec![problem((*kind).to_owned(), why, Extent::Note)]);
            }
            Err(_) => return None,
        };
        let why = format!("{}; nothing of it is honoured", not_read(&resource.api_version, kind));
        let mut found = Vec::new();
        let more = list.metadata.remaining_item_count.unwrap_or_default();
        for object in list.items {
            let text = |text: Option<String>| text.unwrap_or_default();
            let (namespace, name) = (text(object.metadata.namespace), text(object.metadata.name));
            let key = Key { kind: (*kind).to_owned(), namespace, name };
            found.push(problem(key.to_string(), why.clone(), Extent::Part));
        }
        if more > 0 {
            found.push(problem((*kind).to_owned(), format!("{why}; so it is of {more} more"), Extent::Part));
        }
        return Some(found);
    }
    Some(Vec::new())
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower::service_fn;

    use super::*;

    fn api(answer: impl Fn(&str) -> (u16, Value) + Clone + Send + Sync + 'static) -> Client {
        let service = service_fn(move |request: Request<Body>| {
            let (status, body) = answer(request.uri().path());
            let body = Body::from(body.to_string().into_bytes());
            ready(Response::builder().status(status).body(body))
        });
        Client::new(service, "default")
    }

    fn list(name: &str, more: Option<i64>) -> (u16, Value) {
        let items = json!([{"metadata": {"name": name, "namespace": "shop"}}]);
        let kind = "PartialObjectMetadataList";
        let metadata = json!({"remainingItemCount": more});
        (200, json!({"apiVersion": "meta.k8s.io/v1", "kind": kind, "metadata": metadata, "items": items}))
    }

    fn refused(code: u16) -> (u16, Value) {
        let status = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "message": "no", "code": code});
        (code, status)
    }

    #[tokio::test]
    async fn what_is_not_read_is_named() {
        let client = api(|path| match path {
            "/apis/networking.istio.io/v1alpha3/envoyfilters" => list("lua", Some(7)),
            "/apis/networking.istio.io/v1beta1/sidecars" => list("default", None),
            "/apis/extensions.istio.io/v1alpha1/wasmplugins" => refused(403),
            _ => refused(404),
        });
        let said: Vec<_> = watched(client).next().await.expect("an answer").iter().map(ToString::to_string).collect();
        let envoy =
            "there is no Envoy here that it could change (networking.istio.io/v1alpha3); nothing of it is honoured";
        assert_eq!(said[0], format!("EnvoyFilter shop/lua: {envoy}"));
        assert_eq!(said[1], format!("EnvoyFilter: {envoy}; so it is of 7 more"));
        assert!(said[2].starts_with("Sidecar shop/default: there are no sidecars here"), "{said:?}");
        assert!(said[3].starts_with("WasmPlugin: cannot be listed ("), "{said:?}");
        assert_eq!(said.len(), 4, "{said:?}");
    }
}
