//! Whether an agent takes a rule: it is compiled here as it will be there, so that no rule reaches an agent that it
//! would have to refuse together with all others.

use mesh_common::{
    model::traffic::{Action, HttpRoute},
    route::{Changes, CrossOrigin, Redirecting, Rewriting, RouteError, Router, direct_response},
};

use crate::status::Fault;

/// # Errors
/// Names the part of the rule that an agent would not take.
pub fn taken(route: &HttpRoute) -> Result<(), Fault> {
    let within = |part: &'static str| {
        let rule = route.origin.field.as_str();
        let field = if part.is_empty() { rule.to_owned() } else { format!("{rule}.{part}") };
        move |error: RouteError| Fault::new(field.clone(), error)
    };
    Router::new(std::slice::from_ref(route)).map_err(within(""))?;
    if let Some(changes) = &route.headers {
        Changes::new(changes).map_err(within("headers"))?;
    }
    if let Some(rewrite) = &route.rewrite {
        Rewriting::new(rewrite).map_err(within("rewrite"))?;
    }
    if let Some(cors) = &route.cors {
        CrossOrigin::new(cors).map_err(within("corsPolicy"))?;
    }
    match &route.action {
        Action::Forward(backends) => {
            for changes in backends.iter().filter_map(|backend| backend.headers.as_ref()) {
                Changes::new(changes).map_err(within("route"))?;
            }
        }
        Action::Redirect(redirect) => {
            Redirecting::new(redirect).map_err(within("redirect"))?;
        }
        Action::Respond(respond) => {
            direct_response(respond).map_err(within("directResponse"))?;
        }
    }
    Ok(())
}
