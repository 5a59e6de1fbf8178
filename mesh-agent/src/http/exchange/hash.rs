//! What of a request its endpoint is chosen by, where the same shall get the same.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::IpAddr,
};

use http::{HeaderMap, header};
use mesh_common::model::traffic::{Algorithm, HashOn};

use super::Understood;

/// `None`: the algorithm asks for none, or the request has nothing of it.
pub fn key(algorithm: &Algorithm, request: &Understood, client: IpAddr) -> Option<u64> {
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
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let texts = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = texts.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}
