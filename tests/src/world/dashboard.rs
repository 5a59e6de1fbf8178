//! The controller's dashboard, and a browser that reaches it.

use anyhow::{Context, Result};

use super::World;
use crate::{Browser, Place};

/// On the loopback device of the controller's namespace.
const ADDRESS: &str = "127.0.0.1:15080";

impl World {
    /// The controller started from now on serves its dashboard.
    pub fn dashboard(&mut self) {
        self.controller_options.push(format!("--dashboard={ADDRESS}"));
    }

    /// With its token, as meshctl says it.
    pub fn dashboard_url(&self) -> Result<String> {
        let told = self.ask_controller(&["dashboard", "--no-open"])?;
        let url = told.first().and_then(|told| told["url"].as_str());
        Ok(url.context("meshctl dashboard says no address")?.to_owned())
    }

    /// For programs on the controller's machine.
    pub fn beside_controller(&self) -> Result<Place> {
        self.place("c", "beside-controller")
    }

    /// Without a way to anywhere but the mesh.
    pub fn browser(&self) -> Result<Browser> {
        let folder = self.root().join("browser");
        Browser::start(&self.beside_controller()?, &self.network.name("c"), &folder)
    }
}
