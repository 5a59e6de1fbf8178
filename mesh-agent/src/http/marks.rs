//! What a request is known by on its way: its id, and its place in a trace. Both are in headers that applications pass
//! on if they like; what is known of them is in the record.

use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_common::model::{
    telemetry::{Tag, Tracing},
    traffic::Percent,
};

use super::{HEADERS, record::OpenRequest};
use crate::telemetry::{
    Direction,
    trace::{self, Peer},
};

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Headers that agents may add, these and what they tell applications of their clients.
const ROOM: usize = 10;
/// Of an id that a client chose, bytes.
const LONGEST_ID: usize = 128;
/// Of traces that begin here, where only a collector is said.
const USUAL: Percent = Percent(10_000);
/// Of these no tag tells.
const SECRET: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "set-cookie"];

impl OpenRequest {
    /// Gives the request an id, if it has none that can be kept, and its place in a trace. To be called before anybody
    /// decides: what is decided is what is passed on. `peer` sent the request.
    pub fn mark(&self, headers: &mut HeaderMap, peer: Peer) {
        // Whoever reads it next takes no more headers than this agent does.
        let has_room = headers.len() + ROOM <= HEADERS;
        let id = self.identify(headers, has_room);
        if self.record().flows.is_off() {
            self.with(|_, http| http.request_id = Some(id));
            return;
        }
        let told = self.with(|flow, _| (flow.told.clone(), flow.direction));
        let Some((told, direction)) = told else { return };
        let none = Tracing::default();
        let settings = told.as_ref().map_or(&none, |pod| match direction {
            Direction::Outbound => &pod.telemetry.traced_client,
            Direction::Inbound => &pod.telemetry.traced_server,
        });
        let default = self.record().flows.traced();
        let ids = match default {
            // Who tells of no span must not stand between those of others.
            None if settings.collector.is_none() => trace::came(headers),
            _ if !has_room => trace::came(headers),
            default => trace::begin(headers, settings, default.unwrap_or(USUAL), || fastrand::u64(..), peer),
        };
        let tags = match ids {
            Some(ids) if ids.sampled && !settings.tags.is_empty() => tags(settings, headers),
            _ => Vec::new(),
        };
        self.with(|_, http| (http.request_id, http.trace, http.tags) = (Some(id), ids, tags));
        self.passes(headers);
    }

    /// The request's id: the client's, if it is a sane one, else one that is made here.
    fn identify(&self, headers: &mut HeaderMap, has_room: bool) -> String {
        let mut said = headers.get_all(REQUEST_ID).iter();
        let kept = match (said.next(), said.next()) {
            (Some(id), None) => id.to_str().ok().filter(|id| is_sane(id)).map(str::to_owned),
            _ => None,
        };
        kept.unwrap_or_else(|| {
            let made = uuid(fastrand::u128(..));
            // Digits and dashes are a header's value always.
            if let (true, Ok(value)) = (has_room, HeaderValue::from_str(&made)) {
                headers.insert(REQUEST_ID, value);
            }
            made
        })
    }
}

/// A token of visible characters: logs and other programs need not be afraid of it.
fn is_sane(id: &str) -> bool {
    (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Version 4 (RFC 9562, 5.4) of so much chance.
fn uuid(chance: u128) -> String {
    let bits = (chance & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

fn tags(settings: &Tracing, headers: &HeaderMap) -> Vec<(std::sync::Arc<str>, String)> {
    let value = |tag: &Tag| match tag {
        Tag::Literal(text) => Some(text.clone()),
        Tag::Header { name, .. } if SECRET.iter().any(|secret| name.eq_ignore_ascii_case(secret)) => None,
        Tag::Header { name, default } => {
            let said = headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            said.or_else(|| default.clone())
        }
    };
    settings.tags.iter().filter_map(|(name, tag)| Some((name.as_str().into(), value(tag)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_version_4() {
        for (chance, expected) in [
            (0, "00000000-0000-4000-8000-000000000000"),
            (u128::MAX, "ffffffff-ffff-4fff-bfff-ffffffffffff"),
            (0x0123_4567_89ab_cdef_0123_4567_89ab_cdef, "01234567-89ab-4def-8123-456789abcdef"),
        ] {
            assert_eq!(uuid(chance), expected);
        }
    }

    #[test]
    fn ids_that_could_be_something_else_are_not_kept() {
        let long = "x".repeat(LONGEST_ID + 1);
        for (id, sane) in [("7", true), ("a-b_c.d:e/f", true), ("", false), ("a b", false), ("a\tb", false)] {
            assert_eq!(is_sane(id), sane, "{id:?}");
        }
        assert!(is_sane(&long[1..]) && !is_sane(&long) && !is_sane("ä"));
    }
}
