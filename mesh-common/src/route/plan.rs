//! All that a route does, compiled. Whoever makes routes can ask here whether an agent will take them.

use http::Response;

use super::{Changes, CrossOrigin, Matches, Redirecting, Rewriting, RouteError, Router, direct_response};
use crate::model::traffic::{Action, HttpRoute, Routes};

/// What a route does to its requests and their answers, beside what needs no compiling.
#[derive(Clone, Debug)]
pub struct Plan {
    pub action: Planned,
    pub headers: Option<Changes>,
    pub rewrite: Option<Rewriting>,
    pub cors: Option<CrossOrigin>,
}

/// A compiled [`Action`].
#[derive(Clone, Debug)]
pub enum Planned {
    /// For each backend, as [`super::choose`] counts them, its own changes of headers.
    Forward(Vec<Option<Changes>>),
    Redirect(Redirecting),
    Respond(Response<String>),
}

impl Plan {
    /// Errors name fields as in `action.forward[0].headers.request.set[1]`.
    pub fn new(route: &HttpRoute) -> Result<Self, RouteError> {
        let within = |field: &'static str| move |error: RouteError| error.within(field);
        let changes = |headers: &Option<_>| headers.as_ref().map(Changes::new).transpose().map_err(within("headers"));
        let action = match &route.action {
            Action::Forward(backends) => {
                let backend = |(number, backend): (usize, &crate::model::traffic::WeightedBackend)| {
                    let named = |error: RouteError| error.within(format_args!("action.forward[{number}]"));
                    changes(&backend.headers).map_err(named)
                };
                Planned::Forward(backends.iter().enumerate().map(backend).collect::<Result<_, _>>()?)
            }
            Action::Redirect(redirect) => {
                Planned::Redirect(Redirecting::new(redirect).map_err(within("action.redirect"))?)
            }
            Action::Respond(response) => Planned::Respond(direct_response(response).map_err(within("action.respond"))?),
        };
        Ok(Self {
            action,
            headers: changes(&route.headers)?,
            rewrite: route.rewrite.as_ref().map(Rewriting::new).transpose().map_err(within("rewrite"))?,
            cors: route.cors.as_ref().map(CrossOrigin::new).transpose().map_err(within("cors"))?,
        })
    }

    /// Of each route, in their order; errors begin with `http[0]`.
    pub fn of(routes: &[HttpRoute]) -> Result<Vec<Self>, RouteError> {
        let one = |(number, route)| Self::new(route).map_err(|error| error.within(format_args!("http[{number}]")));
        routes.iter().enumerate().map(one).collect()
    }
}

/// Whether an agent takes these routes.
pub fn check(routes: &Routes) -> Result<(), RouteError> {
    Router::new(&routes.http)?;
    Plan::of(&routes.http)?;
    for (number, fault) in routes.faults.iter().enumerate() {
        Matches::new(&fault.matches).map_err(|error| error.within(format_args!("faults[{number}]")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::traffic::{
        Cors, DirectResponse, Fault, HeaderChanges, HeaderEdit, Origin, OverlaidFault, PathMatch, PathRewrite,
        Redirect, RedirectPort, RequestMatch, Rewrite, Target, TextMatch, WeightedBackend,
    };

    fn route(action: Action) -> HttpRoute {
        HttpRoute::new("", Origin::default(), action)
    }

    #[test]
    fn what_an_agent_does_not_take_is_named() {
        let fine = || route(Action::Respond(DirectResponse { status: 200, body: None }));
        let edit = HeaderEdit { remove: vec!["te".into()], ..HeaderEdit::default() };
        let headers = Some(HeaderChanges { request: HeaderEdit::default(), response: edit });
        let target = Target::Invalid { status: 500, why: String::new() };
        let backend = WeightedBackend { weight: 1, target, headers: headers.clone() };
        let port = RedirectPort::Dialled;
        let bad = || RequestMatch { path: Some(PathMatch::Regex("(".into())), ..RequestMatch::default() };
        for (route, field) in [
            (route(Action::Forward(vec![backend])), "http[1].action.forward[0].headers.response.remove[0]"),
            (
                route(Action::Redirect(Redirect { scheme: None, host: None, port, path: None, status: 200 })),
                "http[1].action.redirect.status",
            ),
            (route(Action::Respond(DirectResponse { status: 7, body: None })), "http[1].action.respond.status"),
            (HttpRoute { headers, ..fine() }, "http[1].headers.response.remove[0]"),
            (
                HttpRoute {
                    rewrite: Some(Rewrite { authority: None, path: Some(PathRewrite::Full("?".into())) }),
                    ..fine()
                },
                "http[1].rewrite.path.full",
            ),
            (
                HttpRoute {
                    cors: Some(Cors { allow_origins: vec![TextMatch::Regex("(".into())], ..Cors::default() }),
                    ..fine()
                },
                "http[1].cors.allowOrigins[0].regex",
            ),
            (HttpRoute { matches: vec![bad()], ..fine() }, "http[1].matches[0].path.regex"),
        ] {
            let routes = Routes { http: vec![fine(), route], ..Routes::default() };
            assert_eq!(check(&routes).expect_err(field).field, field);
        }
        let fault = OverlaidFault { origin: Origin::default(), matches: vec![bad()], fault: Fault::default() };
        let routes = Routes { http: vec![fine()], faults: vec![fault], ..Routes::default() };
        assert_eq!(check(&routes).unwrap_err().field, "faults[0].matches[0].path.regex");
        assert_eq!(check(&Routes { faults: Vec::new(), ..routes }), Ok(()));
    }

    #[test]
    fn each_backend_has_its_place() {
        let target = Target::Invalid { status: 500, why: String::new() };
        let plain = WeightedBackend { weight: 1, target, headers: None };
        let changed = WeightedBackend { headers: Some(HeaderChanges::default()), ..plain.clone() };
        let Planned::Forward(changes) = Plan::new(&route(Action::Forward(vec![plain, changed]))).unwrap().action else {
            panic!("it forwards");
        };
        assert_eq!(changes.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true]);
    }
}
