//! The Kustomize base: the objects with the default values, a file for each part.

use crate::{
    File, Values, parts,
    template::Template,
    yaml::{HEADER, documents},
};

/// Files below manifests/base.
pub fn base() -> Vec<File> {
    let values = Values::default();
    let mut files = Vec::new();
    for part in parts() {
        let objects = part.objects.iter().filter_map(|object| object.evaluate(&values));
        let objects = objects.map(|object| Template::literal(&object)).collect::<Vec<_>>();
        if !objects.is_empty() {
            files.push(File { path: format!("{}.yaml", part.name), text: documents(&objects) });
        }
    }
    let resources = files.iter().map(|file| format!("- {}\n", file.path)).collect::<String>();
    let text =
        format!("{HEADER}apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{resources}");
    files.push(File { path: "kustomization.yaml".into(), text });
    files
}
