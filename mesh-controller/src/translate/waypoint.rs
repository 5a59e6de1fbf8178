//! Which waypoint of Istio's ambient mode somebody says that they use. Nobody here runs one: what a policy asks of a
//! waypoint, the agents of the workloads behind it do themselves.

use super::Labels;

pub const USE: &str = "istio.io/use-waypoint";
const OF_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
/// In place of a name: none.
const NONE: &str = "none";
/// The class of every waypoint.
pub const CLASS: &str = "istio-waypoint";
/// Of the Gateway API's kinds.
pub const GROUP: &str = "gateway.networking.k8s.io";

/// What labels say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Waypoint {
    /// Whatever holds for all of the namespace.
    #[default]
    Unsaid,
    None,
    Uses {
        /// `None`: its own.
        namespace: Option<String>,
        name: String,
    },
}

impl Waypoint {
    pub fn of(labels: Option<&Labels>) -> Self {
        let label = |name| labels.and_then(|labels| labels.get(name)).filter(|value| !value.is_empty());
        match label(USE) {
            None => Self::Unsaid,
            Some(name) if name == NONE => Self::None,
            Some(name) => Self::Uses { namespace: label(OF_NAMESPACE).cloned(), name: name.clone() },
        }
    }

    /// Namespace and name, for somebody of this namespace, of which all else is as `namespaces` says.
    pub fn or<'a>(&'a self, namespaces: &'a Self, own: &'a str) -> Option<(&'a str, &'a str)> {
        match if *self == Self::Unsaid { namespaces } else { self } {
            Self::Uses { namespace, name } => Some((namespace.as_deref().unwrap_or(own), name)),
            Self::Unsaid | Self::None => None,
        }
    }
}
