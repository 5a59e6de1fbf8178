//! How the agent comes to its pods, keys and sockets: from an agent that runs, or alone.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixListener as StdListener},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{net::UnixListener, sync::watch, task::spawn_blocking, time::timeout};

use crate::{
    control::ControlStatus,
    handover::{self, Handed, Sockets, Takeover, TakeoverError},
    identity::Certificates,
    pods::HandedPods,
    private_socket,
};

/// The rules on the disk are those of a moment ago: the newest are waited for this long only.
const NEWER: Duration = Duration::from_secs(3);
/// How often a successor that waits for its controller looks whether the old agent still lives.
const LOOK: Duration = Duration::from_millis(200);

/// What the agent begins with.
pub struct Beginning {
    pub pods: HandedPods,
    pub sockets: Sockets,
    /// An agent that waits for the word that its pods are served.
    pub before: Option<Takeover>,
}

impl Beginning {
    /// Takes over once the configuration is known; until then, and if it never is, the old agent serves. Without one,
    /// or if it goes meanwhile, begins alone.
    pub async fn new(
        takeover: Option<Takeover>,
        run_dir: &Path,
        certificates: &Certificates,
        mut control: watch::Receiver<ControlStatus>,
        recalled: bool,
    ) -> Result<Self> {
        let Some(takeover) = takeover else { return Self::alone(run_dir) };
        let known = control.wait_for(|status| status.synced);
        if recalled {
            let _ = timeout(NEWER, known).await;
        } else {
            let mut known = std::pin::pin!(known);
            while timeout(LOOK, &mut known).await.is_err() {
                if !takeover.is_open() {
                    spawn_blocking(move || takeover.ended()).await?.context("cannot take over")?;
                    return Self::alone(run_dir);
                }
            }
        }
        let taken = spawn_blocking(move || takeover.take().map(|handed| (takeover, handed))).await?;
        let (takeover, Handed { pods, certificates: keys, sockets }) = match taken {
            Ok(taken) => taken,
            Err(error @ TakeoverError::Gone) => {
                tracing::warn!(%error, "this one begins alone");
                return Self::alone(run_dir);
            }
            Err(error) => return Err(error).context("cannot take over"),
        };
        for (identity, chain, key) in keys {
            if let Err(error) = certificates.adopt(identity.clone(), &chain, key) {
                tracing::warn!(%identity, %error, "a certificate could not be taken over; a new one is asked for");
            }
        }
        Ok(Self { pods, sockets, before: Some(takeover) })
    }

    fn alone(run_dir: &Path) -> Result<Self> {
        let path = |name| run_dir.join(name);
        let failed = |name| format!("cannot listen on {}", run_dir.join(name).display());
        let unix = |name| -> Result<OwnedFd> {
            let listener = private_socket::listen(&path(name)).and_then(UnixListener::into_std);
            Ok(listener.with_context(|| failed(name))?.into())
        };
        let handover = handover::listen(&path("handover.sock")).with_context(|| failed("handover.sock"))?;
        let sockets = Sockets { admin: unix("agent.sock")?, joins: unix("cni.sock")?, handover };
        Ok(Self { pods: HandedPods::default(), sockets, before: None })
    }
}

/// A listener of its own for a shared socket.
pub fn listener(socket: &OwnedFd) -> io::Result<UnixListener> {
    UnixListener::from_std(StdListener::from(socket.try_clone()?))
}
