//! What the API server says of a cluster, read once. What it does not serve or does not let us read is left empty, and
//! said so where it matters.

use http::{Request, header::DATE};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment},
        authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
        coordination::v1::Lease,
        core::v1::{Namespace, Node, Pod},
        networking::v1::NetworkPolicy,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams, PostParams},
    client::Body,
};
use serde::de::DeserializeOwned;
use std::fmt::Debug;

use crate::{
    client::Failure,
    cluster::{api, explained, is_missing},
};

/// What installing needs: verb, group, resource.
pub const NEEDED: &[(&str, &str, &str)] = &[
    ("create", "", "namespaces"),
    ("patch", "", "serviceaccounts"),
    ("patch", "", "services"),
    ("patch", "", "configmaps"),
    ("patch", "apps", "deployments"),
    ("patch", "apps", "daemonsets"),
    ("patch", "policy", "poddisruptionbudgets"),
    ("patch", "rbac.authorization.k8s.io", "clusterroles"),
    ("patch", "rbac.authorization.k8s.io", "clusterrolebindings"),
    ("patch", "rbac.authorization.k8s.io", "roles"),
    ("patch", "rbac.authorization.k8s.io", "rolebindings"),
];

/// The mesh's kinds of policy.
pub const RULES: &[(&str, &str)] =
    &[("security.istio.io/v1", "AuthorizationPolicy"), ("security.istio.io/v1", "PeerAuthentication")];
const CERTIFICATES: (&str, &str) = ("cert-manager.io/v1", "Certificate");

#[derive(Debug, Default)]
pub struct Facts {
    /// Major and minor.
    pub version: (u32, u32),
    pub version_text: String,
    /// This machine's time and the server's.
    pub clocks: Option<(Timestamp, Timestamp)>,
    /// Of [`NEEDED`], what this account may not; `None`: the server does not answer such questions.
    pub denied: Option<Vec<String>>,
    /// Names of CustomResourceDefinitions; `None`: they cannot be read.
    pub kinds: Option<Vec<String>>,
    pub nodes: Vec<Node>,
    pub namespaces: Vec<Namespace>,
    pub pods: Vec<Pod>,
    pub daemon_sets: Vec<DaemonSet>,
    pub deployments: Vec<Deployment>,
    pub policies: Vec<NetworkPolicy>,
    pub leases: Vec<Lease>,
    /// Policies of the mesh's kinds, as far as these are installed.
    pub rules: Vec<DynamicObject>,
    /// cert-manager's Certificates, where it is installed.
    pub certificates: Vec<DynamicObject>,
    /// What could not be read, and why.
    pub unread: Vec<String>,
    /// When all this was read.
    pub now: Timestamp,
}

/// # Errors
/// The server does not answer, or does not know this account.
pub async fn gather(client: &Client) -> Result<Facts, Failure> {
    let mut facts = Facts { now: Timestamp::now(), ..Facts::default() };
    let request = Request::get("/version").body(Body::empty());
    let request = request.map_err(|error| Failure::Usage(error.to_string()))?;
    let answer = client.send(request).await.map_err(|error| explained("asking for the server's version", error))?;
    facts.clocks = answer
        .headers()
        .get(DATE)
        .and_then(|date| date.to_str().ok())
        .and_then(date)
        .map(|server| (Timestamp::now(), server));
    let version = client.apiserver_version().await;
    let version = version.map_err(|error| explained("asking for the server's version", error))?;
    facts.version = (digits(&version.major), digits(&version.minor));
    facts.version_text = version.git_version;
    facts.denied = denied(client).await?;
    let mut unread = Vec::new();
    facts.nodes = list(client, "nodes", &mut unread).await?;
    facts.namespaces = list(client, "namespaces", &mut unread).await?;
    facts.pods = list(client, "pods", &mut unread).await?;
    facts.daemon_sets = list(client, "daemonsets", &mut unread).await?;
    facts.deployments = list(client, "deployments", &mut unread).await?;
    facts.policies = list(client, "networkpolicies", &mut unread).await?;
    facts.leases = list(client, "leases", &mut unread).await?;
    let before = unread.len();
    let kinds: Vec<CustomResourceDefinition> = list(client, "customresourcedefinitions", &mut unread).await?;
    facts.kinds = (unread.len() == before).then(|| kinds.into_iter().filter_map(|kind| kind.metadata.name).collect());
    for (api_version, kind) in RULES {
        facts.rules.extend(others(client, api_version, kind, &mut unread).await?);
    }
    facts.certificates = others(client, CERTIFICATES.0, CERTIFICATES.1, &mut unread).await?;
    facts.unread = unread;
    Ok(facts)
}

async fn list<K>(client: &Client, name: &str, unread: &mut Vec<String>) -> Result<Vec<K>, Failure>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::all(client.clone());
    match api.list(&ListParams::default()).await {
        Ok(list) => Ok(list.items),
        Err(kube::Error::Api(status)) if [403, 404].contains(&status.code) => {
            unread.push(format!("{name}: {}", status.message));
            Ok(Vec::new())
        }
        Err(error) => Err(explained(&format!("listing {name}"), error)),
    }
}

/// Of a kind that may not be installed: then there are none.
async fn others(
    client: &Client,
    api_version: &str,
    kind: &str,
    unread: &mut Vec<String>,
) -> Result<Vec<DynamicObject>, Failure> {
    match api(client, api_version, kind, None).list(&ListParams::default()).await {
        Ok(list) => Ok(list.items),
        Err(error) if is_missing(&error) => Ok(Vec::new()),
        Err(kube::Error::Api(status)) if status.code == 403 => {
            unread.push(format!("{kind}: {}", status.message));
            Ok(Vec::new())
        }
        Err(error) => Err(explained(&format!("listing every {kind}"), error)),
    }
}

async fn denied(client: &Client) -> Result<Option<Vec<String>>, Failure> {
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut denied = Vec::new();
    for (verb, group, resource) in NEEDED {
        let attributes = ResourceAttributes {
            verb: Some((*verb).to_owned()),
            group: Some((*group).to_owned()),
            resource: Some((*resource).to_owned()),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        match api.create(&PostParams::default(), &review).await {
            Ok(review) if review.status.as_ref().is_some_and(|status| status.allowed) => {}
            Ok(_) => denied.push(format!("{verb} {resource}")),
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(explained("asking what this account may do", error)),
        }
    }
    Ok(Some(denied))
}

/// As HTTP writes it (RFC 9110, 5.6.7), to the second.
fn date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

/// Providers write minors as in `27+`.
fn digits(text: &str) -> u32 {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_http_and_versions_of_providers() {
        assert_eq!(date("Sat, 21 Nov 2026 23:09:33 GMT").unwrap().to_string(), "2026-11-21T23:09:33Z");
        assert_eq!(date("yesterday"), None);
        assert_eq!((digits("31"), digits("27+"), digits("")), (31, 27, 0));
    }
}
