//! Against a subscription that looks at everything each time: whatever happens to the mesh and to what is wanted, both
//! say the same.

use std::collections::BTreeMap;

use mesh_common::{
    model::ServicePort,
    proto::{nodemesh, type_url},
};
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{
    index::{
        World,
        tests::{CART, SHOP, world},
    },
    serve::catalog::Catalog,
};

/// What happens. Pods, services, addresses and names are told by number.
#[derive(Clone, Debug)]
enum Event {
    /// A pod has this address, serves these services and is healthy or not; or is gone.
    Pod(usize, Option<(usize, Vec<usize>, bool)>),
    Service(usize, Option<usize>),
    Turn {
        subscribe: Vec<usize>,
        unsubscribe: Vec<usize>,
    },
    /// Addresses are told on demand, to a node with these pods; or all of them.
    OnDemand(Option<Vec<usize>>),
    Say(Part),
}

const PODS: usize = 6;
const SERVICES: usize = 3;

fn event() -> impl Strategy<Value = Event> {
    let serves = vec(0..SERVICES, 0..3);
    let names = || vec(0..2 * (PODS + SERVICES) + 2, 0..3);
    prop_oneof![
        4 => (0..PODS, prop::option::of((0..PODS, serves, any::<bool>()))).prop_map(|(i, pod)| Event::Pod(i, pod)),
        1 => (0..SERVICES, prop::option::of(0..SERVICES)).prop_map(|(i, address)| Event::Service(i, address)),
        1 => (names(), names()).prop_map(|(subscribe, unsubscribe)| Event::Turn { subscribe, unsubscribe }),
        1 => prop::option::of(vec(0..PODS, 0..3)).prop_map(Event::OnDemand),
        4 => select(vec![Part::Changed, Part::Removed, Part::All, Part::All]).prop_map(Event::Say),
    ]
}

fn pod_name(number: usize) -> String {
    format!("Kubernetes//Pod/shop/p{number}")
}

fn service_name(number: usize) -> String {
    format!("shop/s{number}.shop.svc.cluster.local")
}

/// Every name and alias that there may be, one that never is, and the wildcard.
fn name(number: usize) -> String {
    match number {
        number if number < PODS => pod_name(number),
        number if number < 2 * PODS => format!("/10.0.0.{}", number - PODS),
        number if number < 2 * PODS + SERVICES => service_name(number - 2 * PODS),
        number if number < 2 * (PODS + SERVICES) => format!("/10.96.0.{}", number - 2 * PODS - SERVICES),
        number if number == 2 * (PODS + SERVICES) => "/10.9.9.9".to_owned(),
        _ => "*".to_owned(),
    }
}

thread_local! {
    static SHOP_WORLD: World = world(SHOP);
}

/// The mesh, and what is published of it.
struct Mesh {
    /// Whose pod and service the others are made of.
    template: World,
    world: World,
    published: World,
    catalog: Catalog,
    /// The pods of the agent's node, if it is told on demand.
    own: Option<Vec<usize>>,
    /// The same as it was when something was said last.
    said: Option<Vec<usize>>,
}

impl Mesh {
    fn change(&mut self, event: &Event) {
        let template = &self.template;
        match event {
            Event::Pod(number, None) => drop(self.world.workloads.remove(&pod_name(*number))),
            Event::Pod(number, Some((address, services, healthy))) => {
                let uid = pod_name(*number);
                let address = [10, 0, 0, u8::try_from(*address).expect("a few")].into();
                // Nobody's, or its own.
                if self.world.workloads.values().any(|other| other.uid != uid && other.addresses.contains(&address)) {
                    return;
                }
                let mut pod = (*template.workloads[CART]).clone();
                (pod.uid, pod.addresses, pod.healthy) = (uid, vec![address], *healthy);
                let name = |number: &usize| {
                    let mut service = template.services.keys().next().expect("a service").clone();
                    service.hostname = format!("s{number}.shop.svc.cluster.local");
                    service
                };
                let ports = vec![ServicePort { port: 80, target: 8080 }];
                pod.services = services.iter().map(|number| (name(number), ports.clone())).collect();
                self.world.workloads.insert(pod.uid.clone(), Arc::new(pod));
            }
            Event::Service(number, address) => {
                let mut service = (**template.services.values().next().expect("a service")).clone();
                service.hostname = format!("s{number}.shop.svc.cluster.local");
                let name = service.service_name();
                let Some(address) = address else { return drop(self.world.services.remove(&name)) };
                service.addresses = vec![[10, 96, 0, u8::try_from(*address).expect("a few")].into()];
                if self
                    .world
                    .services
                    .iter()
                    .all(|(other, known)| *other == name || known.addresses != service.addresses)
                {
                    self.world.services.insert(name, Arc::new(service));
                }
            }
            Event::OnDemand(own) => self.own.clone_from(own),
            Event::Turn { .. } | Event::Say(_) => {}
        }
    }

    fn shelf(&mut self) -> &Shelf {
        self.catalog = self.catalog.next(&self.world, &self.world.since(&self.published));
        self.published = self.world.clone();
        self.catalog.shelf(type_url::ADDRESS, "a").expect("is served")
    }

    fn own(&self) -> Option<Shelf> {
        let mut shelf = Shelf::default();
        for number in self.own.as_ref()? {
            let name = pod_name(*number);
            shelf.add(Entry::new(&name, type_url::LOCAL_POD, &nodemesh::LocalPod::default()));
        }
        Some(shelf)
    }

    /// What a name brings, seen from the objects.
    fn resolve(&self, name: &str) -> Vec<String> {
        let aliases = |addresses: &[std::net::IpAddr]| addresses.iter().any(|ip| format!("/{ip}") == name);
        let mut found = Vec::new();
        for (uid, pod) in &self.world.workloads {
            if uid == name || aliases(&pod.addresses) {
                found.push(uid.clone());
                if self.said.is_some() {
                    continue;
                }
                let there = pod.services.keys().filter(|service| self.world.services.contains_key(*service));
                found.extend(there.map(ToString::to_string));
            }
        }
        for (service, known) in &self.world.services {
            if service.to_string() == name || aliases(&known.addresses) {
                found.push(service.to_string());
                let members = self.world.workloads.values().filter(|pod| pod.services.contains_key(service));
                found.extend(members.map(|pod| pod.uid.clone()));
            }
        }
        found
    }
}

/// Names and versions that are said, and names that are gone.
type Said = (Vec<(String, String)>, Vec<String>);

/// The subscription that looks at everything.
#[derive(Default)]
struct Full {
    wildcard: bool,
    names: BTreeSet<String>,
    missing: BTreeSet<String>,
    sent: BTreeMap<String, String>,
    asked: bool,
}

impl Full {
    fn turn(&mut self, mesh: &Mesh, subscribe: &[String], unsubscribe: &[String], first: bool) {
        self.wildcard |= first && subscribe.is_empty();
        self.asked |= first || !subscribe.is_empty();
        for name in subscribe {
            if name == "*" {
                self.wildcard = true;
                continue;
            }
            if !first {
                mesh.resolve(name).iter().for_each(|entry| drop(self.sent.remove(entry)));
                self.missing.remove(name);
            }
            self.names.insert(name.clone());
        }
        for name in unsubscribe {
            self.wildcard &= name != "*";
            self.names.remove(name);
            self.missing.remove(name);
        }
    }

    fn next(&mut self, mesh: &Mesh, part: Part) -> Option<Said> {
        let shelf = mesh.catalog.shelf(type_url::ADDRESS, "a").expect("is served");
        let (mut wanted, mut removed) = (BTreeSet::new(), Vec::new());
        if let Some(own) = &mesh.own {
            let own = own.iter().map(|number| pod_name(*number)).filter(|_| self.wildcard);
            wanted.extend(own.filter(|name| mesh.world.workloads.contains_key(name)));
        } else if self.wildcard {
            wanted.extend(mesh.world.workloads.keys().cloned());
            wanted.extend(mesh.world.services.keys().map(ToString::to_string));
        }
        for name in &self.names {
            let found = mesh.resolve(name);
            if !found.is_empty() {
                self.missing.remove(name);
                wanted.extend(found);
            } else if part != Part::Removed && self.missing.insert(name.clone()) && !self.sent.contains_key(name) {
                removed.push(name.clone());
            }
        }
        if part != Part::Changed {
            removed.extend(self.sent.keys().filter(|name| !wanted.contains(*name)).cloned());
        }
        let version = |name: &String| shelf.resources().get(name).expect("is there").version().to_owned();
        let resources: Vec<_> = wanted
            .iter()
            .map(|name| (name.clone(), version(name)))
            .filter(|(name, version)| part != Part::Removed && self.sent.get(name) != Some(version))
            .collect();
        let asked = part != Part::Removed && std::mem::take(&mut self.asked);
        removed.iter().for_each(|name| drop(self.sent.remove(name)));
        self.sent.extend(resources.iter().cloned());
        (asked || !resources.is_empty() || !removed.is_empty()).then_some((resources, removed))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn what_has_changed_is_what_a_look_at_everything_finds(
        before in vec(event(), 0..12),
        first in vec(0..2 * (PODS + SERVICES) + 2, 0..4),
        held in vec((0..PODS, any::<bool>()), 0..3),
        events in vec(event(), 0..60),
    ) {
        let template = SHOP_WORLD.with(World::clone);
        let [world, published] = [World::default(), World::default()];
        let mut mesh = Mesh { template, world, published, catalog: Catalog::default(), own: None, said: None };
        before.iter().for_each(|event| mesh.change(event));
        let mut full = Full::default();
        // What the agent has from before: some of it in this version, some in another.
        for (number, is_current) in held {
            let known = mesh.shelf().resources().get(&pod_name(number)).map(|entry| entry.version().to_owned());
            full.sent.insert(pod_name(number), known.filter(|_| is_current).unwrap_or_else(|| "old".to_owned()));
        }
        let mut subscription = Subscription::default();
        let turn = |mesh: &mut Mesh, full: &mut Full, subscription: &mut Subscription, names: [Vec<usize>; 2], first| {
            let [subscribe, unsubscribe] = names.map(|names| names.into_iter().map(name).collect::<Vec<_>>());
            let initial_resource_versions = if first { full.sent.clone() } else { BTreeMap::new() };
            let request = DeltaDiscoveryRequest {
                resource_names_subscribe: subscribe.clone(),
                resource_names_unsubscribe: unsubscribe.clone(),
                initial_resource_versions,
                ..DeltaDiscoveryRequest::default()
            };
            subscription.turn(mesh.shelf(), request, first);
            full.turn(mesh, &subscribe, &unsubscribe, first);
        };
        turn(&mut mesh, &mut full, &mut subscription, [first, Vec::new()], true);
        for event in events {
            match event {
                Event::Turn { subscribe, unsubscribe } => {
                    turn(&mut mesh, &mut full, &mut subscription, [subscribe, unsubscribe], false);
                }
                Event::Say(part) => {
                    let own = mesh.own();
                    mesh.said.clone_from(&mesh.own);
                    let said = subscription.next(mesh.shelf(), part, own.as_ref(), usize::MAX).map(|Content { resources, removed }| {
                        let resources = resources.iter().map(|entry| (entry.name().to_string(), entry.version().to_owned()));
                        (resources.collect::<Vec<_>>(), removed)
                    });
                    prop_assert_eq!(said, full.next(&mesh, part));
                }
                event => mesh.change(&event),
            }
        }
    }
}
