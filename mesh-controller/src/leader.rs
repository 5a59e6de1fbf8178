//! Which replica of the controller leads: the holder of a Lease. All replicas serve agents; what the leader does
//! besides must do no harm if two do it for a moment, since a Lease is no lock.

mod duties;

pub use duties::Duties;

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use aws_lc_rs::rand;
use kube::Client;
use kube_leader_election::{LeaseLock, LeaseLockParams, LeaseLockResult};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::tokens::hex;

/// Who writes, in the API's books.
pub const MANAGER: &str = "nodemesh-controller";
const LEASE: &str = "mesh-controller";
/// Of a term: how often the leader renews.
const RENEWALS: u32 = 5;
/// Of a term: how often the others look: a leader that ends gives its Lease back, and nobody tells them.
const LOOKS: u32 = 15;
/// Of a term: one request takes no longer.
const REQUESTS: u32 = 3;

/// Whether this replica leads. Clones are the same.
#[derive(Clone, Debug)]
pub struct Leading {
    leads: watch::Receiver<bool>,
    /// Of one that has nobody to be elected by.
    _alone: Option<Arc<watch::Sender<bool>>>,
}

/// One replica's part in the election.
pub struct Election {
    lock: LeaseLock,
    replica: String,
    term: Duration,
    leads: watch::Sender<bool>,
}

/// Takes part while it is kept; dropped, the Lease runs out by itself.
#[derive(Debug)]
pub struct Part {
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// A name for this process, and for no other one.
///
/// # Errors
/// If the system gives no random bytes.
pub fn replica() -> Result<String> {
    // In a pod, the pod's name.
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut chance = [0; 4];
    rand::fill(&mut chance).context("the system gave no random bytes")?;
    Ok(format!("{}-{}", host.trim(), hex(&chance)))
}

impl Leading {
    /// Without replicas: for ever.
    pub fn alone() -> Self {
        let (sender, leads) = watch::channel(true);
        Self { leads, _alone: Some(Arc::new(sender)) }
    }

    pub fn is_leading(&self) -> bool {
        *self.leads.borrow()
    }

    /// Waits until this replica leads; `None` if it never will again.
    pub async fn leads(&mut self) -> Option<()> {
        self.leads.wait_for(|leads| *leads).await.ok().map(drop)
    }

    /// Waits for another answer; `None` if there will be none.
    pub async fn changed(&mut self) -> Option<bool> {
        self.leads.changed().await.ok()?;
        Some(*self.leads.borrow_and_update())
    }
}

impl Election {
    /// `replica` is this process' name among the replicas; a leader that has not renewed for `term` leads no more.
    pub fn new(client: Client, namespace: &str, replica: &str, term: Duration) -> (Self, Leading) {
        let params = LeaseLockParams { lease_name: LEASE.to_owned(), holder_id: replica.to_owned(), lease_ttl: term };
        let (leads, leading) = watch::channel(false);
        (
            Self { lock: LeaseLock::new(client, namespace, params), replica: replica.to_owned(), term, leads },
            Leading { leads: leading, _alone: None },
        )
    }

    /// Takes part from now on.
    pub fn start(self) -> Part {
        let (end, ended) = oneshot::channel();
        let task = tokio::spawn(async move {
            let asked = tokio::select! {
                () = self.run() => false,
                asked = ended => asked.is_ok(),
            };
            if asked {
                self.step_down().await;
            }
        });
        Part { end, task }
    }

    async fn run(&self) {
        let (renewal, request) = (self.term / RENEWALS, self.term / REQUESTS);
        let mut renewed = tokio::time::Instant::now();
        loop {
            let mut pause = renewal;
            let leads = match tokio::time::timeout(request, self.lock.try_acquire_or_renew()).await {
                Ok(Ok(LeaseLockResult::Acquired(lease))) => {
                    renewed = tokio::time::Instant::now();
                    // Of two that take an abandoned Lease at once both are told that they have it; it names one.
                    let holder = lease.spec.and_then(|spec| spec.holder_identity);
                    holder.as_deref() == Some(self.replica.as_str())
                }
                Ok(Ok(LeaseLockResult::NotAcquired(_))) => {
                    pause = self.term / LOOKS;
                    false
                }
                failed => {
                    match failed {
                        Ok(Err(error)) => tracing::warn!(%error, "cannot take part in the election"),
                        _ => tracing::warn!("the election does not answer"),
                    }
                    // The Lease is this one's until it is over, and somewhat before.
                    *self.leads.borrow() && renewed.elapsed() < self.term - renewal
                }
            };
            if self.leads.send_if_modified(|now| std::mem::replace(now, leads) != leads) {
                tracing::info!(replica = self.replica, leads, "election");
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Stops leading, and gives the Lease back: another replica leads within a moment instead of a term.
    async fn step_down(&self) {
        if !self.leads.send_replace(false) {
            return;
        }
        match tokio::time::timeout(self.term / REQUESTS, self.lock.step_down()).await {
            Ok(Ok(())) => tracing::info!(replica = self.replica, "stepped down: another replica may lead"),
            Ok(Err(error)) => tracing::warn!(%error, "cannot give the Lease back; it runs out by itself"),
            Err(_) => tracing::warn!("the election does not answer; the Lease runs out by itself"),
        }
    }
}

impl Part {
    /// Steps down if this replica leads, and takes part no more. Takes no longer than one request.
    pub async fn end(self) {
        let Self { end, task } = self;
        // Without a receiver the task has ended.
        let _ = end.send(());
        if let Err(error) = task.await {
            tracing::error!(%error, "the election crashed");
        }
    }
}
