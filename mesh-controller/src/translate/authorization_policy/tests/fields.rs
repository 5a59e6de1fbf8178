//! Each condition on requests: what it becomes, whom it fits, and what is refused of it.

use serde_json::json;

use super::*;

/// A rule with one condition, a request that meets it and one that does not.
fn table() -> Vec<(&'static str, Call, Call)> {
    let get = || call("GET", "/a");
    let user = || {
        get().by(json!({"iss": "https://id.example", "sub": "ann", "aud": ["shop", "web"], "azp": "app",
        "group": ["admin", "dev"], "scope": "read write", "realm": {"role": ["owner"]}, "verified": true, "level": 3}))
    };
    let other = || {
        get().by(json!({"iss": "https://id.example", "sub": "bob", "aud": ["pay"], "azp": "bot",
        "group": ["guest"], "scope": "none", "realm": {"role": ["reader"]}, "verified": false, "level": 1}))
    };
    vec![
        ("to: [{operation: {hosts: [Shop.Example]}}]", get().to("shop.example"), get().to("other.example")),
        ("to: [{operation: {hosts: [shop.example]}}]", get().to("shop.example:8443"), get().to("a.shop.example")),
        ("to: [{operation: {hosts: ['shop.example:80']}}]", get().to("shop.example:80"), get().to("shop.example:81")),
        ("to: [{operation: {hosts: ['shop.example.']}}]", get().to("shop.example"), get().to("shop")),
        ("to: [{operation: {hosts: ['*.example.']}}]", get().to("a.example:80"), get().to("example.org")),
        ("to: [{operation: {hosts: ['shop.*']}}]", get().to("shop.example"), get().to("pay.example")),
        ("to: [{operation: {hosts: ['*']}}]", get(), get().to("")),
        ("to: [{operation: {notHosts: ['*.evil']}}]", get(), get().to("a.evil:80")),
        ("to: [{operation: {methods: [GET, HEAD]}}]", get(), call("POST", "/a")),
        ("to: [{operation: {methods: ['P*']}}]", call("POST", "/"), get()),
        ("to: [{operation: {notMethods: [DELETE]}}]", get(), call("DELETE", "/a")),
        ("to: [{operation: {paths: [/a]}}]", get(), call("GET", "/a/b")),
        ("to: [{operation: {paths: [/a]}}]", get(), call("GET", "/A")),
        ("to: [{operation: {paths: ['/a*']}}]", call("GET", "/ab/c"), call("GET", "/b")),
        ("to: [{operation: {paths: ['*.css']}}]", call("GET", "/x/a.css"), call("GET", "/x/a.js")),
        ("to: [{operation: {paths: ['*']}}]", get(), Call::default()),
        ("to: [{operation: {paths: ['/a/{*}']}}]", call("GET", "/a/b"), call("GET", "/a/b/c")),
        ("to: [{operation: {paths: ['/a/{*}/b/{**}']}}]", call("GET", "/a/x/b/c/d"), call("GET", "/a/x/y/b/c")),
        ("to: [{operation: {notPaths: ['/admin/{**}']}}]", get(), call("GET", "/admin/x/y")),
        ("from: [{source: {requestPrincipals: ['https://id.example/ann']}}]", user(), other()),
        ("from: [{source: {requestPrincipals: ['https://id.example/*']}}]", user(), get()),
        ("from: [{source: {requestPrincipals: ['*/ann']}}]", user(), other()),
        ("from: [{source: {requestPrincipals: ['*']}}]", user(), get()),
        ("from: [{source: {notRequestPrincipals: ['*']}}]", get(), user()),
        ("when: [{key: request.auth.principal, values: ['*/ann']}]", user(), other()),
        ("when: [{key: request.auth.audiences, values: [web]}]", user(), other()),
        ("when: [{key: request.auth.audiences, notValues: [pay]}]", user(), other()),
        ("when: [{key: request.auth.presenter, values: ['a*']}]", user(), other()),
        ("when: [{key: request.auth.presenter, notValues: [bot]}]", user(), other()),
        ("when: [{key: 'request.auth.claims[iss]', values: ['https://id.example']}]", user(), get()),
        ("when: [{key: 'request.auth.claims[group]', values: [admin]}]", user(), other()),
        ("when: [{key: 'request.auth.claims[group]', notValues: [guest]}]", get(), other()),
        ("when: [{key: 'request.auth.claims[scope]', values: [write]}]", user(), other()),
        ("when: [{key: 'request.auth.claims[realm][role]', values: [owner]}]", user(), other()),
        ("when: [{key: 'request.auth.claims[verified]', values: ['true']}]", user(), other()),
        (
            "when: [{key: 'request.headers[User-Agent]', values: ['Mozilla/*']}]",
            get().with("user-agent", "Mozilla/5"),
            get(),
        ),
        ("when: [{key: 'request.headers[x-a]', notValues: [no]}]", get(), get().with("x-a", "no")),
        (
            "when: [{key: 'request.headers[x-a]', values: ['*']}, {key: 'request.headers[x-b]', values: [c]}]",
            get().with("x-a", "1").with("x-b", "c"),
            get().with("x-a", "1").with("x-b", "d"),
        ),
        (
            "when: [{key: 'request.headers[x-a]', values: ['1*'], notValues: ['12']}]",
            get().with("x-a", "11"),
            get().with("x-a", "12"),
        ),
        ("when: [{key: 'request.headers[Host]', values: [Shop.Example]}]", get().to("shop.example"), get()),
        ("when: [{key: 'request.headers[:authority]', notValues: ['*.evil']}]", get(), get().to("a.evil")),
        ("when: [{key: 'request.headers[:method]', values: [GET]}]", get(), call("PUT", "/a")),
    ]
}

#[test]
fn every_condition_on_requests() {
    let connection = from(CART, "10.1.2.3", 8080);
    for (rule, yes, no) in table() {
        let (policy, said) = translated(&format!("  rules:\n  - {rule}\n"));
        assert_eq!(said, [] as [String; 0], "{rule}");
        assert!(policy.policy.asks(), "{rule}");
        assert!(passes(&[&policy], &connection, &yes), "{rule} does not fit {yes:?}");
        assert!(!passes(&[&policy], &connection, &no), "{rule} fits {no:?}");
        assert_eq!(matching(&policy, &connection), None, "{rule} fits bytes");
        // The same as DENY refuses what the other lets through, and all bytes.
        let (deny, _) = translated(&format!("  action: DENY\n  rules:\n  - {rule}\n"));
        assert!(!passes(&[&deny], &connection, &yes) && passes(&[&deny], &connection, &no), "{rule}");
        assert_eq!(matching(&deny, &connection), Some(0), "{rule}");
    }
}

#[test]
fn remote_addresses_are_the_clients_own() {
    for rule in [
        "from: [{source: {remoteIpBlocks: [10.1.0.0/16], notRemoteIpBlocks: [10.1.9.9]}}]",
        "when: [{key: remote.ip, values: [10.1.0.0/16], notValues: [10.1.9.9]}]",
    ] {
        let (policy, said) = translated(&format!("  rules:\n  - {rule}\n"));
        assert_eq!(said, [] as [String; 0]);
        // What a client says of others is not believed.
        let call = call("GET", "/").with("x-forwarded-for", "10.1.2.3");
        assert!(passes(&[&policy], &from(None, "10.1.2.3", 80), &call), "{rule}");
        assert!(!passes(&[&policy], &from(None, "10.1.9.9", 80), &call), "{rule}");
        assert!(!passes(&[&policy], &from(None, "10.2.2.3", 80), &call), "{rule}");
    }
}

#[test]
fn server_names_are_of_bytes() {
    let (policy, said) = translated(
        "  rules: [{when: [{key: connection.sni, values: ['*.Example.com.'], notValues: [a.example.com]}]}]",
    );
    assert_eq!((said, policy.policy.asks()), (Vec::new(), true));
    let fits = |name: Option<&str>| {
        policy.policy.rules[0].matches(Action::Allow, &from(CART, "1.1.1.1", 1), &Passing::Bytes { server_name: name })
    };
    assert!(fits(Some("b.example.com")) && !fits(Some("a.example.com")) && !fits(Some("example.org")) && !fits(None));
    assert!(!passes(&[&policy], &from(CART, "1.1.1.1", 1), &call("GET", "/")));
}

#[test]
fn a_source_has_conditions_of_both_kinds() {
    let (policy, said) = translated(
        "
  rules:
  - from: [{source: {namespaces: [shop], requestPrincipals: ['*/ann']}}, {source: {namespaces: [evil]}}]
    to: [{operation: {ports: ['80'], methods: [GET]}}, {operation: {ports: ['81']}}]
",
    );
    assert_eq!(said, [] as [String; 0]);
    let ann = |method| call(method, "/").by(json!({"iss": "i", "sub": "ann"}));
    assert!(passes(&[&policy], &from(CART, "1.1.1.1", 80), &ann("GET")));
    assert!(!passes(&[&policy], &from(CART, "1.1.1.1", 80), &ann("PUT")));
    assert!(!passes(&[&policy], &from(CART, "1.1.1.1", 80), &call("GET", "/")));
    assert!(passes(&[&policy], &from(EVIL, "1.1.1.1", 80), &call("GET", "/")));
    assert!(passes(&[&policy], &from(EVIL, "1.1.1.1", 81), &call("PUT", "/")));
    // As bytes only what asks for no request.
    assert_eq!(matching(&policy, &from(EVIL, "1.1.1.1", 81)), Some(0));
    assert_eq!(matching(&policy, &from(EVIL, "1.1.1.1", 80)), None);
    assert_eq!(matching(&policy, &from(CART, "1.1.1.1", 81)), None);
}

#[test]
fn what_fits_no_request_is_honoured_and_noted() {
    for (rule, note) in [
        ("to: [{operation: {paths: [api]}}]", "to[0].operation.paths[0]: `api` fits no request: paths begin with `/`"),
        ("to: [{operation: {notPaths: [/a, 'a*']}}]", "to[0].operation.notPaths[1]: `a*` fits no request: paths"),
        ("to: [{operation: {paths: ['*?a=b']}}]", "to[0].operation.paths[0]: `*?a=b` fits no request: paths are asked"),
        ("to: [{operation: {paths: ['/a b']}}]", "to[0].operation.paths[0]: `/a b` fits no request: there is a space"),
        ("to: [{operation: {methods: [get]}}]", "to[0].operation.methods[0]: `get` fits no request: methods are"),
        (
            "to: [{operation: {notMethods: ['GET, PUT']}}]",
            "to[0].operation.notMethods[0]: `GET, PUT` fits no request: it",
        ),
        (
            "to: [{operation: {hosts: ['http://a']}}]",
            "to[0].operation.hosts[0]: `http://a` fits no request: it is no host",
        ),
        (
            "to: [{operation: {hosts: ['ä.example']}}]",
            "to[0].operation.hosts[0]: `ä.example` fits no request: hosts are",
        ),
        ("from: [{source: {requestPrincipals: [ann]}}]", "from[0].source.requestPrincipals[0]: `ann` fits no request"),
        ("when: [{key: connection.sni, values: [a/b]}]", "when[0].values[0]: `a/b` fits no request"),
        (
            "{to: [{operation: {methods: [GET]}}], when: [{key: connection.sni, values: [a]}]}",
            ": asks for a server name and for requests",
        ),
    ] {
        let (policy, said) = translated(&format!("  rules:\n  - {rule}\n"));
        let dot = if note.starts_with(':') { "" } else { "." };
        assert!(said.len() == 1 && said[0].starts_with(&format!("spec.rules[0]{dot}{note}")), "{rule}: {said:?}");
        assert_eq!(policy.policy.rules.len(), 1, "{rule}");
    }
    // A DENY rule of both still refuses bytes with that name.
    let (_, said) = translated(
        "  action: DENY\n  rules: [{to: [{operation: {methods: [GET]}}], when: [{key: connection.sni, values: [a]}]}]",
    );
    assert_eq!(said, [] as [String; 0]);
}

#[test]
fn what_cannot_be_read_of_requests_refuses() {
    let long = "a".repeat(5_000);
    let depth = "[a]".repeat(17);
    for (rule, field) in [
        ("to: [{operation: {paths: ['/a/{b}']}}]", "to[0].operation.paths[0]: `/a/{b}`: `{*}` and `{**}` are the op"),
        ("to: [{operation: {paths: ['/a/{*}.txt']}}]", "to[0].operation.paths[0]: "),
        ("to: [{operation: {paths: ['/*/b/{*}']}}]", "to[0].operation.paths[0]: "),
        (
            "to: [{operation: {paths: ['/{**}/b/{*}']}}]",
            "to[0].operation.paths[0]: `/{**}/b/{*}`: no operator may stand",
        ),
        ("to: [{operation: {paths: ['/{**}/{**}']}}]", "to[0].operation.paths[0]: "),
        ("to: [{operation: {paths: ['{*}/a']}}]", "to[0].operation.paths[0]: `{*}/a`: a template begins with `/`"),
        ("to: [{operation: {paths: ['/a{']}}]", "to[0].operation.paths[0]: "),
        ("to: [{operation: {notPaths: ['/{a=*}']}}]", "to[0].operation.notPaths[0]: "),
        ("to: [{operation: {paths: ['']}}]", "to[0].operation.paths[0]: is empty"),
        ("to: [{operation: {paths: ['/a*b']}}]", "to[0].operation.paths[0]: `/a*b`: a `*` may only stand"),
        ("to: [{operation: {paths: ['**']}}]", "to[0].operation.paths[0]: `**`: "),
        ("to: [{operation: {hosts: ['*.']}}]", "to[0].operation.hosts[0]: `*.` is no host"),
        ("to: [{operation: {hosts: ['.']}}]", "to[0].operation.hosts[0]: `.` is no host"),
        ("to: [{operation: {methods: ['']}}]", "to[0].operation.methods[0]: is empty"),
        ("to: [{operation: {methods: []}}]", "to[0].operation: has no condition"),
        ("to: [{operation: {method: [GET]}}]", "to[0].operation.method: unknown field"),
        ("to: [{operation: {paths: /a}}]", "to[0].operation.paths: invalid type"),
        ("from: [{source: {requestPrincipals: ['a*b']}}]", "from[0].source.requestPrincipals[0]: "),
        ("from: [{source: {remoteIpBlocks: ['*']}}]", "from[0].source.remoteIpBlocks[0]: `*` is neither"),
        ("when: [{key: request.headers, values: [a]}]", "when[0].key: is not of the form request.headers[name]"),
        ("when: [{key: 'request.headers[]', values: [a]}]", "when[0].key: "),
        ("when: [{key: 'request.headers[a][b]', values: [a]}]", "when[0].key: "),
        ("when: [{key: 'request.headers[a b]', values: [a]}]", "when[0].key: `a b` is no name of a header"),
        ("when: [{key: 'request.headers[:path]', values: [/a]}]", "when[0].key: paths are asked for by `paths`"),
        ("when: [{key: 'request.headers[:scheme]', values: [a]}]", "when[0].key: `:scheme` is no name"),
        ("when: [{key: 'request.headersx[a]', values: [a]}]", "when[0].key: "),
        ("when: [{key: request.auth.claims, values: [a]}]", "when[0].key: is not of the form request.auth.claims"),
        ("when: [{key: 'request.auth.claims[a]b[c]', values: [a]}]", "when[0].key: "),
        (&format!("when: [{{key: 'request.auth.claims{depth}', values: [a]}}]"), "when[0].key: "),
        ("when: [{key: 'request.auth.claims[a]', values: []}]", "when[0]: has neither values nor notValues"),
        ("when: [{key: remote.ip, values: [a]}]", "when[0].values[0]: `a` is neither an address"),
        ("when: [{key: 'experimental.envoy.filters.a.b[c]', values: [a]}]", "when[0].key: `experimental.envoy.filters"),
        ("when: [{key: request.auth.colour, values: [a]}]", "when[0].key: `request.auth.colour` is not a known key"),
        ("when: [{key: 'destination.labels[a]', values: [a]}]", "when[0].key: `destination.labels[a]` is not a known"),
        (&format!("when: [{{key: '{long}', values: [a]}}]"), "when[0].key: has 5000 bytes"),
        (&format!("to: [{{operation: {{paths: [/{long}]}}}}]"), "to[0].operation.paths[0]: has 5001 bytes"),
        (
            &format!("to: [{{operation: {{paths: [{}]}}}}]", vec!["/a"; 4_097].join(", ")),
            "to[0].operation.paths: has 4097",
        ),
        (&format!("when: [{}]", vec!["{key: source.ip, values: [1.1.1.1]}"; 513].join(", ")), "when: has 513 items"),
        (&format!("from: [{}]", vec!["{source: {namespaces: [a]}}"; 513].join(", ")), "from: has 513 items"),
    ] {
        for action in ["ALLOW", "DENY"] {
            let (policy, said) = translated(&format!("  action: {action}\n  rules:\n  - {{}}\n  - {rule}\n"));
            assert!(said[0].starts_with(&format!("spec.rules[1].{field}")), "{rule}: {said:?}");
            assert!(said[0].len() < 400, "{}", said[0].len());
            assert!(!passes(&[&policy], &from(CART, "10.0.0.1", 80), &call("GET", "/a")), "{action} {rule}");
            assert!(!policy.policy.asks());
        }
    }
}
