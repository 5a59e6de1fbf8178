//! How much rules may become. What one object says is copied to every service that it names, and there to every group
//! of clients that something sets apart; all agents hold all of it. So it is the copies that are bounded.
//!
//! Whoever makes copies pays for them: an object for those of its own rules, and who sets clients apart for those of
//! the rules that these have in common with others. Nobody's rules are left out for what another namespace says.

use std::{collections::BTreeMap, fmt, ops};

use mesh_common::model::traffic::{HttpRoute, PathMatch, RequestMatch, Routes, TextMatch};
use serde::Serialize;

use crate::source::Key;

/// What rules weigh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    pub rules: usize,
    /// Regular expressions among their conditions.
    pub patterns: usize,
    /// As an agent is told of them.
    pub bytes: usize,
}

/// One list, for one group of clients: an agent finds its way through so many rules, and takes no more than 4096
/// different regular expressions in one list. As bytes it may be a whole resource.
pub const LIST: Cost = Cost { rules: RULES, patterns: PATTERNS, bytes: SERVICE.bytes };
pub const RULES: usize = 10_000;
pub const PATTERNS: usize = 4_000;
/// All lists of one service, which are one resource: twice a full list, so that a full list may be told with some
/// clients set apart. Its bytes are an eighth of the largest message that an agent takes (128 MiB): a resource cannot
/// be told in parts.
pub const SERVICE: Cost = Cost { rules: 20_000, patterns: 8_000, bytes: 16 << 20 };
/// Groups of clients that one service is told for: an agent looks through them one by one, for each client.
pub const GROUPS: usize = 1_000;
/// All copies that one object makes: ten rules for each of 5,000 services. An agent compiles each regular expression
/// of each copy, which takes some ten microseconds and kilobytes: 10,000 are a tenth of a second and 100 MB.
pub const OBJECT: Cost = Cost { rules: 50_000, patterns: 10_000, bytes: 32 << 20 };
/// All copies that the objects of one namespace make: those of some full objects.
pub const NAMESPACE: Cost = Cost { rules: 200_000, patterns: 20_000, bytes: 64 << 20 };

/// Which bound there is no room in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    List,
    Service,
    Groups,
    Object,
    Namespace,
}

/// What has been paid for.
#[derive(Debug, Default)]
pub struct Ledger {
    objects: BTreeMap<Key, Cost>,
    namespaces: BTreeMap<String, Cost>,
}

impl Bound {
    fn most(self) -> Cost {
        match self {
            Self::List => LIST,
            Self::Service | Self::Groups => SERVICE,
            Self::Object => OBJECT,
            Self::Namespace => NAMESPACE,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Groups => return write!(f, "of one service {GROUPS} groups of clients may be told different things"),
            Self::List => "all that is said of one service to one group of clients",
            Self::Service => "all that is said of one service",
            Self::Object => "what one object says, for each service and each group of clients,",
            Self::Namespace => "what the objects of one namespace say, for each service and each group of clients,",
        };
        let Cost { rules, patterns, bytes } = self.most();
        write!(f, "{what} may have {rules} rules, {patterns} regular expressions and {bytes} bytes")
    }
}

impl Cost {
    pub fn of(routes: &Routes) -> Self {
        let Routes { http, faults, tls, tcp } = routes;
        Self {
            rules: http.len() + faults.len() + tls.len() + tcp.len(),
            patterns: http.iter().map(patterns).sum::<usize>()
                + faults.iter().flat_map(|fault| &fault.matches).map(expressions).sum::<usize>(),
            bytes: bytes(routes),
        }
    }

    /// What of it is more than that.
    pub fn beyond(self, other: Self) -> Self {
        Self {
            rules: self.rules.saturating_sub(other.rules),
            patterns: self.patterns.saturating_sub(other.patterns),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    /// # Errors
    /// If it is more.
    pub fn within(self, bound: Bound) -> Result<Self, Bound> {
        let most = bound.most();
        let fits = self.rules <= most.rules && self.patterns <= most.patterns && self.bytes <= most.bytes;
        if fits { Ok(self) } else { Err(bound) }
    }
}

impl ops::Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            rules: self.rules.saturating_add(other.rules),
            patterns: self.patterns.saturating_add(other.patterns),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

impl ops::Mul<usize> for Cost {
    type Output = Self;

    fn mul(self, times: usize) -> Self {
        Self {
            rules: self.rules.saturating_mul(times),
            patterns: self.patterns.saturating_mul(times),
            bytes: self.bytes.saturating_mul(times),
        }
    }
}

impl Ledger {
    /// # Errors
    /// If there is no room; then nothing is paid.
    pub fn pay(&mut self, object: &Key, cost: Cost) -> Result<(), Bound> {
        let paid = self.objects.get(object).copied().unwrap_or_default();
        let of_object = (paid + cost).within(Bound::Object)?;
        let paid = self.namespaces.get(&object.namespace).copied().unwrap_or_default();
        let of_namespace = (paid + cost).within(Bound::Namespace)?;
        self.objects.insert(object.clone(), of_object);
        self.namespaces.insert(object.namespace.clone(), of_namespace);
        Ok(())
    }
}

/// As [`mesh_common::proto`] writes it: JSON.
pub fn bytes(value: &impl Serialize) -> usize {
    // What cannot be written cannot be told either: there is no room for it.
    serde_json::to_string(value).map_or(usize::MAX, |text| text.len())
}

fn patterns(route: &HttpRoute) -> usize {
    route.matches.iter().map(expressions).sum()
}

/// How many regular expressions there are in a condition.
pub fn expressions(matched: &RequestMatch) -> usize {
    let is_regex = |text: &TextMatch| usize::from(matches!(text, TextMatch::Regex(_)));
    let path = usize::from(matches!(matched.path, Some(PathMatch::Regex(_))));
    let texts = [&matched.method, &matched.scheme, &matched.authority].into_iter().flatten();
    let headers = matched.headers.iter().map(|header| &header.value);
    let texts = texts.chain(headers).chain(matched.query.iter().map(|query| &query.value));
    path + texts.map(is_regex).sum::<usize>()
}
