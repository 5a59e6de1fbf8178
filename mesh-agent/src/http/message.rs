//! One reading of a request, and its form on another connection. What two servers could read differently is refused.
//!
//! An authority is a name or an address, and a port in decimal digits (RFC 3986, 3.2.2 and 3.2.3), less than the
//! grammar has: no escapes, so no names in other scripts but as `xn--`; no empty label but one trailing dot; no zone
//! and no future form of an address; no empty port, none of more than five digits, and none that begins with a 0 or a
//! sign. Some servers cut these off, so that policies and routes would see another host than the application.

use std::{borrow::Cow, net::Ipv6Addr};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header,
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};

use mesh_common::route::path::{PathFault, normal};

use super::pool;

/// Headers that are about one connection (RFC 9110, 7.6.1), and those that some take for such.
const HOP_BY_HOP: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::UPGRADE,
];

/// Of h2c by upgrade, which there is no more.
const SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// What else an upgrade would lead to that carries requests, with `h2` and `h3` in all their forms (RFC 2817; RFC 9110,
/// 7.8).
const HTTP: [&str; 3] = ["http", "https", "tls"];

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the request names no host, or more than one")]
    Host,
    #[error("Host and the request's own authority differ")]
    Authority,
    #[error("the length of the body is said more than once")]
    Length,
    #[error("a transfer coding other than chunked, once, is not supported")]
    Coding,
    #[error("a tunnel is asked for in another form than `host:port`")]
    Tunnel,
    #[error("the path has bytes that no path may have")]
    Path,
    #[error("{0}")]
    Escaped(#[from] PathFault),
    #[error("a header has bytes that no header may have")]
    Header,
}

impl Malformed {
    pub fn status(self) -> StatusCode {
        match self {
            // RFC 9112, 6.1.
            Self::Coding => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// What is asked for, as it was understood.
#[derive(Clone, Debug)]
pub struct Asked {
    pub authority: Authority,
    /// The client wants another protocol on this connection.
    pub upgrades: bool,
}

/// Reads what a client sent. After it, `parts` has no headers that are about its connection, and its path is normal
/// ([`normal`]): routes, limits and policies see what the application will. `host` is for a client of HTTP/1.0, which
/// need not name one.
pub fn read(parts: &mut Parts, host: &str) -> Result<Asked, Malformed> {
    let asked = Asked { authority: authority(parts, host)?, upgrades: upgrades(parts) };
    check(parts)?;
    settle(parts)?;
    let upgrade = parts.headers.get(header::UPGRADE).cloned();
    strip(&mut parts.headers);
    if let (true, Some(upgrade)) = (asked.upgrades, upgrade) {
        parts.headers.insert(header::UPGRADE, upgrade);
    }
    // The agent itself says that the body may come.
    parts.headers.remove(header::EXPECT);
    parts.headers.remove(SETTINGS);
    Ok(asked)
}

fn authority(parts: &Parts, default: &str) -> Result<Authority, Malformed> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Malformed::Host);
    }
    let host = host.map(|host| Authority::try_from(host.as_bytes()).map_err(|_| Malformed::Host)).transpose()?;
    let authority = match (parts.uri.authority().cloned(), host) {
        // RFC 9112, 3.2.2: what the request line says counts; a Host that says something else is an attack or a fault.
        (Some(own), Some(host)) if !own.as_str().eq_ignore_ascii_case(host.as_str()) => {
            return Err(Malformed::Authority);
        }
        (Some(own), _) => own,
        (None, Some(host)) => host,
        (None, None) if parts.version == Version::HTTP_10 => {
            Authority::try_from(default).map_err(|_| Malformed::Host)?
        }
        (None, None) => return Err(Malformed::Host),
    };
    if is_host(authority.as_str()) { Ok(authority) } else { Err(Malformed::Host) }
}

/// A name or an address, and maybe a port. Of what else RFC 3986 calls an authority nobody is sure: who asks (RFC 9110,
/// 4.2.4), escapes, commas, labels without a letter.
fn is_host(authority: &str) -> bool {
    let (host, port) = match authority.rfind(':').filter(|colon| !authority[*colon..].contains(']')) {
        Some(colon) => (&authority[..colon], Some(&authority[colon + 1..])),
        None => (authority, None),
    };
    // `:080` is another text than `:80`, and the same port.
    let is_port = |port: &str| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0') && port.parse::<u16>().is_ok()
    };
    let is_label =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    let is_host = match host.strip_prefix('[') {
        Some(address) => address.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => host.strip_suffix('.').unwrap_or(host).split('.').all(is_label),
    };
    is_host && port.is_none_or(is_port)
}

fn check(parts: &Parts) -> Result<(), Malformed> {
    let lengths = parts.headers.get_all(header::CONTENT_LENGTH).iter().count();
    let chunked = parts.headers.contains_key(header::TRANSFER_ENCODING);
    if lengths > 1 || (lengths == 1 && chunked) || (chunked && parts.version == Version::HTTP_10) {
        return Err(Malformed::Length);
    }
    let codings = parts.headers.get_all(header::TRANSFER_ENCODING);
    if chunked
        && (codings.iter().count() > 1
            || codings.iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")))
    {
        return Err(Malformed::Coding);
    }
    // RFC 9112, 3.2.3; RFC 9113, 8.5: neither has a path, which nobody would be shown.
    if parts.method == Method::CONNECT {
        let is_tunnel = parts.uri.path_and_query().is_none() && parts.uri.port().is_some();
        return if is_tunnel { header_values(&parts.headers) } else { Err(Malformed::Tunnel) };
    }
    let whole = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let path = parts.uri.path();
    let form = match parts.method {
        Method::OPTIONS if whole == "*" => true,
        // An absolute form may have a query and no path (RFC 9112, 3.2.2); `:path` has one always (RFC 9113, 8.3.1).
        _ if parts.version == Version::HTTP_2 => whole.starts_with('/'),
        _ => path.starts_with('/'),
    };
    // What `http` lets pass and servers read in their own ways: `\\` as `/`, a zero as the end.
    let odd = path.bytes().any(|byte| matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`'));
    if !form || odd || whole.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
        return Err(Malformed::Path);
    }
    header_values(&parts.headers)
}

fn header_values(headers: &HeaderMap) -> Result<(), Malformed> {
    let is_bad = |value: &HeaderValue| value.as_bytes().iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'));
    if headers.values().any(is_bad) { Err(Malformed::Header) } else { Ok(()) }
}

/// Writes the path in its one form.
fn settle(parts: &mut Parts) -> Result<(), Malformed> {
    let Some(whole) = parts.uri.path_and_query().filter(|whole| whole.path().starts_with('/')) else { return Ok(()) };
    let normal = normal(whole.path())?;
    if matches!(normal, Cow::Owned(_)) || !whole.as_str().starts_with('/') {
        let path = match whole.query() {
            Some(query) => format!("{normal}?{query}"),
            None => normal.into_owned(),
        };
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        uri.path_and_query = Some(PathAndQuery::try_from(path).map_err(|_| Malformed::Path)?);
        parts.uri = Uri::from_parts(uri).map_err(|_| Malformed::Path)?;
    }
    Ok(())
}

/// `Connection: upgrade` with `Upgrade`, or CONNECT.
fn upgrades(parts: &Parts) -> bool {
    if parts.method == Method::CONNECT {
        return true;
    }
    let tokens = parts.headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let wanted = tokens.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    wanted
        && parts.version == Version::HTTP_11
        && parts.headers.get(header::UPGRADE).is_some_and(|of| {
            // Requests that follow would go past all rules; h2c (RFC 7540, 3.2) was taken back by RFC 9113 besides.
            let mut protocols = of.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            protocols.all(|protocol| {
                let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default().trim_ascii();
                let begin = name.get(..2).map(<[u8]>::to_ascii_lowercase);
                !matches!(begin.as_deref(), Some(b"h2" | b"h3"))
                    && !HTTP.iter().any(|http| name.eq_ignore_ascii_case(http.as_bytes()))
            })
        })
        && parts.headers.get_all(header::UPGRADE).iter().count() == 1
}

/// Takes out what is about one connection, and what it names as such.
pub fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|token| HeaderName::try_from(token.trim()).ok())
        .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH)
        .collect();
    // gRPC asks for trailers by it; no other coding passes an intermediary.
    let codings = headers.get_all(header::TE).iter().filter_map(|value| value.to_str().ok());
    let trailers = codings.flat_map(|value| value.split(',')).any(|te| te.trim().eq_ignore_ascii_case("trailers"));
    named.iter().chain(&HOP_BY_HOP).for_each(|name| drop(headers.remove(name)));
    headers.remove(header::TE);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// How a request is spoken.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub version: pool::Version,
    /// Over TLS.
    pub secure: bool,
    pub upgrades: bool,
}

/// The request's form for HTTP/1.1 (origin form and Host) or HTTP/2 (everything in the URI).
pub fn address(parts: &mut Parts, authority: &Authority, path: PathAndQuery, form: Form) {
    parts.headers.remove(header::HOST);
    let mut uri = http::uri::Parts::default();
    if form.version == pool::Version::Http2 {
        uri.scheme = Some(if form.secure { Scheme::HTTPS } else { Scheme::HTTP });
        uri.authority = Some(authority.clone());
        uri.path_and_query = Some(path);
        parts.version = Version::HTTP_2;
    } else {
        if parts.method == Method::CONNECT {
            uri.authority = Some(authority.clone());
        } else {
            uri.path_and_query = Some(path);
        }
        parts.version = Version::HTTP_11;
        let host = HeaderValue::try_from(authority.as_str()).expect("an authority has visible characters only");
        parts.headers.insert(header::HOST, host);
        if form.upgrades && parts.method != Method::CONNECT {
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        }
    }
    parts.uri = Uri::from_parts(uri).expect("scheme, authority and path together, or one of them alone");
}
