//! The world's controller, run as an administrator would.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::Result;

use crate::{NodeId, Patience, Place, Process, config, network, place};

const PORT: u16 = 15012;
/// The name in the controller's certificate, which agents ask for.
pub(crate) const SERVER_NAME: &str = "mesh-controller.nodemesh-system.svc";

/// A running mesh-controller.
#[derive(Debug)]
pub struct Controller {
    pub process: Arc<Process>,
    state: PathBuf,
}

impl Controller {
    /// Serving when this returns.
    pub(crate) fn start(place: &Place, manifests: &Path, state: &Path) -> Result<Self> {
        let arguments = [
            format!("--source=dir:{}", manifests.display()),
            format!("--state={}", state.display()),
            format!("--listen=0.0.0.0:{PORT}"),
            "--log=info".to_owned(),
        ];
        let process = Arc::new(place.start("controller", &config::built("mesh-controller")?, &arguments)?);
        place.crew.join(&process);
        process.says("serving", Patience::LONG)?;
        Ok(Self { process, state: state.to_owned() })
    }

    /// Where agents find it.
    pub(crate) fn url() -> String {
        format!("https://{}:{PORT}", network::CONTROLLER)
    }

    /// The file with the certificate that agents trust.
    pub fn ca_file(&self) -> PathBuf {
        self.state.join("ca/ca.crt")
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
