//! The world's controller, run as an administrator would.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{KubeApi, NodeId, Patience, Place, Process, config, ctl, network, place};

pub(crate) const PORT: u16 = 15012;
/// Of a second one beside it: see [`World::second_controller`](crate::World::second_controller).
pub(crate) const SECOND_PORT: u16 = 15013;
const ROOTS: &str = "/api/v1/namespaces/nodemesh-system/configmaps/mesh-ca-root";
/// The name in the controller's certificate, which agents ask for.
pub(crate) const SERVER_NAME: &str = "mesh-controller.nodemesh-system.svc";

/// A running mesh-controller.
#[derive(Debug)]
pub struct Controller {
    pub process: Arc<Process>,
    state: PathBuf,
    ca_file: PathBuf,
}

impl Controller {
    /// Serving when this returns.
    pub(crate) fn start(place: &Place, manifests: &Path, state: &Path, options: &[String]) -> Result<Self> {
        let mut arguments = vec![
            format!("--source=dir:{}", manifests.display()),
            format!("--state={}", state.display()),
            format!("--listen=0.0.0.0:{PORT}"),
            "--log=info".to_owned(),
        ];
        arguments.extend(options.iter().cloned());
        let process = Arc::new(place.start("controller", &config::built("mesh-controller")?, &arguments)?);
        place.crew.join(&process);
        process.says("serving", Patience::LONG)?;
        Ok(Self { process, state: state.to_owned(), ca_file: state.join("ca/ca.crt") })
    }

    /// The same with the configuration of an API; what agents must trust is written to a file for them, as kubelets do.
    pub(crate) fn on_kubernetes(
        place: &Place,
        api: &KubeApi,
        state: &Path,
        port: u16,
        options: &[String],
    ) -> Result<Self> {
        let mut arguments = vec![
            format!("KUBECONFIG={}", api.kubeconfig().display()),
            config::built("mesh-controller")?.display().to_string(),
            "--source=kubernetes".to_owned(),
            format!("--state={}", state.display()),
            format!("--listen=0.0.0.0:{port}"),
            "--log=info".to_owned(),
        ];
        arguments.extend(options.iter().cloned());
        let process = Arc::new(place.start("controller", &config::installed("env")?, &arguments)?);
        place.crew.join(&process);
        process.says("serving", Patience::LONG)?;
        let roots = process.alive_until(format_args!("the API has {ROOTS}"), Patience::LONG, || {
            let text = api.get(ROOTS)?.map(|map| map["data"]["root-cert.pem"].as_str().unwrap_or_default().to_owned());
            Ok(text.filter(|text| !text.is_empty()))
        })?;
        let ca_file = state.join("root-cert.pem");
        fs::write(&ca_file, roots).with_context(|| format!("write {}", ca_file.display()))?;
        Ok(Self { process, state: state.to_owned(), ca_file })
    }

    /// The nodes whose agents are linked to it, in order.
    pub fn linked(&self) -> Result<Vec<String>> {
        let all = ctl::ask("--controller", &self.admin_socket(), &["status"])?;
        let agents = all.iter().filter(|status| status["kind"] != "controller");
        let mut nodes: Vec<_> = agents.map(|status| ctl::text(status, "node")).collect();
        nodes.sort();
        Ok(nodes)
    }

    /// Where agents find it.
    pub fn url() -> String {
        format!("https://{}:{PORT}", network::CONTROLLER)
    }

    /// The file with the certificate that agents trust.
    pub fn ca_file(&self) -> PathBuf {
        self.ca_file.clone()
    }

    /// The socket at which meshctl asks the controller.
    pub fn admin_socket(&self) -> PathBuf {
        self.state.join("admin.sock")
    }

    /// Makes a new join token for `node` and writes it to `out`.
    pub fn join_token(&self, node: NodeId, out: &Path) -> Result<()> {
        let mut command = Command::new(config::built("mesh-controller")?);
        command.arg("join-token").arg("--state").arg(&self.state).args(["--node", node.name()]);
        command.arg("--out").arg(out);
        place::succeed(command, Duration::from_secs(10)).map(drop)
    }
}
