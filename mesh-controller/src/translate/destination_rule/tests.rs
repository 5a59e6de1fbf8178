//! DestinationRules as YAML, and what becomes of them.

use mesh_common::model::traffic::{
    ActiveCheck, Algorithm, CheckKind, ConnectionPool, HashOn, HttpUpgrade, Millis, Outlier, Percent, RetryBudget,
    TrafficPolicy, TrustedRoots, Warmup,
};
use proptest::prelude::*;

use super::*;
use crate::{
    index::tests::settings,
    translate::fields::tests::{any_json, broken, custom, said},
};

fn translated(text: &str) -> (Option<DestinationRule>, Vec<String>) {
    let mut faults = Vec::new();
    let rule = destination_rule(&settings(), &custom(text), &mut faults);
    (rule, said(faults))
}

/// A rule in namespace `shop` with this spec.
fn of_spec(spec: &str) -> (DestinationRule, Vec<String>) {
    let text = format!("metadata: {{name: r, namespace: shop}}\nspec:\n  host: cart\n{spec}");
    let (rule, said) = translated(&text);
    (rule.expect("a rule"), said)
}

/// What its trafficPolicy becomes.
fn policy(policy: &str) -> (TrafficPolicy, Vec<String>) {
    let (rule, said) = of_spec(&format!("  trafficPolicy: {policy}"));
    (rule.policy.expect("a policy").settled().all, said)
}

#[test]
fn the_circuit_breakers_of_the_samples() {
    let (rule, said) = translated(
        "
metadata: {name: payment-service, namespace: production}
spec:
  host: payment-service
  trafficPolicy:
    connectionPool:
      tcp: {maxConnections: 100}
      http: {h2UpgradePolicy: DEFAULT, http1MaxPendingRequests: 100, http2MaxRequests: 1000}
    outlierDetection: {consecutive5xxErrors: 5, interval: 30s, baseEjectionTime: 30s, maxEjectionPercent: 50}
",
    );
    assert_eq!(said, [""; 0]);
    let rule = rule.expect("a rule");
    assert_eq!(rule.host, HostRef::Service(hosts::service(&settings(), "production", "payment-service")));
    assert_eq!(rule.clients, Clients::Everybody);
    let outlier = Outlier {
        consecutive_5xx: Some(5),
        consecutive_gateway_errors: None,
        consecutive_local_failures: None,
        interval: Millis(30_000),
        base_ejection: Millis(30_000),
        max_ejected: Percent(500_000),
        min_health: Percent(0),
    };
    let pool = ConnectionPool {
        max_connections: Some(100),
        max_pending: Some(100),
        max_requests: Some(1000),
        ..ConnectionPool::default()
    };
    let expected = TrafficPolicy { pool, outlier: Some(outlier.clone()), ..TrafficPolicy::default() };
    assert_eq!(rule.policy.expect("a policy").settled().all, expected);

    let (all, said) = policy(
        "
    connectionPool: {tcp: {maxConnections: 100}, http: {http1MaxPendingRequests: 25, maxRequestsPerConnection: 50}}
    outlierDetection: {consecutiveErrors: 7, interval: 5s, baseEjectionTime: 30s, maxEjectionPercent: 50}
",
    );
    let old = "spec.trafficPolicy.outlierDetection.consecutiveErrors: is an old name: it is honoured as \
               consecutive5xxErrors";
    assert_eq!(said, [old]);
    assert_eq!(all.outlier, Some(Outlier { consecutive_5xx: Some(7), interval: Millis(5_000), ..outlier }));
    assert_eq!((all.pool.max_pending, all.pool.max_requests_per_connection), (Some(25), Some(50)));
}

#[test]
fn subsets_take_over_what_they_do_not_say() {
    let (rule, said) = of_spec(
        "
  trafficPolicy:
    connectionPool: {http: {maxRequestsPerConnection: 10}}
    loadBalancer: {simple: LEAST_REQUEST}
    retryBudget: {percent: 12.5}
    portLevelSettings:
    - {port: {number: 81}, loadBalancer: {simple: RANDOM}}
  subsets:
  - {name: stable, labels: {version: v1}}
  - name: canary
    labels: {version: v2}
    trafficPolicy:
      loadBalancer: {simple: ROUND_ROBIN}
      portLevelSettings: [{port: {number: 82}, outlierDetection: {}}]
",
    );
    assert_eq!(said, [""; 0]);
    let parts = rule.policy.expect("a policy");
    assert!(parts.asks());
    let budget = Some(RetryBudget { percent: Percent(125_000), min_concurrency: 3 });
    let settled = parts.settled();
    assert_eq!(settled.all.pool.max_requests_per_connection, Some(10));
    assert_eq!(settled.all.retry_budget, budget);
    // A port takes over nothing.
    assert_eq!(settled.ports[&81].balancing.algorithm, Algorithm::Random);
    assert_eq!(settled.ports[&81].pool, ConnectionPool::default());
    assert_eq!(settled.ports[&81].retry_budget, budget);

    let stable = parts.of_subset(&rule.subsets[0]);
    assert_eq!((&stable.all, &stable.ports), (&settled.all, &settled.ports));
    let canary = parts.of_subset(&rule.subsets[1]);
    assert_eq!(canary.labels["version"], "v2");
    assert_eq!(canary.all.balancing.algorithm, Algorithm::RoundRobin);
    assert_eq!(canary.all.pool.max_requests_per_connection, Some(10));
    // The rule's port, and over it what the subset says of itself.
    assert_eq!(canary.ports[&81].balancing.algorithm, Algorithm::RoundRobin);
    assert_eq!(canary.ports[&81].pool, ConnectionPool::default());
    assert_eq!(canary.ports[&82].balancing.algorithm, Algorithm::LeastRequest);
    assert!(canary.ports[&82].outlier.is_some());
    assert_eq!(canary.ports[&82].retry_budget, budget);
}

#[test]
fn every_algorithm() {
    for (balancer, expected, told) in [
        ("{}", Algorithm::LeastRequest, 0),
        ("{simple: UNSPECIFIED}", Algorithm::LeastRequest, 0),
        ("{simple: ROUND_ROBIN}", Algorithm::RoundRobin, 0),
        ("{simple: LEAST_CONN}", Algorithm::LeastRequest, 1),
        ("{simple: RANDOM}", Algorithm::Random, 0),
        ("{simple: PASSTHROUGH}", Algorithm::Passthrough, 0),
        ("{simple: FASTEST}", Algorithm::LeastRequest, 1),
        ("{consistentHash: {httpHeaderName: X-User}}", Algorithm::Hash(HashOn::Header("x-user".into())), 0),
        ("{consistentHash: {useSourceIp: true}}", Algorithm::Hash(HashOn::SourceIp), 0),
        ("{consistentHash: {httpQueryParameterName: User}}", Algorithm::Hash(HashOn::Query("User".into())), 0),
        ("{consistentHash: {useSourceIp: true, maglev: {}}}", Algorithm::Hash(HashOn::SourceIp), 1),
        ("{consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 9}}}", Algorithm::Hash(HashOn::SourceIp), 1),
        ("{consistentHash: {useSourceIp: true, httpHeaderName: a}}", Algorithm::Hash(HashOn::Header("a".into())), 1),
        ("{consistentHash: {}}", Algorithm::LeastRequest, 1),
        ("{consistentHash: {httpHeaderName: 'a b'}}", Algorithm::LeastRequest, 2),
        (
            "{consistentHash: {httpCookie: {name: user, path: /, ttl: 0s}}}",
            Algorithm::Hash(HashOn::Cookie { name: "user".into(), path: Some("/".into()), ttl: Some(Millis(0)) }),
            0,
        ),
        ("{simple: RANDOM, consistentHash: {useSourceIp: true}}", Algorithm::Hash(HashOn::SourceIp), 1),
    ] {
        let (all, said) = policy(&format!("{{loadBalancer: {balancer}}}"));
        assert_eq!(all.balancing.algorithm, expected, "{balancer}");
        assert_eq!(said.len(), told, "{balancer}: {said:?}");
        assert!(said.iter().all(|said| said.starts_with("spec.trafficPolicy.loadBalancer.")), "{said:?}");
    }
}

#[test]
fn localities_and_warmup() {
    let (all, said) = policy(
        "
    loadBalancer:
      warmup: {duration: 1m, minimumPercent: 5, aggression: 1.5}
      localityLbSetting:
        distribute: [{from: a/z1/*, to: {'a/z1/*': 80, 'a/z2/*': 20}}, {from: '*', to: {a: 99}}, {from: b, to: {'*/a': 100}}]
",
    );
    let fields: Vec<_> = said.iter().map(|said| said.split(": ").next().unwrap_or_default()).collect();
    let distribute = "spec.trafficPolicy.loadBalancer.localityLbSetting.distribute";
    assert_eq!(fields, [format!("{distribute}[1].to"), format!("{distribute}[2].to")]);
    let locality = all.balancing.locality.expect("a locality policy");
    assert_eq!((locality.enabled, locality.distribute.len()), (true, 1));
    assert_eq!(locality.distribute[0].to["a/z2/*"], 20);
    let warmup = Warmup { duration: Millis(60_000), minimum: Percent(50_000), aggression: 1500 };
    assert_eq!(all.balancing.warmup, Some(warmup));

    let (all, said) = policy("{loadBalancer: {simple: RANDOM, warmupDurationSecs: 10s}}");
    assert_eq!((all.balancing.warmup, said.len()), (None, 1));
    let (all, _) = policy("{loadBalancer: {localityLbSetting: {enabled: false, failover: [{from: a, to: b}]}}}");
    let locality = all.balancing.locality.expect("a locality policy");
    assert_eq!((locality.enabled, locality.failover.len()), (false, 1));
}

#[test]
fn a_pool_is_read_whole() {
    let (all, said) = policy(
        "
    connectionPool:
      tcp: {connectTimeout: 250ms, idleTimeout: 1h, maxConnectionDuration: 30m, tcpKeepalive: {time: 60s}}
      http: {maxRetries: 3, idleTimeout: 0s, maxConcurrentStreams: 7, h2UpgradePolicy: UPGRADE}
",
    );
    let expected = ConnectionPool {
        connect_timeout: Some(Millis(250)),
        tcp_idle_timeout: Some(Millis(3_600_000)),
        max_connection_duration: Some(Millis(1_800_000)),
        max_retries: Some(3),
        max_streams: Some(7),
        upgrade: HttpUpgrade::Always,
        ..ConnectionPool::default()
    };
    assert_eq!(all.pool, expected);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("spec.trafficPolicy.connectionPool.tcp.tcpKeepalive: is not supported yet"));
}

#[test]
fn tls_that_cannot_be_had_refuses_and_never_is_plaintext() {
    for (tls, unusable) in [
        ("{mode: MUTUAL, clientCertificate: /a, privateKey: /b}", Some("clientCertificate")),
        ("{mode: MUTUAL}", Some("mode")),
        ("{mode: SIMPLE, caCertificates: /etc/ca.pem}", Some("caCertificates")),
        ("{mode: SIMPLE, caCrl: /etc/crl.pem}", Some("caCrl")),
        ("{mode: SIMPLE, credentialName: secret}", Some("credentialName")),
        ("{mode: SIMPLE, credentialName: secret, insecureSkipVerify: true}", Some("credentialName")),
        ("{mode: SIMPLE, sni: 'a b'}", Some("sni")),
        ("{mode: SIMPLE, subjectAltNames: a}", Some("subjectAltNames")),
        ("{mode: SIMPLE, subjectAltName: [a]}", Some("subjectAltName")),
        ("{mode: Simple}", Some("mode")),
        ("{mode: 1}", Some("mode")),
        ("SIMPLE", Some("tls")),
        ("{mode: SIMPLE, caCertificates: system, sni: A.example.com, subjectAltNames: ['spiffe://x']}", None),
    ] {
        let (all, said) = policy(&format!("{{tls: {tls}}}"));
        let upstream = all.tls.expect("TLS");
        match unusable {
            Some(field) => {
                assert!(matches!(&upstream.roots, TrustedRoots::Unusable(why) if why.contains(field)), "{tls}");
                assert!(said.iter().any(|said| said.contains(field)), "{tls}: {said:?}");
            }
            None => {
                assert_eq!(upstream.roots, TrustedRoots::System, "{tls}: {said:?}");
                assert_eq!(upstream.server_name.as_deref(), Some("a.example.com"));
                assert_eq!((upstream.names.len(), said.len()), (1, 0));
            }
        }
    }
    let (all, said) = policy("{tls: {mode: SIMPLE, insecureSkipVerify: true}}");
    assert_eq!((all.tls.expect("TLS").roots, said.len()), (TrustedRoots::Unverified, 0));
    // What the mesh does anyway is not told to agents.
    let (rule, said) = of_spec("  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}");
    assert!(!rule.policy.expect("a policy").asks());
    assert_eq!(said, [""; 0]);
    let (all, said) = policy("{tls: {mode: DISABLE}}");
    assert_eq!((all.tls, said.len()), (None, 1));
    assert!(said[0].contains("DISABLE is not honoured"), "{said:?}");
}

#[test]
fn what_cannot_be_read_is_named() {
    for (spec, field) in [
        ("  trafficPolicy: {connectionPool: {tcp: {maxConnections: -1}}}", "connectionPool.tcp.maxConnections: -1 is"),
        ("  trafficPolicy: {connectionPool: {tcp: {maxConnections: many}}}", "connectionPool.tcp.maxConnections: inv"),
        (
            "  trafficPolicy: {connectionPool: {http: {http2MaxRequests: 5000000000}}}",
            "connectionPool.http.http2MaxReq",
        ),
        (
            "  trafficPolicy: {connectionPool: {tcp: {connectTimeout: soon}}}",
            "connectionPool.tcp.connectTimeout: `soon`",
        ),
        ("  trafficPolicy: {connectionPool: {udp: {}}}", "connectionPool.udp: is not a known field"),
        ("  trafficPolicy: {outlierDetection: {maxEjectionPercent: 101}}", "outlierDetection.maxEjectionPercent: 101"),
        ("  trafficPolicy: {outlierDetection: {interval: 0s}}", "outlierDetection.interval: must be"),
        ("  trafficPolicy: {portLevelSettings: [{port: {number: 0}}]}", "portLevelSettings[0].port.number: 0 is not"),
        ("  trafficPolicy: {portLevelSettings: [{}]}", "portLevelSettings[0].port.number: is missing"),
        ("  trafficPolicy: {proxyProtocol: {version: V2}}", "proxyProtocol: is not supported"),
        ("  trafficPolicy: {tunnel: {targetHost: a, targetPort: 1}}", "tunnel: is not supported"),
    ] {
        let (_, said) = of_spec(spec);
        assert!(said.iter().any(|said| said.starts_with(&format!("spec.trafficPolicy.{field}"))), "{spec}: {said:?}");
    }
    let many = format!("  subsets: [{}]", "{name: a},".repeat(SUBSETS + 2));
    let (_, said) = of_spec(&many);
    assert!(said[0].starts_with("spec.subsets: has 130 entries"), "{}", said[0]);
}

#[test]
fn a_subset_that_cannot_be_read_is_no_other() {
    let (rule, said) = of_spec(
        "  subsets: [{name: a, labels: {version: 1}}, {name: b, label: {version: v1}}, {labels: {a: b}}, {name: b}]",
    );
    let names: Vec<_> = rule.subsets.iter().map(|subset| subset.name.as_str()).collect();
    assert_eq!(names, ["b"]);
    assert_eq!(said.len(), 5, "{said:?}");
    assert!(said[0].starts_with("spec.subsets[0].labels.version: "), "{}", said[0]);
}

#[test]
fn a_rule_for_some_clients_only_holds_for_nobody() {
    let text = "metadata: {name: r, namespace: shop}\nspec: {host: cart, workloadSelector: {matchLabels: {a: b}}}";
    let (rule, said) = translated(text);
    assert_eq!(rule, None);
    assert!(said[0].starts_with("spec.workloadSelector: is not supported yet"), "{said:?}");
    assert_eq!(translated("metadata: {name: r, namespace: shop}").0, None);
    let (rule, said) = translated("metadata: {name: r, namespace: shop}\nspec: {host: 'a b'}");
    assert_eq!(rule, None);
    assert!(said[0].starts_with("spec.host: `a b`"), "{said:?}");
    let only = |list: &[&str]| Clients::Namespaces(list.iter().map(|name| (*name).to_owned()).collect());
    for (export, expected) in [
        ("[]", Clients::Everybody),
        ("['.', '*']", Clients::Everybody),
        ("['.', pay]", only(&["pay", "shop"])),
        ("[pay]", only(&["pay"])),
        ("['?']", only(&["shop"])),
        ("7", only(&["shop"])),
    ] {
        assert_eq!(of_spec(&format!("  exportTo: {export}")).0.clients, expected, "{export}");
    }
}

#[test]
fn the_meshs_own_annotations() {
    let annotated = |annotations: &str, spec: &str| {
        translated(&format!(
            "metadata: {{name: r, namespace: shop, annotations: {annotations}}}\nspec: {{host: cart, {spec}}}"
        ))
    };
    let (rule, said) = annotated("{nodemesh.io/load-balancer: PEAK_EWMA}", "subsets: [{name: a}]");
    assert_eq!(said, [""; 0]);
    let rule = rule.expect("a rule");
    let parts = rule.policy.expect("a policy");
    assert!(parts.asks());
    assert_eq!(parts.settled().all.balancing.algorithm, Algorithm::PeakEwma);
    assert_eq!(parts.of_subset(&rule.subsets[0]).all.balancing.algorithm, Algorithm::PeakEwma);

    let check = "http:/healthz interval=5s timeout=1s healthy=1 unhealthy=4";
    let (rule, said) = annotated(
        &format!("{{nodemesh.io/health-check: '{check}'}}"),
        "trafficPolicy: {portLevelSettings: [{port: {number: 1}, loadBalancer: {simple: RANDOM}}]}",
    );
    assert_eq!(said, [""; 0]);
    let expected = ActiveCheck {
        kind: CheckKind::Http { path: "/healthz".into(), host: None },
        interval: Millis(5_000),
        timeout: Millis(1_000),
        healthy_threshold: 1,
        unhealthy_threshold: 4,
    };
    let settled = rule.expect("a rule").policy.expect("a policy").settled();
    assert_eq!(settled.all.check.as_ref(), Some(&expected));
    assert_eq!(settled.ports[&1].check.as_ref(), Some(&expected));
    for wrong in ["", "http", "http:healthz", "udp", "tcp interval=1ms", "tcp timeout=11s", "tcp healthy=0", "tcp a=b"]
    {
        let (_, said) = annotated(&format!("{{nodemesh.io/health-check: '{wrong}'}}"), "");
        assert!(said[0].starts_with("metadata.annotations[nodemesh.io/health-check]: "), "{wrong}: {said:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_spec_makes_it_panic_and_none_turns_tls_into_plaintext(value in any_json()) {
        let spec = serde_yaml_ng::from_str(
            "
host: cart
exportTo: ['.']
trafficPolicy:
  loadBalancer: {simple: RANDOM, consistentHash: {httpCookie: {name: a, ttl: 1s}}, warmup: {duration: 1s},
                 localityLbSetting: {distribute: [{from: a, to: {b: 100}}]}}
  connectionPool: {tcp: {connectTimeout: 1s}, http: {maxRetries: 1}}
  outlierDetection: {interval: 1s}
  retryBudget: {percent: 1}
  tls: {mode: SIMPLE, sni: a, subjectAltNames: [a], credentialName: c}
  portLevelSettings: [{port: {number: 1}, tls: {mode: SIMPLE}}]
subsets: [{name: a, labels: {a: b}, trafficPolicy: {loadBalancer: {simple: RANDOM}}}]
",
        ).expect("YAML");
        for spec in broken(&spec, &value) {
            let metadata = custom("metadata: {name: r, namespace: shop}").metadata;
            let object = Custom { metadata, spec, fault: None };
            let mut faults = Vec::new();
            let rule = destination_rule(&settings(), &object, &mut faults);
            prop_assert!(faults.iter().all(|fault| fault.field.starts_with("spec")));
            let tls = &object.spec["trafficPolicy"]["tls"];
            if let (Some(rule), true) = (rule, tls["mode"] == "SIMPLE") {
                let policy = rule.policy.unwrap_or_default();
                prop_assert!(policy.has_tls());
                for subset in &rule.subsets {
                    prop_assert!(policy.of_subset(subset).all.tls.is_some());
                }
            }
        }
    }
}
