//! Rules of traffic to one service, ready to be asked.

use mesh_common::{
    model::traffic::{Routes, Traffic},
    route::{Matches, RouteError, Router},
};

/// The rules of one service.
#[derive(Debug)]
pub struct Rules {
    traffic: Traffic,
    /// Of each of its routes.
    views: Vec<View>,
}

/// Routes for one group of clients.
#[derive(Debug)]
pub struct View {
    pub http: Router,
    /// Which requests each of the faults is for that are laid over all.
    pub faults: Vec<Matches>,
}

impl Rules {
    /// # Errors
    /// If a pattern is none, or too large; the field is one of [`Traffic`].
    pub fn new(traffic: Traffic) -> Result<Self, RouteError> {
        let view = |(i, routes): (usize, &Routes)| {
            let within = |error: RouteError| error.within(format_args!("routes[{i}].value"));
            let faults = routes.faults.iter().enumerate().map(|(i, fault)| {
                Matches::new(&fault.matches).map_err(|error| error.within(format_args!("faults[{i}]")))
            });
            let faults = faults.collect::<Result<_, _>>().map_err(within)?;
            Ok(View { http: Router::new(&routes.http).map_err(within)?, faults })
        };
        let views = traffic.routes.iter().map(|routes| &routes.value).enumerate().map(view).collect::<Result<_, _>>()?;
        Ok(Self { traffic, views })
    }

    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// The routes for clients of this namespace.
    pub fn view(&self, namespace: &str) -> Option<(&Routes, &View)> {
        let place = self.traffic.routes.iter().position(|routes| routes.clients.has(namespace))?;
        Some((&self.traffic.routes[place].value, &self.views[place]))
    }
}

impl PartialEq for Rules {
    fn eq(&self, other: &Self) -> bool {
        self.traffic == other.traffic
    }
}
