//! A request that is asked about: read, its token verified, decided, as one that arrives. Nothing of its token is told.

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderName, HeaderValue, Method, Request, header, request::Parts, uri::PathAndQuery};
use mesh_common::{
    model::{Connection, Passed, RequestFacts, Workload, traffic::Protocol},
    proto::nodemesh::{AuthzAnswer, AuthzQuery, Header},
};
use tonic::Status;

use super::{decided, refused};
use crate::{
    http::inbound::{Foreseen, Unauthorized, foresee},
    state::Snapshot,
    telemetry::reason,
};

/// The request's head as its client writes it; `None`: a connection is meant.
///
/// # Errors
/// Names the field that no request can have.
pub fn of(query: &AuthzQuery, at: SocketAddr) -> Result<Option<Parts>, Status> {
    let AuthzQuery { source: _, destination: _, port: _, method, path, host, headers, token } = query;
    if [method, path, host, token].iter().all(|field| field.is_empty()) && headers.is_empty() {
        return Ok(None);
    }
    let wrong = |field: &str, why: &str| Status::invalid_argument(format!("{field}: {why}"));
    let method = match method.as_str() {
        "" => Method::GET,
        method => method.parse().map_err(|_| wrong("method", &format!("`{method}` is no method of HTTP")))?,
    };
    if method == Method::CONNECT {
        return Err(wrong("method", "CONNECT has no path; ask about the connection instead"));
    }
    let path = match path.as_str() {
        "" => "/",
        "*" if method == Method::OPTIONS => "*",
        path if path.starts_with('/') => path,
        _ => return Err(wrong("path", "it does not begin with `/`")),
    };
    // It may have a token in its query: not said back.
    let path = PathAndQuery::try_from(path).map_err(|_| wrong("path", "it has characters that no path may have"))?;
    let (mut parts, ()) = Request::new(()).into_parts();
    (parts.method, parts.uri) = (method, path.into());
    for (number, Header { name, value }) in headers.iter().enumerate() {
        let field = |which: &str| format!("headers[{number}].{which}");
        let name = HeaderName::try_from(name).map_err(|_| wrong(&field("name"), &format!("`{name}` is no header")))?;
        let value = HeaderValue::try_from(value).map_err(|_| wrong(&field("value"), "no header may have it"))?;
        parts.headers.append(name, value);
    }
    let host = match host.as_str() {
        "" if parts.headers.contains_key(header::HOST) => None,
        "" => Some(HeaderValue::try_from(at.to_string()).expect("addresses are visible characters")),
        host => {
            Some(HeaderValue::try_from(host).map_err(|_| wrong("host", "it has characters that no host may have"))?)
        }
    };
    if let Some(host) = host {
        parts.headers.append(header::HOST, host);
    }
    if !token.is_empty() {
        let bearer = HeaderValue::try_from(format!("Bearer {token}"));
        let mut bearer = bearer.map_err(|_| wrong("token", "it has characters that no token may have"))?;
        bearer.set_sensitive(true);
        parts.headers.append(header::AUTHORIZATION, bearer);
    }
    Ok(Some(parts))
}

/// Decides about a request on a connection of its own. `bears`: a token was given beside the headers.
pub fn asked(
    snapshot: &Arc<Snapshot>,
    destination: &Workload,
    connection: &Connection,
    parts: Parts,
    bears: bool,
    answer: &mut AuthzAnswer,
) {
    let (uid, port) = (&destination.uid, connection.destination.port());
    let opened = snapshot.decide(destination, connection, snapshot.passed_at_first(destination, port));
    if let protocol @ (Protocol::Tcp | Protocol::Tls) = snapshot.inbound(uid).protocol(port) {
        decided(&opened, answer);
        let name = if protocol == Protocol::Tcp { "TCP" } else { "TLS" };
        return add(answer, &format!("the port is declared as {name}, so no request on it is looked at"));
    }
    if opened.outcome.is_err() {
        // Before anything is read.
        return decided(&opened, answer);
    }
    let written = parts.uri.path().to_owned();
    match foresee(uid, snapshot, connection, parts) {
        Foreseen::Malformed(why) => refused(reason::REQUEST_MALFORMED, &why.to_string(), answer),
        Foreseen::Permitted { decision, facts } => {
            decided(&decision, answer);
            noted(&written, &facts, &facts, bears, answer);
        }
        Foreseen::Refused { why, facts } => match why {
            Unauthorized::Token(why) => refused(why.0, why.answer().2, answer),
            Unauthorized::Path(why) => refused(reason::PATH_AMBIGUOUS, &why.to_string(), answer),
            Unauthorized::Denied(decision) => {
                decided(&decision, answer);
                let read = decision.asked.as_ref().and_then(|asked| match &asked.passed {
                    Passed::Request(read) => Some(&**read),
                    Passed::Open | Passed::Bytes { .. } | Passed::Unnamed => None,
                });
                noted(&written, &facts, read.unwrap_or(&facts), bears, answer);
            }
        },
    }
}

/// What the one who asks might not expect. `read` is the form that was decided about.
fn noted(written: &str, facts: &RequestFacts, read: &RequestFacts, bears: bool, answer: &mut AuthzAnswer) {
    let mut notes = Vec::new();
    if facts.path != written {
        notes.push(format!("the path is passed on as {}", facts.path));
    }
    if read.path != facts.path {
        notes.push(format!("it was decided about the path {}, for which a server may take it", read.path));
    }
    if bears && facts.token.is_none() {
        notes.push(match answer.authoritative {
            true => {
                "the token counts for nothing: no RequestAuthentication looks for one in `authorization`".to_owned()
            }
            false => "the token was not verified, which only the destination's own node can".to_owned(),
        });
    }
    notes.iter().for_each(|note| add(answer, note));
}

/// One more sentence.
fn add(answer: &mut AuthzAnswer, note: &str) {
    let full_stop = if answer.message.ends_with('.') { "" } else { "." };
    let mut note = note.chars();
    let first = note.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    answer.message += &format!("{full_stop} {first}{}.", note.as_str());
}
