//! Renewals, step by step, by a clock of the test's; and with a real API, on which the test writes what cert-manager
//! would. cert-manager itself is not here: what it writes is as its documentation has it.

use std::time::Instant;

use k8s_openapi::ByteString;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::*;
use crate::{
    ca::{
        Duties, Material,
        material::pem,
        secret::{
            self, OWN, tests,
            tests::{Ca, ca},
        },
    },
    leader::Leading,
    source::RealApi,
};

const OVERLAP: Duration = Duration::from_secs(600);

fn place() -> Place {
    Place { given: true, ..tests::place(OWN) }
}

/// As issued from a root, or by itself.
fn issued(certificate: &Ca, root: &Ca) -> Secret {
    tests::secret(
        "kubernetes.io/tls",
        &[(TLS_CERTIFICATE, &certificate.pem), (TLS_KEY, &certificate.key), (CERTIFICATE, &root.pem)],
    )
}

/// Whoever renews writes its own keys only.
fn renew(secret: &Secret, certificate: &Ca, root: &Ca) -> Secret {
    let mut renewed = secret.clone();
    let data = renewed.data.get_or_insert_default();
    for (key, text) in [(TLS_CERTIFICATE, &certificate.pem), (TLS_KEY, &certificate.key), (CERTIFICATE, &root.pem)] {
        data.insert(key.into(), ByteString(text.clone().into_bytes()));
    }
    renewed
}

fn written(secret: &Secret, now: SystemTime) -> Secret {
    match next(secret, &place(), OVERLAP, now).expect("whole") {
        Step::Write { secret, .. } => *secret,
        Step::Wait(until) => panic!("waits until {until:?}"),
    }
}

fn waits(secret: &Secret, now: SystemTime) -> Option<SystemTime> {
    match next(secret, &place(), OVERLAP, now).expect("whole") {
        Step::Wait(until) => until,
        Step::Write { what, .. } => panic!("{what}"),
    }
}

/// What signs, and the roots.
fn used(secret: &Secret) -> (String, Vec<String>) {
    of(&read(secret, &place()).expect("whole"))
}

fn of(material: &Material) -> (String, Vec<String>) {
    (pem(&material.certificate), material.roots.iter().map(pem).collect())
}

#[test]
fn a_new_root_is_trusted_then_signs_then_stands_alone() {
    let (old, new) = (ca("old", None, |_| {}), ca("new", None, |_| {}));
    let begin = SystemTime::now();
    let at = |seconds| begin + Duration::from_secs(seconds);
    let first = written(&issued(&old, &old), begin);
    assert_eq!(used(&first), (old.pem.clone(), vec![old.pem.clone()]));
    assert_eq!(waits(&first, at(5000)), None);

    let renewed = renew(&first, &new, &new);
    assert_eq!(used(&renewed), used(&first), "nothing changes at once");
    let announced = written(&renewed, begin);
    let both = vec![old.pem.clone(), new.pem.clone()];
    assert_eq!(used(&announced), (old.pem, both.clone()));
    assert!(waits(&announced, at(599)).is_some_and(|due| due <= at(600)));
    let switched = written(&announced, at(600));
    assert_eq!(used(&switched), (new.pem.clone(), both));
    assert!(waits(&switched, at(1199)).is_some());
    let done = written(&switched, at(1200));
    assert_eq!(used(&done), (new.pem.clone(), vec![new.pem]));
    assert_eq!(waits(&done, at(9000)), None);
}

#[test]
fn a_renewed_intermediate_of_the_same_root_signs_at_once() {
    let root = ca("root", None, |_| {});
    let (old, new) = (ca("a", Some(&root), |_| {}), ca("b", Some(&root), |_| {}));
    let now = SystemTime::now();
    let first = written(&issued(&old, &root), now);
    let renewed = written(&renew(&first, &new, &root), now);
    assert_eq!(used(&renewed), (new.pem, vec![root.pem]));
    assert_eq!(waits(&renewed, now), None);
}

#[test]
fn what_signs_is_not_waited_for_beyond_its_end() {
    let (old, new) = (
        ca("old", None, |params| params.not_after = (SystemTime::now() + OVERLAP / 2).into()),
        ca("new", None, |_| {}),
    );
    let now = SystemTime::now();
    let announced = written(&renew(&written(&issued(&old, &old), now), &new, &new), now);
    assert_eq!(used(&written(&announced, now)).0, new.pem);
}

#[test]
fn a_renewal_that_is_not_whole_changes_nothing() {
    let (old, other) = (ca("old", None, |_| {}), ca("other", None, |_| {}));
    let now = SystemTime::now();
    let first = written(&issued(&old, &old), now);
    let mut half = renew(&first, &other, &other);
    half.data.as_mut().expect("data").insert(TLS_KEY.into(), ByteString(old.key.clone().into_bytes()));
    let error = format!("{:#}", next(&half, &place(), OVERLAP, now).expect_err("half"));
    assert!(error.contains("mesh-ca: tls.crt: not the certificate of tls.key"), "{error}");
    assert_eq!(used(&half).0, old.pem, "what is in use stays");
}

/// As cert-manager's field manager does: by server-side apply, the keys that are its own.
async fn issue(secrets: &Api<Secret>, certificate: &Ca) {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let (pem, key) = (bytes(&certificate.pem), bytes(&certificate.key));
    let data = json!({ TLS_CERTIFICATE: pem, TLS_KEY: key, CERTIFICATE: pem });
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": OWN }, "type": "kubernetes.io/tls",
        "data": data,
    });
    let parameters = PatchParams::apply("cert-manager-certificates-issuing").force();
    secrets.patch(OWN, &parameters, &Patch::Apply(&secret)).await.expect("applied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_given_secret_is_waited_for_and_its_renewals_overlap_on_an_api() {
    let Some(api) = RealApi::start().await else { return };
    api.apply("{apiVersion: v1, kind: Namespace, metadata: {name: nodemesh-system}}").await;
    let opened = tokio::spawn(secret::open(api.client.clone(), place()));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!opened.is_finished(), "there is nothing to read, and it is not ours to make");
    let secrets: Api<Secret> = Api::namespaced(api.client.clone(), "nodemesh-system");
    let (old, new) = (ca("old", None, |_| {}), ca("new", None, |_| {}));
    issue(&secrets, &old).await;
    let secret::Followed { mut material, secret, task } = opened.await.expect("no crash").expect("read");
    let overlap = Duration::from_secs(3);
    let duties = Duties { client: api.client.clone(), place: place(), overlap, secret, material: material.clone() };
    tokio::spawn(task);
    tokio::spawn(duties.run(Leading::alone()));
    assert_eq!(of(&material.borrow_and_update()), (old.pem.clone(), vec![old.pem.clone()]));
    // Until it is taken into use.
    while secrets.get(OWN).await.expect("a Secret").data.is_none_or(|data| !data.contains_key(SIGNING_KEY)) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    issue(&secrets, &new).await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        tokio::time::timeout(Duration::from_secs(30), material.changed()).await.expect("a step").expect("followed");
        seen.push((of(&material.borrow_and_update()), Instant::now()));
    }
    let both = vec![old.pem.clone(), new.pem.clone()];
    let steps: Vec<_> = seen.iter().map(|(step, _)| step.clone()).collect();
    assert_eq!(steps, [(old.pem, both.clone()), (new.pem.clone(), both), (new.pem.clone(), vec![new.pem])]);
    for pair in seen.windows(2) {
        assert!(pair[1].1 - pair[0].1 > overlap / 2, "an overlap lies between two steps");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_that_is_away_is_waited_for() {
    let Some(api) = RealApi::start().await else { return };
    api.apply("{apiVersion: v1, kind: Namespace, metadata: {name: nodemesh-system}}").await;
    api.stop();
    let opened = tokio::spawn(secret::open(api.client.clone(), tests::place(OWN)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!opened.is_finished(), "an API that is away ends nothing");
    api.resume();
    let opened = tokio::time::timeout(Duration::from_secs(30), opened).await;
    let secret::Followed { material, .. } = opened.expect("in time").expect("no crash").expect("made");
    assert_eq!(material.borrow().roots.len(), 1);
}
