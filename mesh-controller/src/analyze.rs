//! What the controller would say of files that are not on a cluster yet: they are read, translated and put together as
//! it does it, and told to nobody. What they speak of and is not among them cannot be looked at; that is said, and the
//! rest is looked at as if it were there. Beside a cluster's objects nothing is: what is not there does not exist.

mod change;
mod compiled;
mod difference;
mod references;
mod verdict;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::Arc,
};

use serde_json::Value;

pub use change::{Change, Current, Deleted, POLICIES, Unclear, Wanted, change};
pub use compiled::{Compiled, Target};
pub use difference::{Difference, PodDifference, ServiceDifference, difference};
pub use verdict::{Effect, Judged, Recorded, RecordedRequest, Said, TOKEN, judge};

pub use crate::translate::Settings;
use crate::{
    config,
    index::{Redirection, World},
    source::{self, CustomKind, Key, Object, Origin, Update},
    status::{Extent, Problem},
    translate::mesh_config,
};
use references::Reference;

/// How often missing services are looked for: behind a route that holds for one of them there may be another.
const ROUNDS: usize = 8;

/// What a finding means for what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something is not honoured as it was written.
    Error,
    /// What it speaks of is not among the files, and no cluster was looked at: nobody can tell whether it is there.
    Missing,
    /// Honoured, but not to be written so.
    Warning,
}

/// One thing to know of one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// As it was named, or below the folder that was.
    pub file: String,
    /// As in `VirtualService shop/cart`; empty: the whole file.
    pub object: String,
    /// As in `spec.http[0].route[1].destination.subset`; empty: the whole object.
    pub field: String,
    pub why: String,
    pub severity: Severity,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Analysis {
    /// In order.
    pub findings: Vec<Finding>,
    /// How many objects of the mesh's there are.
    pub objects: usize,
    /// In how many of them nothing is wrong; what they speak of may be missing.
    pub fine: usize,
    /// How many objects are none of the mesh's business.
    pub others: usize,
    /// What they speak of was looked for in a cluster.
    pub is_of_cluster: bool,
}

/// A kind of which a cluster may hold objects that files speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collection {
    /// Empty: the core group.
    pub group: &'static str,
    /// The first that the cluster serves.
    pub versions: &'static [&'static str],
    pub kind: &'static str,
    pub plural: &'static str,
    /// Only objects of this name.
    pub name: Option<&'static str>,
}

/// What a controller with these arguments knows beside objects; of the others it has none is needed.
///
/// # Errors
/// Names the argument that cannot be read.
pub fn settings<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<Settings, String> {
    config::settings_of(arguments)
}

/// Looks at files and folders. `known` are objects of a cluster, whole, if one was looked at; one that the files hold
/// too is taken from them, and nothing is said of the others.
pub fn analyze(settings: &Settings, paths: &[PathBuf], known: Option<Vec<Value>>) -> Analysis {
    let is_of_cluster = known.is_some();
    let (mut own, mut problems, mut others) = (Vec::new(), Vec::new(), 0);
    for path in paths {
        let read = source::manifests(path);
        own.extend(read.objects);
        problems.extend(read.problems);
        others += read.others;
    }
    let keys: BTreeSet<Key> = own.iter().map(Object::key).collect();
    let known = known.into_iter().flatten().filter_map(of_cluster).filter(|object| !keys.contains(&object.key()));
    let objects: Vec<Arc<Object>> = own.into_iter().chain(known).map(Arc::new).collect();
    let written: BTreeSet<(String, String)> = objects
        .iter()
        .filter(|object| !object.file.is_empty())
        .map(|object| (object.file.clone(), object.key().to_string()))
        .chain(problems.iter().filter(|p| !p.object.is_empty()).map(|p| (p.file.clone(), p.object.clone())))
        .collect();
    let findings = findings(settings, objects, problems, is_of_cluster);
    let wrong = findings.iter().filter(|finding| finding.severity != Severity::Missing);
    let found: BTreeSet<(&String, &String)> = wrong.map(|finding| (&finding.file, &finding.object)).collect();
    let fine = written.iter().filter(|(file, object)| !found.contains(&(file, object))).count();
    Analysis { objects: written.len(), fine, others, findings, is_of_cluster }
}

/// What to ask a cluster for.
pub fn collections() -> impl Iterator<Item = Collection> {
    let core = |kind, plural, name| Collection { group: "", versions: &["v1"], kind, plural, name };
    let custom = CustomKind::ALL.into_iter().map(|kind| Collection {
        group: kind.group(),
        versions: kind.versions(),
        kind: kind.kind(),
        plural: kind.plural(),
        name: None,
    });
    let config = core("ConfigMap", "configmaps", Some(mesh_config::NAME));
    [core("Namespace", "namespaces", None), core("Service", "services", None), config].into_iter().chain(custom)
}

/// What to ask a cluster for whose pods are to be known too.
pub fn all_collections() -> impl Iterator<Item = Collection> {
    let all = |group, kind, plural| Collection { group, versions: &["v1"], kind, plural, name: None };
    let core = |kind, plural| all("", kind, plural);
    let slices = all("discovery.k8s.io", "EndpointSlice", "endpointslices");
    [core("Node", "nodes"), core("Pod", "pods"), slices].into_iter().chain(collections())
}

/// What cannot be read there is not the files' fault.
fn of_cluster(value: Value) -> Option<Object> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let kind = source::object(&version, &kind, value).ok()??;
    Some(Object { file: String::new(), kind, origin: Origin::default() })
}

fn findings(
    settings: &Settings,
    objects: Vec<Arc<Object>>,
    problems: Vec<Problem>,
    is_of_cluster: bool,
) -> Vec<Finding> {
    if is_of_cluster {
        let said = said(settings, &objects, &problems, &BTreeMap::new());
        let found: BTreeSet<Finding> = said.iter().map(Finding::of).collect();
        return found.into_iter().collect();
    }
    let references: Vec<Reference> =
        objects.iter().filter(|object| !object.file.is_empty()).flat_map(|o| references::of(settings, o)).collect();
    let there: BTreeSet<Key> = objects.iter().map(|object| object.key()).collect();
    let mut missing: BTreeMap<Key, BTreeSet<&Reference>> = BTreeMap::new();
    let mut said = said(settings, &objects, &problems, &missing);
    // What is invented takes one thing away that would be said for want of it, and may bring others to light.
    for _ in 0..ROUNDS {
        let unknown = references.iter().filter_map(|reference| {
            let service = reference.service.as_ref().filter(|service| !there.contains(*service))?;
            said.iter().any(|problem| reference.is_at(problem)).then_some((service, reference))
        });
        let mut more = missing.clone();
        for (service, reference) in unknown.collect::<Vec<_>>() {
            // All that speak of it say which ports it must have.
            let all = references.iter().filter(|other| other.service.as_ref() == reference.service.as_ref());
            more.entry(service.clone()).or_default().extend(all);
        }
        if more == missing {
            break;
        }
        missing = more;
        said = self::said(settings, &objects, &problems, &missing);
    }
    let mut found = Vec::new();
    let mut told = BTreeSet::new();
    for reference in missing.values().flatten() {
        // It is not for want of the service.
        if !said.iter().any(|problem| reference.is_at(problem)) && told.insert((&reference.object, &reference.host)) {
            found.push(reference.finding());
        }
    }
    // Of a host that is no service of Kubernetes none can be invented.
    let open = |problem: &&Problem| references.iter().find(|r| r.service.is_none() && r.is_at(problem));
    found.extend(said.iter().map(|problem| open(&problem).map_or_else(|| Finding::of(problem), Reference::finding)));
    found.sort();
    found.dedup();
    found
}

/// What the controller says of the files, if the missing services were there.
fn said(
    settings: &Settings,
    objects: &[Arc<Object>],
    problems: &[Problem],
    missing: &BTreeMap<Key, BTreeSet<&Reference>>,
) -> Vec<Problem> {
    let invented = missing.iter().enumerate();
    let invented = invented.map(|(number, (key, references))| Arc::new(references::invented(number, key, references)));
    let update = Update::new(objects.iter().cloned().chain(invented), problems.to_vec());
    let world = World::with(settings, &update, &Redirection::default(), &mut Default::default());
    world.problems.into_iter().filter(|problem| !problem.file.is_empty()).collect()
}

impl Finding {
    fn of(problem: &Problem) -> Self {
        let Problem { file, object, field, why, extent } = problem.clone();
        let severity = match extent {
            Extent::Note => Severity::Warning,
            Extent::Part | Extent::Whole | Extent::Conflict => Severity::Error,
        };
        Self { file, object, field, why, severity }
    }
}

impl Severity {
    pub fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Missing => "missing",
            Self::Warning => "warning",
        }
    }
}

impl fmt::Display for Finding {
    /// `file: object: field: severity: why`, without the parts that are empty.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.file, &self.object, &self.field] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        write!(f, "{}: {}", self.severity.word(), self.why)
    }
}

#[cfg(test)]
mod tests;
