//! Translations, by their objects: an object that is the same one in memory is not translated again. It changes no
//! answer, only how soon it comes: of thousands of objects a few change at a time.

use std::sync::Arc;

use super::{draft::Made, limits::Settled, traffic::Told};
use crate::{
    source::{CustomKind, Kind, Object},
    status::{Fault, Problem},
    translate::{
        Settings,
        authorization_policy::{AuthorizationPolicy, authorization_policy},
        backend_tls_policy::{BackendTlsPolicy, backend_tls_policy},
        destination_rule::{DestinationRule, destination_rule},
        endpoint_slice::{Slice, slice},
        gateway::Route,
        grpc_route::grpc_route,
        http_route::http_route,
        join,
        mesh_config::{MeshConfig, config_map, istio_operator},
        peer_authentication::{PeerAuthentication, peer_authentication},
        pod::{Pod, pod},
        rate_limit_policy::{RateLimitPolicy, rate_limit_policy},
        reference_grant::{ReferenceGrant, reference_grant},
        request_authentication::{RequestAuthentication, request_authentication},
        same_node,
        service::{Service, service},
        service_entry::{ServiceEntry, service_entry},
        tcp_route::tcp_route,
        telemetry::{Telemetry, telemetry},
        tls_route::tls_route,
        virtual_service::{VirtualService, virtual_service},
    },
};

/// How many objects in a row may have changed and those behind them still be known: sources tell them in one order.
const AHEAD: usize = 1024;

/// Of one [`Settings`], which never change.
#[derive(Debug, Default)]
pub struct Cache {
    /// In the order of the objects.
    known: Vec<Known>,
    /// What all rules of traffic together were told as.
    pub told: Told,
    /// What pods are limited to.
    pub limits: Settled,
}

/// An object and its translation.
pub type Known = (Arc<Object>, Arc<Translated>);

/// What one object says by itself.
#[derive(Debug)]
pub struct Translated {
    pub value: Value,
    /// What of it could not be honoured.
    pub problems: Vec<Problem>,
}

#[derive(Debug)]
pub enum Value {
    /// Nothing, or it is read as it is.
    Nothing,
    /// A pod that could not be translated.
    Lost,
    Pod(Box<Pod>, Made),
    Service(Box<Service>),
    Slice(Box<Slice>),
    PeerAuthentication(Box<PeerAuthentication>),
    AuthorizationPolicy(Box<AuthorizationPolicy>),
    VirtualService(Box<VirtualService>),
    DestinationRule(Box<DestinationRule>),
    Route(Box<Route>),
    ReferenceGrant(Box<ReferenceGrant>),
    BackendTlsPolicy(Box<BackendTlsPolicy>),
    RateLimitPolicy(Box<RateLimitPolicy>),
    RequestAuthentication(Box<RequestAuthentication>),
    ServiceEntry(Box<ServiceEntry>),
    Telemetry(Box<Telemetry>),
    MeshConfig(Box<MeshConfig>),
}

impl Value {
    /// Whether what agents are told of traffic is made of it.
    pub fn is_of_traffic(&self) -> bool {
        matches!(
            self,
            Self::Service(_)
                | Self::VirtualService(_)
                | Self::DestinationRule(_)
                | Self::Route(_)
                | Self::ReferenceGrant(_)
                | Self::BackendTlsPolicy(_)
        )
    }
}

impl Cache {
    /// These objects with their translations, in their order; others are forgotten.
    pub fn translate(&mut self, settings: &Settings, objects: &[Arc<Object>]) -> &[Known] {
        let mut before = std::mem::take(&mut self.known).into_iter();
        let known = objects.iter().map(|object| {
            let mut ahead = before.as_slice().iter().take(AHEAD);
            let same = ahead.position(|(known, _)| Arc::ptr_eq(known, object)).and_then(|place| before.nth(place));
            same.unwrap_or_else(|| (object.clone(), Arc::new(Translated::new(settings, object))))
        });
        self.known = known.collect();
        &self.known
    }
}

impl Translated {
    fn new(settings: &Settings, object: &Object) -> Self {
        let mut faults = Vec::new();
        let value = match &object.kind {
            // They depend on the time, or are nothing but their metadata.
            Kind::Namespace(_) | Kind::Node(_) | Kind::ServiceAccount(_) => Value::Nothing,
            Kind::Pod(v1) => {
                let labels = v1.metadata.labels.as_ref();
                faults.extend(labels.and_then(join::check).into_iter().chain(labels.and_then(same_node::check)));
                let read = pod(settings, v1, &mut faults);
                let lost = if read.is_err() { Value::Lost } else { Value::Nothing };
                usable(read, &mut faults).map_or(lost, |pod| Value::Pod(Box::new(pod), Made::default()))
            }
            Kind::Service(v1) => {
                let read = service(settings, v1, &mut faults);
                usable(read, &mut faults).map_or(Value::Nothing, |service| Value::Service(Box::new(service)))
            }
            Kind::EndpointSlice(v1) => {
                let read = slice(v1, &mut faults);
                usable(read, &mut faults).map_or(Value::Nothing, |slice| Value::Slice(Box::new(slice)))
            }
            Kind::Custom(CustomKind::PeerAuthentication, custom) => {
                Value::PeerAuthentication(Box::new(peer_authentication(custom, &mut faults)))
            }
            Kind::Custom(CustomKind::AuthorizationPolicy, custom) => {
                Value::AuthorizationPolicy(Box::new(authorization_policy(settings, custom, &mut faults)))
            }
            Kind::Custom(CustomKind::VirtualService, custom) => {
                Value::VirtualService(Box::new(virtual_service(settings, custom, &mut faults)))
            }
            Kind::Custom(CustomKind::DestinationRule, custom) => {
                let read = destination_rule(settings, custom, &mut faults);
                read.map_or(Value::Nothing, |rule| Value::DestinationRule(Box::new(rule)))
            }
            Kind::Custom(CustomKind::HttpRoute, custom) => Value::Route(Box::new(http_route(custom, &mut faults))),
            Kind::Custom(CustomKind::GrpcRoute, custom) => Value::Route(Box::new(grpc_route(custom, &mut faults))),
            Kind::Custom(CustomKind::TcpRoute, custom) => Value::Route(Box::new(tcp_route(custom, &mut faults))),
            Kind::Custom(CustomKind::TlsRoute, custom) => Value::Route(Box::new(tls_route(custom, &mut faults))),
            Kind::Custom(CustomKind::ReferenceGrant, custom) => {
                Value::ReferenceGrant(Box::new(reference_grant(custom, &mut faults)))
            }
            Kind::Custom(CustomKind::BackendTlsPolicy, custom) => {
                Value::BackendTlsPolicy(Box::new(backend_tls_policy(settings, custom, &mut faults)))
            }
            Kind::Custom(CustomKind::RateLimitPolicy, custom) => {
                Value::RateLimitPolicy(Box::new(rate_limit_policy(settings, custom, &mut faults)))
            }
            Kind::Custom(CustomKind::RequestAuthentication, custom) => {
                Value::RequestAuthentication(Box::new(request_authentication(settings, custom, &mut faults)))
            }
            Kind::Custom(CustomKind::ServiceEntry, custom) => {
                Value::ServiceEntry(Box::new(service_entry(settings, custom, &mut faults)))
            }
            Kind::Custom(CustomKind::Telemetry, custom) => {
                Value::Telemetry(Box::new(telemetry(settings, custom, &mut faults)))
            }
            Kind::Custom(CustomKind::IstioOperator, custom) => of_mesh(istio_operator(settings, custom, &mut faults)),
            Kind::ConfigMap(v1) => of_mesh(config_map(settings, v1, &mut faults)),
        };
        Self { value, problems: faults.into_iter().map(|fault| object.problem(fault)).collect() }
    }
}

fn of_mesh(config: Option<MeshConfig>) -> Value {
    config.map_or(Value::Nothing, |config| Value::MeshConfig(Box::new(config)))
}

fn usable<T>(read: Result<Option<T>, Fault>, faults: &mut Vec<Fault>) -> Option<T> {
    read.unwrap_or_else(|fault| {
        faults.push(fault);
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::tests::{SHOP, objects, settings};

    #[test]
    fn what_is_the_same_is_translated_once_and_what_is_gone_is_forgotten() {
        let mut cache = Cache::default();
        let mut update = objects(SHOP);
        let first = cache.translate(&settings(), &update.objects).to_vec();
        let again = cache.translate(&settings(), &update.objects);
        assert!(first.iter().zip(again).all(|((_, a), (_, b))| Arc::ptr_eq(a, b)));
        // Equal, but another one.
        let other = Arc::new((*update.objects[0]).clone());
        Arc::make_mut(&mut update.objects)[0] = other;
        let other = cache.translate(&settings(), &update.objects);
        let same: Vec<_> = first.iter().zip(other).map(|((_, a), (_, b))| Arc::ptr_eq(a, b)).collect();
        assert!(!same[0] && same[1..].iter().all(|same| *same), "{same:?}");
        // One goes, one comes, in the midst of others.
        let known = cache.known.clone();
        let new = Arc::new((*update.objects[2]).clone());
        Arc::make_mut(&mut update.objects).remove(1);
        Arc::make_mut(&mut update.objects).insert(2, new);
        let place = |found: &Known| known.iter().position(|(_, of)| Arc::ptr_eq(of, &found.1));
        let found: Vec<_> = cache.translate(&settings(), &update.objects).iter().map(place).collect();
        assert_eq!(found, [Some(0), Some(2), None, Some(3), Some(4)]);
        cache.translate(&settings(), &[]);
        assert!(cache.known.is_empty());
    }
}
