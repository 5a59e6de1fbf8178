//! Which route takes a request, against a second, slow reading of the same rules; and the conditions one by one.

mod generate;
mod reference;
mod table;

use std::{cell::RefCell, collections::BTreeMap};

use generate::{Asked, asked, routes};
use mesh_common::route::{Effort, Router};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

#[test]
fn finds_what_the_reference_finds() {
    let config = Config { cases: 2_000, failure_persistence: None, ..Config::default() };
    let outcomes = RefCell::new(BTreeMap::<String, u32>::new());
    TestRunner::new(config)
        .run(&(routes(), prop::collection::vec(asked(), 8)), |(routes, requests)| {
            let router = Router::new(&routes).expect("the alphabet makes valid rules");
            for Asked { labels, request } in &requests {
                let request = generate::request(labels, request);
                let want = reference::find(&routes, &request);
                let kind = match want {
                    None => "none".to_owned(),
                    Some(found) => format!("{:?}", found.matched).chars().take_while(|c| c.is_alphabetic()).collect(),
                };
                *outcomes.borrow_mut().entry(kind).or_default() += 1;
                prop_assert_eq!(router.find(&request, &Effort::default()), Ok(want), "{:?}", request);
                prop_assert_eq!(router.concerns(request.port), reference::concerns(&routes, request.port));
            }
            Ok(())
        })
        .expect("both agree");
    let outcomes = outcomes.into_inner();
    assert_eq!(outcomes.len(), 4, "the alphabet is small enough to reach every outcome: {outcomes:?}");
    assert!(outcomes.values().all(|count| *count >= 500), "and often: {outcomes:?}");
}
