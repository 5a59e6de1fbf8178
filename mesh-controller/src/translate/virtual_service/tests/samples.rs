//! What users apply as it stands.

use mesh_common::model::traffic::{
    Abort, Backend, Delay, HeaderMatch, Millis, Percent, Retries, RetryOn, TextMatch, WeightedBackend,
};

use super::*;
use crate::translate::{hosts::service, traffic::HostRef};

/// The VirtualService of a sample, in namespace `default`.
fn sample(text: &str) -> Ruled {
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value: Value = serde::Deserialize::deserialize(document).expect("YAML");
        if value["kind"] == "VirtualService" {
            let spec = serde_yaml_ng::to_string(&value["spec"]).expect("YAML");
            let name = value["metadata"]["name"].as_str().expect("a name").to_owned();
            let mut faults = Vec::new();
            let VirtualService { ruled } = virtual_service(&settings(), &custom("default", &name, &spec), &mut faults);
            assert_eq!(faults, []);
            let ruled = ruled.expect("rules");
            assert_eq!((ruled.object.name.as_str(), &ruled.exported), (name.as_str(), &Clients::Everybody));
            return ruled;
        }
    }
    panic!("no VirtualService")
}

fn to(host: &str, subset: &str, weight: u32) -> WeightedBackend {
    let subset = Some(subset.to_owned()).filter(|subset| !subset.is_empty());
    let backend = Backend { service: service(&settings(), "default", host), port: None, subset };
    WeightedBackend { weight, target: Target::Backend(backend), headers: None }
}

fn plain(rules: &Ruled, number: usize, matches: Vec<RequestMatch>, backends: Vec<WeightedBackend>) -> HttpRoute {
    let name = format!("default/{}/{number}", rules.object.name);
    let origin = Origin {
        object: format!("VirtualService default/{}", rules.object.name),
        field: format!("spec.http[{number}]"),
    };
    HttpRoute { matches, ..HttpRoute::new(name, origin, Action::Forward(backends)) }
}

#[test]
fn a_canary_of_ten_per_cent() {
    for (text, host) in [
        (include_str!("samples/001-2-canary.yaml"), "order-service"),
        (include_str!("samples/004-1-canary.yaml"), "payment-service"),
    ] {
        let ruled = sample(text);
        let about = HostRef::Service(service(&settings(), "default", host));
        assert_eq!(ruled.hosts, [About { field: "spec.hosts[0]".into(), host: about }]);
        assert_eq!(ruled.routes.http, [plain(&ruled, 0, vec![], vec![to(host, "v1", 90), to(host, "v2", 10)])]);
    }
}

#[test]
fn retries_and_a_timeout() {
    let ruled = sample(include_str!("samples/001-3-retries-timeouts.yaml"));
    let on = vec![RetryOn::ServerError, RetryOn::ConnectFailure, RetryOn::RetriableClientError];
    let retries = Retries { attempts: 3, try_timeout: Some(Millis(2_000)), ..Retries::of(on) };
    let expected = HttpRoute {
        timeout: Some(Millis(10_000)),
        retries: Some(retries),
        ..plain(&ruled, 0, vec![], vec![to("payment-service", "", 1)])
    };
    assert_eq!(ruled.routes.http, [expected]);
}

#[test]
fn a_canary_by_header_before_one_by_weight() {
    let ruled = sample(include_str!("samples/003-1-traffic-management.yaml"));
    let canary = HeaderMatch { name: "x-canary".into(), value: TextMatch::Exact("true".into()), not: false };
    let matches = vec![RequestMatch { headers: vec![canary], ..RequestMatch::default() }];
    let on = vec![RetryOn::ServerError, RetryOn::Reset, RetryOn::ConnectFailure];
    let retries = Retries { attempts: 3, try_timeout: Some(Millis(2_000)), ..Retries::of(on) };
    let weighted = vec![to("order-service", "stable", 90), to("order-service", "canary", 10)];
    let second =
        HttpRoute { timeout: Some(Millis(10_000)), retries: Some(retries), ..plain(&ruled, 1, vec![], weighted) };
    assert_eq!(ruled.routes.http, [plain(&ruled, 0, matches, vec![to("order-service", "canary", 1)]), second]);
}

#[test]
fn faults_for_some() {
    let ruled = sample(include_str!("samples/003-3-fault-injection.yaml"));
    let delay = Delay { percent: Percent(100_000), fixed: Millis(5_000) };
    let abort = Abort { percent: Percent(50_000), status: Some(503), grpc_status: None };
    let fault = mesh_common::model::traffic::Fault { delay: Some(delay), abort: Some(abort) };
    let expected = HttpRoute { fault: Some(fault), ..plain(&ruled, 0, vec![], vec![to("order-service", "stable", 1)]) };
    assert_eq!(ruled.routes.http, [expected]);
}
