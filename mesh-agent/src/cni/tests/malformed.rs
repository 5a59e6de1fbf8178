//! Two hundred wrong calls and more, generated: each is answered with an error as CNI has it that names what is wrong,
//! at once, and nobody hears of a pod.

use std::{
    os::unix::net::UnixListener,
    time::{Duration, Instant},
};

use rustix::fs::{CWD, FileType, Mode};
use serde_json::Number;

use super::*;

/// Longer than any of them may take; opening a pipe takes for ever.
const AT_ONCE: Duration = Duration::from_secs(2);

struct Case {
    what: String,
    environment: CniEnvironment,
    text: Vec<u8>,
    code: u32,
    /// What the message must name.
    field: String,
}

/// Values that are of no use for most fields.
fn values() -> [Value; 6] {
    [Value::Null, true.into(), (-7).into(), "".into(), json!([]), json!({})]
}

struct Cases {
    good: Value,
    all: Vec<Case>,
}

impl Cases {
    fn add(&mut self, what: impl Into<String>, environment: CniEnvironment, text: Vec<u8>, code: u32, field: &str) {
        self.all.push(Case { what: what.into(), environment, text, code, field: field.to_owned() });
    }

    /// ADD with this word of the environment.
    fn environment(&mut self, change: impl Fn(&mut CniEnvironment), code: u32, field: &str) {
        let mut environment = environment("ADD");
        change(&mut environment);
        self.add(format!("{environment:?}"), environment, self.good.to_string().into_bytes(), code, field);
    }

    /// ADD and CHECK with this value at a place of the configuration.
    fn value(&mut self, place: &str, value: Value, code: u32, field: &str) {
        let mut conf = self.good.clone();
        *conf.pointer_mut(place).unwrap_or_else(|| panic!("{place}")) = value;
        for command in ["ADD", "CHECK"] {
            let what = format!("{command} {place} {conf}");
            self.add(what, environment(command), conf.to_string().into_bytes(), code, field);
        }
    }

    fn text(&mut self, what: impl Into<String>, text: Vec<u8>, code: u32) {
        self.add(what, environment("ADD"), text, code, "standard input");
    }
}

/// Broken text.
fn texts(cases: &mut Cases) {
    let good = cases.good.to_string().into_bytes();
    for end in (0..good.len()).step_by(good.len() / 40) {
        cases.text(format!("cut after {end} bytes"), good[..end].to_vec(), 6);
    }
    for (byte, name) in [(0xff, "no UTF-8"), (0, "a NUL")] {
        for at in (1..good.len()).step_by(good.len() / 8) {
            let mut text = good.clone();
            text.insert(at, byte);
            cases.text(format!("{name} at {at}"), text, 6);
        }
    }
    let wide: Vec<u8> = String::from_utf8_lossy(&good).encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (what, text) in [
        ("UTF-16", wide),
        ("a byte order mark", [b"\xef\xbb\xbf".as_slice(), &good].concat()),
        ("two", [good.as_slice(), &good].concat()),
        ("a list of one", [b"[".as_slice(), &good, b"]"].concat()),
        ("a comment", [b"// ours\n".as_slice(), &good].concat()),
        ("deeper than anybody reads", [b"[".repeat(100_000), b"]".repeat(100_000)].concat()),
        ("a text", b"\"nodemesh-cni\"".to_vec()),
        ("a number", b"1".to_vec()),
        ("null", b"null".to_vec()),
        ("YAML", b"cniVersion: 1.0.0\n".to_vec()),
    ] {
        cases.text(what, text, 6);
    }
    // What stands behind the last brace is space, so that only the length is wrong.
    cases.text("huge", [good.as_slice(), &b" ".repeat(super::super::LONGEST)].concat(), 5);
}

fn fields(cases: &mut Cases) {
    for version in ["", "0.1.0", "0.2.0", "0.3.0", "1.0", "1.0.0 ", "v1.0.0", "1.2.0", "2.0.0", "latest", "1.0.0\n"] {
        cases.value("/cniVersion", version.into(), 1, "cniVersion");
    }
    for value in values().into_iter().filter(|value| !value.is_string()) {
        cases.value("/cniVersion", value.clone(), 7, "cniVersion");
        cases.value("/socket", value.clone(), 7, "socket");
        cases.value("/namespaces", value.clone(), 7, "namespaces");
        if !value.is_boolean() {
            cases.value("/statusWithoutAgent", value.clone(), 7, "statusWithoutAgent");
        }
        if !value.is_array() {
            cases.value("/exclude", value.clone(), 7, "exclude");
            if !value.is_null() {
                cases.value("/prevResult/ips", value.clone(), 6, "prevResult.ips");
                cases.value("/prevResult/interfaces", value.clone(), 6, "prevResult.interfaces");
            }
        }
        cases.value("/exclude/0", value.clone(), 7, "exclude[0]");
        cases.value("/timeoutSeconds", value.clone(), 7, "timeoutSeconds");
        cases.value("/prevResult/cniVersion", value.clone(), 6, "prevResult.cniVersion");
        cases.value("/prevResult/ips/0/address", value.clone(), 6, "prevResult.ips[0].address");
        if !value.is_null() {
            cases.value("/prevResult/ips/0/interface", value.clone(), 6, "prevResult.ips[0].interface");
            cases.value("/prevResult/interfaces/0/sandbox", value.clone(), 6, "prevResult.interfaces[0].sandbox");
        }
        if !value.is_object() {
            cases.value("/prevResult", value.clone(), if value.is_null() { 7 } else { 6 }, "prevResult");
            cases.value("/prevResult/ips/0", value, 6, "prevResult.ips[0].address");
        }
    }
    for path in ["", "cni.sock", "./cni.sock", "../run/cni.sock", "\u{0}", "/run/\u{0}/x"] {
        cases.value("/socket", path.into(), 7, "socket");
        cases.value("/namespaces", path.into(), 7, "namespaces");
    }
    cases.value("/socket", format!("/{}", "x".repeat(108)).into(), 7, "socket");
    let fraction = Number::from_f64(1.5).expect("a number");
    for timeout in [json!("20"), json!(3601), json!(u64::MAX), json!(1e300), Value::Number(fraction)] {
        cases.value("/timeoutSeconds", timeout, 7, "timeoutSeconds");
    }
    for address in [
        "",
        "x",
        "/",
        "/24",
        "10.1.0/24",
        "10.1.0.7.8/24",
        "10.1.0.256/24",
        "10.1.0.7/33",
        "10.1.0.7/",
        "10.1.0.7/-1",
        "10.1.0.7/x",
        "10.1.0.7/24/8",
        " 10.1.0.7/24",
        "0x0a010007/24",
        "::g/64",
        "fd00::7/129",
        "fe80::7%eth0/64",
        "cart.shop/24",
    ] {
        cases.value("/prevResult/ips/0/address", address.into(), 6, "prevResult.ips[0].address");
    }
    for index in [json!(1), json!(u64::MAX), json!("0"), json!(0.5)] {
        cases.value("/prevResult/ips/0/interface", index, 6, "prevResult.ips[0].interface");
    }
    for field in ["cniVersion", "socket", "namespaces", "prevResult"] {
        let mut conf = cases.good.clone();
        conf.as_object_mut().expect("an object").remove(field);
        cases.add(format!("no {field}"), environment("ADD"), conf.to_string().into_bytes(), 7, field);
    }
}

fn environments(cases: &mut Cases, folder: &Path) {
    for command in ["", "add", "ADDD", "ADD ", "ADD\n", "A", "\u{fffd}", "ADD;DEL", "DESTROY"] {
        cases.environment(|e| e.command = command.into(), 4, "CNI_COMMAND");
    }
    for container in [
        "",
        ".",
        "..",
        "-x",
        "_x",
        "../x",
        "a/b",
        "/x",
        "a b",
        "a\n",
        "a\0",
        "a;b",
        "$(id)",
        "`id`",
        "a'b",
        "a\u{301}",
        "é",
        "a\u{fffd}",
        "%2e%2e",
    ] {
        cases.environment(|e| e.container = container.into(), 4, "CNI_CONTAINERID");
    }
    for interface in [
        "",
        ".",
        "..",
        "a/b",
        "/",
        "eth0:1",
        "eth 0",
        "eth0\n",
        "\t",
        "eth\u{0}0",
        "\u{7}",
        "sixteen-letters-",
        "a-name-that-is-far-too-long-for-a-device",
        "\u{2003}",
    ] {
        cases.environment(|e| e.interface = interface.into(), 4, "CNI_IFNAME");
    }
    let pipe = folder.join("pipe");
    rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).expect("a pipe");
    let inside = |name: &str| folder.join(name).display().to_string();
    for netns in [
        "",
        "/",
        "/etc/passwd",
        "/dev/null",
        "/dev/zero",
        "/dev/tty",
        "/proc/self/mem",
        "/proc/1",
        "/run/netns/nm-never",
        "relative",
        "../../etc/passwd",
        "/run/netns/../../etc/hostname",
        "/proc/self/ns/net/x",
        "a\0b",
        "http://x/",
        "\u{fffd}",
        &"/x".repeat(5000),
        &inside("pipe"),
        &inside("cni.sock"),
        &inside("conf"),
    ] {
        cases.environment(|e| e.netns = netns.into(), 4, "CNI_NETNS");
    }
    let pod = |namespace: &str, name: &str, uid: &str| {
        format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}")
    };
    for arguments in ["K8S_POD_NAMESPACE", "a;b", "IgnoreUnknown", "\u{fffd}", "K8S_POD_NAME:cart", " "] {
        cases.environment(|e| e.arguments = arguments.into(), 4, "KEY=VALUE");
    }
    for arguments in ["COLOUR=red", "IgnoreUnknown=0;COLOUR=red", "IgnoreUnknown=;COLOUR=red"] {
        cases.environment(|e| e.arguments = arguments.into(), 4, "COLOUR");
    }
    let long = "x".repeat(254);
    for hostile in ["", "a/b", "../x", "a b", "a\nb", "a\0b", "é", "\u{fffd}", "a=b", "a:b", "\"", "{}", &long] {
        cases.environment(|e| e.arguments = pod(hostile, "cart", "u"), 4, "K8S_POD_NAMESPACE");
        cases.environment(|e| e.arguments = pod("shop", hostile, "u"), 4, "K8S_POD_NAME ");
        cases.environment(|e| e.arguments = pod("shop", "cart", hostile), 4, "K8S_POD_UID");
    }
}

#[test]
fn hundreds_of_malformed_calls_are_refused_by_name_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let heard = UnixListener::bind(folder.path().join("cni.sock")).unwrap();
    heard.set_nonblocking(true).unwrap();
    fs::write(folder.path().join("conf"), "{}").unwrap();
    let mut good = conf(folder.path());
    good["exclude"] = json!(["kube-system"]);
    good["statusWithoutAgent"] = true.into();
    let mut cases = Cases { good, all: Vec::new() };
    texts(&mut cases);
    fields(&mut cases);
    environments(&mut cases, folder.path());
    assert!(cases.all.len() >= 200, "{}", cases.all.len());

    for Case { what, environment, text, code, field } in &cases.all {
        let what = what.chars().take(300).collect::<String>();
        let start = Instant::now();
        let answered = answer(environment, text);
        assert!(start.elapsed() < AT_ONCE, "{what}: took {:?}", start.elapsed());
        let (printed, exit) = told(answered, text);
        assert_eq!(exit, ExitCode::FAILURE, "{what}: {printed}");
        let error: Value = serde_json::from_str(&printed).expect("an error object");
        assert_eq!(error["code"], *code, "{what}: {error}");
        assert!(VERSIONS.iter().any(|version| error["cniVersion"] == *version), "{what}: {error}");
        let message = error["msg"].as_str().unwrap_or_default();
        assert!(message.contains(field.as_str()), "{what}: {field} is not named: {message}");
    }
    let nobody = heard.accept().expect_err("nobody was told of a pod");
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
    println!("{} malformed calls", cases.all.len());

    // It is the malformed part that is refused: the good one reaches the agent, which does not answer here.
    let good = answer(&environment("ADD"), cases.good.to_string().as_bytes()).expect_err("nobody answers");
    assert_eq!(good.code, 11, "{good}");
    assert!(heard.accept().is_ok());
}
