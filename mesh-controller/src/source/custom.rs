//! Kinds that Kubernetes itself does not know: what they are called, and in which versions they are read.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use crate::status::{Fault, parents::List};

/// An object of such a kind. Its spec is read in `translate`, so that one that cannot be read still exists, and can be
/// translated into something that refuses.
#[derive(Clone, Debug, PartialEq)]
pub struct Custom {
    pub metadata: ObjectMeta,
    /// Null if there is none.
    pub spec: Value,
    /// What is wrong outside the spec.
    pub fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CustomKind {
    PeerAuthentication,
    AuthorizationPolicy,
    RequestAuthentication,
    VirtualService,
    DestinationRule,
    ServiceEntry,
    HttpRoute,
    GrpcRoute,
    TcpRoute,
    TlsRoute,
    ReferenceGrant,
    BackendTlsPolicy,
    RateLimitPolicy,
    Telemetry,
    IstioOperator,
}

const SECURITY: &str = "security.istio.io";
const NETWORKING: &str = "networking.istio.io";
const GATEWAY: &str = "gateway.networking.k8s.io";
const OWN: &str = "nodemesh.io";

impl CustomKind {
    pub const ALL: [Self; 15] = [
        Self::PeerAuthentication,
        Self::AuthorizationPolicy,
        Self::RequestAuthentication,
        Self::VirtualService,
        Self::DestinationRule,
        Self::ServiceEntry,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TcpRoute,
        Self::TlsRoute,
        Self::ReferenceGrant,
        Self::BackendTlsPolicy,
        Self::RateLimitPolicy,
        Self::Telemetry,
        Self::IstioOperator,
    ];

    pub fn kind(self) -> &'static str {
        self.facts().0
    }

    /// As in paths of the API.
    pub fn plural(self) -> &'static str {
        self.facts().1
    }

    pub fn group(self) -> &'static str {
        self.facts().2
    }

    /// All that are read; of those that an API serves the first is.
    pub fn versions(self) -> &'static [&'static str] {
        self.facts().3
    }

    fn facts(self) -> (&'static str, &'static str, &'static str, &'static [&'static str]) {
        const V1: &[&str] = &["v1", "v1beta1"];
        const ISTIO: &[&str] = &["v1", "v1beta1", "v1alpha3"];
        match self {
            Self::PeerAuthentication => ("PeerAuthentication", "peerauthentications", SECURITY, V1),
            Self::AuthorizationPolicy => ("AuthorizationPolicy", "authorizationpolicies", SECURITY, V1),
            Self::RequestAuthentication => ("RequestAuthentication", "requestauthentications", SECURITY, V1),
            Self::VirtualService => ("VirtualService", "virtualservices", NETWORKING, ISTIO),
            Self::DestinationRule => ("DestinationRule", "destinationrules", NETWORKING, ISTIO),
            Self::ServiceEntry => ("ServiceEntry", "serviceentries", NETWORKING, ISTIO),
            Self::HttpRoute => ("HTTPRoute", "httproutes", GATEWAY, V1),
            Self::GrpcRoute => ("GRPCRoute", "grpcroutes", GATEWAY, &["v1"]),
            Self::TcpRoute => ("TCPRoute", "tcproutes", GATEWAY, &["v1", "v1alpha2"]),
            Self::TlsRoute => ("TLSRoute", "tlsroutes", GATEWAY, &["v1", "v1alpha3", "v1alpha2"]),
            Self::ReferenceGrant => ("ReferenceGrant", "referencegrants", GATEWAY, V1),
            Self::BackendTlsPolicy => ("BackendTLSPolicy", "backendtlspolicies", GATEWAY, &["v1", "v1alpha3"]),
            Self::RateLimitPolicy => ("RateLimitPolicy", "ratelimitpolicies", OWN, &["v1alpha1"]),
            Self::Telemetry => ("Telemetry", "telemetries", "telemetry.istio.io", &["v1", "v1alpha1"]),
            Self::IstioOperator => ("IstioOperator", "istiooperators", "install.istio.io", &["v1alpha1"]),
        }
    }

    /// `apiVersion` of one of its versions.
    pub fn api_version(self, version: &str) -> String {
        format!("{}/{version}", self.group())
    }

    /// A kind by its group and name.
    pub fn find(group: &str, kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.group() == group && known.kind() == kind)
    }

    /// Whether one of these kinds may be in this group.
    pub fn is_group(group: &str) -> bool {
        Self::ALL.into_iter().any(|known| known.group() == group)
    }

    /// A kind by its name: no two of them have one.
    pub fn named(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.kind() == kind)
    }

    /// Whether `status.conditions` says how it stands. A grant has no status, and that of an IstioOperator is another
    /// program's.
    pub fn has_conditions(self) -> bool {
        self.list().is_none() && !matches!(self, Self::ReferenceGrant | Self::IstioOperator)
    }

    /// The list of its status that says so, of the Gateway API's kinds.
    pub fn list(self) -> Option<List> {
        match self {
            Self::HttpRoute | Self::GrpcRoute | Self::TcpRoute | Self::TlsRoute => Some(List::Parents),
            Self::BackendTlsPolicy => Some(List::Ancestors),
            _ => None,
        }
    }
}
