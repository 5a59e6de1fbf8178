//! meshctl puts the mesh on a cluster, looks after it and takes it away again, against a real Kubernetes API. What
//! Kubernetes' own controllers and kubelets would do, the scene does in their place.
//!
//! Needs the API of the folder MESH_KUBE; without it these tests say so and pass, with CI set they fail.

use std::{
    fs,
    ops::Deref,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams},
};
use mesh_tests::{HostApi, Patience, eventually, programs_dir};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

const OWN: &str = "nodemesh-system";

/// An API server of its own; dropped, it is gone.
struct Cluster {
    api: HostApi,
    runtime: Runtime,
    client: Client,
}

impl Deref for Cluster {
    type Target = HostApi;

    fn deref(&self) -> &HostApi {
        &self.api
    }
}

impl Cluster {
    /// `None`: there is none on this machine.
    fn start() -> Result<Option<Self>> {
        let Some(api) = HostApi::start()? else { return Ok(None) };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = runtime.block_on(api.client())?;
        Ok(Some(Self { api, runtime, client }))
    }

    fn meshctl(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(programs_dir()?.join("meshctl"));
        command.args(arguments).env("KUBECONFIG", self.kubeconfig()).env("NO_COLOR", "1").stdin(Stdio::null());
        Ok(command)
    }

    fn run(&self, arguments: &[&str]) -> Result<(i32, String)> {
        let output = self.meshctl(arguments)?.output().context("meshctl")?;
        Ok((output.status.code().unwrap_or(-1), text(&output)))
    }

    fn start_meshctl(&self, arguments: &[&str]) -> Result<Child> {
        let mut command = self.meshctl(arguments)?;
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("meshctl")
    }

    fn kind(&self, version: &str, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    fn api_of(&self, object: &Value) -> Api<DynamicObject> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let namespace = object["metadata"]["namespace"].as_str();
        self.kind(&text(&object["apiVersion"]), &text(&object["kind"]), namespace)
    }

    fn create(&self, object: &Value) -> Result<()> {
        let object: DynamicObject = serde_json::from_value(object.clone())?;
        let typed = serde_json::to_value(&object)?;
        self.runtime.block_on(self.api_of(&typed).create(&PostParams::default(), &object))?;
        Ok(())
    }

    fn apply(&self, object: &Value, dry_run: bool) -> Result<()> {
        let mut parameters = PatchParams::apply("scene");
        parameters.dry_run = dry_run;
        let name = object["metadata"]["name"].as_str().context("a name")?;
        let applied = self.runtime.block_on(self.api_of(object).patch(name, &parameters, &Patch::Apply(object)));
        applied.map(drop).with_context(|| format!("{} {name}", object["kind"]))
    }

    fn status(&self, version: &str, kind: &str, namespace: &str, name: &str, status: Value) -> Result<()> {
        let patch = Patch::Merge(json!({ "status": status }));
        let api = self.kind(version, kind, Some(namespace));
        self.runtime.block_on(api.patch_status(name, &PatchParams::default(), &patch))?;
        Ok(())
    }

    fn get(&self, version: &str, kind: &str, namespace: Option<&str>, name: &str) -> Result<Option<Value>> {
        let found = self.runtime.block_on(self.kind(version, kind, namespace).get_opt(name))?;
        Ok(found.map(serde_json::to_value).transpose()?)
    }

    /// The names of what carries the mesh's label.
    fn own(&self, version: &str, kind: &str) -> Result<Vec<String>> {
        let labelled = ListParams::default().labels("app.kubernetes.io/part-of=nodemesh");
        let list = self.runtime.block_on(self.kind(version, kind, None).list(&labelled))?;
        let left = list.items.into_iter().filter(|object| object.metadata.deletion_timestamp.is_none());
        Ok(left.filter_map(|object| object.metadata.name).collect())
    }
}

fn documents(text: &str) -> Result<Vec<Value>> {
    let documents =
        text.split("\n---").filter(|text| text.lines().any(|line| !line.starts_with('#') && !line.is_empty()));
    documents.map(|text| serde_yaml_ng::from_str(text).with_context(|| text.to_owned())).collect()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")
}

fn node(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": { "kubernetes.io/os": "linux" } }, "status": {
        "conditions": [{ "type": "Ready", "status": "True", "lastHeartbeatTime": null, "lastTransitionTime": null }],
        "nodeInfo": {
            "architecture": "amd64", "bootID": "", "containerRuntimeVersion": "containerd://2.1.0",
            "kernelVersion": "6.12.0", "kubeProxyVersion": "", "kubeletVersion": "v1.36.0", "machineID": "",
            "operatingSystem": "linux", "osImage": "", "systemUUID": "",
        },
    }})
}

#[test]
fn every_manifest_is_taken_by_the_api_and_examples_fit_their_schemas() -> Result<()> {
    let Some(cluster) = Cluster::start()? else { return Ok(()) };
    cluster.add_crds()?;
    let mut seen = 0;
    for folder in ["base", "example", "demo"] {
        for file in fs::read_dir(manifests().join(folder))? {
            let path = file?.path();
            if path.ends_with("kustomization.yaml") {
                continue;
            }
            for mut object in documents(&fs::read_to_string(&path)?)? {
                // What the cluster itself says of an object is not for users to apply.
                if let Some(metadata) = object["metadata"].as_object_mut() {
                    metadata.remove("uid");
                }
                cluster.apply(&object, true).with_context(|| path.display().to_string())?;
                seen += 1;
            }
        }
    }
    assert!(seen > 15, "{seen}");
    // It would have been seen.
    let mut wrong = json!({ "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": { "name": "x", "namespace": "y" }, "spec": { "action": "PERMIT" } });
    assert!(cluster.apply(&wrong, true).is_err());
    wrong["spec"] = json!({ "action": "ALLOW", "rulez": [] });
    assert!(cluster.apply(&wrong, true).is_err(), "an unknown field");
    Ok(())
}

#[test]
fn installed_checked_bypassed_upgraded_and_uninstalled() -> Result<()> {
    let Some(cluster) = Cluster::start()? else { return Ok(()) };
    cluster.create(&node("a"))?;
    let reported = Patch::Merge(json!({ "status": node("a")["status"] }));
    let nodes = cluster.kind("v1", "Node", None);
    cluster.runtime.block_on(nodes.patch_status("a", &PatchParams::default(), &reported))?;
    cluster.create(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } }))?;

    let (code, said) = cluster.run(&["check", "--pre"])?;
    assert_eq!(code, 0, "{said}");
    for line in ["✓ version", "✓ nodes        1 of 1 fit", "‼ kinds        not installed: authorizationpolicies"]
    {
        assert!(said.contains(line), "no {line:?} in\n{said}");
    }
    assert!(cluster.run(&["check"])?.1.contains("× mesh         it is not installed"));

    // What is printed is what is there afterwards.
    let (code, printed) = cluster.run(&["install", "--dry-run", "-o", "json"])?;
    assert_eq!((code, printed.lines().count()), (0, 13));
    let install = cluster.start_meshctl(&["install", "--timeout", "60"])?;
    eventually("the agents are there", Patience::LONG, || {
        cluster.get("apps/v1", "DaemonSet", Some(OWN), "mesh-agent")
    })?;
    let agents = json!({ "observedGeneration": 9, "desiredNumberScheduled": 1, "updatedNumberScheduled": 1,
        "numberAvailable": 1, "numberReady": 1, "currentNumberScheduled": 1, "numberMisscheduled": 0 });
    let controller = json!({ "observedGeneration": 9, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2 });
    cluster.status("apps/v1", "DaemonSet", OWN, "mesh-agent", agents)?;
    cluster.status("apps/v1", "Deployment", OWN, "mesh-controller", controller)?;
    let installed = install.wait_with_output()?;
    assert!(installed.status.success(), "{}", text(&installed));
    assert!(text(&installed).contains("mesh-agent       1 of 1 run, 1 are new"), "{}", text(&installed));
    for line in printed.lines() {
        let object: Value = serde_json::from_str(line)?;
        let name = object["metadata"]["name"].as_str().context("a name")?;
        let found = cluster.runtime.block_on(cluster.api_of(&object).get(name))?;
        assert_eq!(found.metadata.labels.unwrap_or_default()["app.kubernetes.io/managed-by"], "meshctl");
    }
    let (code, again) = cluster.run(&["install", "--no-wait"])?;
    assert_eq!((code, again.lines().filter(|line| line.starts_with("unchanged")).count()), (0, 13), "{again}");

    // Somebody else's field is left alone, and nothing else is changed.
    let theirs = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "spec": { "replicas": 5 },
        "metadata": { "name": "mesh-controller", "namespace": OWN } });
    let mut parameters = PatchParams::apply("autoscaler");
    parameters.force = true;
    let deployments = cluster.kind("apps/v1", "Deployment", Some(OWN));
    cluster.runtime.block_on(deployments.patch("mesh-controller", &parameters, &Patch::Apply(&theirs)))?;
    let (code, said) = cluster.run(&["upgrade", "--set", "controller.log=debug", "--no-wait"])?;
    assert!(code == 3 && said.contains("conflict with \"autoscaler\"") && said.contains(".spec.replicas"), "{said}");
    assert!(said.contains("nothing was changed"), "{said}");
    let (code, said) = cluster.run(&["upgrade", "--set", "metrics.enabled=false", "--no-wait", "--force-conflicts"])?;
    assert_eq!(code, 0, "{said}");
    let (_, said) = cluster.run(&["upgrade", "--no-wait"])?;
    assert!(said.lines().all(|line| line.starts_with("unchanged")), "an upgrade keeps what was chosen: {said}");

    // An agent whose controller has gone silent.
    let agent = json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "mesh-agent-x", "namespace": OWN, "labels": { "app.kubernetes.io/name": "mesh-agent" } },
        "spec": { "nodeName": "a", "containers": [{ "name": "mesh-agent", "image": "x" }] } });
    cluster.create(&agent)?;
    let (code, said) = cluster.run(&["check"])?;
    assert!(code == 1 && said.contains("× mesh         no controller hears the agents of a"), "{said}");
    assert!(cluster.run(&["check", "--json"])?.1.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));

    // Out of the mesh for some time, and back.
    let until = || -> Result<Value> {
        let shop = cluster.get("v1", "Namespace", None, "shop")?.context("it is there")?;
        Ok(shop["metadata"]["annotations"]["nodemesh.io/bypass-until"].clone())
    };
    assert_eq!(cluster.run(&["bypass", "shop", "--ttl", "10m"])?.0, 0);
    assert!(until()?.as_str().is_some_and(|time| time.ends_with('Z')));
    assert!(cluster.run(&["check"])?.1.contains("‼ labels       namespace shop is out of the mesh until"));
    assert_eq!(cluster.run(&["bypass", "shop", "--end"])?.0, 0);
    assert_eq!(until()?, Value::Null);
    assert_eq!(cluster.run(&["bypass", "nowhere", "--end"])?.0, 3);

    // Nobody is cut off by accident.
    let mode = |mode: Value| {
        cluster.runtime.block_on(cluster.kind("v1", "Namespace", None).patch(
            "shop",
            &PatchParams::default(),
            &Patch::Merge(json!({ "metadata": { "labels": { "nodemesh.io/mode": mode } } })),
        ))
    };
    mode("mesh".into())?;
    let (code, said) = cluster.run(&["uninstall"])?;
    assert!(code == 1 && said.contains("still labelled nodemesh.io/mode: namespace shop"), "{said}");
    assert!(cluster.get("v1", "Pod", Some(OWN), "mesh-agent-x")?.is_some());
    mode(Value::Null)?;

    // Interrupted while agents drain, it goes on where it was.
    let (code, said) = cluster.run(&["uninstall", "--timeout", "1"])?;
    assert!(code == 3 && said.contains("agents still run on a"), "{said}");
    let set = cluster.get("apps/v1", "DaemonSet", Some(OWN), "mesh-agent")?.context("it is the memory")?;
    assert_eq!(set["spec"]["template"]["spec"]["nodeSelector"]["nodemesh.io/uninstalled"], "true");
    assert_eq!(cluster.run(&["upgrade", "--no-wait"])?.0, 0);
    let set = cluster.get("apps/v1", "DaemonSet", Some(OWN), "mesh-agent")?.context("it is there")?;
    let selector = &set["spec"]["template"]["spec"]["nodeSelector"];
    assert_eq!(*selector, json!({ "kubernetes.io/os": "linux" }), "whoever changes their mind has agents again");
    for name in ["mesh-ca", "other"] {
        cluster
            .create(&json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": OWN } }))?;
    }
    let uninstall = cluster.start_meshctl(&["uninstall", "--timeout", "60"])?;
    let pods = cluster.kind("v1", "Pod", Some(OWN));
    cluster.runtime.block_on(pods.delete("mesh-agent-x", &DeleteParams::default().grace_period(0)))?;
    let cleaning = ListParams::default().labels("app.kubernetes.io/name=mesh-uninstall");
    let pod = eventually("the node is being cleaned", Patience::LONG, || {
        Ok(cluster.runtime.block_on(pods.list(&cleaning))?.items.pop())
    })?;
    assert_eq!(pod.data["spec"]["nodeName"], "a");
    assert!(cluster.get("apps/v1", "DaemonSet", Some(OWN), "mesh-agent")?.is_some(), "not before the node is clean");
    let name = pod.metadata.name.context("a name")?;
    cluster.status("v1", "Pod", OWN, &name, json!({ "phase": "Succeeded" }))?;
    let done = uninstall.wait_with_output()?;
    assert!(done.status.success() && text(&done).contains("cleaned     node a"), "{}", text(&done));
    for (version, kind) in [
        ("apps/v1", "DaemonSet"),
        ("apps/v1", "Deployment"),
        ("rbac.authorization.k8s.io/v1", "ClusterRole"),
        ("v1", "ServiceAccount"),
        ("v1", "ConfigMap"),
    ] {
        assert_eq!(cluster.own(version, kind)?, [""; 0], "{kind}");
    }
    assert!(cluster.get("v1", "Secret", Some(OWN), "mesh-ca")?.is_none());
    // With the namespace it would go, although it is not the mesh's.
    assert!(cluster.get("v1", "Secret", Some(OWN), "other")?.is_some());
    assert_eq!(cluster.own("v1", "Namespace")?, [OWN]);
    assert!(text(&done).contains("which has more in it: Secret other"), "{}", text(&done));
    let secrets = cluster.kind("v1", "Secret", Some(OWN));
    cluster.runtime.block_on(secrets.delete("other", &DeleteParams::default()))?;
    assert_eq!(cluster.run(&["uninstall"])?.0, 0);
    assert_eq!(cluster.own("v1", "Namespace")?, [""; 0]);
    let (code, said) = cluster.run(&["uninstall"])?;
    assert!(code == 0 && said.contains("there is nothing that meshctl has installed"), "{said}");
    Ok(())
}

/// The words after `--` of what a container is started with.
fn options(arguments: &Value) -> Vec<String> {
    let arguments = arguments.as_array().into_iter().flatten().filter_map(Value::as_str);
    arguments
        .filter(|word| word.starts_with("--"))
        .map(|word| word.split('=').next().unwrap_or(word).to_owned())
        .collect()
}

#[test]
fn the_programs_know_the_options_that_their_pods_give_them() -> Result<()> {
    let mut values = mesh_install::Values::default();
    // So that no option is left out.
    for set in [
        "caSecret=given",
        "agent.otlp.endpoint=https://collector.tools:4318/otlp",
        "agent.otlp.protocol=http",
        "agent.accessLog.format=json",
        "agent.accessLog.errors=true",
        "agent.accessLog.otlp=true",
    ] {
        values.set(set)?;
    }
    values.together()?;
    let objects = mesh_install::objects(&values);
    let container = |kind: &str| {
        let object = objects.iter().find(|object| object["kind"] == kind);
        object.map(|object| object["spec"]["template"]["spec"]["containers"][0].clone()).context("it is there")
    };
    let help = |program: &str, verb: &[&str]| -> Result<String> {
        let output = Command::new(programs_dir()?.join(program)).args(verb).arg("--help").output()?;
        ensure!(output.status.success(), "{program} {verb:?}: {}", text(&output));
        Ok(text(&output))
    };
    let (agent, controller) = (container("DaemonSet")?, container("Deployment")?);
    let ready = agent["readinessProbe"]["exec"]["command"].clone();
    let places = ["--cgroup", "--cni-conf-dir", "--cni-bin-dir"].map(str::to_owned).to_vec();
    for (known, given) in [
        (help("mesh-agent", &["run"])?, options(&agent["args"])),
        (help("mesh-agent", &["ready"])?, options(&ready)),
        (help("mesh-agent", &["uninstall"])?, places),
        (help("mesh-controller", &[])?, options(&controller["args"])),
    ] {
        assert!(!given.is_empty());
        for option in given {
            let is = |line: &str| line.trim() == option || line.contains(&format!("{option} <"));
            assert!(known.lines().any(is), "{option} is none of\n{known}");
        }
    }
    Ok(())
}
