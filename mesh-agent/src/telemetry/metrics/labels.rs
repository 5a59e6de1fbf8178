//! The labels of Istio's standard metrics: borrowed from a record, so that a lookup makes no text, and owned by a set
//! of series. <https://istio.io/latest/docs/reference/config/metrics/>

use std::{
    fmt::Write as _,
    hash::{Hash, Hasher},
};

use mesh_common::model::{Identity, ServiceName};

use super::text::escape;
use crate::telemetry::flow::{Direction, Security};

/// In the order in which they are told. No text that a client chose is among them: no method, path or host.
pub const NAMES: [&str; 25] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
];

const REPORTER: usize = 0;
const SOURCE: usize = 1;
const DESTINATION: usize = 9;
/// Within an end.
const PRINCIPAL: usize = 4;
const SERVICE: usize = 17;
const PROTOCOL: usize = 20;
const CODE: usize = 21;
const GRPC: usize = 22;
const FLAGS: usize = 23;
const SECURITY: usize = 24;

/// What Istio says where something is not known.
const UNKNOWN: &str = "unknown";
/// What stands in place of all that is beyond the bound.
const OVERFLOW: &str = "overflow";

/// Labels that a metric does not have, by their place in [`NAMES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Removed(u32);

/// One end of a connection or request. Empty texts are not known.
#[derive(Clone, Copy, Debug, Default)]
pub struct End<'a> {
    pub workload: &'a str,
    pub namespace: &'a str,
    pub canonical_service: &'a str,
    pub canonical_revision: &'a str,
    pub cluster: &'a str,
    pub principal: Option<&'a Identity>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Http,
    Grpc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Code {
    /// Connections have none.
    None,
    Exact(u16),
    /// By hundreds, where all that is beyond the bound is one.
    Class(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labels<'a> {
    texts: [&'a str; NAMES.len()],
    principals: [Option<&'a Identity>; 2],
    code: Code,
    grpc: Option<u32>,
    removed: Removed,
    overflow: bool,
}

/// The same, kept.
#[derive(Debug)]
pub struct Owned {
    texts: [Box<str>; NAMES.len()],
    principals: [Option<Identity>; 2],
    code: Code,
    grpc: Option<u32>,
    removed: Removed,
    overflow: bool,
}

impl Removed {
    /// Names that are no labels are nobody's.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a String>) -> Self {
        let place = |name: &String| NAMES.iter().position(|known| known == name);
        Self(names.into_iter().filter_map(place).fold(0, |bits, place| bits | 1 << place))
    }

    /// All but those that every metric of the mesh's own about two workloads has.
    pub fn but_workloads() -> Self {
        let kept = [REPORTER, SOURCE, SOURCE + 3, DESTINATION, DESTINATION + 3];
        Self(kept.into_iter().fold((1 << NAMES.len()) - 1, |bits, place| bits & !(1 << place)))
    }

    fn has(self, place: usize) -> bool {
        self.0 & 1 << place != 0
    }
}

fn known(text: &str) -> &str {
    if text.is_empty() { UNKNOWN } else { text }
}

/// As Istio has it: of a service of the cluster the first part of its name, otherwise the whole name.
fn short(service: &ServiceName) -> &str {
    match service.hostname.split_once('.') {
        Some((name, rest)) if rest.strip_prefix(&*service.namespace).is_some_and(|rest| rest.starts_with(".svc")) => {
            name
        }
        _ => &service.hostname,
    }
}

impl<'a> Labels<'a> {
    pub fn new(
        reporter: Direction,
        source: End<'a>,
        destination: End<'a>,
        service: Option<&'a ServiceName>,
        protocol: Protocol,
        flags: &'a str,
        security: Security,
    ) -> Self {
        let mut texts = [""; NAMES.len()];
        texts[REPORTER] = reporter.reporter();
        for (at, end) in [(SOURCE, source), (DESTINATION, destination)] {
            let End { workload, namespace, canonical_service, canonical_revision, cluster, principal: _ } = end;
            // A workload without a version is the latest one to Istio.
            let revision =
                if canonical_revision.is_empty() && !workload.is_empty() { "latest" } else { canonical_revision };
            let values = [workload, canonical_service, revision, namespace, "", canonical_service, revision, cluster];
            for (place, value) in values.into_iter().enumerate().filter(|(place, _)| *place != PRINCIPAL) {
                texts[at + place] = known(value);
            }
        }
        let service = service.map_or([UNKNOWN; 3], |service| [&*service.hostname, short(service), &*service.namespace]);
        texts[SERVICE..SERVICE + 3].copy_from_slice(&service);
        texts[PROTOCOL] = match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Http => "http",
            Protocol::Grpc => "grpc",
        };
        texts[FLAGS] = flags;
        // Of both reporters, other than Istio, whose client side says "unknown": this agent knows what it dialled, and
        // the way within a node has no second reporter. Only where TLS was on the wire it is `mutual_tls`, which is all
        // that Kiali counts as such.
        texts[SECURITY] = security.name();
        let principals = [source.principal, destination.principal];
        Self { texts, principals, code: Code::None, grpc: None, removed: Removed::default(), overflow: false }
    }

    /// Of a request; 0: there was no answer.
    pub fn answered(self, code: u16, grpc: Option<u32>) -> Self {
        Self { code: Code::Exact(code), grpc, ..self }
    }

    /// Two sets of labels that are told alike are equal: what is not told is not there.
    pub fn without(mut self, removed: Removed) -> Self {
        if removed == Removed::default() {
            return self;
        }
        let mut bits = removed.0;
        for place in (0..NAMES.len()).filter(|place| removed.has(*place)) {
            self.texts[place] = "";
        }
        for (number, at) in [SOURCE, DESTINATION].into_iter().enumerate() {
            if removed.has(at + PRINCIPAL) {
                self.principals[number] = None;
            }
        }
        if removed.has(CODE) {
            self.code = Code::None;
        }
        if removed.has(GRPC) || self.grpc.is_none() {
            self.grpc = None;
            bits &= !(1 << GRPC);
        }
        if self.code == Code::None {
            bits &= !(1 << CODE);
        }
        Self { removed: Removed(bits), ..self }
    }

    /// The set of all that is beyond the bound and alike in what few labels tell.
    pub fn overflowed(self) -> Self {
        let mut texts = [OVERFLOW; NAMES.len()];
        for place in [REPORTER, PROTOCOL, SECURITY] {
            texts[place] = self.texts[place];
        }
        let code = match self.code {
            Code::Exact(code) => Code::Class((code / 100).min(9)),
            code => code,
        };
        Self { texts, principals: [None; 2], code, grpc: None, removed: self.removed, overflow: true }
    }

    /// What tells most sets apart; equality looks at everything.
    pub fn hash_with<H: Hasher>(&self, mut state: H) -> u64 {
        let texts = &self.texts;
        for place in [REPORTER, PROTOCOL, SECURITY] {
            // Few are possible, each with a letter of its own.
            state.write_u8(texts[place].bytes().next().unwrap_or_default());
        }
        let long = [SOURCE, SOURCE + 3, DESTINATION, DESTINATION + 2, DESTINATION + 3, SERVICE, FLAGS];
        long.into_iter().for_each(|place| texts[place].hash(&mut state));
        (self.code, self.grpc, self.removed, self.overflow).hash(&mut state);
        state.finish()
    }

    pub fn kept(&self) -> Owned {
        Owned {
            texts: self.texts.map(Box::from),
            principals: self.principals.map(|principal| principal.cloned()),
            code: self.code,
            grpc: self.grpc,
            removed: self.removed,
            overflow: self.overflow,
        }
    }

    /// As Prometheus reads them, without braces.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(1024);
        for (place, name) in NAMES.into_iter().enumerate().filter(|(place, _)| !self.removed.has(*place)) {
            let at = text.len();
            if at > 0 {
                text.push(',');
            }
            let _ = write!(text, "{name}=\"");
            let value = text.len();
            match place {
                CODE => match self.code {
                    Code::None => {}
                    Code::Exact(code) => drop(write!(text, "{code}")),
                    Code::Class(class) => drop(write!(text, "{class}xx")),
                },
                GRPC => drop(self.grpc.map(|status| write!(text, "{status}"))),
                _ => match [SOURCE, DESTINATION].into_iter().position(|at| place == at + PRINCIPAL) {
                    Some(_) if self.overflow => text.push_str(OVERFLOW),
                    Some(number) => match self.principals[number] {
                        Some(identity) => escape(&mut text, &identity.to_string()),
                        None => text.push_str(UNKNOWN),
                    },
                    None => escape(&mut text, self.texts[place]),
                },
            }
            // What it has not is not told.
            if text.len() == value { text.truncate(at) } else { text.push('"') }
        }
        text
    }
}

impl Owned {
    pub fn is(&self, labels: &Labels<'_>) -> bool {
        let Self { texts, principals, code, grpc, removed, overflow } = self;
        (*code, *grpc, *removed, *overflow) == (labels.code, labels.grpc, labels.removed, labels.overflow)
            && texts.iter().zip(&labels.texts).all(|(own, other)| **own == **other)
            && principals.iter().zip(&labels.principals).all(|(own, other)| own.as_ref() == *other)
    }
}
