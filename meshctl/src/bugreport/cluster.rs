//! What the API server has: versions, objects, events, logs, pages of metrics. Each list is asked for by itself, so
//! that a permission that is missing costs that list alone.

use std::{collections::BTreeSet, io, time::Duration};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams, LogParams},
};
use mesh_install::{AGENT, CONTROLLER, NAME_LABEL};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Wanted, archive::Archive, lines, mesh, progress, redact};
use crate::{
    check::{self, facts, mesh::MODE},
    cluster::{api, explained, is_missing},
};

/// One request takes no longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// The newest of a log.
const LOG: usize = 4 << 20;
/// Lines that are asked for: the API would cut bytes at the wrong end.
const LINES: i64 = 50_000;
/// Of the mesh's own namespace.
const OWN: &[(&str, &str)] = &[
    ("v1", "Pod"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
    ("apps/v1", "DaemonSet"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "ReplicaSet"),
    ("policy/v1", "PodDisruptionBudget"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("coordination.k8s.io/v1", "Lease"),
];
/// Others' kinds, which may not be installed.
const MAYBE: &[(&str, &str)] = &[
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
    ("cert-manager.io/v1", "Certificate"),
];
/// Where agents and controller serve metrics.
const METRICS: &[(&str, u16)] = &[(AGENT, 15020), (CONTROLLER, 15014)];

struct Cluster<'a, W: io::Write> {
    archive: &'a mut Archive<W>,
    client: &'a Client,
    wanted: &'a Wanted,
}

pub async fn gather<W: io::Write>(archive: &mut Archive<W>, client: &Client, wanted: &Wanted) -> io::Result<()> {
    Cluster { archive, client, wanted }.gather().await
}

impl<W: io::Write> Cluster<'_, W> {
    async fn gather(&mut self) -> io::Result<()> {
        progress("cluster");
        match timeout(PATIENCE, self.client.apiserver_version()).await {
            Ok(Ok(version)) => self.json("cluster/version.json", &json!(version))?,
            Ok(Err(error)) => self.archive.missing("cluster/version.json", &explained("the server's version", error)),
            Err(_) => self.archive.missing("cluster/version.json", "no answer"),
        }
        let nodes = self.list("v1", "Node", None).await;
        self.objects("cluster/nodes.json", nodes, |object| {
            if let Some(status) = object["status"].as_object_mut() {
                status.remove("images");
            }
        })?;
        let namespaces = self.list("v1", "Namespace", None).await;
        self.objects("cluster/namespaces.json", namespaces, |_| {})?;
        let kinds = self.list("apiextensions.k8s.io/v1", "CustomResourceDefinition", None).await;
        self.objects("cluster/kinds.json", kinds, |object| {
            let versions: Vec<Value> = object["spec"]["versions"]
                .as_array()
                .map(|all| all.iter().map(|one| json!({ "name": one["name"], "served": one["served"] })).collect())
                .unwrap_or_default();
            *object = json!({ "kind": "CustomResourceDefinition", "metadata": { "name": object["metadata"]["name"] },
                "versions": versions, "conditions": object["status"]["conditions"] });
        })?;
        let mut rules = Ok(Vec::new());
        for (version, kind) in facts::RULES {
            rules = match (rules, self.list(version, kind, None).await) {
                (Ok(all), Ok(more)) => Ok([all, more].concat()),
                (Err(why), _) | (_, Err(why)) => Err(why),
            };
        }
        self.objects("cluster/policies.json", rules, |_| {})?;
        let meshed = self.meshed().await;
        self.of_namespaces(&meshed).await?;
        let own = self.own_namespace().await;
        match own {
            Some(own) => {
                self.own(&own).await?;
                self.running(&own).await?;
            }
            None => self.archive.missing("cluster/mesh", "no DaemonSet mesh-agent is in any namespace"),
        }
        progress("check");
        match facts::gather(self.client).await {
            Ok(facts) => self.archive.add("check.jsonl", &lines(&check::judge(&facts, false))),
            Err(failure) => self.archive.skip("check.jsonl", &failure),
        }
    }

    /// Namespaces with pods that the mesh takes; all of these that were asked for.
    async fn meshed(&mut self) -> BTreeSet<String> {
        if !self.wanted.namespaces.is_empty() {
            return self.wanted.namespaces.clone();
        }
        let labelled = ListParams::default().labels(MODE);
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let pods: Api<Pod> = Api::all(self.client.clone());
        let (namespaces, pods) = tokio::join!(namespaces.list_metadata(&labelled), pods.list_metadata(&labelled));
        let mut names = BTreeSet::new();
        match namespaces {
            Ok(list) => names.extend(list.items.into_iter().filter_map(|one| one.metadata.name)),
            Err(error) => self.archive.missing("meshed namespaces", &explained("listing namespaces", error)),
        }
        match pods {
            Ok(list) => names.extend(list.items.into_iter().filter_map(|one| one.metadata.namespace)),
            Err(error) => self.archive.missing("pods with a label of their own", &explained("listing pods", error)),
        }
        names
    }

    async fn own_namespace(&mut self) -> Option<String> {
        let labelled = ListParams::default().labels(&format!("{NAME_LABEL}={AGENT}"));
        let sets = api(self.client, "apps/v1", "DaemonSet", None).list_metadata(&labelled).await;
        match sets {
            Ok(list) => list.items.into_iter().find_map(|one| one.metadata.namespace),
            Err(error) => {
                self.archive.missing("the mesh's namespace", &explained("listing DaemonSets", error));
                None
            }
        }
    }

    async fn of_namespaces(&mut self, names: &BTreeSet<String>) -> io::Result<()> {
        let (mut pods, mut policies, mut events) = (Vec::new(), Vec::new(), Vec::new());
        for name in names {
            progress(&format!("namespace {name}"));
            for (version, kind, all) in [
                ("v1", "Pod", &mut pods),
                ("networking.k8s.io/v1", "NetworkPolicy", &mut policies),
                ("events.k8s.io/v1", "Event", &mut events),
            ] {
                match self.list(version, kind, Some(name)).await {
                    Ok(objects) => all.extend(objects),
                    Err(why) => self.archive.missing(&format!("{kind} of namespace {name}"), &why),
                }
            }
        }
        let node = self.wanted.node.clone();
        pods.retain(|pod| node.is_empty() || pod["spec"]["nodeName"] == node);
        self.objects("cluster/pods.json", Ok(pods), |object| {
            let spec = &object["spec"];
            let fields = ["nodeName", "hostNetwork", "serviceAccountName", "schedulerName", "nodeSelector"];
            let spec: serde_json::Map<_, _> =
                fields.into_iter().map(|field| (field.to_owned(), spec[field].clone())).collect();
            let containers = object["spec"]["containers"].as_array().cloned().unwrap_or_default();
            let containers = containers.into_iter().map(|one| {
                json!({ "name": one["name"], "image": one["image"], "ports": one["ports"],
                    "readinessProbe": one["readinessProbe"], "livenessProbe": one["livenessProbe"] })
            });
            let containers: Vec<Value> = containers.collect();
            *object = json!({ "kind": "Pod", "metadata": object["metadata"], "spec": spec, "seen": containers,
                "status": object["status"] });
        })?;
        self.objects("cluster/networkpolicies.json", Ok(policies), |_| {})?;
        self.objects("cluster/events.json", Ok(events), |_| {})
    }

    async fn own(&mut self, namespace: &str) -> io::Result<()> {
        progress(&format!("objects of {namespace}"));
        for (version, kind) in OWN {
            let objects = self.list(version, kind, Some(namespace)).await;
            self.objects(&format!("cluster/mesh/{}.json", kind.to_lowercase()), objects, |_| {})?;
        }
        let events = self.list("events.k8s.io/v1", "Event", Some(namespace)).await;
        self.objects("cluster/mesh/event.json", events, |_| {})?;
        for (version, kind) in MAYBE {
            match api(self.client, version, kind, Some(namespace)).list(&ListParams::default()).await {
                Err(error) if is_missing(&error) => {}
                listed => {
                    let listed =
                        listed.map(|list| values(list.items, version, kind)).map_err(|error| error.to_string());
                    self.objects(&format!("cluster/mesh/{}.json", kind.to_lowercase()), listed, |_| {})?;
                }
            }
        }
        Ok(())
    }

    /// Logs and metrics of agents and controller.
    async fn running(&mut self, namespace: &str) -> io::Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        for (app, port) in METRICS {
            let labelled = ListParams::default().labels(&format!("{NAME_LABEL}={app}"));
            let list = match pods.list(&labelled).await {
                Ok(list) => list.items,
                Err(error) => {
                    self.archive.missing(&format!("logs of {app}"), &explained("listing its pods", error));
                    continue;
                }
            };
            let on = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
            let node = self.wanted.node.clone();
            // The controller knows of every node.
            for pod in list.iter().filter(|pod| node.is_empty() || *app == CONTROLLER || on(pod) == node) {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                progress(&format!("log and metrics of {name}"));
                let restarted = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
                let restarted = restarted.into_iter().any(|container| container.restart_count > 0);
                self.log(&pods, name, app, false).await?;
                if restarted {
                    self.log(&pods, name, app, true).await?;
                }
                let stream = async {
                    let mut forward = pods.portforward(name, &[*port]).await.map_err(io::Error::other)?;
                    forward.take_stream(*port).ok_or_else(|| io::Error::other("the API opened no port-forward"))
                };
                let path = format!("metrics/{name}.txt");
                match mesh::metrics(stream).await {
                    Ok(page) => self.archive.add(&path, &page)?,
                    Err(error) => self.archive.missing(&path, &error),
                }
            }
        }
        Ok(())
    }

    async fn log(&mut self, pods: &Api<Pod>, name: &str, container: &str, previous: bool) -> io::Result<()> {
        let parameters = LogParams {
            container: Some(container.to_owned()),
            previous,
            timestamps: true,
            tail_lines: Some(LINES),
            // Why it ended is worth having, however long ago.
            since_seconds: (!previous).then(|| i64::try_from(self.wanted.since.as_secs()).unwrap_or(i64::MAX)),
            ..LogParams::default()
        };
        let path = format!("logs/{name}{}.log", if previous { "-previous" } else { "" });
        match timeout(PATIENCE, pods.logs(name, &parameters)).await {
            Ok(Ok(log)) => self.archive.add(&path, newest(&log)),
            Ok(Err(error)) => self.archive.skip(&path, &explained("reading the log", error)),
            Err(_) => self.archive.skip(&path, "no answer"),
        }
    }

    async fn list(&self, version: &str, kind: &str, namespace: Option<&str>) -> Result<Vec<Value>, String> {
        let api = api(self.client, version, kind, namespace);
        match timeout(PATIENCE, api.list(&ListParams::default())).await {
            Ok(Ok(list)) => Ok(values(list.items, version, kind)),
            // A kind that nobody installed has no objects.
            Ok(Err(error)) if is_missing(&error) => Ok(Vec::new()),
            Ok(Err(error)) => Err(explained(&format!("listing every {kind}"), error).to_string()),
            Err(_) => Err(format!("listing every {kind}: no answer in {} s", PATIENCE.as_secs())),
        }
    }

    fn objects(
        &mut self,
        path: &str,
        objects: Result<Vec<Value>, String>,
        change: impl Fn(&mut Value),
    ) -> io::Result<()> {
        match objects {
            Ok(objects) => {
                let objects = objects.into_iter().map(|mut object| {
                    change(&mut object);
                    redact::object(object)
                });
                self.json(path, &objects.collect())
            }
            Err(why) => self.archive.skip(path, &why),
        }
    }

    fn json(&mut self, path: &str, value: &Value) -> io::Result<()> {
        self.archive.add(path, &format!("{value:#}\n"))
    }
}

/// Of a list the API leaves the kind of each to be known.
fn values(objects: Vec<DynamicObject>, version: &str, kind: &str) -> Vec<Value> {
    let objects = objects.into_iter().filter_map(|object| serde_json::to_value(object).ok());
    let named = objects.map(|mut object| {
        object["apiVersion"] = version.into();
        object["kind"] = kind.into();
        object
    });
    named.collect()
}

/// The end of a log, from the beginning of a line.
fn newest(log: &str) -> &str {
    let from = log.len().saturating_sub(LOG);
    let line = log.as_bytes()[from..].iter().position(|byte| *byte == b'\n').map_or(from, |line| from + line + 1);
    // After a line's end there is no middle of a character.
    if from == 0 { log } else { log.get(line..).unwrap_or_default() }
}
