//! What one replica alone does for an authority in a Secret: it rotates the root, and keeps the agents' roots.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use tokio::sync::watch;

use super::{Material, roots, rotation, secret};
use crate::leader::Leading;

/// To be run by every replica; only the one that leads acts.
pub struct Duties {
    pub client: Client,
    pub place: secret::Place,
    pub overlap: Duration,
    pub secret: watch::Receiver<Arc<Secret>>,
    pub material: watch::Receiver<Arc<Material>>,
}

impl Duties {
    /// Ends if nobody can lead any more, or the Secret is no longer followed.
    pub async fn run(self, leading: Leading) {
        let Self { client, place, overlap, secret, material } = self;
        let roots = roots::keep(client.clone(), place.namespace.clone(), material, leading.clone());
        // A root that somebody else made is theirs to rotate.
        if place.name == secret::OWN {
            let rotation = rotation::run(client, place, overlap, secret, leading);
            tokio::select! { () = roots => {}, () = rotation => {} }
        } else {
            roots.await;
        }
    }
}
