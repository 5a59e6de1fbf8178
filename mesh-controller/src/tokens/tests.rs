//! What a ServiceAccount token must say, and what of the API's answer counts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use serde_json::{Value, json};

use super::{ReviewSettings, claims, review::judge};
use crate::refusal::Reason;

const NOW: SystemTime = UNIX_EPOCH;
pub const AGENT: &str = "system:serviceaccount:nodemesh-system:mesh-agent";

pub fn settings() -> ReviewSettings {
    ReviewSettings {
        namespace: "nodemesh-system".to_owned(),
        account: "mesh-agent".to_owned(),
        audience: "nodemesh".to_owned(),
        holds: std::time::Duration::from_secs(10),
    }
}

pub fn token(header: &Value, payload: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{}", part(header), part(payload), URL_SAFE_NO_PAD.encode("signature"))
}

pub fn payload(change: impl FnOnce(&mut Value)) -> Value {
    let mut payload = json!({
        "sub": AGENT, "aud": ["nodemesh"], "exp": 600,
        "kubernetes.io": {"namespace": "nodemesh-system", "pod": {"name": "mesh-agent-x", "uid": "u"}},
    });
    change(&mut payload);
    payload
}

fn read(token: &str) -> Result<SystemTime, Reason> {
    let after = NOW + Duration::from_secs(300);
    claims::read(token, &settings(), after).map(|claims| claims.expires).map_err(|refusal| refusal.reason)
}

#[test]
fn what_no_signature_could_mend_is_refused_without_the_api() {
    let es = json!({"alg": "ES256"});
    assert_eq!(read(&token(&es, &payload(|_| {}))), Ok(NOW + Duration::from_secs(600)));
    assert_eq!(read(&token(&es, &payload(|p| p["aud"] = json!("nodemesh")))), Ok(NOW + Duration::from_secs(600)));

    for algorithm in ["none", "None", "HS256", "HS512", ""] {
        let token = token(&json!({"alg": algorithm}), &payload(|_| {}));
        assert_eq!(read(&token), Err(Reason::TokenAlgorithm), "{algorithm}");
    }
    let good = token(&es, &payload(|_| {}));
    let unsigned = format!("{}.", good.rsplit_once('.').expect("parts").0);
    assert_eq!(read(&unsigned), Err(Reason::TokenAlgorithm));
    for (payload, reason) in [
        (payload(|p| p["aud"] = json!(["istio-ca"])), Reason::TokenAudience),
        (payload(|p| p["aud"] = json!([])), Reason::TokenAudience),
        (payload(|p| p["sub"] = json!("system:serviceaccount:shop:mesh-agent")), Reason::TokenAccount),
        (payload(|p| p["sub"] = json!("system:serviceaccount:nodemesh-system:default")), Reason::TokenAccount),
        (payload(|p| p["exp"] = json!(200)), Reason::TokenExpired),
        (payload(|p| p["exp"] = json!(u64::MAX)), Reason::TokenMalformed),
        (payload(|p| p["kubernetes.io"]["pod"] = Value::Null), Reason::TokenUnbound),
        (payload(|p| p["kubernetes.io"] = Value::Null), Reason::TokenUnbound),
        (json!({}), Reason::TokenMalformed),
    ] {
        assert_eq!(read(&token(&es, &payload)), Err(reason), "{payload}");
    }
    for token in ["", "x", "a.b", "a.b.c", "a.b.c.d", "nm1.a.secret", &"a".repeat(20_000)] {
        assert_eq!(read(token), Err(Reason::TokenMalformed), "{token}");
    }
}

#[test]
fn of_a_review_every_field_must_fit() {
    let status = |change: &dyn Fn(&mut TokenReviewStatus)| {
        let extra = [("pod-name", "mesh-agent-x"), ("pod-uid", "u"), ("node-name", "a")];
        let extra = extra.map(|(key, value)| (format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]));
        let user = UserInfo {
            username: Some(AGENT.to_owned()),
            uid: Some("account".to_owned()),
            extra: Some(extra.into()),
            groups: None,
        };
        let mut status = TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec!["nodemesh".to_owned()]),
            user: Some(user),
            error: None,
        };
        change(&mut status);
        judge(&settings(), status).map_err(|refusal| refusal.reason)
    };
    let with_extra = |key: &'static str, values: Option<&'static [&'static str]>| {
        status(&|status: &mut TokenReviewStatus| {
            let extra = status.user.as_mut().and_then(|user| user.extra.as_mut()).expect("there");
            let key = format!("authentication.kubernetes.io/{key}");
            match values {
                Some(values) => extra.insert(key, values.iter().map(ToString::to_string).collect()),
                None => extra.remove(&key),
            };
        })
    };
    assert!(status(&|_| {}).is_ok());
    // An older API server does not say the node: the pod is asked for.
    assert!(with_extra("node-name", None).is_ok());
    for (refused, reason) in [
        (status(&|s| s.authenticated = Some(false)), Reason::TokenRejected),
        (status(&|s| s.authenticated = None), Reason::TokenRejected),
        (status(&|s| s.audiences = None), Reason::TokenAudience),
        (status(&|s| s.audiences = Some(vec!["other".to_owned()])), Reason::TokenAudience),
        (status(&|s| s.user = None), Reason::TokenAccount),
        (status(&|s| s.user.as_mut().expect("one").username = Some("admin".to_owned())), Reason::TokenAccount),
        (status(&|s| s.user.as_mut().expect("one").uid = None), Reason::TokenRejected),
        (with_extra("pod-name", None), Reason::TokenUnbound),
        (with_extra("pod-uid", Some(&[""])), Reason::TokenUnbound),
        (with_extra("pod-uid", Some(&["u", "v"])), Reason::TokenUnbound),
    ] {
        assert_eq!(refused.expect_err("refused"), reason);
    }
}
