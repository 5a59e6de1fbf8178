//! The values of single conditions.

use std::net::IpAddr;

use http::HeaderName;
use ipnet::IpNet;
use mesh_common::{
    model::{PathPattern, ServiceAccountMatch, StringMatch},
    route::path::written,
};

use super::{never, rules::Context, spec::List};
use crate::status::Fault;

/// The trust domain that policies may always write for the mesh's own.
const OWN_TRUST_DOMAIN: &str = "cluster.local/";
/// Of one list. Each is compared with every connection or request.
const VALUES: usize = 4_096;
/// Lists of networks are made by programs.
const NETWORKS: usize = 65_536;
/// Bytes of one value, and of a key.
pub const TEXT: usize = 4_096;
/// What is quoted of a text that its author may make as long as they like.
const QUOTED: usize = 64;

impl Context<'_> {
    /// Reads each value; those that have no meaning are errors of the policy, and so is a list beyond its bound.
    fn values<T>(
        &mut self,
        field: &str,
        list: List<String>,
        most: usize,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        if list.as_ref().is_some_and(Vec::is_empty) {
            self.notes.push(Fault::new(field, "has no values and counts as absent: it restricts nothing"));
        }
        let list = list.unwrap_or_default();
        if list.len() > most {
            self.errors.push(Fault::new(field, format_args!("has {} values, {most} are the most", list.len())));
            return Vec::new();
        }
        let bounded = |text: &str| match text.len() {
            0 => Err("is empty".to_owned()),
            length if length > TEXT => Err(format!("has {length} bytes, {TEXT} are the most")),
            _ => read(text),
        };
        let list = list.into_iter().enumerate();
        list.filter_map(|(i, text)| {
            bounded(&text).map_err(|why| self.errors.push(Fault::new(format!("{field}[{i}]"), why))).ok()
        })
        .collect()
    }

    /// The same of what only requests have: values that can fit none are noted.
    fn noted<T>(
        &mut self,
        field: &str,
        list: List<String>,
        read: impl Fn(&str) -> Result<T, String>,
        never: impl Fn(&T) -> Option<&'static str>,
    ) -> Vec<T> {
        let written = list.clone().unwrap_or_default();
        let before = self.errors.len();
        let found = self.values(field, list, VALUES, read);
        // With an error there is another number of them, and more to do.
        if self.errors.len() == before {
            for (i, (value, text)) in found.iter().zip(&written).enumerate() {
                if let Some(why) = never(value) {
                    let why = format!("{} fits no request: {why}", quoted(text));
                    self.notes.push(Fault::new(format!("{field}[{i}]"), why));
                }
            }
        }
        found
    }

    pub fn principals(&mut self, field: &str, list: List<String>) -> Vec<StringMatch> {
        let trust_domain = self.settings.trust_domain.clone();
        self.values(field, list, VALUES, move |text| {
            if text.starts_with("spiffe://") {
                return Err(format!("{}: principals are written without spiffe://", quoted(text)));
            }
            match text.strip_prefix(OWN_TRUST_DOMAIN) {
                Some(rest) => pattern(&format!("{trust_domain}/{rest}")),
                None => pattern(text),
            }
        })
    }

    pub fn strings(&mut self, field: &str, list: List<String>) -> Vec<StringMatch> {
        self.values(field, list, VALUES, pattern)
    }

    pub fn accounts(&mut self, field: &str, list: List<String>) -> Vec<ServiceAccountMatch> {
        let own = self.namespace.to_owned();
        self.values(field, list, VALUES, move |text| {
            let (namespace, account) = text.split_once('/').unwrap_or((&own, text));
            if namespace.is_empty() || account.is_empty() || account.contains('/') || text.contains('*') {
                return Err(format!("{} is neither an account nor namespace/account", quoted(text)));
            }
            Ok(ServiceAccountMatch { namespace: namespace.to_owned(), service_account: account.to_owned() })
        })
    }

    pub fn networks(&mut self, field: &str, list: List<String>) -> Vec<IpNet> {
        self.values(field, list, NETWORKS, |text| {
            let address = || text.parse::<IpAddr>().map(|ip| IpNet::from(ip.to_canonical()));
            let network = text.parse::<IpNet>().map(|network| network.trunc()).or_else(|_| address());
            network.map_err(|_| format!("{} is neither an address nor a network (address/prefix length)", quoted(text)))
        })
    }

    pub fn ports(&mut self, field: &str, list: List<String>) -> Vec<u16> {
        self.values(field, list, VALUES, |text| {
            let port = text.parse::<u16>().ok().filter(|port| *port != 0);
            port.ok_or_else(|| format!("{} is not a port (1 to 65535)", quoted(text)))
        })
    }

    /// Also of server names.
    pub fn hosts(&mut self, field: &str, list: List<String>) -> Vec<StringMatch> {
        self.noted(field, list, host, never::host)
    }

    pub fn methods(&mut self, field: &str, list: List<String>) -> Vec<StringMatch> {
        self.noted(field, list, pattern, never::method)
    }

    pub fn paths(&mut self, field: &str, list: List<String>) -> Vec<PathPattern> {
        self.noted(field, list, path, never::path)
    }

    pub fn request_principals(&mut self, field: &str, list: List<String>) -> Vec<StringMatch> {
        self.noted(field, list, pattern, never::request_principal)
    }
}

/// A text of an author in a message.
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("`{}...`", &text[..end]),
        None => format!("`{text}`"),
    }
}

/// `*` asks for presence; one `*` at an end stands for anything.
fn pattern(text: &str) -> Result<StringMatch, String> {
    let found = if text == "*" {
        StringMatch::Presence
    } else if let Some(prefix) = text.strip_suffix('*') {
        StringMatch::Prefix(prefix.to_owned())
    } else if let Some(suffix) = text.strip_prefix('*') {
        StringMatch::Suffix(suffix.to_owned())
    } else {
        StringMatch::Exact(text.to_owned())
    };
    match &found {
        StringMatch::Exact(rest) | StringMatch::Prefix(rest) | StringMatch::Suffix(rest) if rest.contains('*') => {
            Err(format!("{}: a `*` may only stand at the start or at the end", quoted(text)))
        }
        _ => Ok(found),
    }
}

/// In lower case; the dot that may end a name, before its port, is not part of it.
fn host(text: &str) -> Result<StringMatch, String> {
    let undotted = |name: String| {
        let (host, port) = match name.rsplit_once(':') {
            Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => (host, port),
            _ => (name.as_str(), ""),
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        let colon = if port.is_empty() { "" } else { ":" };
        // Nothing before the port: a suffix that would fit every host.
        (!host.is_empty()).then(|| format!("{host}{colon}{port}"))
    };
    let found = match pattern(&text.to_ascii_lowercase())? {
        StringMatch::Exact(name) => undotted(name).map(StringMatch::Exact),
        StringMatch::Suffix(name) if name.starts_with(':') => Some(StringMatch::Suffix(name)),
        StringMatch::Suffix(name) => undotted(name).map(StringMatch::Suffix),
        other @ (StringMatch::Prefix(_) | StringMatch::Presence) => Some(other),
    };
    found.ok_or_else(|| format!("{} is no host", quoted(text)))
}

/// A path with `{*}` or `{**}` is a template. Other braces are refused: whoever wrote them meant one.
fn path(text: &str) -> Result<PathPattern, String> {
    if !text.contains(['{', '}']) {
        return pattern(&written(text)).map(PathPattern::Text);
    }
    let said = quoted(text);
    let Some(rest) = text.strip_prefix('/') else {
        return Err(format!("{said}: a template begins with `/`"));
    };
    let mut is_last = false;
    for segment in rest.split('/') {
        let is_operator = matches!(segment, "{*}" | "{**}");
        if is_operator && is_last {
            return Err(format!("{said}: no operator may stand behind `{{**}}`"));
        }
        if !is_operator && segment.contains(['{', '}', '*']) {
            return Err(format!("{said}: `{{*}}` and `{{**}}` are the operators, each a whole segment of the path"));
        }
        is_last |= segment == "{**}";
    }
    Ok(PathPattern::Template(written(text)))
}

/// The name in `[name]`, in lower case.
pub fn header(text: &str) -> Result<String, String> {
    let name = bracketed(text).filter(|names| names.len() == 1).and_then(|names| names.into_iter().next());
    let name = name.ok_or("is not of the form request.headers[name]")?;
    match name.strip_prefix(':') {
        Some("authority" | "method") => Ok(name.to_ascii_lowercase()),
        Some("path") => Err("paths are asked for by `paths` of an operation".to_owned()),
        _ => match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => Ok(name.as_str().to_owned()),
            Err(_) => Err(format!("{} is no name of a header", quoted(name))),
        },
    }
}

/// The names in `[outer][inner]`.
pub fn claim(text: &str) -> Result<Vec<String>, String> {
    const DEPTH: usize = 16;
    let names = bracketed(text).filter(|names| (1..=DEPTH).contains(&names.len()));
    let names = names
        .ok_or_else(|| format!("is not of the form request.auth.claims[name][inner], with {DEPTH} names at most"))?;
    Ok(names.into_iter().map(ToOwned::to_owned).collect())
}

/// `None` if there is anything but names in brackets.
fn bracketed(text: &str) -> Option<Vec<&str>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let names: Vec<_> = inner.split("][").collect();
    let is_name = |name: &&str| !name.is_empty() && !name.contains(['[', ']']);
    names.iter().all(is_name).then_some(names)
}
