//! Where the configuration comes from. A source yields the full set of its objects, again after every change; what
//! they mean is decided in `translate`.

mod custom;
mod directory;
mod documents;
mod kubernetes;

pub use custom::{Custom, CustomKind};
pub use directory::{Directory, manifests};
pub use documents::object;
#[cfg(test)]
pub use documents::parse;
#[cfg(test)]
pub use kubernetes::tests::RealApi;
pub use kubernetes::{Kubernetes, Standing, Standings, client};

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use k8s_openapi::{
    api::{
        core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};

use crate::{
    jwks::Sets,
    status::{Fault, Problem},
};

const POD: &str = "Pod";
const SERVICE_ACCOUNT: &str = "ServiceAccount";

/// Everything that a source knows at one moment.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// No two have the same key.
    pub objects: Arc<Vec<Arc<Object>>>,
    pub problems: Vec<Problem>,
    /// What may be there besides `objects`.
    pub hidden: Hidden,
    /// The source says which ServiceAccounts exist: all are among `objects`, and there are no others.
    pub has_accounts: bool,
    /// The time for which all this is read.
    pub now: Timestamp,
    /// Key sets of issuers of tokens, as far as they were fetched. No source says them.
    pub key_sets: Arc<Sets>,
}

/// Pods of which the source cannot tell whether they are gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hidden {
    /// A file or folder cannot be read: any pod may be in there.
    pub any: bool,
    /// Pods that are there, but cannot be read.
    pub pods: BTreeSet<Key>,
}

/// One object, and where it was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Relative to the source's folder; empty for an object of a Kubernetes API.
    pub file: String,
    pub kind: Kind,
    pub origin: Origin,
}

/// In which version of an object it came to say what it says, and who wrote that: of policies and namespaces of a
/// Kubernetes API. It is no part of what an object says: two that differ in it alone are equal.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    pub resource_version: Option<String>,
    /// The program that wrote the newest of it, but for its status, as `managedFields` name it.
    pub manager: Option<String>,
}

impl PartialEq for Origin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// The kinds that are read.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Namespace(Box<Namespace>),
    Node(Box<Node>),
    Pod(Box<Pod>),
    Service(Box<Service>),
    ServiceAccount(Box<ServiceAccount>),
    /// One that may be the mesh's own settings.
    ConfigMap(Box<ConfigMap>),
    EndpointSlice(Box<EndpointSlice>),
    Custom(CustomKind, Box<Custom>),
}

/// What makes an object that object, whatever it says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub kind: String,
    /// Empty for kinds without namespace.
    pub namespace: String,
    pub name: String,
}

impl Object {
    pub fn metadata(&self) -> &ObjectMeta {
        match &self.kind {
            Kind::Namespace(object) => &object.metadata,
            Kind::Node(object) => &object.metadata,
            Kind::Pod(object) => &object.metadata,
            Kind::Service(object) => &object.metadata,
            Kind::ServiceAccount(object) => &object.metadata,
            Kind::ConfigMap(object) => &object.metadata,
            Kind::EndpointSlice(object) => &object.metadata,
            Kind::Custom(_, object) => &object.metadata,
        }
    }

    pub fn key(&self) -> Key {
        let metadata = self.metadata();
        Key {
            kind: self.kind_name().to_owned(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }

    fn kind_name(&self) -> &'static str {
        match &self.kind {
            Kind::Namespace(_) => "Namespace",
            Kind::Node(_) => "Node",
            Kind::Pod(_) => POD,
            Kind::Service(_) => "Service",
            Kind::ServiceAccount(_) => SERVICE_ACCOUNT,
            Kind::ConfigMap(_) => "ConfigMap",
            Kind::EndpointSlice(_) => "EndpointSlice",
            Kind::Custom(kind, _) => kind.kind(),
        }
    }

    /// The fault as its author must hear it.
    pub fn problem(&self, fault: Fault) -> Problem {
        Problem {
            file: self.file.clone(),
            object: self.key().to_string(),
            field: fault.field,
            why: fault.why,
            extent: fault.extent,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            // Of something that is no object.
            _ if self.name.is_empty() => f.write_str(&self.kind),
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

impl Key {
    pub fn pod(namespace: &str, name: &str) -> Self {
        Self { kind: POD.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn is_pod(&self) -> bool {
        self.kind == POD
    }

    fn is_account(&self) -> bool {
        self.kind == SERVICE_ACCOUNT
    }
}

impl Hidden {
    /// Whether a pod that is not among the objects may be there all the same.
    pub fn may_hide(&self, namespace: &str, name: &str) -> bool {
        self.any || self.pods.contains(&Key::pod(namespace, name))
    }
}

impl Update {
    /// Of several objects with one key, the first is kept and the others are reported. Nothing is hidden. Which
    /// ServiceAccounts exist is said if there is one.
    pub fn new(objects: impl IntoIterator<Item = Arc<Object>>, mut problems: Vec<Problem>) -> Self {
        let mut kept: BTreeMap<Key, Arc<Object>> = BTreeMap::new();
        for object in objects {
            match kept.get(&object.key()) {
                Some(first) => {
                    let why = format!("is defined in {} already; this one is not read", first.file);
                    problems.push(object.problem(Fault::new("", why)));
                }
                None => {
                    kept.insert(object.key(), object);
                }
            }
        }
        let has_accounts = kept.keys().any(Key::is_account);
        Self {
            objects: Arc::new(kept.into_values().collect()),
            problems,
            hidden: Hidden::default(),
            has_accounts,
            now: Timestamp::now(),
            key_sets: Arc::default(),
        }
    }
}
