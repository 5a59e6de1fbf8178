//! `PeerAuthentication` -> which clients without a mesh identity a workload takes. One that cannot be read counts as
//! STRICT for what it selects: a slip of the pen must not open a port to plaintext.

use std::collections::BTreeMap;

use mesh_common::model::{Action, Clause, Match, Policy, PolicyName, Rule, Scope, StringMatch};
use serde::Deserialize;

use super::{Labels, Selector, Settings, created, selects};
use crate::{
    source::Custom,
    status::{Extent, Fault, read},
};

/// What one object asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAuthentication {
    pub namespace: String,
    pub name: String,
    /// Seconds since 1970.
    pub created: i64,
    /// `None`: the whole namespace, or the whole mesh in the root namespace.
    pub selector: Option<Labels>,
    pub mode: Mtls,
    /// By the workload's own port.
    pub ports: BTreeMap<u16, Mtls>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Mtls {
    /// As the next wider object says.
    #[default]
    Unset,
    /// Neither offered nor asked for. To a node agent it is the same as PERMISSIVE: it never refuses a mesh identity.
    Disable,
    Permissive,
    Strict,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Spec {
    selector: Option<Selector>,
    mtls: Option<Mode>,
    port_level_mtls: Option<BTreeMap<String, Mode>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mode {
    #[serde(default)]
    mode: Mtls,
}

/// Reads one object; what is wrong with it is added to `faults`.
pub fn peer_authentication(object: &Custom, faults: &mut Vec<Fault>) -> PeerAuthentication {
    let Custom { metadata, spec, fault } = object;
    let mut read_as = PeerAuthentication {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        created: created(metadata),
        selector: None,
        mode: Mtls::Unset,
        ports: BTreeMap::new(),
    };
    let wrong = match (fault, parse(spec)) {
        (None, Ok((selector, mode, ports))) => {
            (read_as.selector, read_as.mode, read_as.ports) = (selector, mode, ports);
            return read_as;
        }
        (Some(fault), _) => fault.clone(),
        (None, Err(fault)) => fault,
    };
    read_as.selector = spec.get("selector").cloned().and_then(|s| read::<Selector>(s).ok()).and_then(Selector::labels);
    read_as.mode = Mtls::Strict;
    let why = format!("{}; until that is mended it counts as STRICT", wrong.why);
    faults.push(Fault { field: wrong.field, why, extent: Extent::Whole });
    read_as
}

type Parts = (Option<Labels>, Mtls, BTreeMap<u16, Mtls>);

fn parse(spec: &serde_json::Value) -> Result<Parts, Fault> {
    if spec.is_null() {
        return Ok((None, Mtls::Unset, BTreeMap::new()));
    }
    let Spec { selector, mtls, port_level_mtls } = read(spec.clone()).map_err(|fault| fault.within("spec"))?;
    let selector = selector.and_then(Selector::labels);
    let mut ports = BTreeMap::new();
    for (text, Mode { mode }) in port_level_mtls.unwrap_or_default() {
        let field = || format!("spec.portLevelMtls[{text}]");
        if selector.is_none() {
            return Err(Fault::new(field(), "needs a selector: ports belong to workloads"));
        }
        let port = text.parse::<u16>().ok().filter(|port| *port != 0);
        ports.insert(port.ok_or_else(|| Fault::new(field(), "is not a port (1 to 65535)"))?, mode);
    }
    Ok((selector, mtls.unwrap_or_default().mode, ports))
}

/// Every PeerAuthentication of the mesh, by the order in which they win.
#[derive(Clone, Debug, Default)]
pub struct Modes {
    root_namespace: String,
    all: Vec<PeerAuthentication>,
}

/// What holds for one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effective {
    Permissive,
    /// On every port.
    Strict,
    /// Some ports differ from the rest: the policy of this PeerAuthentication.
    ByPort(PolicyName),
}

impl Modes {
    /// Of several for the same workload the oldest wins, then the first by name.
    pub fn new(settings: &Settings, mut all: Vec<PeerAuthentication>) -> Self {
        all.sort_by(|a, b| (a.created, &a.name, &a.namespace).cmp(&(b.created, &b.name, &b.namespace)));
        Self { root_namespace: settings.root_namespace.clone(), all }
    }

    /// The one that holds for a whole namespace (or, for the root namespace, the mesh).
    pub fn of_namespace(&self, namespace: &str) -> Option<&PeerAuthentication> {
        self.all.iter().find(|p| p.namespace == namespace && p.selector.is_none())
    }

    fn inherited(&self, namespace: &str) -> Mtls {
        let mode = |namespace: &str| self.of_namespace(namespace).map(|p| p.mode).filter(|mode| *mode != Mtls::Unset);
        mode(namespace).or_else(|| mode(&self.root_namespace)).unwrap_or(Mtls::Permissive)
    }

    /// What holds for the workload with these labels.
    pub fn effective(&self, namespace: &str, labels: &Labels) -> Effective {
        let inherited = self.inherited(namespace);
        let own = self
            .all
            .iter()
            .find(|p| p.namespace == namespace && p.selector.as_ref().is_some_and(|wanted| selects(wanted, labels)));
        let base = own.map_or(inherited, |p| p.mode.or(inherited));
        match own {
            Some(own) if own.exceptions(base).next().is_some() => Effective::ByPort(own.policy_name()),
            _ if base.is_strict() => Effective::Strict,
            _ => Effective::Permissive,
        }
    }

    /// The object by which the workload with these labels asks for a mesh identity, on some port at least.
    pub fn strict_by(&self, namespace: &str, labels: &Labels) -> Option<PolicyName> {
        let selecting = |p: &&PeerAuthentication| {
            p.namespace == namespace && p.selector.as_ref().is_some_and(|w| selects(w, labels))
        };
        let own = self.all.iter().find(selecting);
        let wider = [self.of_namespace(namespace), self.of_namespace(&self.root_namespace)];
        // Strict itself or by a port of its own; otherwise the first wider one that says anything must be.
        let by = match own {
            Some(own) if own.mode.is_strict() || own.ports.values().any(|mode| mode.is_strict()) => Some(own),
            Some(own) if own.mode != Mtls::Unset => None,
            _ => wider.into_iter().flatten().find(|p| p.mode != Mtls::Unset).filter(|p| p.mode.is_strict()),
        };
        by.map(|p| PolicyName { namespace: p.namespace.clone(), name: p.name.clone() })
    }

    /// The policies that [`Effective`] speaks of. They travel in this form in the ambient ecosystem.
    pub fn policies(&self) -> Vec<Policy> {
        let fixed = PolicyName { namespace: self.root_namespace.clone(), name: Policy::STRICT_STATIC.to_owned() };
        let mut policies = vec![strict(fixed, Match::default())];
        for own in self.all.iter().filter(|p| p.selector.is_some()) {
            let base = own.mode.or(self.inherited(&own.namespace));
            let ports: Vec<u16> = own.exceptions(base).collect();
            if ports.is_empty() {
                continue;
            }
            let scope = if base.is_strict() {
                Match { not_destination_ports: ports, ..Match::default() }
            } else {
                Match { destination_ports: ports, ..Match::default() }
            };
            policies.push(strict(own.policy_name(), scope));
        }
        policies
    }
}

/// Refuses clients without identity where `scope` matches.
fn strict(name: PolicyName, scope: Match) -> Policy {
    let anonymous = Match { not_principals: vec![StringMatch::Presence], ..Match::default() };
    let clauses = [anonymous, scope].into_iter().filter(|m| *m != Match::default());
    Policy {
        name,
        scope: Scope::WorkloadSelector,
        action: Action::Deny,
        rules: vec![Rule { clauses: clauses.map(|m| Clause { matches: vec![m] }).collect() }],
        dry_run: false,
    }
}

impl Mtls {
    fn or(self, inherited: Self) -> Self {
        if self == Self::Unset { inherited } else { self }
    }

    fn is_strict(self) -> bool {
        self == Self::Strict
    }
}

impl PeerAuthentication {
    /// The ports that differ from `base`.
    fn exceptions(&self, base: Mtls) -> impl Iterator<Item = u16> {
        let differs = move |mode: Mtls| mode.or(base).is_strict() != base.is_strict();
        self.ports.iter().filter(move |(_, mode)| differs(**mode)).map(|(port, _)| *port)
    }

    fn policy_name(&self) -> PolicyName {
        PolicyName { namespace: self.namespace.clone(), name: format!("{}{}", Policy::STRICT_PREFIX, self.name) }
    }
}
