//! The compiled form against the decision and against the slow reading; and what is known of a connection against what
//! is known of its requests.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use mesh_common::{
    authz::Rules,
    model::{Passed, Passing, Policy, PolicyName, authorize, observe},
};
use proptest::{collection, option, prelude::*, test_runner::TestRunner};

use crate::{
    config,
    generate::{connection, many_policies, policies},
    reference::{self, Outcome},
    requests::{passed, request, with},
};

fn shared(policies: &[Policy]) -> Vec<Arc<Policy>> {
    policies.iter().cloned().map(Arc::new).collect()
}

#[test]
fn compiled_rules_decide_as_the_reference_does() {
    let unknown = option::weighted(0.02, Just(PolicyName { namespace: "a".into(), name: "unknown".into() }));
    let outcomes = RefCell::new(BTreeMap::<String, u32>::new());
    let asked = collection::vec((connection(), passed()), 3);
    TestRunner::new(config())
        .run(&(many_policies(), unknown, asked), |(policies, unknown, asked)| {
            let rules = Rules::new(&shared(&policies));
            for (connection, passed) in &asked {
                let (compiled, plain, seen) = with(passed, |passing| {
                    let compiled = rules.decide(unknown.as_ref(), connection, passing);
                    let plain = authorize(policies.iter(), unknown.as_ref(), connection, passing);
                    let seen = rules.observe(&plain, connection, passing)
                        == observe(policies.iter(), &plain, connection, passing);
                    (compiled, plain, seen)
                });
                let want = reference::decide(&policies, unknown.as_ref(), connection, passed);
                let kind = match (passed, &want) {
                    (Passed::Open, _) => "open".to_owned(),
                    (Passed::Bytes { .. }, _) => "bytes".to_owned(),
                    (_, Outcome::Permitted(None)) => "no ALLOW policy".to_owned(),
                    (_, Outcome::Permitted(Some(_))) => "an ALLOW policy".to_owned(),
                    (_, Outcome::Denied { code, .. }) => (*code).to_owned(),
                };
                *outcomes.borrow_mut().entry(kind).or_default() += 1;
                prop_assert_eq!(&compiled, &plain, "compiled, {:?} {:?}", connection, passed);
                prop_assert_eq!(Outcome::of(&compiled), want, "{:?} {:?}", connection, passed);
                prop_assert!(seen);
            }
            Ok(())
        })
        .expect("all three agree");
    let outcomes = outcomes.into_inner();
    assert_eq!(outcomes.len(), 8, "every outcome is met: {outcomes:?}");
    assert!(outcomes.values().all(|count| *count >= 20), "and often: {outcomes:?}");
}

#[test]
fn what_is_not_known_yet_refuses_nothing_that_a_request_could_be_permitted() {
    let counts = RefCell::new([0; 4]);
    TestRunner::new(config())
        .run(&(policies(), connection(), request()), |(policies, connection, request)| {
            let decide = |passing: &Passing<'_>| authorize(policies.iter(), None, &connection, passing).is_ok();
            let (open, bytes) = (decide(&Passing::Open), decide(&Passing::BYTES));
            let request = with(&request, decide);
            prop_assert!(open || !request, "a request is permitted on a refused connection");
            prop_assert!(request || !bytes, "bytes are permitted where a request is refused");
            let turned = [open && !request, !open, request && !bytes, bytes];
            counts.borrow_mut().iter_mut().zip(turned).for_each(|(count, met)| *count += u32::from(met));
            Ok(())
        })
        .expect("they are in order");
    assert!(counts.borrow().iter().all(|count| *count >= 20), "every case is met: {counts:?}");
}
