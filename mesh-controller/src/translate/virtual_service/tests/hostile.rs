//! What must not be honoured, by field; and what is sent where.

use mesh_common::route::Router;
use proptest::prelude::*;

use super::*;

/// One fault, and what the text was told.
fn said_of(text: &str) -> (HttpRoute, String) {
    let (route, said) = faulty(text);
    assert_eq!(said.len(), 1, "{text}: {said:?}");
    (route, said.into_iter().next().expect("one"))
}

#[test]
fn a_rule_that_cannot_be_honoured_sends_nothing_anywhere() {
    let many = |text: &str, count: usize| vec![text; count].join(", ");
    let long = format!("{{uri: {{regex: '{}'}}}}", "a".repeat(2_000));
    let headers: String = (0..100).map(|i| format!("x-{i}: {{}}, ")).collect();
    for (text, field) in [
        ("match: [{uri: {regex: '('}}], ROUTE", "match[0].uri.regex"),
        ("match: [{uri: {regex: '(?:a{100}){100}{100}'}}], ROUTE", "match[0].uri.regex"),
        (&format!("match: [{long}], ROUTE"), "match[0].uri.regex"),
        (&format!("match: [{{uri: {{prefix: /{}}}}}], ROUTE", "a".repeat(9_000)), "match[0].uri.prefix"),
        ("match: [{uri: {exact: /a, prefix: /b}}], ROUTE", "match[0].uri"),
        ("match: [{uri: {}}], ROUTE", "match[0].uri"),
        ("match: [{uri: {suffix: /a}}], ROUTE", "match[0].uri.suffix"),
        ("match: [{uri: /a}], ROUTE", "match[0].uri"),
        ("match: [{ury: {exact: /a}}], ROUTE", "match[0].ury"),
        ("match: [{method: {regex: '['}}], ROUTE", "match[0].method.regex"),
        ("match: [{headers: {'a b': {exact: a}}}], ROUTE", "match[0].headers[a b]"),
        ("match: [{headers: {uri: {exact: a}}}], ROUTE", "match[0].headers[uri]"),
        ("match: [{headers: {x: {regex: '*'}}}], ROUTE", "match[0].headers[x].regex"),
        (&format!("match: [{{headers: {{{headers}}}}}], ROUTE"), "match[0].headers"),
        ("match: [{withoutHeaders: {x: 1}}], ROUTE", "match[0].withoutHeaders[x]"),
        ("match: [{queryParams: {x: {regex: '*'}}}], ROUTE", "match[0].queryParams[x].regex"),
        ("match: [{port: 70000}], ROUTE", "match[0].port"),
        ("match: [{port: '80'}], ROUTE", "match[0].port"),
        ("match: [{sourceLabels: {a: 1}}], ROUTE", "match[0].sourceLabels.a"),
        ("match: [{sourceNamespace: a/b}], ROUTE", "match[0].sourceNamespace"),
        ("match: [7], ROUTE", "match[0]"),
        ("match: {uri: {exact: /a}}, ROUTE", "match"),
        (&format!("match: [{}], ROUTE", many("{port: 1}", 300)), "match"),
        ("route: [{destination: {}}]", "route[0].destination"),
        ("route: [{}]", "route[0].destination"),
        ("route: [{destination: {host: 'a b'}}]", "route[0].destination.host"),
        ("route: [{destination: {host: '*.a'}}]", "route[0].destination.host"),
        ("route: [{destination: {host: a, port: {number: 0}}}]", "route[0].destination.port.number"),
        ("route: [{destination: {host: a, port: {name: http}}}]", "route[0].destination.port.name"),
        ("route: [{destination: {host: a, version: v1}}]", "route[0].destination.version"),
        ("route: [{destination: {host: a}, weight: -1}]", "route[0].weight"),
        ("route: [{destination: {host: a}, weight: 4294967296}]", "route[0].weight"),
        ("route: [{destination: {host: a}, weight: 1.5}]", "route[0].weight"),
        ("route: [{destination: {host: a}, waight: 1}]", "route[0].waight"),
        ("route: [{destination: {host: a}}, {destination: {host: b}}]", "route"),
        (&format!("route: [{}]", many("{destination: {host: a}, weight: 2147483647}", 3)), "route"),
        (&format!("route: [{}]", many("{destination: {host: a}, weight: 1}", 300)), "route"),
        ("route: []", ""),
        ("fault: {delay: {fixedDelay: 1s, percent: 1}}", ""),
        ("delegate: {name: a}", "delegate"),
        ("ROUTE, delegate: {name: a}", "delegate"),
        ("ROUTE, redirect: {uri: /a}", ""),
        ("redirect: {uri: /a}, directResponse: {status: 200}", ""),
        ("redirect: {redirectCode: 200}", "redirect.redirectCode"),
        ("redirect: {scheme: ftp}", "redirect.scheme"),
        ("redirect: {port: 1, derivePort: FROM_REQUEST_PORT}", "redirect"),
        ("redirect: {derivePort: X}", "redirect.derivePort"),
        ("redirect: {authority: 'a/b'}", "redirect.authority"),
        ("redirect: {uri: \"/a\\r\\nx: y\"}", "redirect.uri"),
        ("redirect: {uri: /a}, rewrite: {uri: /b}", "rewrite"),
        ("directResponse: {status: 100}", "directResponse.status"),
        ("directResponse: {status: 200, body: {bytes: '*'}}", "directResponse.body.bytes"),
        ("directResponse: {status: 200, body: {string: a, bytes: ''}}", "directResponse.body"),
        (&format!("directResponse: {{status: 200, body: {{string: {}}}}}", "a".repeat(70_000)), "directResponse.body"),
        ("ROUTE, rewrite: {uri: /a, uriRegexRewrite: {match: a, rewrite: b}}", "rewrite"),
        ("ROUTE, rewrite: {uriRegexRewrite: {match: '(a)', rewrite: '\\2'}}", "rewrite.uriRegexRewrite.rewrite"),
        ("ROUTE, rewrite: {uriRegexRewrite: {match: '(', rewrite: a}}", "rewrite.uriRegexRewrite.match"),
        ("ROUTE, rewrite: {uriRegexRewrite: {rewrite: a}}", "rewrite.uriRegexRewrite.match"),
        ("ROUTE, rewrite: {authority: 'a b'}", "rewrite.authority"),
        ("ROUTE, rewrite: {uri: '/a?b'}", "rewrite"),
        ("redirect: {uri: '/a#b'}", "redirect"),
        ("redirect: {authority: 'a@b'}", "redirect.authority"),
        ("ROUTE, headers: {request: {set: {'a b': c}}}", "headers.request.set[a b]"),
        ("ROUTE, headers: {request: {set: {a: \"b\\r\\nc: d\"}}}", "headers.request.set[a]"),
        ("ROUTE, headers: {request: {add: {host: a}}}", "headers.request.add[host]"),
        ("ROUTE, headers: {response: {set: {':status': '200'}}}", "headers.response.set[:status]"),
        ("ROUTE, headers: {request: {set: {a: '%REQ(x)%'}}}", "headers.request.set[a]"),
        ("ROUTE, headers: {requests: {}}", "headers.requests"),
        ("ROUTE, retriez: {}", "retriez"),
    ] {
        let text = format!("{{{}}}", text.replace("ROUTE", TO_CART));
        let (route, said) = said_of(&text);
        let field = format!("spec.http[0]{}{field}: ", if field.is_empty() { "" } else { "." });
        assert!(said.starts_with(&field), "{text}: {said}");
        assert!(said.ends_with("the rule answers 500 until that is mended"), "{text}: {said}");
        assert!(is_refusing(&route), "{text}");
    }
}

#[test]
fn conditions_that_can_be_read_stay() {
    let (route, _) = said_of(&format!(
        "{{match: [{{uri: {{regex: '('}}, method: {{exact: PUT}}, port: 80}}, {{uri: {{exact: /b}}}}], {TO_CART}}}"
    ));
    assert!(is_refusing(&route));
    let readable = serde_json::to_value(&route.matches).expect("JSON");
    assert_eq!(readable, serde_json::json!([{"method": {"exact": "PUT"}, "port": 80}, {"path": {"exact": "/b"}}]));
    // A match that cannot be read at all might have been any.
    let (route, _) = said_of(&format!("{{match: [{{uri: {{exact: /b}}}}, 7], {TO_CART}}}"));
    assert!(is_refusing(&route) && route.matches.is_empty());
}

#[test]
fn what_sends_nothing_elsewhere_is_left_out() {
    for (text, field) in [
        ("timeout: soon", "timeout"),
        ("timeout: -1s", "timeout"),
        ("timeout: 10", "timeout"),
        ("retries: {attempts: -1}", "retries.attempts"),
        ("retries: {attempts: 1000000}", "retries.attempts"),
        ("retries: {attempts: 1, perTryTimeout: x}", "retries.perTryTimeout"),
        ("retries: {attempts: 1, retryOn: '5xx,whatever'}", "retries.retryOn"),
        ("retries: {attempts: 1, retryOn: '99'}", "retries.retryOn"),
        ("retries: {attempts: 1, backof: 1s}", "retries.backof"),
        ("retries: {attempts: 1, retryRemoteLocalities: true}", "retries.retryRemoteLocalities"),
        ("fault: {delay: {fixedDelay: 1s, percentage: {value: 101}}}", "fault.delay.percentage.value"),
        ("fault: {delay: {fixedDelay: 1s, percentage: {value: -1}}}", "fault.delay.percentage.value"),
        ("fault: {delay: {fixedDelay: 1s}}", "fault.delay.percentage"),
        ("fault: {delay: {percent: 1}}", "fault.delay.fixedDelay"),
        ("fault: {delay: {fixedDelay: 1s, percent: 1, exponentialDelay: 1s}}", "fault.delay.exponentialDelay"),
        ("fault: {abort: {percentage: {value: 1}}}", "fault.abort"),
        ("fault: {abort: {httpStatus: 700, percentage: {value: 1}}}", "fault.abort.httpStatus"),
        ("fault: {abort: {grpcStatus: NOPE, percentage: {value: 1}}}", "fault.abort.grpcStatus"),
        ("fault: {abort: {http2Error: x, httpStatus: 500, percentage: {value: 1}}}", "fault.abort.http2Error"),
        ("mirror: {host: 'a b'}", "mirror.host"),
        ("mirror: {host: a}, mirrors: [{destination: {host: b}}]", "mirror"),
        ("mirrorPercentage: {value: 1}", "mirrorPercentage"),
        ("mirrors: [{}]", "mirrors[0].destination"),
        ("corsPolicy: {allowOrigins: [{regex: '('}]}", "corsPolicy.allowOrigins[0].regex"),
        ("corsPolicy: {maxAge: x}", "corsPolicy.maxAge"),
        ("corsPolicy: {unmatchedPreflights: X}", "corsPolicy.unmatchedPreflights"),
        ("corsPolicy: {allowMethods: ['a b']}", "corsPolicy.allowMethods[0]"),
        ("corsPolicy: {x: 1}", "corsPolicy.x"),
        ("match: [{statPrefix: x}]", "match[0].statPrefix"),
    ] {
        let (route, said) = said_of(&format!("{{{text}, {TO_CART}}}"));
        assert!(said.starts_with(&format!("spec.http[0].{field}: ")), "{text}: {said}");
        assert!(said.ends_with("it is left out"), "{text}: {said}");
        assert!(!is_refusing(&route), "{text}");
        assert!(route.cors.is_none() && route.mirrors.is_empty() && route.timeout.is_none(), "{text}");
        assert_eq!(route.fault, None, "{text}");
    }
    // Words that are known still count.
    let (route, _) = said_of(&format!("{{retries: {{attempts: 1, retryOn: '5xx,whatever'}}, {TO_CART}}}"));
    assert_eq!(route.retries.expect("retries").on.len(), 1);
    let (route, _) = said_of(&format!("{{retries: {{attempts: 1, retryOn: whatever}}, {TO_CART}}}"));
    assert_eq!(route.retries.expect("retries").attempts, 0);
}

#[test]
fn an_object_that_cannot_be_honoured_answers_500() {
    let names = vec!["a"; 1_001].join(", ");
    let rules = vec![format!("{{{TO_CART}}}"); 5_001].join(", ");
    for (spec, field) in [
        ("{hosts: [cart], htpp: []}", "spec.htpp"),
        ("{hosts: [cart], http: {}}", "spec.http"),
        ("{hosts: [cart], tcp: 7}", "spec.tcp"),
        ("{hosts: [cart], gateways: mesh}", "spec.gateways"),
        ("{hosts: [cart], exportTo: ['~']}", "spec.exportTo[0]"),
        ("{hosts: [cart], exportTo: [a/b]}", "spec.exportTo[0]"),
        (&format!("{{hosts: [cart], exportTo: [{names}]}}"), "spec.exportTo"),
        (&format!("{{hosts: [cart], http: [{rules}]}}"), "spec.http"),
    ] {
        let (ruled, said) = translated(spec);
        let routes = ruled.expect("rules").routes;
        assert!(routes.http.len() == 1 && is_refusing(&routes.http[0]) && routes.http[0].matches.is_empty(), "{spec}");
        assert_eq!(routes.tcp.len(), usize::from(spec.contains("tcp")), "{spec}");
        assert!(said[0].starts_with(&format!("{field}: ")), "{said:?}");
        assert!(said[0].ends_with("until that is mended it answers 500"), "{said:?}");
    }
    for (spec, field) in [
        ("{}", "spec.hosts"),
        ("7", "spec"),
        ("{hosts: cart}", "spec.hosts"),
        (&format!("{{hosts: [{names}]}}"), "spec.hosts"),
        ("{hosts: ['a b']}", "spec.hosts[0]"),
    ] {
        let (ruled, said) = translated(spec);
        assert_eq!(ruled, None, "{spec}");
        assert!(said[0].starts_with(&format!("{field}: ")), "{said:?}");
        assert!(said[0].ends_with("nothing is said of any") || said[0].ends_with("nothing is said of it"), "{said:?}");
    }
}

#[test]
fn connections_that_cannot_be_honoured_are_refused() {
    for (text, field) in [
        ("tcp: [{match: [{destinationSubnets: [x]}], ROUTE}]", "spec.tcp[0].match[0].destinationSubnets[0]"),
        ("tcp: [{match: [{sourceSubnet: 10.0.0.0/8}], ROUTE}]", "spec.tcp[0].match[0].sourceSubnet"),
        ("tcp: [{match: [{port: 0}], ROUTE}]", "spec.tcp[0].match[0].port"),
        ("tcp: [{}]", "spec.tcp[0].route"),
        ("tcp: [{ROUTE, timeout: 1s}]", "spec.tcp[0].timeout"),
        ("tcp: [7]", "spec.tcp[0]"),
        ("tls: [{ROUTE}]", "spec.tls[0].match"),
        ("tls: [{match: [{}], ROUTE}]", "spec.tls[0].match[0].sniHosts"),
        ("tls: [{match: [{sniHosts: ['a b']}], ROUTE}]", "spec.tls[0].match[0].sniHosts[0]"),
        ("tls: [{match: [{sniHosts: ['*.*.a']}], ROUTE}]", "spec.tls[0].match[0].sniHosts[0]"),
    ] {
        let (ruled, said) = translated(&format!("{{hosts: [cart], {}}}", text.replace("ROUTE", TO_CART)));
        let routes = ruled.expect("rules").routes;
        let backends = routes.tcp.iter().map(|route| &route.backends);
        let backends: Vec<_> = backends.chain(routes.tls.iter().map(|route| &route.backends)).collect();
        assert!(backends.len() == 1 && refuses(backends[0]), "{text}");
        assert!(said.len() == 1 && said[0].starts_with(&format!("{field}: ")), "{text}: {said:?}");
    }
}

#[test]
fn regular_expressions_are_counted_over_the_whole_object() {
    let rules = vec![format!("{{match: [{{uri: {{regex: /a}}}}], {TO_CART}}}"); REGEXES + 1].join(", ");
    let (ruled, said) = translated(&format!("{{hosts: [cart], http: [{rules}]}}"));
    let routes = ruled.expect("rules").routes.http;
    assert!(!is_refusing(&routes[REGEXES - 1]) && is_refusing(&routes[REGEXES]));
    assert!(said[0].starts_with("spec.http[500].match[0].uri.regex: the object has more than 500"), "{said:?}");
}

/// JSON that looks a little like a VirtualService.
fn json() -> impl Strategy<Value = Value> {
    let keys = [
        "hosts",
        "http",
        "tls",
        "tcp",
        "match",
        "route",
        "uri",
        "exact",
        "regex",
        "destination",
        "host",
        "weight",
        "fault",
        "delay",
        "abort",
        "percentage",
        "value",
        "retries",
        "retryOn",
        "attempts",
        "timeout",
        "redirect",
        "authority",
        "port",
        "number",
        "directResponse",
        "status",
        "body",
        "bytes",
        "rewrite",
        "uriRegexRewrite",
        "corsPolicy",
        "mirror",
        "mirrors",
        "headers",
        "request",
        "set",
        "remove",
        "gateways",
        "exportTo",
        "sniHosts",
    ];
    let texts = ["", "cart", "*", "*.a", "mesh", "10s", "(", "%", "\\", "5xx,503", "é", "a:99999", "\u{0}", "1e999h"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(texts.to_vec()).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 96, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(prop::sample::select(keys.to_vec()), inner, 0..6)
                .prop_map(|map| map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_is_written_is_read_without_panic(spec in json(), http in json(), matched in json()) {
        let mut rule = http.clone();
        if let Value::Object(map) = &mut rule {
            map.insert("match".to_owned(), serde_json::json!([matched]));
        }
        let within = serde_json::json!({"hosts": ["cart"], "http": [http, rule], "tls": [rule], "tcp": [rule]});
        for spec in [spec, within] {
            let object = Custom { spec, ..custom("shop", "v", "{}") };
            let mut faults = Vec::new();
            let ruled = virtual_service(&settings(), &object, &mut faults).ruled;
            // What is broken is told, and what is whole says so by saying nothing.
            let refusing = ruled.iter().flat_map(|ruled| &ruled.routes.http).filter(|route| is_refusing(route)).count();
            prop_assert!(faults.len() >= refusing.min(1));
            prop_assert!(faults.iter().all(|fault| fault.field.starts_with("spec")));
            // An agent takes all of it.
            let http = ruled.map(|ruled| ruled.routes.http).unwrap_or_default();
            prop_assert_eq!(Router::new(&http).err(), None);
        }
    }
}
