//! A rotation, step by step, by a clock of the test's.

use super::*;
use crate::ca::{
    root,
    secret::tests::{place, secret},
};

const OVERLAP: Duration = Duration::from_secs(600);

fn whole() -> Secret {
    let made = root::make("cluster.local").expect("made");
    secret("nodemesh.io/ca", &[(CERTIFICATE, &made.certificate), (KEY, &made.key), (ROOTS, &made.certificate)])
}

fn annotate(secret: &mut Secret, key: &str, value: &str) {
    secret.metadata.annotations.get_or_insert_default().insert(key.into(), value.into());
}

fn step(secret: &Secret, now: SystemTime) -> Step {
    next(secret, &place(OWN), OVERLAP, now).expect("whole")
}

fn written(secret: &Secret, now: SystemTime) -> (Secret, &'static str) {
    match step(secret, now) {
        Step::Write { secret, what } => (*secret, what),
        Step::Wait(until) => panic!("waits until {until:?}"),
    }
}

fn waits(secret: &Secret, now: SystemTime) -> Option<SystemTime> {
    match step(secret, now) {
        Step::Wait(until) => until,
        Step::Write { what, .. } => panic!("{what}"),
    }
}

fn roots(secret: &Secret) -> Vec<String> {
    read(secret, &place(OWN)).expect("whole").roots.iter().map(crate::ca::material::pem).collect()
}

fn signs(secret: &Secret) -> String {
    crate::ca::material::pem(&read(secret, &place(OWN)).expect("whole").certificate)
}

#[test]
fn trusted_then_signing_then_alone() {
    let begin = SystemTime::now();
    let at = |seconds| begin + Duration::from_secs(seconds);
    let mut idle = whole();
    assert_eq!(waits(&idle, begin), None);
    let old = signs(&idle);
    annotate(&mut idle, ASKED, "1");

    let (announced, _) = written(&idle, begin);
    assert_eq!(signs(&announced), old);
    assert_eq!(roots(&announced).len(), 2);
    // Looked at again, nothing more happens.
    assert!(waits(&announced, at(599)).is_some_and(|due| due <= at(600)));

    let (switched, _) = written(&announced, at(600));
    let new = signs(&switched);
    assert_ne!(new, old);
    assert_eq!(roots(&switched), [old, new.clone()]);
    assert!(!switched.data.as_ref().expect("data").contains_key(NEXT_KEY));
    assert!(waits(&switched, at(1199)).is_some());

    let (done, _) = written(&switched, at(1200));
    assert_eq!((roots(&done), signs(&done)), (vec![new.clone()], new));
    // The same request is not taken up twice; another one is.
    assert_eq!(waits(&done, at(5000)), None);
    let mut again = done;
    annotate(&mut again, ASKED, "2");
    assert_eq!(roots(&written(&again, at(5000)).0).len(), 2);
}

#[test]
fn an_old_root_is_replaced_by_itself() {
    let year = Duration::from_secs(365 * 24 * 3600);
    let secret = whole();
    assert_eq!(waits(&secret, SystemTime::now() + 8 * year), None);
    let (announced, _) = written(&secret, SystemTime::now() + 9 * year + Duration::from_secs(3600));
    assert_eq!(roots(&announced).len(), 2);
}

#[test]
fn a_secret_that_is_not_whole_is_left_alone() {
    let (announced, _) = {
        let mut asked = whole();
        annotate(&mut asked, ASKED, "1");
        written(&asked, SystemTime::now())
    };
    let mut half = announced.clone();
    half.data.as_mut().expect("data").remove(NEXT_KEY);
    let mut strange = announced.clone();
    annotate(&mut strange, STATE, "half way");
    let mut broken = announced;
    broken.data.as_mut().expect("data").remove(KEY);
    let later = SystemTime::now() + 2 * OVERLAP;
    for (secret, why) in [
        (half, "Secret nodemesh-system/mesh-ca: next.key: is missing"),
        (strange, "annotation nodemesh.io/rotation: `half way` is neither"),
        (broken, "ca.key: is missing"),
    ] {
        let error = format!("{:#}", next(&secret, &place(OWN), OVERLAP, later).expect_err(why));
        assert!(error.contains(why), "{error}");
    }
}
