//! Translations, by their objects: an object that is the same one in memory is not translated again. It changes no
//! answer, only how soon it comes: of thousands of objects a few change at a time.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    source::{Kind, Object},
    status::{Fault, Problem},
    translate::{
        Settings,
        authorization_policy::{AuthorizationPolicy, authorization_policy},
        endpoint_slice::{Slice, slice},
        join,
        peer_authentication::{PeerAuthentication, peer_authentication},
        pod::{Pod, pod},
        same_node,
        service::{Service, service},
    },
};

/// Of one [`Settings`], which never change.
#[derive(Debug, Default)]
pub struct Cache {
    /// By the address of the object, which stays taken as long as the object is held here.
    known: HashMap<usize, (Arc<Object>, Arc<Translated>)>,
}

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
    Pod(Box<Pod>),
    Service(Box<Service>),
    Slice(Box<Slice>),
    PeerAuthentication(Box<PeerAuthentication>),
    AuthorizationPolicy(Box<AuthorizationPolicy>),
}

impl Cache {
    /// The translations of these objects, in their order; those of others are forgotten.
    pub fn translate(&mut self, settings: &Settings, objects: &[Arc<Object>]) -> Vec<Arc<Translated>> {
        let of = |object: &Arc<Object>| Arc::as_ptr(object).addr();
        let translated = objects
            .iter()
            .map(|object| {
                let new = || (object.clone(), Arc::new(Translated::new(settings, object)));
                self.known.entry(of(object)).or_insert_with(new).1.clone()
            })
            .collect();
        if self.known.len() > objects.len() {
            let present: HashSet<usize> = objects.iter().map(of).collect();
            self.known.retain(|address, _| present.contains(address));
        }
        translated
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
                usable(read, &mut faults).map_or(lost, |pod| Value::Pod(Box::new(pod)))
            }
            Kind::Service(v1) => {
                let read = service(settings, v1, &mut faults);
                usable(read, &mut faults).map_or(Value::Nothing, |service| Value::Service(Box::new(service)))
            }
            Kind::EndpointSlice(v1) => {
                let read = slice(v1, &mut faults);
                usable(read, &mut faults).map_or(Value::Nothing, |slice| Value::Slice(Box::new(slice)))
            }
            Kind::PeerAuthentication(custom) => {
                Value::PeerAuthentication(Box::new(peer_authentication(custom, &mut faults)))
            }
            Kind::AuthorizationPolicy(custom) => {
                Value::AuthorizationPolicy(Box::new(authorization_policy(settings, custom, &mut faults)))
            }
        };
        Self { value, problems: faults.into_iter().map(|fault| object.problem(fault)).collect() }
    }
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
        let first = cache.translate(&settings(), &update.objects);
        let again = cache.translate(&settings(), &update.objects);
        assert!(first.iter().zip(&again).all(|(a, b)| Arc::ptr_eq(a, b)));
        // Equal, but another one.
        update.objects[0] = Arc::new((*update.objects[0]).clone());
        let other = cache.translate(&settings(), &update.objects);
        let same: Vec<_> = first.iter().zip(&other).map(|(a, b)| Arc::ptr_eq(a, b)).collect();
        assert!(!same[0] && same[1..].iter().all(|same| *same), "{same:?}");
        assert_eq!(cache.known.len(), update.objects.len());
        cache.translate(&settings(), &[]);
        assert!(cache.known.is_empty());
    }
}
