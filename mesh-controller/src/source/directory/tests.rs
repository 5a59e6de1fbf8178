//! Folders that change, and what is kept of them.

use super::*;

fn keys(directory: &Directory) -> Vec<String> {
    directory.update().objects.iter().map(|object| object.key().to_string()).collect()
}

fn said(directory: &Directory) -> Vec<String> {
    directory.update().problems.iter().map(ToString::to_string).collect()
}

const TWO: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: a}}\n---\n\
                   {apiVersion: v1, kind: Pod, metadata: {name: p, namespace: a}, spec: {nodeName: n}}\n";

#[test]
fn what_was_good_stays() {
    let root = tempfile::tempdir().expect("folder");
    let inner = root.path().join("inner");
    fs::create_dir(&inner).expect("folder");
    let file = inner.join("a.yml");
    fs::write(&file, TWO).expect("file");
    fs::write(inner.join(".hidden.yaml"), TWO).expect("file");
    fs::write(inner.join("notes.txt"), "[").expect("file");
    let (mut directory, _) = Directory::open(root.path()).expect("opened");
    assert_eq!(keys(&directory), ["Namespace a", "Pod a/p"]);
    assert!(!directory.scan());

    fs::write(&file, "[").expect("file");
    assert!(directory.scan());
    assert_eq!(keys(&directory), ["Namespace a", "Pod a/p"]);
    assert!(said(&directory)[0].starts_with("inner/a.yml: document 1: "), "{:?}", said(&directory));
    assert!(!directory.scan());

    // One object is wrong, the other one is gone.
    fs::write(&file, TWO.replace("nodeName: n", "nodeName: 7").replace("name: a}}", "name: b}}")).expect("file");
    assert!(directory.scan());
    assert_eq!(keys(&directory), ["Namespace b", "Pod a/p"]);
    assert!(said(&directory)[0].starts_with("inner/a.yml: Pod a/p: spec.nodeName: "), "{:?}", said(&directory));

    fs::remove_file(&file).expect("file");
    assert!(directory.scan());
    assert!(keys(&directory).is_empty() && said(&directory).is_empty());
}

#[test]
fn the_first_of_two_with_one_name_is_read() {
    let root = tempfile::tempdir().expect("folder");
    for name in ["a.yaml", "b.json"] {
        fs::write(
            root.path().join(name),
            "{\"apiVersion\": \"v1\", \"kind\": \"Node\", \"metadata\": {\"name\": \"n\"}}",
        )
        .expect("file");
    }
    let (directory, _) = Directory::open(root.path()).expect("opened");
    assert_eq!(keys(&directory), ["Node n"]);
    assert_eq!(said(&directory), ["b.json: Node n: is defined in a.yaml already; this one is not read"]);
}

#[test]
fn a_folder_that_vanishes_changes_nothing() {
    let root = tempfile::tempdir().expect("folder");
    let path = root.path().join("config");
    fs::create_dir(&path).expect("folder");
    fs::write(path.join("a.yaml"), TWO).expect("file");
    let (mut directory, _) = Directory::open(&path).expect("opened");
    fs::rename(&path, root.path().join("away")).expect("moved");
    assert!(directory.scan());
    assert_eq!(keys(&directory).len(), 2);
    assert!(said(&directory)[0].contains("what was read before stays"));
}

#[test]
fn a_start_needs_every_file_and_every_pod_and_namespace() {
    let root = tempfile::tempdir().expect("folder");
    let refusal = |files: &[(&str, &str)]| {
        for entry in fs::read_dir(root.path()).expect("folder") {
            fs::remove_file(entry.expect("entry").path()).expect("file");
        }
        for (name, text) in files {
            fs::write(root.path().join(name), text).expect("file");
        }
        Directory::open(root.path()).err().map(|error| format!("{error:#}"))
    };
    assert_eq!(refusal(&[("a.yaml", TWO), ("notes.txt", "[")]), None);
    let said = refusal(&[("a.yaml", TWO), ("b.yaml", "["), ("c.json", "{")]).expect("refused");
    assert!(said.contains("\n  b.yaml: document 1: ") && said.contains("\n  c.json: document 1: "), "{said}");
    assert!(said.starts_with("--source dir:") && !said.contains("before stays"), "{said}");
    let said = refusal(&[("a.yaml", &TWO.replace("nodeName: n", "nodeName: 7"))]).expect("refused");
    assert!(said.contains("a.yaml: Pod a/p: spec.nodeName: "), "{said}");
    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: 7}}";
    assert!(refusal(&[("a.yaml", namespace)]).expect("refused").contains("Namespace a: metadata.labels: "));
    // Without these nobody gets in.
    for text in [
        "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: 7}",
        "{apiVersion: networking.istio.io/v1, kind: EnvoyFilter, metadata: {name: v}}",
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p}, spec: 7}",
        "{apiVersion: v1, kind: Pod, metadata: {name: Not_A_Name}}",
        "{a: b}",
    ] {
        assert_eq!(refusal(&[("a.yaml", text)]), None, "{text}");
    }

    // A link to nothing is a file, of which it is not known what it says.
    std::os::unix::fs::symlink("nowhere", root.path().join("link.yaml")).expect("link");
    assert!(
        format!("{:#}", Directory::open(root.path()).expect_err("refused")).contains("link.yaml: cannot be read: ")
    );
}

#[test]
fn what_may_hide_a_pod_is_known() {
    let root = tempfile::tempdir().expect("folder");
    fs::write(root.path().join("a.yaml"), TWO).expect("file");
    let (mut directory, first) = Directory::open(root.path()).expect("opened");
    assert!(!first.hidden.may_hide("a", "p"));
    let service = "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: 7}";
    fs::write(root.path().join("b.yaml"), service).expect("file");
    assert!(directory.scan());
    assert_eq!((said(&directory).len(), directory.update().hidden), (1, Hidden::default()));

    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: q, namespace: a}, spec: 7}";
    fs::write(root.path().join("b.yaml"), pod).expect("file");
    assert!(directory.scan());
    let hidden = directory.update().hidden;
    assert!(hidden.may_hide("a", "q") && !hidden.may_hide("a", "other"));

    fs::write(root.path().join("b.yaml"), "[").expect("file");
    assert!(directory.scan());
    assert!(directory.update().hidden.may_hide("a", "other"));
    assert!(said(&directory)[0].ends_with("; what was read before stays"), "{:?}", said(&directory));
    fs::remove_file(root.path().join("b.yaml")).expect("file");
    assert!(directory.scan());
    assert_eq!(directory.update().hidden, Hidden::default());
}

#[test]
fn the_end_of_the_last_account_is_not_the_return_of_the_others() {
    let root = tempfile::tempdir().expect("folder");
    let write = |text: &str| fs::write(root.path().join("a.yaml"), text).expect("file");
    let account = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: x, namespace: a}}";
    write(TWO);
    let (mut directory, update) = Directory::open(root.path()).expect("opened");
    assert!(!update.has_accounts);
    write(&format!("{TWO}---\n{account}\n"));
    assert!(directory.scan() && directory.update().has_accounts);
    write(TWO);
    assert!(directory.scan() && directory.update().has_accounts);

    // One that does not fit its kind is one all the same.
    write(&format!("{TWO}---\n{}\n", account.replace("name: x", "labels: 7, name: x")));
    let (_, update) = Directory::open(root.path()).expect("opened");
    assert!(update.has_accounts && update.objects.len() == 2);
}
