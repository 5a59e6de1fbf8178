//! Which namespaces are in the mesh, in a file for the plugin: while the agent is away, pods of the others start.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use mesh_common::model::Mode;
use serde::{Deserialize, Serialize};

use crate::{
    durable,
    state::{Snapshot, Store},
};

/// Of the file's form.
const VERSION: u32 = 1;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    version: u32,
    namespaces: BTreeMap<String, Word>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    None,
    Mesh,
    Observe,
}

/// Keeps the file at what the configuration says, for ever. Only an agent that speaks for the node may.
pub async fn keep(path: PathBuf, store: Arc<Store>) {
    let mut changes = store.subscribe();
    let mut written = None;
    loop {
        let content = content(&changes.borrow_and_update());
        // An empty configuration says nothing: what an earlier one said is more.
        if written.as_ref() != Some(&content) && !content.namespaces.is_empty() {
            let text = serde_json::to_vec_pretty(&content).map_err(io::Error::other);
            match text.and_then(|text| durable::replace(&path, &text)) {
                Ok(()) => written = Some(content),
                Err(error) => tracing::error!(
                    file = %path.display(), %error,
                    "while no agent runs, pods outside the mesh may have to wait for one"
                ),
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// A namespace of which one pod here is in the mesh counts as one that is: another one of its sort may be on its way.
fn content(snapshot: &Snapshot) -> Content {
    let word = |mode| match mode {
        Mode::None => Word::None,
        Mode::Mesh => Word::Mesh,
        Mode::Observe => Word::Observe,
    };
    let mut namespaces: BTreeMap<_, _> =
        snapshot.accounts().map(|accounts| (accounts.namespace.clone(), word(accounts.mode))).collect();
    for pod in snapshot.local_pods().filter(|pod| pod.mode == Mode::Mesh) {
        namespaces.insert(pod.namespace.clone(), Word::Mesh);
    }
    Content { version: VERSION, namespaces }
}

/// What the file says of a namespace; `None`: nothing. A file that is not there says nothing.
pub fn mode(path: &Path, namespace: &str) -> io::Result<Option<Mode>> {
    let text = match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let content: Content = serde_json::from_slice(&text).map_err(io::Error::other)?;
    if content.version != VERSION {
        return Err(io::Error::other(format!("version {} is not {VERSION}", content.version)));
    }
    Ok(content.namespaces.get(namespace).map(|word| match word {
        Word::None => Mode::None,
        Word::Mesh => Mode::Mesh,
        Word::Observe => Mode::Observe,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Delta, Object};
    use mesh_common::model::Accounts;

    #[tokio::test]
    async fn the_file_follows_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("namespaces.json");
        assert_eq!(mode(&path, "shop").unwrap(), None);
        let store = Arc::new(Store::default());
        let keeping = tokio::spawn(keep(path.clone(), Arc::clone(&store)));
        for said in [Mode::Mesh, Mode::None, Mode::Observe] {
            let accounts = Accounts { namespace: "shop".into(), names: [].into(), mode: said };
            let upserts = vec![("shop".to_owned(), Object::Accounts(accounts))];
            store.apply(Delta { upserts, ..Delta::default() }).unwrap();
            while mode(&path, "shop").unwrap() != Some(said) {
                tokio::task::yield_now().await;
            }
            assert_eq!(mode(&path, "other").unwrap(), None);
        }
        keeping.abort();
        for damaged in ["{", r#"{"version":2,"namespaces":{}}"#] {
            fs::write(&path, damaged).unwrap();
            assert!(mode(&path, "shop").is_err(), "{damaged}");
        }
    }
}
