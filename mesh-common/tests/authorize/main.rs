//! The decision against a second, slow reading of the same rules; what travels; and the rules one by one.

mod explain;
mod generate;
mod nearest;
mod partial;
mod reference;
mod requests;
mod rules;
mod sides;
mod table;

use std::cell::RefCell;

use generate::{connection, policies, service, workload};
use mesh_common::{
    model::{Passed, Passing, Policy, PolicyName, Service, Workload, authorize},
    proto::{security, workload as wire},
};
use proptest::{
    option,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use prost::Message;

fn config() -> Config {
    // For the length of a real hunt.
    let cases =
        std::env::var("MESH_TEST_CASES").map_or(2_000, |cases| cases.parse().expect("MESH_TEST_CASES is a number"));
    Config { cases, failure_persistence: None, max_global_rejects: u32::MAX, ..Config::default() }
}

#[test]
fn decides_as_the_reference_does() {
    let unknown = option::weighted(0.05, Just(PolicyName { namespace: "a".into(), name: "unknown".into() }));
    let outcomes = RefCell::new(std::collections::BTreeMap::<String, u32>::new());
    TestRunner::new(config())
        .run(&(policies(), unknown, connection()), |(policies, unknown, connection)| {
            let got = authorize(policies.iter(), unknown.as_ref(), &connection, &Passing::BYTES);
            let want = reference::decide(&policies, unknown.as_ref(), &connection, &Passed::BYTES);
            let kind = match &want {
                reference::Outcome::Permitted(None) => "no ALLOW policy".to_owned(),
                reference::Outcome::Permitted(Some(_)) => "an ALLOW policy".to_owned(),
                reference::Outcome::Denied { code, .. } => (*code).to_owned(),
            };
            *outcomes.borrow_mut().entry(kind).or_default() += 1;
            prop_assert_eq!(reference::Outcome::of(&got), want);
            Ok(())
        })
        .expect("both agree");
    let outcomes = outcomes.into_inner();
    assert_eq!(outcomes.len(), 6, "the alphabet is small enough to reach every outcome: {outcomes:?}");
    assert!(outcomes.values().all(|count| *count >= 40), "and often: {outcomes:?}");
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn policies_survive_the_wire(policies in policies()) {
        for policy in policies {
            let bytes = security::Authorization::from(&policy).encode_to_vec();
            let message = security::Authorization::decode(bytes.as_slice()).expect("decodes");
            prop_assert_eq!(Policy::try_from(message).expect("converts"), policy);
        }
    }

    #[test]
    fn workloads_survive_the_wire(workload in workload()) {
        let bytes = wire::Workload::from(&workload).encode_to_vec();
        let message = wire::Workload::decode(bytes.as_slice()).expect("decodes");
        prop_assert_eq!(Workload::try_from(message).expect("converts"), workload);
    }

    #[test]
    fn services_survive_the_wire(service in service()) {
        let bytes = wire::Service::from(&service).encode_to_vec();
        let message = wire::Service::decode(bytes.as_slice()).expect("decodes");
        prop_assert_eq!(Service::try_from(message).expect("converts"), service);
    }
}
