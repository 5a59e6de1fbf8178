//! One reading of a request, and its form on another connection. What two servers could read differently is refused.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header,
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};

/// Headers that are about one connection (RFC 9110, 7.6.1), and those that some take for such.
const HOP_BY_HOP: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::UPGRADE,
];

/// Why a request is refused (400).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the request names no host, or more than one")]
    Host,
    #[error("Host and the request's own authority differ")]
    Authority,
    #[error("the length of the body is said more than once")]
    Length,
    #[error("the path has bytes that no path may have")]
    Path,
    #[error("a header has bytes that no header may have")]
    Header,
}

/// What is asked for, as it was understood.
#[derive(Clone, Debug)]
pub struct Asked {
    pub authority: Authority,
    /// The client wants another protocol on this connection.
    pub upgrades: bool,
}

/// Reads what a client sent. After it, `parts` has no headers that are about its connection.
pub fn read(parts: &mut Parts) -> Result<Asked, Malformed> {
    let asked = Asked { authority: authority(parts)?, upgrades: upgrades(parts) };
    check(parts)?;
    let upgrade = parts.headers.get(header::UPGRADE).cloned();
    strip(&mut parts.headers);
    if let (true, Some(upgrade)) = (asked.upgrades, upgrade) {
        parts.headers.insert(header::UPGRADE, upgrade);
    }
    // The agent itself says that the body may come.
    parts.headers.remove(header::EXPECT);
    Ok(asked)
}

fn authority(parts: &Parts) -> Result<Authority, Malformed> {
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
        (None, None) => return Err(Malformed::Host),
    };
    // Who they are is not said in an authority (RFC 9110, 4.2.4).
    if authority.as_str().contains('@') || authority.host().is_empty() { Err(Malformed::Host) } else { Ok(authority) }
}

fn check(parts: &Parts) -> Result<(), Malformed> {
    let lengths = parts.headers.get_all(header::CONTENT_LENGTH).iter().count();
    let chunked = parts.headers.contains_key(header::TRANSFER_ENCODING);
    if lengths > 1 || (lengths == 1 && chunked) || (chunked && parts.version == Version::HTTP_10) {
        return Err(Malformed::Length);
    }
    let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    // What `http` lets pass and servers read in their own ways.
    if path.bytes().any(|byte| byte <= b' ' || byte >= 0x7f || matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`'))
    {
        return Err(Malformed::Path);
    }
    let is_bad = |value: &HeaderValue| value.as_bytes().iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'));
    if parts.headers.values().any(is_bad) { Err(Malformed::Header) } else { Ok(()) }
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
            // h2c by upgrade (RFC 7540, 3.2) was taken back by RFC 9113, and would go past all rules.
            !of.as_bytes().eq_ignore_ascii_case(b"h2c")
        })
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
    named.iter().chain(&HOP_BY_HOP).for_each(|name| drop(headers.remove(name)));
    // gRPC asks for trailers by it; no other coding passes an intermediary.
    let trailers = headers.get_all(header::TE).iter().any(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    headers.remove(header::TE);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// The request's form for HTTP/1.1 (origin form and Host) or HTTP/2 (everything in the URI).
pub fn address(parts: &mut Parts, authority: &Authority, path: PathAndQuery, http2: bool, upgrade: bool) {
    parts.headers.remove(header::HOST);
    let mut uri = http::uri::Parts::default();
    if http2 {
        uri.scheme = Some(Scheme::HTTP);
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
        if upgrade && parts.method != Method::CONNECT {
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        }
    }
    parts.uri = Uri::from_parts(uri).expect("scheme, authority and path together, or one of them alone");
}
