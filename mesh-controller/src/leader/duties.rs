//! What the leader does, and no other replica: it writes the statuses of policies and routes, and takes the taint from
//! nodes whose agents are ready.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use futures::{StreamExt, stream};
use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    core::{GroupVersionKind, TypeMeta},
};
use mesh_common::model::{Policy, traffic::Traffic};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Leading, MANAGER};
use crate::{
    index::Written,
    nodes::{self, NodeLease, TAINT},
    publish::Published,
    serve::{TRAFFIC_REFUSED, digest},
    source::{CustomKind, Key, Kind, Standing, Standings, Update},
    status::{
        Problem,
        conditions::{Programmed, conditions, merged},
        parents::listed,
    },
};

/// How often statuses are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// One request takes no longer.
const REQUEST: Duration = Duration::from_secs(5);
/// Statuses written in one look, and at once.
const BATCH: usize = 50;
const AT_ONCE: usize = 4;
/// States of which it is known what their digests stand for.
const HISTORY: usize = 64;

/// The leader's work.
pub struct Duties {
    client: Client,
    namespace: String,
    leading: Leading,
    updates: watch::Receiver<Update>,
    published: watch::Receiver<Arc<Published>>,
    standings: watch::Receiver<Standings>,
    history: History,
}

/// Which policies the digests of the last states stand for, the newest last.
#[derive(Debug, Default)]
struct History {
    states: VecDeque<(String, BTreeMap<Key, Written>)>,
}

/// A status to be written.
#[derive(Debug)]
struct Write {
    key: Key,
    standing: Standing,
    status: Value,
}

impl Duties {
    pub fn new(
        client: Client,
        namespace: &str,
        leading: Leading,
        updates: watch::Receiver<Update>,
        published: watch::Receiver<Arc<Published>>,
        standings: watch::Receiver<Standings>,
    ) -> Self {
        let (namespace, history) = (namespace.to_owned(), History::default());
        Self { client, namespace, leading, updates, published, standings, history }
    }

    /// Does what is to be done while this replica leads, for ever.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            // Also while others lead: who comes to lead must know what agents speak of.
            let published = self.published.borrow_and_update().clone();
            self.history.add(&published.world.written);
            if !self.leading.is_leading() {
                continue;
            }
            if let Err(error) = self.look(&published).await {
                tracing::warn!(error = format!("{error:#}"), "the leader cannot do its work, it is tried again");
                tokio::time::sleep(LOOK * 5).await;
            }
        }
    }

    async fn look(&mut self, published: &Published) -> Result<()> {
        let tainted = tainted(&self.updates.borrow_and_update());
        let world = &published.world;
        if world.written.is_empty() && world.routes.is_empty() && tainted.is_empty() {
            return Ok(());
        }
        let leases = nodes::read(&self.client, &self.namespace).await?;
        for node in tainted.iter().filter(|node| leases.get(*node).is_some_and(|lease| lease.ready)) {
            untaint(&self.client, node).await?;
        }
        let time = format!("{:.0}", Timestamp::now());
        let writes = {
            let standings = self.standings.borrow_and_update();
            let mut writes = self.history.statuses(published, &leases, &standings, &time);
            writes.extend(of_routes(published, &standings, &time));
            writes
        };
        let client = &self.client;
        let written =
            stream::iter(writes.into_iter().take(BATCH)).map(|status| async move { status.write(client).await });
        written.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await.into_iter().collect()
    }
}

impl History {
    fn add(&mut self, written: &BTreeMap<Key, Written>) {
        if self.states.back().is_some_and(|(_, last)| last == written) {
            return;
        }
        self.states.push_back((digest(written), written.clone()));
        if self.states.len() > HISTORY {
            self.states.pop_front();
        }
    }

    /// The statuses that do not say what holds.
    fn statuses(
        &self,
        published: &Published,
        leases: &BTreeMap<String, NodeLease>,
        standings: &Standings,
        time: &str,
    ) -> Vec<Write> {
        let mut problems: BTreeMap<&str, Vec<&Problem>> = BTreeMap::new();
        for problem in &published.world.problems {
            problems.entry(problem.object.as_str()).or_default().push(problem);
        }
        let held: Vec<_> = leases
            .iter()
            .map(|(node, lease)| {
                let known = self.states.iter().rev().find(|(digest, _)| **digest == *lease.taken.policies);
                let refused = lease.taken.refused.iter().filter_map(|name| name.strip_prefix(TRAFFIC_REFUSED));
                let refused = refused.filter_map(|name| published.world.traffic.get(&name.parse().ok()?));
                let refused: BTreeSet<&str> = refused.flat_map(|traffic| origins(traffic)).collect();
                (node, lease, refused, known.map(|(_, written)| written))
            })
            .collect();
        let of = |(key, written): (&Key, &Written)| {
            let standing = standings.get(key).filter(|standing| standing.generation == written.generation)?;
            let resource = resource_name(key);
            let mut programmed = Programmed { of: held.len(), ..Programmed::default() };
            let object = key.to_string();
            for (node, lease, refused, known) in &held {
                if lease.taken.refused.contains(&resource) || refused.contains(object.as_str()) {
                    programmed.refused.push((*node).clone());
                } else if known.is_some_and(|known| known.get(key) == Some(written)) {
                    programmed.on += 1;
                }
            }
            let none = Vec::new();
            let wanted = conditions(problems.get(object.as_str()).unwrap_or(&none), &programmed);
            let conditions = merged(&standing.conditions, &wanted, written.generation, time)?;
            Some(Write { key: key.clone(), standing: standing.clone(), status: json!({ "conditions": conditions }) })
        };
        published.world.written.iter().filter_map(of).collect()
    }
}

/// The same, of routes of the Gateway API and policies that are about services. Of one that has no parent of ours
/// nothing of ours is left.
fn of_routes(published: &Published, standings: &Standings, time: &str) -> Vec<Write> {
    let of = |(key, version): (&Key, &Written)| {
        let standing = standings.get(key).filter(|standing| standing.generation == version.generation)?;
        let wanted = published.world.route_parents.get(key).map(Vec::as_slice).unwrap_or_default();
        let list = CustomKind::named(&key.kind)?.list()?;
        let entries = listed(list, &standing.parents, wanted, version.generation, time)?;
        Some(Write { key: key.clone(), standing: standing.clone(), status: json!({ list.name(): entries }) })
    };
    published.world.routes.iter().filter_map(of).collect()
}

/// The objects that say what this says, each as in `VirtualService shop/cart`.
fn origins(traffic: &Traffic) -> impl Iterator<Item = &str> {
    let routes = traffic.routes.iter().map(|routes| &routes.value);
    let http = routes.clone().flat_map(|routes| &routes.http).map(|route| &route.origin);
    let faults = routes.clone().flat_map(|routes| &routes.faults).map(|fault| &fault.origin);
    let tls = routes.clone().flat_map(|routes| &routes.tls).map(|route| &route.origin);
    let tcp = routes.flat_map(|routes| &routes.tcp).map(|route| &route.origin);
    let policies = traffic.policies.iter().flat_map(|policy| &policy.value.origins);
    http.chain(faults).chain(tls).chain(tcp).chain(policies).map(|origin| origin.object.as_str())
}

/// As agents are told of it.
fn resource_name(key: &Key) -> String {
    match key.kind.as_str() {
        "PeerAuthentication" => format!("{}/{}{}", key.namespace, Policy::STRICT_PREFIX, key.name),
        _ => format!("{}/{}", key.namespace, key.name),
    }
}

impl Write {
    async fn write(self, client: &Client) -> Result<()> {
        let Self { key, standing, status } = self;
        let types = TypeMeta { api_version: standing.api_version, kind: key.kind.clone() };
        let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &key.namespace, &resource);
        // Of this version only: what another writer says must not be lost.
        let patch = json!({
            "metadata": {"resourceVersion": standing.resource_version},
            "status": status,
        });
        let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(patch);
        match tokio::time::timeout(REQUEST, api.patch_status(&key.name, &parameters, &patch)).await? {
            Ok(_) => Ok(()),
            // It has changed or gone: the next look sees that.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(anyhow::Error::new(error).context(format!("status of {key}"))),
        }
    }
}

/// Nodes that wait for their agents.
fn tainted(update: &Update) -> Vec<String> {
    let nodes = update.objects.iter().filter_map(|object| match &object.kind {
        Kind::Node(node) if nodes::is_tainted(node) => node.metadata.name.clone(),
        _ => None,
    });
    nodes.collect()
}

async fn untaint(client: &Client, name: &str) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let node = match tokio::time::timeout(REQUEST, api.get(name)).await? {
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        node => node?,
    };
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    let rest: Vec<_> = taints.into_iter().filter(|taint| taint.key != TAINT).collect();
    // Of this version only: another writer's taints must not be lost.
    let patch = json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": rest}});
    let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    match tokio::time::timeout(REQUEST, api.patch(name, &parameters, &Patch::Merge(patch))).await? {
        Ok(_) => {
            tracing::info!(node = name, "its agent is ready: pods may start");
            Ok(())
        }
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        index::{
            Redirection, World,
            tests::{objects, settings},
        },
        serve::Acknowledged,
    };

    const POLICIES: &str = "
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop, uid: u1, generation: 1}, spec: {}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: q, namespace: shop, uid: u2, generation: 1}, spec: {action: CUSTOM}}
";

    fn published(text: &str) -> Published {
        let world = World::new(&settings(), &objects(text), &Redirection::default());
        Published { world, ..Published::default() }
    }

    fn lease(taken: &str, refused: &[&str]) -> NodeLease {
        let refused = refused.iter().map(ToString::to_string).collect();
        NodeLease { taken: Acknowledged { policies: taken.into(), refused }, ready: false }
    }

    #[test]
    fn a_policy_is_programmed_where_its_present_version_was_taken() {
        let mut history = History::default();
        let before = published(&POLICIES.replace(
            "name: p, namespace: shop, uid: u1, generation: 1",
            "name: p, namespace: shop, uid: u1, generation: 0",
        ));
        let now = published(POLICIES);
        history.add(&before.world.written);
        history.add(&now.world.written);
        let (old, new) = (digest(&before.world.written), digest(&now.world.written));
        let leases: BTreeMap<_, _> = [
            ("a".to_owned(), lease(&new, &[])),
            ("b".to_owned(), lease(&old, &[])),
            ("c".to_owned(), lease("unknown", &[])),
            ("d".to_owned(), lease(&new, &["shop/q"])),
        ]
        .into();
        let standing = Standing { generation: 1, ..Standing::default() };
        let standings: Standings = now.world.written.keys().map(|key| (key.clone(), standing.clone())).collect();
        let writes = history.statuses(&now, &leases, &standings, "T");
        let said: Vec<_> = writes
            .iter()
            .map(|write| {
                format!("{}: {}", write.key, write.status["conditions"][1]["message"].as_str().unwrap_or_default())
            })
            .collect();
        assert_eq!(
            said,
            [
                "AuthorizationPolicy shop/p: on 2 of 4 nodes",
                "AuthorizationPolicy shop/q: on 2 of 4 nodes; refused by d",
            ]
        );
        let accepted: Vec<_> = writes.iter().map(|write| write.status["conditions"][0]["status"].clone()).collect();
        assert_eq!(accepted, ["True", "False"]);
        // What is written already, and what is not seen in this version yet, is not written.
        let written = writes.into_iter().map(|write| {
            let conditions = write.status["conditions"].as_array().expect("a list").clone();
            let standing = Standing { conditions, ..standing.clone() };
            (write.key, standing)
        });
        let written: Standings = written.collect();
        assert!(history.statuses(&now, &leases, &written, "T2").is_empty());
        let newer = Standing { generation: 2, ..Standing::default() };
        let newer: Standings = written.into_keys().map(|key| (key, newer.clone())).collect();
        assert!(history.statuses(&now, &leases, &newer, "T2").is_empty());
    }

    const RULES: &str = "
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: v, namespace: shop, uid: u1, generation: 1}, spec: {hosts: [cart], http: [{route: [{destination: {host: cart}}]}]}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: other, namespace: shop, uid: u2, generation: 1}, spec: {host: nobody}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: shop, uid: u3, generation: 4}, spec: {parentRefs: [{group: '', kind: Service, name: cart}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: foreign, namespace: shop, uid: u4, generation: 4}, spec: {parentRefs: [{name: gateway}]}}
";

    #[test]
    fn rules_that_an_agent_refused_are_not_programmed_there() {
        let now = published(RULES);
        let mut history = History::default();
        history.add(&now.world.written);
        let digest = digest(&now.world.written);
        let leases: BTreeMap<_, _> = [
            ("a".to_owned(), lease(&digest, &[])),
            ("b".to_owned(), lease(&digest, &["traffic/shop/cart.shop.svc.cluster.local", "traffic/gone/x.y"])),
        ]
        .into();
        let standing = Standing { generation: 1, ..Standing::default() };
        let standings: Standings = now.world.written.keys().map(|key| (key.clone(), standing.clone())).collect();
        let writes = history.statuses(&now, &leases, &standings, "T");
        let said: Vec<_> =
            writes.iter().map(|w| (w.key.name.as_str(), &w.status["conditions"][1]["message"])).collect();
        let (all, one) = (json!("on 2 of 2 nodes"), json!("on 1 of 2 nodes; refused by b"));
        assert_eq!(said, [("other", &all), ("v", &one)]);
    }

    #[test]
    fn routes_say_how_their_parents_take_them() {
        let now = published(RULES);
        let own =
            json!({"parentRef": {"name": "gateway"}, "controllerName": "nodemesh.io/controller", "conditions": []});
        let others = json!({"parentRef": {"name": "gateway"}, "controllerName": "example.com/x", "conditions": []});
        let standing = Standing { generation: 4, parents: vec![own, others.clone()], ..Standing::default() };
        let mut standings: Standings = now.world.routes.keys().map(|key| (key.clone(), standing.clone())).collect();
        let writes = of_routes(&now, &standings, "T");
        assert_eq!(writes.len(), 2);
        // What is of no parent of ours any more goes; what others say stays.
        assert_eq!((writes[0].key.name.as_str(), &writes[0].status), ("foreign", &json!({"parents": [others]})));
        let parents = writes[1].status["parents"].as_array().expect("a list").clone();
        assert_eq!((parents.len(), &parents[1]["parentRef"]["name"]), (2, &json!("cart")));
        let accepted = &parents[1]["conditions"][0];
        assert_eq!((&accepted["type"], &accepted["status"]), (&json!("Accepted"), &json!("True")));
        assert_eq!(accepted["observedGeneration"], 4);
        // What is written is not written again, and a version that is not read yet is not spoken of.
        for write in writes {
            let parents = write.status["parents"].as_array().expect("a list").clone();
            standings.insert(write.key, Standing { parents, ..standing.clone() });
        }
        assert!(of_routes(&now, &standings, "T2").is_empty());
        for standing in standings.values_mut() {
            *standing = Standing { generation: 5, ..Standing::default() };
        }
        assert!(of_routes(&now, &standings, "T2").is_empty());
    }
}
