//! The archive is read back by the system's tar, and every digest is counted anew.

use std::{fs, path::Path};

use serde_json::Value;

use super::*;
use crate::shell;

/// An ELF of 64 bits whose only program header is of this kind.
fn elf(kind: u8) -> Vec<u8> {
    let mut elf = vec![0; 64 + 56];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[32] = 64;
    elf[54] = 56;
    elf[56] = 1;
    elf[64] = kind;
    elf
}

fn programs(folder: &Path) {
    for (number, name) in (0..).zip(PROGRAMS) {
        let mut program = elf(1);
        program.push(number);
        fs::write(folder.join(name), program).unwrap();
    }
}

fn unpacked(archive: &Path, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    shell::output(shell::program("tar").arg("-xf").arg(archive).arg("-C").arg(folder)).unwrap();
}

/// The blob that is described, whose digest and size must be what is said.
fn blob(layout: &Path, described: &Value) -> Vec<u8> {
    let digest = described["digest"].as_str().unwrap();
    let bytes = fs::read(layout.join("blobs").join(digest.replace(':', "/"))).unwrap();
    assert_eq!(described["size"].as_u64(), Some(bytes.len() as u64));
    let told = shell::output(shell::program("sha256sum").arg(layout.join("blobs").join(digest.replace(':', "/"))));
    assert_eq!(format!("sha256:{}", told.unwrap().split(' ').next().unwrap()), digest);
    bytes
}

#[test]
fn the_archive_is_an_image_and_the_same_each_time() {
    let dir = tempfile::tempdir().unwrap();
    programs(dir.path());
    let arguments = |name: &str| Arguments {
        out: dir.path().join(name),
        rootfs: Some(dir.path().join("rootfs")),
        profile: "release".into(),
        programs: Some(dir.path().to_owned()),
    };
    run(Path::new("/"), &arguments("one.tar")).unwrap();
    run(Path::new("/"), &arguments("two.tar")).unwrap();
    let archive = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert_eq!(archive("one.tar"), archive("two.tar"));

    let layout = dir.path().join("layout");
    unpacked(&dir.path().join("one.tar"), &layout);
    let read = |bytes: Vec<u8>| -> Value { serde_json::from_slice(&bytes).unwrap() };
    assert_eq!(read(fs::read(layout.join("oci-layout")).unwrap())["imageLayoutVersion"], "1.0.0");
    let index = read(fs::read(layout.join("index.json")).unwrap());
    let manifest = read(blob(&layout, &index["manifests"][0]));
    let config = read(blob(&layout, &manifest["config"]));
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/usr/local/bin/mesh-controller"]));
    assert_eq!(config["architecture"], architecture().unwrap());
    assert_eq!(config["rootfs"]["diff_ids"], serde_json::json!([manifest["layers"][0]["digest"]]));

    let layer = dir.path().join("layer.tar");
    fs::write(&layer, blob(&layout, &manifest["layers"][0])).unwrap();
    let root = dir.path().join("root");
    unpacked(&layer, &root);
    for name in PROGRAMS {
        let program = root.join("usr/local/bin").join(name);
        assert_eq!(fs::read(&program).unwrap(), fs::read(dir.path().join(name)).unwrap());
        assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o7777, 0o755);
    }
    assert!(fs::read_to_string(root.join("etc/passwd")).unwrap().contains("nonroot:x:65532:65532"));
    let listed = shell::output(shell::program("tar").args(["-tvf"]).arg(&layer).env("TZ", "UTC").env("LC_ALL", "C"));
    let listed = listed.unwrap();
    assert!(listed.lines().all(|line| line.contains(" 0/0 ") && line.contains(" 1970-01-01 00:00 ")), "{listed}");
    assert!(listed.lines().count() > 8, "folders too: {listed}");
    // What the Dockerfile copies is what the layer holds.
    shell::output(shell::program("diff").arg("-r").arg(&root).arg(dir.path().join("rootfs"))).unwrap();
}

#[test]
fn a_program_that_needs_libraries_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    programs(dir.path());
    assert!(entries(dir.path()).is_ok());
    fs::write(dir.path().join("meshctl"), elf(3)).unwrap();
    let said = entries(dir.path()).unwrap_err().to_string();
    assert!(said.contains("meshctl asks for an interpreter"), "{said}");
    assert!(!is_static(&fs::read("/proc/self/exe").unwrap()).unwrap(), "this test is such a program");
    fs::write(dir.path().join("meshctl"), "#!/bin/sh").unwrap();
    assert!(entries(dir.path()).is_err());
}

#[test]
fn the_dockerfile_gives_the_same() {
    let text = fs::read_to_string(crate::root().join("Dockerfile")).unwrap();
    let (_, last) = text.rsplit_once("\nFROM ").unwrap();
    let lines = last.lines().collect::<Vec<_>>();
    assert_eq!(lines[0], "scratch");
    assert!(lines.contains(&"COPY --from=build /rootfs/ /"));
    assert!(lines.contains(&format!("USER {USER}").as_str()));
    assert!(lines.contains(&format!("ENTRYPOINT [\"{ENTRYPOINT}\"]").as_str()));
    assert!(lines.contains(&format!("ENV PATH={FOLDER}").as_str()));
    let manifest = fs::read_to_string(crate::root().join("Cargo.toml")).unwrap();
    let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    assert!(text.contains(&format!("FROM rust:{version}-")), "the compiler of Cargo.toml: {version}");
}
