//! `HTTPRoute` (gateway.networking.k8s.io, v1 and v1beta1) for services. What holds for all routes: see
//! [`super::gateway`].
//!
//! - A match takes precedence by its path: Exact, then RegularExpression by its length (the specification leaves it to
//!   implementations), then PathPrefix by its length; then by a method, by the number of headers, of query parameters.
//!   Of equal ones the oldest route's counts, then namespace and name, then the order in the route.
//! - Regular expressions are RE2's, and match the whole path or value.
//! - A condition that cannot be read counts for nothing but its rule's refusal: the rule keeps the others.
//! - `sessionPersistence`, and filters that are none of RequestHeaderModifier, ResponseHeaderModifier, RequestRedirect,
//!   URLRewrite, RequestMirror and CORS: the first is reported and without effect, a rule with one of the others
//!   answers 500, as the specification asks for.
//! - A backend's own filters may be RequestHeaderModifier and ResponseHeaderModifier; requests that would go to a
//!   backend with others are answered 500.

mod matches;

use mesh_common::model::traffic::{Action, Retries, RetryOn};
use serde::Deserialize;
use serde_json::Value;

use super::gateway::{
    BackendRefSpec, Draft, FilterSpec, Kind, Route, Rule, backends, bounded, duration, edits, lenient_matches,
    read_rule, route,
};
use crate::{source::Custom, status::Fault};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RuleSpec {
    /// Read by who names the rule.
    #[serde(rename = "name")]
    _name: Option<String>,
    filters: Option<Vec<FilterSpec>>,
    backend_refs: Option<Vec<BackendRefSpec>>,
    timeouts: Option<TimeoutsSpec>,
    retry: Option<RetrySpec>,
    session_persistence: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct TimeoutsSpec {
    request: Option<String>,
    backend_request: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RetrySpec {
    codes: Option<Vec<i64>>,
    attempts: Option<i64>,
    backoff: Option<String>,
}

/// As many as make sense; more is a slip of the pen.
const ATTEMPTS: i64 = 100;
const CODES: usize = 200;

/// Reads one object; what is not honoured as written is added to `faults`.
pub fn http_route(object: &Custom, faults: &mut Vec<Fault>) -> Route {
    route(Kind::Http, object, faults, rule)
}

fn rule(draft: &mut Draft<'_>, written: &Value) {
    lenient_matches(draft, written.get("matches"), matches::one);
    let Some(spec) = read_rule::<RuleSpec>(draft, written) else { return };
    let RuleSpec { _name: _, filters, backend_refs, timeouts, retry, session_persistence } = spec;
    let forwards = backend_refs.as_ref().is_some_and(|list| !list.is_empty());
    edits(draft, filters);
    backends(draft, backend_refs);
    if matches!(draft.rule.template.action, Action::Redirect(_)) && forwards {
        draft.refuse("backendRefs", "stand beside a RequestRedirect");
    }
    if let Some(timeouts) = timeouts {
        let read = timeouts.read(draft);
        draft.take(read);
    }
    if let Some(retry) = retry {
        let read = retry.read(&format!("{}.retry", draft.field));
        draft.rule.template.retries = draft.take(read);
    }
    if session_persistence.is_some() {
        draft.note("sessionPersistence", "is not honoured");
    }
}

impl TimeoutsSpec {
    fn read(self, draft: &mut Draft<'_>) -> Result<(), Fault> {
        let field = format!("{}.timeouts", draft.field);
        let read =
            |key: &str, text: Option<String>| text.map(|text| duration(&format!("{field}.{key}"), &text)).transpose();
        // None at all is what a zero asks for.
        let limit = |time: Option<_>| time.filter(|time| *time != Default::default());
        let Rule { template, .. } = &mut draft.rule;
        template.timeout = limit(read("request", self.request)?);
        template.try_timeout = limit(read("backendRequest", self.backend_request)?);
        if let (Some(all), Some(one)) = (template.timeout, template.try_timeout)
            && one > all
        {
            return Err(Fault::new(format!("{field}.backendRequest"), "is longer than that of the request"));
        }
        Ok(())
    }
}

impl RetrySpec {
    fn read(self, field: &str) -> Result<Retries, Fault> {
        let Self { codes, attempts, backoff } = self;
        let codes_field = format!("{field}.codes");
        // What was surely not processed is tried again whatever the codes are.
        let mut on = vec![RetryOn::ConnectFailure, RetryOn::RefusedStream];
        for (i, code) in bounded(&codes_field, codes, CODES)?.into_iter().enumerate() {
            let status = u16::try_from(code).ok().filter(|code| (400..600).contains(code));
            let wrong = || Fault::new(format!("{codes_field}[{i}]"), format_args!("{code} is not from 400 to 599"));
            let status = RetryOn::Status(status.ok_or_else(wrong)?);
            if !on.contains(&status) {
                on.push(status);
            }
        }
        let mut retries = Retries { attempts: Retries::default().attempts, ..Retries::of(on) };
        if let Some(attempts) = attempts {
            let number = u32::try_from(attempts).ok().filter(|_| attempts <= ATTEMPTS);
            let wrong =
                || Fault::new(format!("{field}.attempts"), format_args!("{attempts} is not from 0 to {ATTEMPTS}"));
            retries.attempts = number.ok_or_else(wrong)?;
        }
        if let Some(text) = backoff {
            retries.backoff = duration(&format!("{field}.backoff"), &text)?;
            retries.max_backoff.0 = retries.backoff.0 * 10;
        }
        Ok(retries)
    }
}

#[cfg(test)]
pub(super) mod tests;
