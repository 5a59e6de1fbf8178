//! `targetRefs` -> the services and waypoints whose workloads a policy is about.

use serde_json::Value;

use super::{conditions::quoted, spec::TargetRef};
use crate::{
    names,
    status::{Extent, Fault, read},
    translate::waypoint::GROUP,
};

/// As the kind has it.
const TARGETS: usize = 16;
const ISTIO_GROUP: &str = "networking.istio.io";

/// What is not refused: a service or gateway in the policy's own namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As in `spec.targetRefs[0]`.
    pub field: String,
    pub kind: Kind,
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Service,
    ServiceEntry,
    /// A waypoint, as far as it is of somebody here.
    Gateway,
    GatewayClass,
}

impl Kind {
    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::ServiceEntry => "ServiceEntry",
            Self::Gateway => "Gateway",
            Self::GatewayClass => "GatewayClass",
        }
    }
}

/// `None`: there are none. What is left out is added to `faults`.
///
/// # Errors
/// If it cannot be known, or be honoured, whom the policy is about.
pub fn targets(
    own: &str,
    has_selector: bool,
    one: Option<Value>,
    list: Option<Value>,
    faults: &mut Vec<Fault>,
) -> Result<Option<Vec<Target>>, Fault> {
    const LIST: &str = "spec.targetRefs";
    let list = match list {
        None => Vec::new(),
        Some(Value::Array(list)) if list.len() <= TARGETS => list,
        Some(Value::Array(list)) => {
            return Err(Fault::new(LIST, format_args!("has {} items, {TARGETS} are the most", list.len())));
        }
        Some(_) => return Err(Fault::new(LIST, "is no list")),
    };
    let field = if list.is_empty() { "spec.targetRef" } else { LIST };
    if !list.is_empty() && one.is_some() {
        return Err(Fault::new("spec.targetRef", "stands beside `targetRefs`, only one of them may"));
    }
    let one = one.into_iter().map(|value| (field.to_owned(), value));
    let all: Vec<_> =
        one.chain(list.into_iter().enumerate().map(|(i, value)| (format!("{LIST}[{i}]"), value))).collect();
    if all.is_empty() {
        return Ok(None);
    }
    if has_selector {
        return Err(Fault::new(field, "stands beside `selector`, only one of them may"));
    }
    let mut found: Vec<Target> = Vec::new();
    let mut others = Vec::new();
    for (field, value) in all {
        let (target, namespace) = target(field, value)?;
        match namespace.filter(|namespace| !namespace.is_empty() && namespace != own) {
            Some(_) => others.push(Fault::new(
                format!("{}.namespace", target.field),
                format_args!("is not the policy's own namespace, {own}; this target is left out"),
            )),
            None => found.push(target),
        }
    }
    if found.is_empty() {
        let nobody = |fault: Fault| Fault { why: format!("{}, and the policy holds for nobody", fault.why), ..fault };
        others = others.into_iter().map(|fault| nobody(fault).of_extent(Extent::Whole)).collect();
    }
    faults.append(&mut others);
    Ok(Some(found))
}

fn target(field: String, value: Value) -> Result<(Target, Option<String>), Fault> {
    let TargetRef { group, kind, name, namespace } = read(value).map_err(|fault: Fault| fault.within(&field))?;
    let kind = match (group.as_deref().unwrap_or_default(), kind.as_deref().unwrap_or_default()) {
        ("" | "core", "Service") => Kind::Service,
        (ISTIO_GROUP, "ServiceEntry") => Kind::ServiceEntry,
        (GROUP, "Gateway") => Kind::Gateway,
        (GROUP, "GatewayClass") => Kind::GatewayClass,
        (_, "") => return Err(Fault::new(format!("{field}.kind"), "is missing")),
        (group, kind) => {
            let (group, kind) = (quoted(group), quoted(kind));
            let why = format!(
                "{kind} of group {group} is neither Service of the core group, ServiceEntry of {ISTIO_GROUP} nor a gateway \
                 of {GROUP}"
            );
            return Err(Fault::new(format!("{field}.kind"), why));
        }
    };
    let name = name.unwrap_or_default();
    let known = if kind == Kind::Service { names::label(&name) } else { names::subdomain(&name) };
    if known.is_err() {
        return Err(Fault::new(format!("{field}.name"), format_args!("{} is no name of one", quoted(&name))));
    }
    Ok((Target { field, kind, name }, namespace))
}
