//! HTTPRoutes as YAML, and what they become.

use mesh_common::model::traffic::{
    Action, HeaderMatch, Millis, PathMatch, PathRewrite, Percent, Redirect, RedirectPort, RequestMatch, TextMatch,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    source::Kind as Source,
    status::Extent,
    translate::gateway::{ParentKind, Reason},
};

pub(crate) fn custom(kind: &str, version: &str, spec: &str) -> Custom {
    let text = format!(
        "apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: r, namespace: shop}}\nspec:\n{spec}"
    );
    let documents = crate::source::parse("r.yaml", &text).expect("YAML");
    match documents.objects.into_iter().next().map(|object| object.kind) {
        Some(Source::Custom(_, custom)) => *custom,
        other => panic!("{other:?}"),
    }
}

fn translated(spec: &str) -> (Route, Vec<String>) {
    let mut faults = Vec::new();
    let route = http_route(&custom("HTTPRoute", "v1", spec), &mut faults);
    (route, faults.into_iter().map(|fault| format!("{}: {}", fault.field, fault.why)).collect())
}

const PARENT: &str = "parentRefs: [{group: '', kind: Service, name: cart}]";

/// The one rule that is written so.
fn rule_of(rule: &str) -> (Rule, Vec<String>) {
    let (mut route, said) = translated(&format!("  {{{PARENT}, rules: [{rule}]}}"));
    assert_eq!(route.rules.len(), 1);
    (route.rules.remove(0), said)
}

#[test]
fn parents_are_services_and_nothing_else() {
    let (route, said) = translated(
        "
  parentRefs:
  - {group: '', kind: Service, name: cart, port: 80}
  - {group: '', kind: Service, name: cart, namespace: other, sectionName: http}
  - {group: networking.istio.io, kind: ServiceEntry, name: api}
  - {name: gateway}
  - {group: '', kind: ServiceImport, name: cart, anything: goes}
  hostnames: [example.org]
  useDefaultGateways: All
",
    );
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("spec.hostnames: have no meaning"));
    let [cart, other, api] = route.parents.as_slice() else { panic!("{:?}", route.parents) };
    assert_eq!((cart.kind, cart.port, cart.namespace.as_str()), (ParentKind::Service, Some(80), "shop"));
    assert!(!route.is_consumer_of(cart) && route.is_consumer_of(other));
    assert_eq!(other.section.as_deref(), Some("http"));
    assert_eq!((api.kind, api.field.as_str()), (ParentKind::ServiceEntry, "spec.parentRefs[2]"));
    assert_eq!(api.written["name"], "api");
    // Without rules there is one for every path, which leads nowhere.
    assert_eq!(route.rules[0].matches[0].request.path, Some(PathMatch::Elements("/".into())));
    assert!(route.rules[0].backends.is_empty() && route.rules[0].refused.is_none());
}

#[test]
fn conditions_of_every_kind_and_their_ranks() {
    let (rule, said) = rule_of(
        "{name: all, matches: [
        {path: {type: Exact, value: /a}, method: GET, headers: [{name: X-One, value: a b}, {name: x-one, value: c}],
         queryParams: [{name: q, value: '1'}]},
        {path: {value: /a/b/}}, {headers: [{name: h, type: RegularExpression, value: 'v[12]'}]},
        {path: {type: RegularExpression, value: '/x/.*'}}, {}],
        backendRefs: [{name: cart, port: 80}, {name: cart-v2, port: 80, weight: 0}]}",
    );
    assert_eq!(said, ["spec.rules[0].matches[0].headers[1]: stands twice; the first counts"]);
    assert_eq!(rule.template.name, "shop/r/all");
    assert_eq!(
        (rule.template.origin.object.as_str(), rule.template.origin.field.as_str()),
        ("HTTPRoute shop/r", "spec.rules[0]")
    );
    let ranks: Vec<_> = rule.matches.iter().map(|matched| matched.rank).collect();
    assert_eq!(ranks, [[2, 0, 1, 2, 1], [0, 4, 0, 0, 0], [0, 1, 0, 1, 0], [1, 5, 0, 0, 0], [0, 1, 0, 0, 0]]);
    let first = &rule.matches[0].request;
    let header = HeaderMatch { name: "x-one".into(), value: TextMatch::Exact("a b".into()), not: false };
    assert_eq!((&first.headers, &first.method), (&vec![header], &Some(TextMatch::Exact("GET".into()))));
    assert_eq!(rule.matches[1].request.path, Some(PathMatch::Elements("/a/b".into())));
    assert_eq!(rule.matches[2].request.headers[0].value, TextMatch::Regex("v[12]".into()));
    let weights: Vec<_> = rule.backends.iter().map(|backend| backend.weight).collect();
    assert_eq!(weights, [1, 0]);
}

#[test]
fn filters_of_every_kind() {
    let (rule, said) = rule_of(
        "{matches: [{path: {value: /a}}], filters: [
        {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: '1'}], add: [{name: X-B, value: '2'}], remove: [X-C]}},
        {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-D, value: '3'}]}},
        {type: URLRewrite, urlRewrite: {hostname: example.org, path: {type: ReplacePrefixMatch, replacePrefixMatch: /b/}}},
        {type: RequestMirror, requestMirror: {backendRef: {name: m, port: 80}, percent: 5}},
        {type: RequestMirror, requestMirror: {backendRef: {name: n, port: 80}, fraction: {numerator: 1, denominator: 3}}},
        {type: CORS, cors: {allowOrigins: ['https://*.example.com', 'http://a.org:80', 'https://b.org:8443'], allowMethods: ['*'], allowCredentials: true}}],
        timeouts: {request: 10s, backendRequest: 0s},
        retry: {codes: [500, 503], attempts: 3, backoff: 100ms},
        sessionPersistence: {type: Cookie},
        backendRefs: [{name: cart, port: 80, filters: [
          {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-E, value: '4'}]}}]}]}",
    );
    assert_eq!(said, ["spec.rules[0].sessionPersistence: is not honoured"]);
    let template = rule.template;
    let headers = template.headers.expect("header changes");
    assert_eq!(headers.request.set, [("x-a".to_owned(), "1".to_owned())]);
    assert_eq!(headers.request.remove, ["x-c"]);
    assert_eq!(headers.response.set[0].0, "x-d");
    let rewrite = template.rewrite.expect("a rewrite");
    assert_eq!(rewrite.authority.as_deref(), Some("example.org"));
    assert_eq!(rewrite.path, Some(PathRewrite::Matched("/b".into())));
    let shares: Vec<_> = rule.mirrors.iter().map(|mirror| mirror.percent).collect();
    assert_eq!(shares, [Percent(50_000), Percent(333_333)]);
    let cors = template.cors.expect("CORS");
    let origins = [
        TextMatch::Regex(r"https://.*\.example\.com".into()),
        TextMatch::Exact("http://a.org".into()),
        TextMatch::Exact("https://b.org:8443".into()),
    ];
    assert_eq!((cors.allow_origins.as_slice(), cors.max_age), (origins.as_slice(), Some(5)));
    assert_eq!((template.timeout, template.try_timeout), (Some(Millis(10_000)), None));
    let retries = template.retries.expect("retries");
    assert_eq!((retries.attempts, retries.backoff, retries.max_backoff), (3, Millis(100), Millis(1000)));
    assert_eq!(retries.on[2..], [RetryOn::Status(500), RetryOn::Status(503)]);
    assert_eq!(rule.backends[0].headers.as_ref().map(|h| h.request.set[0].0.as_str()), Some("x-e"));
}

#[test]
fn a_redirect_keeps_what_it_does_not_say() {
    let redirect = |text: &str| {
        let (rule, said) = rule_of(&format!("{{filters: [{{type: RequestRedirect, requestRedirect: {{{text}}}}}]}}"));
        assert!(said.is_empty(), "{said:?}");
        match rule.template.action {
            Action::Redirect(redirect) => redirect,
            other => panic!("{other:?}"),
        }
    };
    let plain = Redirect { scheme: None, host: None, port: RedirectPort::Dialled, path: None, status: 302 };
    assert_eq!(redirect(""), plain);
    let all = redirect(
        "scheme: https, hostname: example.org, port: 8443, statusCode: 308, path: {type: ReplaceFullPath, replaceFullPath: /x}",
    );
    let path = Some(PathRewrite::Full("/x".into()));
    let (scheme, host) = (Some("https".to_owned()), Some("example.org".to_owned()));
    assert_eq!(all, Redirect { scheme, host, port: RedirectPort::Number(8443), path, status: 308 });
}

/// What each of these does: the field that is named, and that the rule stays and refuses.
#[test]
fn every_hostile_rule_is_refused_by_its_field() {
    let many = |n: usize, item: &str| vec![item; n].join(", ");
    let long = "a".repeat(1100);
    let header = |n| many(n, "{name: a, value: b}");
    let filter = |text: &str| format!("filters: [{{{text}}}]");
    let headers = |text: &str| filter(&format!("type: RequestHeaderModifier, requestHeaderModifier: {{{text}}}"));
    let redirect = |text: &str| filter(&format!("type: RequestRedirect, requestRedirect: {{{text}}}"));
    let rewrite = |text: &str| filter(&format!("type: URLRewrite, urlRewrite: {{path: {{{text}}}}}"));
    let mirror = |text: &str| {
        filter(&format!("type: RequestMirror, requestMirror: {{backendRef: {{name: a, port: 1}}, {text}}}"))
    };
    let cors = |text: &str| filter(&format!("type: CORS, cors: {{{text}}}"));
    for (rule, field) in [
        ("unknown: 1".to_owned(), "unknown"),
        (format!("matches: [{}]", many(65, "{}")), "matches"),
        ("matches: {}".into(), "matches"),
        ("matches: [7]".into(), "matches[0]"),
        ("matches: [{cookies: []}]".into(), "matches[0].cookies"),
        (format!("matches: [{{path: {{value: /{long}}}}}]"), "matches[0].path.value"),
        ("matches: [{path: {value: a}}]".into(), "matches[0].path.value"),
        ("matches: [{path: {value: /a//b}}]".into(), "matches[0].path.value"),
        ("matches: [{path: {value: '/a?b'}}]".into(), "matches[0].path.value"),
        ("matches: [{path: {value: /a%2Fb}}]".into(), "matches[0].path.value"),
        ("matches: [{path: {type: Prefix, value: /a}}]".into(), "matches[0].path.type"),
        ("matches: [{path: {type: RegularExpression, value: 'a('}}]".into(), "matches[0].path.regex"),
        ("matches: [{path: {type: RegularExpression, value: '(a{1000}){1000}'}}]".into(), "matches[0].path.regex"),
        (format!("matches: [{{path: {{type: RegularExpression, value: '{long}'}}}}]"), "matches[0].path.value"),
        ("matches: [{method: get}]".into(), "matches[0].method"),
        ("matches: [{method: 5}]".into(), "matches[0].method"),
        (format!("matches: [{{headers: [{}]}}]", header(17)), "matches[0].headers"),
        ("matches: [{headers: [{name: 'a b', value: c}]}]".into(), "matches[0].headers[0].name"),
        ("matches: [{headers: [{name: a, value: ''}]}]".into(), "matches[0].headers[0].value"),
        ("matches: [{headers: [{name: a, value: b, type: Present}]}]".into(), "matches[0].headers[0].type"),
        ("matches: [{headers: [{name: a, value: 7}]}]".into(), "matches[0].headers[0].value"),
        (format!("matches: [{{queryParams: [{}]}}]", header(17)), "matches[0].queryParams"),
        ("matches: [{queryParams: [{name: a, value: b, type: Any}]}]".into(), "matches[0].queryParams[0].type"),
        (format!("filters: [{}]", many(17, "{type: X}")), "filters"),
        (filter("type: ExternalAuth, externalAuth: {}"), "filters[0].type"),
        (filter("type: ExtensionRef, extensionRef: {}"), "filters[0].type"),
        (filter("type: Nonsense"), "filters[0].type"),
        (filter("type: CORS"), "filters[0].cors"),
        (filter("type: CORS, cors: {}, urlRewrite: {}"), "filters[0].urlRewrite"),
        (headers("set: [{name: ':path', value: a}]"), "filters[0].requestHeaderModifier.set[0].name"),
        (headers("set: [{name: Transfer-Encoding, value: chunked}]"), "filters[0].requestHeaderModifier.set[0]"),
        (headers("set: [{name: host, value: a b}]"), "filters[0].requestHeaderModifier.set[0]"),
        (headers("add: [{name: Host, value: a}]"), "filters[0].requestHeaderModifier.add[0]"),
        (headers("add: [{name: a, value: \"b\\r\\nc: d\"}]"), "filters[0].requestHeaderModifier.add[0].value"),
        (headers("remove: [Content-Length]"), "filters[0].requestHeaderModifier.remove[0]"),
        (headers("remove: [host]"), "filters[0].requestHeaderModifier.remove[0]"),
        (headers(&format!("set: [{}]", header(17))), "filters[0].requestHeaderModifier.set"),
        (redirect("scheme: gopher"), "filters[0].requestRedirect.scheme"),
        (redirect("hostname: 10.0.0.1"), "filters[0].requestRedirect.hostname"),
        (redirect("hostname: 'a/b'"), "filters[0].requestRedirect.hostname"),
        (redirect("port: 70000"), "filters[0].requestRedirect.port"),
        (redirect("statusCode: 300"), "filters[0].requestRedirect.statusCode"),
        (redirect("path: {type: ReplaceFullPath}"), "filters[0].requestRedirect.path"),
        (redirect("path: {type: Other}"), "filters[0].requestRedirect.path.type"),
        (redirect("path: {type: ReplaceFullPath, replaceFullPath: \"/a\\r\\nb\"}"), "filters[0].requestRedirect.path.replaceFullPath"),
        (redirect("path: {type: ReplaceFullPath, replaceFullPath: '/<'}"), "filters[0].requestRedirect.path.replaceFullPath"),
        (rewrite("type: ReplaceFullPath, replaceFullPath: '/<'"), "filters[0].urlRewrite.path.replaceFullPath"),
        (rewrite("type: ReplaceFullPath, replaceFullPath: '/`'"), "filters[0].urlRewrite.path.replaceFullPath"),
        (rewrite("type: ReplaceFullPath, replaceFullPath: '/a?b'"), "filters[0].urlRewrite.path.replaceFullPath"),
        (rewrite("type: ReplacePrefixMatch, replacePrefixMatch: '/a>'"), "filters[0].urlRewrite.path.replacePrefixMatch"),
        (rewrite("type: ReplacePrefixMatch, replacePrefixMatch: /\u{e9}"), "filters[0].urlRewrite.path.replacePrefixMatch"),
        (format!("{}, backendRefs: [{{name: a, port: 1}}]", redirect("")), "backendRefs"),
        (
            "filters: [{type: RequestRedirect, requestRedirect: {}}, {type: URLRewrite, urlRewrite: {}}]".into(),
            "filters",
        ),
        ("filters: [{type: CORS, cors: {}}, {type: CORS, cors: {}}]".into(), "filters[1].cors"),
        (
            "matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]".into(),
            "filters",
        ),
        (mirror("percent: 101"), "filters[0].requestMirror.percent"),
        (mirror("percent: 1, fraction: {numerator: 1}"), "filters[0].requestMirror.fraction"),
        (mirror("fraction: {numerator: 2, denominator: 1}"), "filters[0].requestMirror.fraction.numerator"),
        (mirror("fraction: {numerator: 0, denominator: 0}"), "filters[0].requestMirror.fraction.denominator"),
        (cors("allowOrigins: ['ftp://a']"), "filters[0].cors.allowOrigins[0]"),
        (cors("allowOrigins: ['http://a(b']"), "filters[0].cors.allowOrigins[0]"),
        (cors("allowMethods: ['a b']"), "filters[0].cors.allowMethods[0]"),
        (cors("allowHeaders: ['a b']"), "filters[0].cors.allowHeaders[0]"),
        (cors("maxAge: 0"), "filters[0].cors.maxAge"),
        (format!("backendRefs: [{}]", many(17, "{name: a, port: 1}")), "backendRefs"),
        ("backendRefs: [{name: a, port: 1, weight: -1}]".into(), "backendRefs[0].weight"),
        ("backendRefs: [{name: a, port: 1, weight: 1000001}]".into(), "backendRefs[0].weight"),
        ("backendRefs: [{port: 1}]".into(), "backendRefs[0]"),
        ("timeouts: {request: 5}".into(), "timeouts.request"),
        ("timeouts: {request: 1.5s}".into(), "timeouts.request"),
        ("timeouts: {request: 1s, backendRequest: 2s}".into(), "timeouts.backendRequest"),
        ("retry: {attempts: -1}".into(), "retry.attempts"),
        ("retry: {attempts: 101}".into(), "retry.attempts"),
        ("retry: {codes: [200]}".into(), "retry.codes[0]"),
        ("retry: {backoff: soon}".into(), "retry.backoff"),
    ] {
        let (read, said) = rule_of(&format!("{{{rule}}}"));
        assert_eq!(said.len(), 1, "{rule}: {said:?}");
        let expected = format!("spec.rules[0].{field}: ");
        assert!(said[0].starts_with(&expected) && said[0].contains("answers with an error"), "{rule}: {said:?}");
        assert!(read.refused.is_some() && !read.matches.is_empty(), "{rule}");
    }
}

#[test]
fn a_refused_rule_keeps_the_conditions_that_can_be_read() {
    let (rule, _) =
        rule_of("{matches: [{path: {value: /admin}, headers: [{name: a, value: b, type: C}]}], backendRefs: []}");
    assert!(rule.refused.is_some());
    assert_eq!(rule.matches[0].request.path, Some(PathMatch::Elements("/admin".into())));
    assert_eq!(rule.matches[0].rank, [0, 6, 0, 1, 0], "it counts as though it could be read");
    let (route, said) =
        translated(&format!("  {{{PARENT}, rules: [{{unknown: 1, matches: [{{path: {{value: /a}}}}]}}, {{}}]}}"));
    assert_eq!(said.len(), 1);
    assert!(route.rules[0].refused.is_some() && route.rules[1].refused.is_none());
    assert_eq!(route.rules[0].matches[0].request.path, Some(PathMatch::Elements("/a".into())));
}

#[test]
fn what_nobody_knows_beside_the_rules_refuses_them_all() {
    let rules: Vec<_> = (0..17).map(|_| "{}").collect();
    let matches = ["{}"; 64].join(", ");
    for (spec, field) in [
        (format!("{PARENT}, rules: [{{}}, {{}}], unless: 1"), "spec.unless"),
        (format!("{PARENT}, rules: [{}]", rules.join(", ")), "spec.rules"),
        (format!("{PARENT}, rules: 7"), "spec.rules"),
        (format!("{PARENT}, rules: [{{matches: [{matches}]}}, {{matches: [{matches}]}}, {{}}]"), "spec.rules"),
    ] {
        let mut faults = Vec::new();
        let route = http_route(&custom("HTTPRoute", "v1", &format!("  {{{spec}}}")), &mut faults);
        assert_eq!((faults[0].field.as_str(), faults[0].extent), (field, Extent::Whole), "{spec}");
        assert!(route.rules.iter().all(|rule| rule.refused.is_some() && !rule.matches.is_empty()), "{spec}");
        assert_eq!(route.parents.len(), 1);
    }
}

#[test]
fn parents_that_cannot_be_read_are_none() {
    let many = vec!["{group: '', kind: Service, name: a}"; 33].join(", ");
    for (parents, field) in [
        (format!("[{many}]"), "spec.parentRefs"),
        ("7".to_owned(), "spec.parentRefs"),
        ("[{group: '', kind: Service}]".into(), "spec.parentRefs[0]"),
        ("[{group: '', kind: Service, name: ''}]".into(), "spec.parentRefs[0].name"),
        ("[{group: '', kind: Service, name: a, port: 0}]".into(), "spec.parentRefs[0].port"),
        ("[{group: '', kind: Service, name: a, unless: b}]".into(), "spec.parentRefs[0].unless"),
    ] {
        let (route, said) = translated(&format!("  {{parentRefs: {parents}}}"));
        assert!(said[0].starts_with(&format!("{field}: ")), "{said:?}");
        assert!(route.parents.is_empty());
    }
    let (route, said) = translated(
        "  {parentRefs: [{group: '', kind: Service, name: a}, {group: '', kind: Service, name: a, namespace: shop}]}",
    );
    assert_eq!((route.parents.len(), said.as_slice()), (1, ["spec.parentRefs[1]: stands twice".to_owned()].as_slice()));
}

#[test]
fn references_that_lead_nowhere_say_why() {
    let (rule, said) = rule_of(
        "{backendRefs: [{name: a}, {name: a, port: 0}, {kind: Bucket, group: example.com, name: a},
          {name: a, port: 80, filters: [{type: URLRewrite, urlRewrite: {}}]}]}",
    );
    let reasons: Vec<_> =
        rule.backends.iter().map(|backend| backend.reference.broken.as_ref().map(|broken| broken.reason)).collect();
    let unsupported = Some(Reason::UnsupportedValue);
    assert_eq!(reasons, [unsupported, unsupported, Some(Reason::InvalidKind), None]);
    assert!(rule.refused.is_none(), "the other backends are not concerned");
    assert!(rule.backends[3].refused.is_some());
    assert_eq!(said.len(), 1);
    assert!(said[0].starts_with("spec.rules[0].backendRefs[3].filters[0].type: `URLRewrite`"), "{said:?}");
}

/// Whatever an API server would take, and more: keys that mean something, values that do not.
fn arbitrary_json() -> impl Strategy<Value = Value> {
    let words = prop::sample::select(vec![
        "",
        "/",
        "/a",
        "*",
        "Service",
        "PathPrefix",
        "Exact",
        "RegularExpression",
        "RequestRedirect",
        "URLRewrite",
        "CORS",
        "RequestMirror",
        "RequestHeaderModifier",
        "ReplacePrefixMatch",
        "a(",
        "10s",
        "ä\n",
        "*.x",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-2i64..600).prop_map(Value::from),
        words.prop_map(Value::from),
    ];
    let keys = prop::sample::select(vec![
        "parentRefs",
        "rules",
        "hostnames",
        "matches",
        "path",
        "headers",
        "queryParams",
        "method",
        "service",
        "type",
        "value",
        "name",
        "filters",
        "backendRefs",
        "backendRef",
        "weight",
        "port",
        "kind",
        "group",
        "namespace",
        "sectionName",
        "timeouts",
        "request",
        "retry",
        "codes",
        "attempts",
        "requestRedirect",
        "urlRewrite",
        "cors",
        "requestMirror",
        "requestHeaderModifier",
        "set",
        "add",
        "remove",
        "fraction",
        "numerator",
        "denominator",
        "percent",
        "allowOrigins",
        "replacePrefixMatch",
        "from",
        "to",
        "other",
    ]);
    leaf.prop_recursive(7, 96, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(keys.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Something of it is in the places where it is looked for.
fn arbitrary_spec() -> impl Strategy<Value = Value> {
    let parents = json!([{"group": "", "kind": "Service", "name": "cart"}]);
    prop_oneof![
        arbitrary_json(),
        prop::collection::vec(arbitrary_json(), 0..4)
            .prop_map(move |rules| json!({"parentRefs": parents.clone(), "rules": rules})),
        (arbitrary_json(), arbitrary_json(), arbitrary_json(), arbitrary_json()).prop_map(
            |(matches, filters, backends, retry)| {
                json!({"parentRefs": [{"group": "", "kind": "Service", "name": "cart"}],
                   "rules": [{"matches": [matches], "filters": [filters], "backendRefs": [backends], "retry": retry}]})
            }
        ),
    ]
}

proptest! {
    #[test]
    fn no_json_makes_a_reader_panic_or_a_rule_without_conditions(spec in arbitrary_spec()) {
        let metadata = Default::default();
        let object = Custom { metadata, spec, fault: None };
        let readers = [
            http_route,
            crate::translate::grpc_route::grpc_route,
            crate::translate::tls_route::tls_route,
            crate::translate::tcp_route::tcp_route,
        ];
        for read in readers {
            let mut faults = Vec::new();
            let route = read(&object, &mut faults);
            prop_assert!(route.rules.iter().any(|rule| rule.refused.is_some()) <= !faults.is_empty());
            if route.kind.is_http() {
                prop_assert!(route.rules.iter().all(|rule| !rule.matches.is_empty()));
                let requests: Vec<RequestMatch> =
                    route.rules.iter().flat_map(|rule| &rule.matches).map(|m| m.request.clone()).collect();
                prop_assert!(mesh_common::route::Matches::new(&requests).is_ok(), "agents take what is told");
            }
            for rule in route.rules.iter().filter(|rule| rule.refused.is_none()) {
                prop_assert!(mesh_common::route::Plan::new(&rule.template).is_ok(), "of what a rule does too");
            }
            let known = crate::index::traffic::gateway::Known::default();
            crate::index::traffic::gateway::gather(&known, &[&route]);
        }
        crate::translate::reference_grant::reference_grant(&object, &mut Vec::new());
    }
}
