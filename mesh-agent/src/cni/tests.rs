//! The plugin against what runtimes, and whoever is none, may say to it. No agent is there.

mod malformed;

use std::{fs, path::Path, process::ExitCode};

use serde_json::{Value, json};

use super::{
    answer,
    call::{Call, VERSIONS},
    problem::Problem,
    result, told,
};
use crate::config::CniEnvironment;

const ARGUMENTS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart;K8S_POD_INFRA_CONTAINER_ID=abc;\
    K8S_POD_UID=0e9e1f2c-1d8b-4b4e-9a53-5f2a7c6d8e90";

fn environment(command: &str) -> CniEnvironment {
    CniEnvironment {
        command: command.into(),
        container: "abc".into(),
        netns: "/proc/self/ns/net".into(),
        interface: "eth0".into(),
        arguments: ARGUMENTS.into(),
    }
}

fn conf(folder: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "pods", "type": "nodemesh-cni", "timeoutSeconds": 1,
        "socket": folder.join("cni.sock"), "namespaces": folder.join("namespaces.json"),
        "prevResult": {
            "cniVersion": "1.0.0", "interfaces": [{ "name": "eth0", "sandbox": "/proc/self/ns/net" }],
            "ips": [{ "address": "10.1.0.7/24", "interface": 0, "gateway": "10.1.0.1" }],
            "routes": [{ "dst": "0.0.0.0/0" }], "dns": { "nameservers": ["10.96.0.10"] }, "x-odd": [1, null],
        },
    })
}

fn ask(environment: &CniEnvironment, conf: &Value) -> Result<Option<Value>, Problem> {
    answer(environment, conf.to_string().as_bytes())
}

/// Without a namespace of which the file says something.
fn refused(environment: &CniEnvironment, conf: &Value) -> (u32, String) {
    let problem = ask(environment, conf).expect_err("refused");
    (problem.code, problem.message)
}

#[test]
fn what_is_wrong_is_named_with_the_code_of_cni() {
    let folder = tempfile::tempdir().unwrap();
    let good = conf(folder.path());
    let with = |field: &str, value: Value| {
        let mut conf = good.clone();
        conf[field] = value;
        conf
    };
    let environment = |change: fn(&mut CniEnvironment)| {
        let mut environment = environment("ADD");
        change(&mut environment);
        environment
    };
    let cases = [
        (environment(|e| e.command.clear()), good.clone(), 4, "CNI_COMMAND"),
        (environment(|e| e.command = "add".into()), good.clone(), 4, "CNI_COMMAND"),
        (environment(|e| e.container.clear()), good.clone(), 4, "CNI_CONTAINERID"),
        (environment(|e| e.container = "../x".into()), good.clone(), 4, "CNI_CONTAINERID"),
        (environment(|e| e.container = "a/b".into()), good.clone(), 4, "CNI_CONTAINERID"),
        (environment(|e| e.interface.clear()), good.clone(), 4, "CNI_IFNAME"),
        (environment(|e| e.interface = "a/b".into()), good.clone(), 4, "CNI_IFNAME"),
        (environment(|e| e.interface = "sixteen-letters-".into()), good.clone(), 4, "CNI_IFNAME"),
        (environment(|e| e.netns.clear()), good.clone(), 4, "CNI_NETNS"),
        (environment(|e| e.netns = "/run/netns/nm-never".into()), good.clone(), 4, "CNI_NETNS"),
        (environment(|e| e.arguments.clear()), good.clone(), 4, "K8S_POD_NAMESPACE"),
        (environment(|e| e.arguments = "K8S_POD_NAMESPACE".into()), good.clone(), 4, "KEY=VALUE"),
        (environment(|e| e.arguments = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=".into()), good.clone(), 4, "K8S_POD_NAME"),
        (environment(|e| e.arguments = "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b".into()), good.clone(), 4, "K8S_POD_UID"),
        (environment(|e| e.arguments = "COLOUR=red".into()), good.clone(), 4, "COLOUR"),
        (environment(|_| ()), with("cniVersion", Value::Null), 7, "cniVersion"),
        (environment(|_| ()), with("cniVersion", json!(1)), 7, "cniVersion"),
        (environment(|_| ()), with("cniVersion", json!("0.2.0")), 1, "0.2.0"),
        (environment(|_| ()), with("cniVersion", json!("2.0.0")), 1, "2.0.0"),
        (environment(|_| ()), with("prevResult", Value::Null), 7, "prevResult"),
        (environment(|_| ()), with("prevResult", json!("x")), 6, "prevResult"),
        (environment(|_| ()), with("prevResult", json!({ "ips": {} })), 6, "prevResult.ips"),
        (environment(|_| ()), with("prevResult", json!({ "ips": [{ "address": "x" }] })), 6, "prevResult.ips[0]"),
        (environment(|_| ()), with("prevResult", json!({ "ips": [{}] })), 6, "prevResult.ips[0]"),
        (environment(|_| ()), with("socket", Value::Null), 7, "socket"),
        (environment(|_| ()), with("timeoutSeconds", json!("x")), 7, "timeoutSeconds: invalid type"),
        // Nobody is there, and nobody said that the namespace is outside the mesh.
        (environment(|_| ()), good.clone(), 11, "cannot reach the agent"),
        (environment(|e| e.command = "CHECK".into()), good.clone(), 11, "cannot reach the agent"),
        (environment(|e| e.command = "CHECK".into()), with("prevResult", Value::Null), 7, "prevResult"),
        (environment(|e| e.command = "STATUS".into()), good.clone(), 50, "cannot reach the agent"),
        (environment(|e| e.command = "GC".into()), good.clone(), 7, "cni.dev/valid-attachments"),
        (environment(|e| e.command = "GC".into()), with("cni.dev/valid-attachments", json!([1])), 7, "[0].containerID"),
        (environment(|e| e.command = "GC".into()), with("cni.dev/valid-attachments", json!([])), 11, "cannot reach"),
    ];
    for (environment, conf, code, says) in cases {
        let (is, message) = refused(&environment, &conf);
        assert!(is == code && message.contains(says), "{environment:?} {conf}: {is} {message}");
    }
    for (text, code) in [("", 6), ("{", 6), ("[]", 6), ("\u{0}", 6), ("{}", 7)] {
        assert_eq!(answer(&environment(|_| ()), text.as_bytes()).expect_err(text).code, code, "{text:?}");
    }
}

#[test]
fn an_error_is_as_cni_has_it() {
    let problem = Problem::configuration("prevResult: is missing").because("it stands alone");
    let json = |conf: &str| problem.json(conf.as_bytes());
    let want = |version: &str| json!({ "cniVersion": version, "code": 7, "msg": "nodemesh: prevResult: is missing", "details": "it stands alone" });
    assert_eq!(json(r#"{"cniVersion":"0.4.0"}"#), want("0.4.0"));
    // In the newest version, where the asked one cannot be read or is not known.
    for conf in ["", "{", r#"{"cniVersion":"7.0.0"}"#, r#"{"cniVersion":{}}"#] {
        assert_eq!(json(conf), want("1.1.0"), "{conf}");
    }
    assert!(Problem::input("x").json(b"").get("details").is_none());
}

#[test]
fn pods_outside_the_mesh_start_without_an_agent_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let conf = conf(folder.path());
    let passes = |namespace: &str| {
        let arguments = ARGUMENTS.replace("=shop;", &format!("={namespace};"));
        let environment = CniEnvironment { arguments, ..environment("ADD") };
        match ask(&environment, &conf) {
            Ok(result) => {
                assert_eq!(result, Some(conf["prevResult"].clone()), "as the plugin before it gave it");
                true
            }
            Err(problem) => {
                assert_eq!(problem.code, 11, "{problem}");
                false
            }
        }
    };
    assert_eq!(["shop", "plain", "kube-system", "nodemesh-system"].map(passes), [false, false, true, true]);
    let file = folder.path().join("namespaces.json");
    let said = json!({ "version": 1, "namespaces": { "shop": "mesh", "plain": "none", "seen": "observe" } });
    fs::write(&file, said.to_string()).unwrap();
    assert_eq!(["shop", "plain", "seen", "new", "kube-system"].map(passes), [false, true, true, false, true]);
    fs::write(&file, "{").unwrap();
    assert_eq!(["shop", "plain", "kube-system"].map(passes), [false, false, true]);
}

#[test]
fn a_pod_goes_whatever_is_there_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut conf = conf(folder.path());
    conf["prevResult"] = Value::Null;
    for (netns, arguments) in [("", ARGUMENTS), ("/run/netns/nm-never", ARGUMENTS), ("", ""), ("", "X")] {
        let environment = CniEnvironment { netns: netns.into(), arguments: arguments.into(), ..environment("DEL") };
        assert_eq!(ask(&environment, &conf), Ok(None), "{netns:?} {arguments:?}");
    }
}

#[test]
fn versions_are_told_to_everybody() {
    let environment = CniEnvironment { command: "VERSION".into(), ..CniEnvironment::default() };
    for (conf, version) in [("", "1.1.0"), ("{}", "1.1.0"), (r#"{"cniVersion":"0.4.0"}"#, "0.4.0")] {
        let told = answer(&environment, conf.as_bytes()).expect("versions").expect("an answer");
        assert_eq!(told, json!({ "cniVersion": version, "supportedVersions": VERSIONS }), "{conf}");
    }
}

#[test]
fn the_pods_own_addresses_are_taken_of_every_version() {
    let of = |result: Value| result::addresses(&result).expect("readable");
    let ip = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    assert_eq!(of(json!({ "ips": [{ "version": "4", "address": "10.0.0.2/24" }] })), [ip("10.0.0.2")]);
    let devices = json!([{ "name": "cni0" }, { "name": "veth1" }, { "name": "eth0", "sandbox": "/run/netns/x" }]);
    let both = json!({ "interfaces": devices, "ips": [
        { "address": "10.0.0.1/24", "interface": 0 }, { "address": "fd00::2/64", "interface": 2 },
        { "address": "10.0.0.2/24", "interface": 2 }, { "address": "10.0.0.9/32" },
    ] });
    assert_eq!(of(both), [ip("fd00::2"), ip("10.0.0.2"), ip("10.0.0.9")]);
    assert_eq!(of(json!({})), [] as [std::net::IpAddr; 0]);
    assert_eq!(of(json!({ "ips": [] })), [] as [std::net::IpAddr; 0]);
}

#[test]
fn a_status_without_an_agent_may_be_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let mut conf = conf(folder.path());
    conf["statusWithoutAgent"] = true.into();
    assert_eq!(ask(&environment("STATUS"), &conf), Ok(None));
    let call = Call::read(&environment("ADD"), conf.to_string().as_bytes()).expect("a call");
    assert!(call.conf.patience() < call.conf.limit());
}
