//! What of a request its endpoint is chosen by, where the same shall get the same.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::IpAddr,
};

use http::{HeaderMap, HeaderValue, header};
use mesh_common::model::traffic::{Algorithm, HashOn};

use super::Understood;

/// What keeps a client at an endpoint.
#[derive(Debug, Default)]
pub struct Sticky {
    pub key: Option<u64>,
    /// For the client to keep: it had none.
    pub cookie: Option<HeaderValue>,
}

impl Sticky {
    pub fn of(algorithm: &Algorithm, request: &Understood, client: IpAddr) -> Self {
        let key = key(algorithm, request, client);
        match algorithm {
            Algorithm::Hash(HashOn::Cookie { name, path, ttl: Some(ttl) }) if key.is_none() => {
                let value = format!("{:016x}", fastrand::u64(..));
                let key = Some(hashed(value.as_bytes()));
                // In whole seconds; 0 would take the cookie away at once.
                let age = Some(ttl.0.div_ceil(1000)).filter(|age| *age > 0).map(|age| format!("; Max-Age={age}"));
                let path = path.as_ref().map(|path| format!("; Path={path}"));
                let [age, path] = [age, path].map(Option::unwrap_or_default);
                Self { key, cookie: HeaderValue::try_from(format!("{name}={value}{age}{path}; HttpOnly")).ok() }
            }
            _ => Self { key, cookie: None },
        }
    }
}

/// `None`: the algorithm asks for none, or the request has nothing of it.
fn key(algorithm: &Algorithm, request: &Understood, client: IpAddr) -> Option<u64> {
    let Algorithm::Hash(on) = algorithm else { return None };
    let headers = &request.parts.headers;
    match on {
        HashOn::Header(name) => headers.get(name).map(|value| hashed(value.as_bytes())),
        HashOn::Query(name) => parameter(request.parts.uri.query()?, name).map(|value| hashed(value.as_bytes())),
        HashOn::SourceIp => Some(hashed(client.to_string().as_bytes())),
        HashOn::Cookie { name, .. } => cookie(headers, name).map(|value| hashed(value.as_bytes())),
    }
}

/// The same in every agent of one build.
fn hashed(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(key, _)| *key == name)
        .map(|(_, v)| v)
}

/// RFC 6265, 4.2.1.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let texts = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = texts.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}
