//! `meshctl uninstall`: agents end, then a pod on each of their nodes takes hooks and CNI files away, then the
//! objects go. The DaemonSet stays, on no node, until the last: interrupted, the same command goes on where it was.
//! What meshctl has not applied is not touched.

mod cleaning;

use std::{collections::BTreeSet, io, time::Duration};

use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{ConfigMap, Namespace, Pod, Secret},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use mesh_install::{AGENT, AUTHORITY, CONTROLLER, PART_OF, PART_OF_LABEL};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    Outcome,
    client::Failure,
    cluster::{Access, MANAGER, api, explained, is_missing},
    install::{delete_others, list_own},
    output::{Mood, Screen},
};

const PERIOD: Duration = Duration::from_millis(500);
/// Joins the pods of a namespace, or a pod.
const MODE: &str = "nodemesh.io/mode";

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  kubectl label namespace shop nodemesh.io/mode-       # its pods leave the mesh, connections go on
  meshctl uninstall")]
pub struct Arguments {
    /// Go on although namespaces or pods are labelled: they cannot connect from the end of their node's agent until
    /// its hooks are gone
    #[arg(long)]
    force: bool,
    /// A node that cannot be reached any more; `mesh-agent uninstall` is yours to run there, should it come back
    #[arg(long, value_name = "NODE")]
    skip_node: Vec<String>,
    /// How long to wait for agents and nodes, in seconds each
    #[arg(long, default_value_t = 300)]
    timeout: u64,
}

pub async fn run<W: io::Write>(
    arguments: &Arguments,
    access: &Access,
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    let Arguments { force, skip_node, timeout } = arguments;
    let client = access.client().await?;
    let labelled = labelled(&client).await?;
    for name in &labelled {
        screen.line(&format!("still labelled {MODE}: {name}"), Mood::Bad)?;
    }
    if !labelled.is_empty() && !force {
        screen.line(
            "nothing was changed. Take the labels away first, so that pods leave in order (kubectl label namespace NAME \
             nodemesh.io/mode-), or use --force",
            Mood::Plain,
        )?;
        return Ok(Outcome::Found);
    }
    let timeout = Duration::from_secs(*timeout);
    for agents in list_own(&client, "apps/v1", "DaemonSet").await? {
        let namespace = agents.metadata.namespace.clone().unwrap_or_default();
        let nodes = nodes(&client, &agents).await?.into_iter().filter(|node| !skip_node.contains(node)).collect();
        end_agents(&client, &namespace, timeout, screen).await?;
        clean(&client, &namespace, &agents, nodes, timeout, screen).await?;
        forget(&client, &namespace).await?;
    }
    let kept = inhabited(&client, screen).await?;
    let gone = delete_others(&client, &kept).await?;
    for name in &gone {
        screen.line(&format!("deleted     {name}"), Mood::Plain)?;
    }
    if gone.is_empty() && kept.is_empty() {
        screen.line("there is nothing that meshctl has installed", Mood::Plain)?;
    }
    Ok(Outcome::Fine)
}

/// Namespaces that meshctl has made and in which others keep something by now: with one of these all of it would go.
async fn inhabited<W: io::Write>(client: &Client, screen: &mut Screen<W>) -> Result<Vec<Value>, Failure> {
    let mut kept = Vec::new();
    for namespace in list_own(client, "v1", "Namespace").await? {
        let name = namespace.metadata.name.unwrap_or_default();
        let mut others = Vec::new();
        for kind in ["Pod", "Secret", "ConfigMap"] {
            let list = api(client, "v1", kind, Some(&name)).list_metadata(&ListParams::default()).await;
            let list = list.map_err(|error| explained(&format!("looking into namespace {name}"), error))?;
            let theirs = list.items.into_iter().filter(|object| is_of_others(&object.metadata));
            others.extend(theirs.filter_map(|object| Some(format!("{kind} {}", object.metadata.name?))));
        }
        if !others.is_empty() {
            let others = others.join(", ");
            screen.line(&format!("kept        Namespace {name}, which has more in it: {others}"), Mood::Plain)?;
            kept.push(json!({ "kind": "Namespace", "metadata": { "name": name } }));
        }
    }
    Ok(kept)
}

/// Not the mesh's, not going, and not what Kubernetes puts into every namespace.
fn is_of_others(metadata: &ObjectMeta) -> bool {
    let ours = metadata.labels.as_ref().is_some_and(|labels| labels.get(PART_OF_LABEL).is_some_and(|of| of == PART_OF));
    let of_all = metadata.name.as_deref() == Some("kube-root-ca.crt");
    // Pods of the controller go with their Deployment.
    !ours && !of_all && metadata.deletion_timestamp.is_none()
}

/// Agents come back whom an interrupted uninstall has ended.
pub async fn undo(client: &Client, namespace: &str) -> Result<(), Failure> {
    place(client, namespace, Value::Null).await
}

/// On no node, or, with null, where they belong.
async fn place(client: &Client, namespace: &str, nowhere: Value) -> Result<(), Failure> {
    let patch = json!({ "spec": { "template": { "spec": { "nodeSelector": { cleaning::NOWHERE: nowhere } } } } });
    let parameters = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    let set = api(client, "apps/v1", "DaemonSet", Some(namespace));
    set.patch(AGENT, &parameters, &Patch::Merge(patch))
        .await
        .map_err(|error| explained("placing the agents", error))?;
    Ok(())
}

/// Namespaces, and pods that say it themselves.
async fn labelled(client: &Client) -> Result<Vec<String>, Failure> {
    let wanted = ListParams::default().labels(&format!("{MODE},{MODE}!=none"));
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespaces = namespaces.list(&wanted).await.map_err(|error| explained("listing namespaces", error))?;
    let pods: Api<Pod> = Api::all(client.clone());
    let pods = pods.list(&wanted).await.map_err(|error| explained("listing pods", error))?;
    let namespaces = namespaces.items.iter().map(|one| {
        let name = one.metadata.name.as_deref().unwrap_or_default();
        format!("namespace {name}")
    });
    let pods = pods.items.iter().map(|pod| {
        let metadata = &pod.metadata;
        let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
        format!("pod {}/{}", namespace.unwrap_or_default(), name.unwrap_or_default())
    });
    Ok(namespaces.chain(pods).collect())
}

/// Every node that the agents' DaemonSet selects: of nodes where none runs any more, nobody else knows what it left.
async fn nodes(client: &Client, agents: &DynamicObject) -> Result<BTreeSet<String>, Failure> {
    let selector = cleaning::selector(agents);
    let wanted = ListParams::default().labels(&selector);
    let nodes = api(client, "v1", "Node", None).list_metadata(&wanted).await;
    let nodes = nodes.map_err(|error| explained("listing nodes", error))?;
    Ok(nodes.items.into_iter().filter_map(|node| node.metadata.name).collect())
}

async fn pods(client: &Client, namespace: &str, name: &str) -> Result<Vec<Pod>, Failure> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let selector = ListParams::default().labels(&format!("app.kubernetes.io/name={name}"));
    Ok(api.list(&selector).await.map_err(|error| explained("listing the pods of the mesh", error))?.items)
}

async fn end_agents<W: io::Write>(
    client: &Client,
    namespace: &str,
    timeout: Duration,
    screen: &mut Screen<W>,
) -> Result<(), Failure> {
    place(client, namespace, json!("true")).await?;
    let deadline = Instant::now() + timeout;
    let mut said = 0;
    loop {
        let left = pods(client, namespace, AGENT).await?;
        if left.is_empty() {
            return Ok(screen.line("agents      ended", Mood::Plain)?);
        }
        if Instant::now() >= deadline {
            let nodes = left.into_iter().filter_map(|pod| pod.spec?.node_name).collect::<Vec<_>>();
            return Err(Failure::Unreachable(format!(
                "agents still run on {}: are these nodes reachable? Delete the pods of nodes that are not, and name the \
                 nodes by --skip-node",
                nodes.join(", ")
            )));
        }
        if said != left.len() {
            said = left.len();
            screen.line(&format!("agents      {said} drain (--drain-deadline of each)"), Mood::Dim)?;
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// On every node at once.
async fn clean<W: io::Write>(
    client: &Client,
    namespace: &str,
    agents: &DynamicObject,
    nodes: BTreeSet<String>,
    timeout: Duration,
    screen: &mut Screen<W>,
) -> Result<(), Failure> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    for node in &nodes {
        let pod = cleaning::pod(agents, node).map_err(Failure::Unreachable)?;
        match api.create(&PostParams::default(), &pod).await {
            Ok(_) => {}
            // Of an earlier attempt; it is as good.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(explained(&format!("cleaning node {node}"), error)),
        }
    }
    let deadline = Instant::now() + timeout;
    let mut done = BTreeSet::new();
    loop {
        for pod in pods(client, namespace, cleaning::NAME).await? {
            let phase = pod.status.and_then(|status| status.phase).unwrap_or_default();
            if let Some(node) = pod.spec.and_then(|spec| spec.node_name).filter(|_| phase == "Succeeded")
                && done.insert(node.clone())
            {
                screen.line(&format!("cleaned     node {node}"), Mood::Plain)?;
            }
        }
        let left = nodes.difference(&done).map(String::as_str).collect::<Vec<_>>();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Failure::Unreachable(format!(
                "hooks and CNI files are still on {}: kubectl -n {namespace} describe pod -l \
                 app.kubernetes.io/name={}; then run this again, or with --skip-node for nodes that do not come back",
                left.join(", "),
                cleaning::NAME,
            )));
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// What the mesh itself made in its namespace.
async fn forget(client: &Client, namespace: &str) -> Result<(), Failure> {
    let now = DeleteParams::default();
    let gone = |result: kube::Result<()>| match result {
        Err(error) if !is_missing(&error) => Err(explained("deleting what the mesh made", error)),
        _ => Ok(()),
    };
    // cert-manager would make the Secret anew.
    let certificates = api(client, "cert-manager.io/v1", "Certificate", Some(namespace));
    gone(certificates.delete(AUTHORITY, &now).await.map(drop))?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    gone(secrets.delete(AUTHORITY, &now).await.map(drop))?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    gone(maps.delete("mesh-ca-root", &now).await.map(drop))?;
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let listed = leases.list(&ListParams::default()).await.map_err(|error| explained("listing leases", error))?;
    let names = listed.items.into_iter().filter_map(|lease| lease.metadata.name);
    for name in names.filter(|name| name == CONTROLLER || name.starts_with(&format!("{AGENT}-"))) {
        gone(leases.delete(&name, &now).await.map(drop))?;
    }
    let cleaning: Api<Pod> = Api::namespaced(client.clone(), namespace);
    for pod in pods(client, namespace, cleaning::NAME).await? {
        gone(cleaning.delete(pod.metadata.name.as_deref().unwrap_or_default(), &now).await.map(drop))?;
    }
    Ok(())
}
