//! A mesh before and after a change of its objects.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use serde_json::Value;

use super::{Finding, Settings, compiled::Compiled, of_cluster};
use crate::source::{self, CustomKind, Key, Kind, Object};

/// The kinds that decide who reaches whom.
pub const POLICIES: [&str; 3] = ["AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"];

/// What runs now: objects of a cluster, and of files and folders.
#[derive(Clone, Debug, Default)]
pub struct Current {
    pub known: Vec<Value>,
    pub paths: Vec<PathBuf>,
}

/// What is to become of it.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Their objects take the place of those of the same kind, namespace and name.
    pub paths: Vec<PathBuf>,
    /// Objects to be taken out.
    pub deleted: Vec<Deleted>,
    /// No other kinds than [`POLICIES`] are changed.
    pub only_policies: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    pub kind: String,
    pub namespace: String,
    pub name: String,
}

#[derive(Debug)]
pub struct Change {
    pub before: Compiled,
    pub after: Compiled,
    /// Objects that the change brings or takes out, as in `AuthorizationPolicy shop/cart`.
    pub changed: Vec<String>,
    /// What of the files would not be honoured as it was written.
    pub findings: Vec<Finding>,
}

/// Why nothing can be said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unclear {
    /// Of the change.
    #[error("{0}")]
    Wanted(String),
    /// Of what runs now.
    #[error("what runs now: {0}")]
    Current(String),
}

/// Compiles both.
///
/// # Errors
/// Files of the change cannot be read, or hold what it must not, or what is to be taken out is not there.
pub fn change(settings: &Settings, current: &Current, wanted: &Wanted) -> Result<Change, Unclear> {
    let running = running(current)?;
    let new = new_objects(wanted)?;
    let there: BTreeSet<Key> = running.iter().map(|object| object.key()).collect();
    let mut gone = BTreeSet::new();
    for Deleted { kind, namespace, name } in &wanted.deleted {
        let key = Key { kind: kind.clone(), namespace: namespace.clone(), name: name.clone() };
        if !there.contains(&key) {
            return Err(Unclear::Wanted(format!("--delete: there is no {key}")));
        }
        gone.insert(key);
    }
    let keys: BTreeSet<Key> = new.iter().map(|object| object.key()).collect();
    if let Some(key) = keys.intersection(&gone).next() {
        return Err(Unclear::Wanted(format!("--delete: {key} is among the files too")));
    }
    let kept = running.iter().filter(|object| !keys.contains(&object.key()) && !gone.contains(&object.key()));
    let after: Vec<Arc<Object>> = kept.cloned().chain(new.iter().cloned()).collect();
    let files: BTreeSet<(&str, String)> = new.iter().map(|o| (o.file.as_str(), o.key().to_string())).collect();
    let after = Compiled::new(settings, &after);
    let of_files = after.problems().iter().filter(|p| files.contains(&(p.file.as_str(), p.object.clone())));
    let findings: BTreeSet<Finding> = of_files.map(Finding::of).collect();
    Ok(Change {
        before: Compiled::new(settings, &running),
        after,
        changed: keys.iter().chain(&gone).map(ToString::to_string).collect(),
        findings: findings.into_iter().collect(),
    })
}

fn running(Current { known, paths }: &Current) -> Result<Vec<Arc<Object>>, Unclear> {
    let mut objects: Vec<_> = known.iter().cloned().filter_map(of_cluster).map(Arc::new).collect();
    for path in paths {
        let read = source::manifests(path);
        // One that does not fit its kind is told to nobody.
        if let Some(problem) = read.problems.iter().find(|problem| problem.object.is_empty()) {
            return Err(Unclear::Current(problem.to_string()));
        }
        objects.extend(read.objects.into_iter().map(Arc::new));
    }
    match objects.is_empty() {
        true => Err(Unclear::Current("there are no objects".to_owned())),
        false => Ok(objects),
    }
}

fn new_objects(wanted: &Wanted) -> Result<Vec<Arc<Object>>, Unclear> {
    let (mut new, mut seen) = (Vec::new(), BTreeSet::new());
    for path in &wanted.paths {
        let read = source::manifests(path);
        if !read.problems.is_empty() {
            let all: Vec<_> = read.problems.iter().map(ToString::to_string).collect();
            return Err(Unclear::Wanted(all.join("\n")));
        }
        for object in read.objects {
            let key = object.key();
            if wanted.only_policies && !is_policy(&object) {
                let kinds = POLICIES.join(", ");
                let why = format!("{}: {key}: only {kinds} can be tested so", object.file);
                return Err(Unclear::Wanted(why));
            }
            if !seen.insert(key.clone()) {
                return Err(Unclear::Wanted(format!("{}: {key}: stands twice among the files", object.file)));
            }
            new.push(Arc::new(object));
        }
    }
    if new.is_empty() && wanted.deleted.is_empty() {
        return Err(Unclear::Wanted("the files hold no object that the mesh reads".to_owned()));
    }
    Ok(new)
}

fn is_policy(object: &Object) -> bool {
    use CustomKind::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication};
    matches!(object.kind, Kind::Custom(AuthorizationPolicy | PeerAuthentication | RequestAuthentication, _))
}

impl std::str::FromStr for Deleted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.split('/').collect();
        match parts.as_slice() {
            [kind, namespace, name] if parts.iter().all(|part| !part.is_empty()) => {
                let [kind, namespace, name] = [kind, namespace, name].map(|part| (*part).to_owned());
                Ok(Self { kind, namespace, name })
            }
            _ => Err("an object is KIND/NAMESPACE/NAME, as AuthorizationPolicy/shop/cart".to_owned()),
        }
    }
}
