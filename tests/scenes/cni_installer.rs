//! The agent puts its CNI plugin on the node, keeps it there, and takes it away.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context, Result};
use mesh_tests::{A, Patience, World, eventually};
use serde_json::{Value, json};

fn read(path: &Path) -> Result<Value> {
    let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", path.display()))
}

fn until(what: &str, holds: impl Fn() -> Result<bool>) -> Result<()> {
    eventually(what, Patience::LONG, || Ok(holds()?.then_some(())))
}

#[test]
fn the_plugin_is_installed_repaired_and_taken_away() -> Result<()> {
    let mut world = World::new("cni installer")?;
    world.install_cni()?;
    let (conf, bin) = (world.node(A).cni_conf_dir(), world.node(A).cni_bin_dir());
    let (ours, other, binary) =
        (conf.join("00-nodemesh.conflist"), conf.join("10-pods.conflist"), bin.join("nodemesh-cni"));
    let others = fs::read(&other)?;
    fs::write(conf.join("05-broken.conf"), "{")?;
    world.start()?;
    world.plugin(A)?;
    let list = read(&ours)?;
    assert_eq!((&list["name"], &list["cniVersion"]), (&json!("pods"), &json!("1.1.0")), "{list}");
    let plugins = list["plugins"].as_array().context("no plugins")?;
    assert_eq!((plugins.len(), &plugins[0]), (2, &read(&other)?["plugins"][0]), "{list}");
    assert_eq!((&plugins[1]["type"], &plugins[1]["timeoutSeconds"]), (&json!("nodemesh-cni"), &json!(20)), "{list}");
    assert_eq!(plugins[1]["socket"], json!(world.node(A).cni_socket()), "{list}");
    assert_eq!(fs::metadata(&binary)?.permissions().mode() & 0o7777, 0o755);
    let log = world.agent(A)?.process.log()?;
    assert!(log.contains("05-broken.conf") && log.contains("is passed over"), "{log}");

    // Damaged or removed, by whomever.
    let good = fs::read(&ours)?;
    for damage in [Some("{}"), Some(""), None] {
        match damage {
            Some(text) => fs::write(&ours, text)?,
            None => fs::remove_file(&ours)?,
        }
        until("our configuration is as it was", || Ok(fs::read(&ours).is_ok_and(|text| text == good)))?;
    }
    let length = fs::metadata(&binary)?.len();
    for damage in ["removed", "replaced", "not executable"] {
        match damage {
            "removed" => fs::remove_file(&binary)?,
            "replaced" => {
                fs::write(bin.join("draft"), "#!/bin/sh\n")?;
                fs::rename(bin.join("draft"), &binary)?;
            }
            _ => fs::set_permissions(&binary, fs::Permissions::from_mode(0o600))?,
        }
        until(&format!("the plugin is back: {damage}"), || {
            let is = |m: fs::Metadata| m.len() == length && m.permissions().mode() & 0o7777 == 0o755;
            Ok(fs::metadata(&binary).is_ok_and(is))
        })?;
    }

    // The other configuration changes, another one comes before it, and the first one goes.
    let changed = json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [{ "type": "ptp", "mtu": 1400 }] });
    fs::write(&other, changed.to_string())?;
    until("ours follows", || Ok(read(&ours)?["plugins"][0]["type"] == "ptp"))?;
    fs::write(conf.join("07-first.conf"), r#"{"cniVersion":"0.4.0","name":"first","type":"macvlan","keep":[1]}"#)?;
    until("ours is of the first", || Ok(read(&ours)?["name"] == "first"))?;
    assert_eq!(read(&ours)?["plugins"][0]["keep"], json!([1]));
    fs::remove_file(conf.join("07-first.conf"))?;
    until("ours is of the next", || Ok(read(&ours)?["plugins"][0]["type"] == "ptp"))?;
    fs::write(&other, "{")?;
    until("without another one there is none of ours", || Ok(!ours.exists()))?;
    until("and the agent says so", || {
        Ok(world.status(A)?["not_ready"].as_str().is_some_and(|why| why.contains("no other CNI configuration")))
    })?;
    fs::write(&other, &others)?;
    until("it is back", || Ok(fs::read(&ours).is_ok_and(|text| text == good)))?;

    world.uninstall(A)?;
    assert!(ours.exists() && binary.exists(), "without the options the folders are nobody's business");
    world.restart_agent(A)?;
    world.agent(A)?.process.terminate(Patience::LONG)?;
    world.uninstall_with(
        A,
        &[format!("--cni-conf-dir={}", conf.display()), format!("--cni-bin-dir={}", bin.display())],
    )?;
    let left = |folder: &Path| -> Result<Vec<String>> {
        let mut names: Vec<String> = Vec::new();
        for entry in fs::read_dir(folder)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    };
    assert_eq!(left(&conf)?, ["05-broken.conf", "10-pods.conflist"]);
    assert_eq!(left(&bin)?, [] as [&str; 0]);
    assert_eq!((fs::read(&other)?, fs::read_to_string(conf.join("05-broken.conf"))?), (others, "{".to_owned()));
    Ok(())
}
