//! Rules of traffic to one service, ready to be asked.

use std::collections::BTreeMap;

use http::Response;
use mesh_common::{
    model::{
        ServiceName,
        traffic::{
            Action, DestinationPolicy, For, HttpRoute, Origin, Routes, Target, Traffic, TrafficPolicy, TrustedRoots,
            UpstreamTls, WeightedBackend,
        },
    },
    route::{Changes, CrossOrigin, Matches, Redirecting, Rewriting, RouteError, Router, direct_response},
};

/// The rules of one service.
#[derive(Debug)]
pub struct Rules {
    traffic: Traffic,
    /// Of each of its routes.
    views: Vec<View>,
    /// Why they are not what somebody wrote.
    unreadable: Option<String>,
}

/// Routes for one group of clients.
#[derive(Debug)]
pub struct View {
    pub http: Router,
    /// What each of the routes does to what it takes.
    pub acts: Vec<Acts>,
    /// Which requests each of the faults is for that are laid over all.
    pub faults: Vec<Matches>,
}

/// What one route does to requests and answers.
#[derive(Debug, Default)]
pub struct Acts {
    pub changes: Option<Changes>,
    /// Of each of its backends.
    pub backends: Vec<Option<Changes>>,
    pub rewriting: Option<Rewriting>,
    pub cors: Option<CrossOrigin>,
    pub redirecting: Option<Redirecting>,
    pub response: Option<Response<String>>,
}

impl Rules {
    /// # Errors
    /// If a pattern is none, or too large; the field is one of [`Traffic`].
    pub fn new(traffic: Traffic) -> Result<Self, RouteError> {
        let views = traffic
            .routes
            .iter()
            .map(|routes| &routes.value)
            .enumerate()
            .map(|(i, routes)| View::new(routes).map_err(|error| error.within(format_args!("routes[{i}].value"))));
        let views = views.collect::<Result<_, _>>()?;
        Ok(Self { traffic, views, unreadable: None })
    }

    /// In place of rules that exist and cannot be read: requests get 500, and nothing reaches an endpoint of the
    /// service, from routes of other services neither. Whether they ask for TLS or turn somebody away, nobody knows.
    pub fn unreadable(service: ServiceName, why: &str) -> Self {
        let why = format!("the rules of {service} cannot be read: {why}");
        let refused =
            WeightedBackend { weight: 1, target: Target::Invalid { status: 500, why: why.clone() }, headers: None };
        let route = HttpRoute::new("", Origin::default(), Action::Forward(vec![refused]));
        let roots = TrustedRoots::Unusable(why.clone());
        let tls = Some(UpstreamTls { server_name: None, names: Vec::new(), roots });
        let all = TrafficPolicy { tls, ..TrafficPolicy::default() };
        let traffic = Traffic {
            service,
            protocols: BTreeMap::new(),
            routes: vec![For::everybody(Routes { http: vec![route], ..Routes::default() })],
            policies: vec![For::everybody(DestinationPolicy { all, ..DestinationPolicy::default() })],
            seen: false,
        };
        Self { unreadable: Some(why), ..Self::new(traffic).expect("there is no pattern in it") }
    }

    /// Why nothing may pass, if these stand for rules that cannot be read.
    pub fn why_unreadable(&self) -> Option<&str> {
        self.unreadable.as_deref()
    }

    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Whether requests of clients of this namespace to a port may be answered, or led, otherwise than to an endpoint
    /// of the service. Not by rules that cannot be read.
    pub fn routes_requests(&self, namespace: &str, port: u16) -> bool {
        let view = self.view(namespace).filter(|_| self.unreadable.is_none());
        view.is_some_and(|(routes, view)| !routes.faults.is_empty() || view.http.concerns(port))
    }

    /// The routes for clients of this namespace.
    pub fn view(&self, namespace: &str) -> Option<(&Routes, &View)> {
        let place = self.traffic.routes.iter().position(|routes| routes.clients.has(namespace))?;
        Some((&self.traffic.routes[place].value, &self.views[place]))
    }
}

impl View {
    fn new(routes: &Routes) -> Result<Self, RouteError> {
        let faults =
            routes.faults.iter().enumerate().map(|(i, fault)| {
                Matches::new(&fault.matches).map_err(|error| error.within(format_args!("faults[{i}]")))
            });
        let acts = routes
            .http
            .iter()
            .enumerate()
            .map(|(i, route)| Acts::new(route).map_err(|error| error.within(format_args!("http[{i}]"))));
        Ok(Self {
            http: Router::new(&routes.http)?,
            acts: acts.collect::<Result<_, _>>()?,
            faults: faults.collect::<Result<_, _>>()?,
        })
    }
}

impl Acts {
    fn new(route: &HttpRoute) -> Result<Self, RouteError> {
        let within = |field: &'static str| move |error: RouteError| error.within(field);
        let mut acts = Self {
            changes: route.headers.as_ref().map(Changes::new).transpose().map_err(within("headers"))?,
            rewriting: route.rewrite.as_ref().map(Rewriting::new).transpose().map_err(within("rewrite"))?,
            cors: route.cors.as_ref().map(CrossOrigin::new).transpose().map_err(within("cors"))?,
            ..Self::default()
        };
        match &route.action {
            Action::Forward(backends) => {
                let changes = backends.iter().enumerate().map(|(i, backend)| {
                    let changes = backend.headers.as_ref().map(Changes::new).transpose();
                    changes.map_err(|error| error.within(format_args!("action.forward[{i}].headers")))
                });
                acts.backends = changes.collect::<Result<_, _>>()?;
            }
            Action::Redirect(redirect) => {
                acts.redirecting = Some(Redirecting::new(redirect).map_err(within("action.redirect"))?);
            }
            Action::Respond(response) => {
                acts.response = Some(direct_response(response).map_err(within("action.respond"))?);
            }
        }
        Ok(acts)
    }
}

impl PartialEq for Rules {
    fn eq(&self, other: &Self) -> bool {
        self.traffic == other.traffic
    }
}
