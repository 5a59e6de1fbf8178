//! `spec.sessionAffinity` of a Service -> how long a client keeps its endpoint.

use k8s_openapi::api::core::v1;
use mesh_common::model::Affinity;

use crate::status::Fault;

/// What cannot be read is added to `faults`: an unknown word keeps nobody, an impossible time counts as the default.
pub fn affinity(spec: &v1::ServiceSpec, faults: &mut Vec<Fault>) -> Option<Affinity> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            let why = format!("`{other}` is none of None, ClientIP; each connection goes to any endpoint");
            faults.push(Fault::new("spec.sessionAffinity", why));
            return None;
        }
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let Some(seconds) = config.and_then(|client_ip| client_ip.timeout_seconds) else { return Some(Affinity::DEFAULT) };
    Some(Affinity::try_from(i64::from(seconds)).unwrap_or_else(|e| {
        let why = format!("{e} seconds; {} hold", Affinity::DEFAULT.seconds());
        faults.push(Fault::new("spec.sessionAffinityConfig.clientIP.timeoutSeconds", why));
        Affinity::DEFAULT
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(spec: &str) -> (u32, Vec<String>) {
        let spec: v1::ServiceSpec = serde_yaml_ng::from_str(spec).expect("a service's spec");
        let mut faults = Vec::new();
        let found = affinity(&spec, &mut faults).map_or(0, Affinity::seconds);
        (found, faults.into_iter().map(|fault| format!("{}: {}", fault.field, fault.why)).collect())
    }

    fn timeout(seconds: i32) -> String {
        format!("{{sessionAffinity: ClientIP, sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}}}")
    }

    #[test]
    fn every_word_of_kubernetes() {
        for (spec, expected) in [
            ("{}", 0),
            ("{sessionAffinity: None}", 0),
            ("{sessionAffinity: ClientIP}", 10_800),
            ("{sessionAffinity: ClientIP, sessionAffinityConfig: {}}", 10_800),
            ("{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {}}}", 10_800),
            // Without the word nobody is kept.
            ("{sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}}", 0),
        ] {
            assert_eq!(read(spec), (expected, vec![]), "{spec}");
        }
        for seconds in [1, 60, 86_400] {
            assert_eq!(read(&timeout(seconds)), (seconds as u32, vec![]));
        }
    }

    #[test]
    fn what_has_no_meaning_is_reported_by_its_field() {
        for seconds in [0, -1, 86_401, i32::MAX] {
            let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            let why = format!("{field}: {seconds} is not from 1 to 86400 seconds; 10800 hold");
            assert_eq!(read(&timeout(seconds)), (10_800, vec![why]));
        }
        let why = "spec.sessionAffinity: `Cookie` is none of None, ClientIP; each connection goes to any endpoint";
        assert_eq!(read("{sessionAffinity: Cookie}"), (0, vec![why.to_owned()]));
    }
}
