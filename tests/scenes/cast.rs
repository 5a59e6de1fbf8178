//! Who plays in most scenes: in namespace shop a client and a server on node a, and a server on node b.

use std::sync::Arc;

use anyhow::Result;
use mesh_tests::{A, B, Pod, World};

pub struct Cast {
    pub world: World,
    /// On node a.
    pub client: Arc<Pod>,
    /// On node a too.
    pub near: Arc<Pod>,
    /// On node b.
    pub far: Arc<Pod>,
}

impl Cast {
    /// The pods of namespace shop, with the mesh running and nobody in it.
    pub fn waiting(title: &str) -> Result<Self> {
        Self::in_world(World::new(title)?)
    }

    /// The same in a world that was prepared.
    pub fn in_world(mut world: World) -> Result<Self> {
        let client = world.pod("shop", "client", A)?;
        let near = world.pod("shop", "near", A)?;
        let far = world.pod("shop", "far", B)?;
        world.start()?;
        Ok(Self { world, client, near, far })
    }

    /// The same, and shop is in the mesh.
    pub fn meshed(title: &str) -> Result<Self> {
        let mut cast = Self::waiting(title)?;
        cast.world.mesh("shop")?;
        Ok(cast)
    }
}

/// An AuthorizationPolicy of namespace shop for pods labelled `app: <app>`.
pub fn policy(name: &str, app: &str, action: &str, rules: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{ name: {name}, namespace: shop }}\n\
         spec:\n  selector: {{ matchLabels: {{ app: {app} }} }}\n  action: {action}\n  rules: {rules}\n"
    )
}
