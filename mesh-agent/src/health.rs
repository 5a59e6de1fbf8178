//! Whether this node's agent does what it is for, for the kubelet and for people. An agent is ready when its
//! configuration is known, its hooks are proven, and every pod that shall be redirected is.

mod ask;
mod http;

use std::sync::Arc;

use ::http::StatusCode;
use tokio::sync::watch;

use crate::{
    control::ControlStatus,
    pods::{PodStatus, Redirection},
};

pub use self::{
    ask::ready,
    http::{Answer, listen, serve},
};

/// What readiness follows from.
#[derive(Clone, Debug)]
pub struct Readiness {
    pub control: watch::Receiver<ControlStatus>,
    pub pods: watch::Receiver<Vec<PodStatus>>,
    /// What is wrong with the hooks that all pods share; empty: they are proven.
    pub hooks: watch::Receiver<String>,
    /// What is missing or wrong with the CNI plugin; empty: it is in its place, or not wanted.
    pub plugin: watch::Receiver<String>,
    pub draining: watch::Receiver<bool>,
}

impl Readiness {
    pub fn draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// What is missing or wrong, for people; `None`: ready.
    pub fn not_ready(&self) -> Option<String> {
        if let Some(why) = self.node_not_ready() {
            return Some(why);
        }
        let plugin = self.plugin.borrow().clone();
        if !plugin.is_empty() {
            return Some(plugin);
        }
        let pods = self.pods.borrow();
        let mut wrong = pods.iter().filter_map(|pod| {
            let why = match &pod.redirection {
                Redirection::Pending(why) if pod.wanted => why,
                Redirection::Failed(why) => why,
                Redirection::Pending(_) | Redirection::Disabled | Redirection::Observed | Redirection::Enabled => {
                    return None;
                }
            };
            Some(format!("pod {}/{}: {why}", pod.namespace, pod.name))
        });
        let first = wrong.next()?;
        let more = wrong.count();
        Some(if more == 0 { first } else { format!("{first} (and {more} more pods)") })
    }

    /// What of it is about no pod in particular: with it, no pod can join.
    pub fn node_not_ready(&self) -> Option<String> {
        if self.draining() {
            return Some("it ends: no more work for it".to_owned());
        }
        let ControlStatus { synced, from_disk, .. } = *self.control.borrow();
        if !synced && !from_disk {
            return Some("no configuration yet: the controller has not answered, and none is on the disk".to_owned());
        }
        let hooks = self.hooks.borrow().clone();
        (!hooks.is_empty()).then_some(hooks)
    }

    /// The answers of the health endpoint.
    pub fn answers(self) -> Answer {
        Arc::new(move |path| match path {
            "/healthz/live" => Some((StatusCode::OK, "alive\n".to_owned())),
            "/healthz/ready" => Some(match self.not_ready() {
                None => (StatusCode::OK, "ready\n".to_owned()),
                Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
            }),
            _ => None,
        })
    }
}

/// The answers of the metrics endpoint.
pub fn metrics(text: impl Fn() -> String + Send + Sync + 'static) -> Answer {
    Arc::new(move |path| (path == "/metrics").then(|| (StatusCode::OK, text())))
}
