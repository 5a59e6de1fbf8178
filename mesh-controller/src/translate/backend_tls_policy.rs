//! `BackendTLSPolicy` (Gateway API) -> the TLS that is spoken to a service's endpoints. The certificate is always
//! verified. One that cannot be honoured as written refuses every connection to what it is about: its author wants
//! TLS, and never less of it.

use mesh_common::model::{
    ServiceName,
    traffic::{TrustedRoots, UpstreamTls},
};
use serde_json::Value;

use super::{Settings, created, fields::Fields, hosts};
use crate::{
    names,
    source::{Custom, Key},
    status::Fault,
};

const KIND: &str = "BackendTLSPolicy";
/// As the kind has it.
const TARGETS: usize = 16;
const NAMES: usize = 5;
const REFERENCES: usize = 8;
const URI: usize = 253;

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTlsPolicy {
    pub object: Key,
    /// Seconds since 1970.
    pub created: i64,
    pub targets: Vec<Target>,
    pub tls: UpstreamTls,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As in `spec.targetRefs[0]`.
    pub field: String,
    pub service: ServiceName,
    /// The name of one of its ports; `None`: all.
    pub port: Option<String>,
}

/// What is not honoured as written is added to `faults`.
pub fn backend_tls_policy(settings: &Settings, object: &Custom, faults: &mut Vec<Fault>) -> BackendTlsPolicy {
    let metadata = &object.metadata;
    let namespace = metadata.namespace.clone().unwrap_or_default();
    let mut fields = Fields::of_spec(object, faults);
    let targets = fields.list("targetRefs", TARGETS);
    let validation = fields.value("validation");
    fields.idle("options", "has no options that are known; none is honoured");
    fields.end();
    if targets.is_empty() {
        faults.push(Fault::new("spec.targetRefs", "is missing; the policy is about nothing"));
    }
    let targets = targets.into_iter().filter_map(|(path, value)| target(settings, &namespace, path, value, faults));
    let targets = targets.collect();
    let tls = match validation {
        Some(value) => validated(value, faults),
        None => {
            faults.push(Fault::new("spec.validation", "is missing; every connection is refused"));
            unusable("spec.validation is missing")
        }
    };
    let name = metadata.name.clone().unwrap_or_default();
    let object = Key { kind: KIND.to_owned(), namespace, name };
    BackendTlsPolicy { object, created: created(metadata), targets, tls }
}

fn target(settings: &Settings, namespace: &str, path: String, value: Value, faults: &mut Vec<Fault>) -> Option<Target> {
    let mut fields = Fields::new(path.as_str(), value, faults);
    let (group, kind) = (fields.text("group"), fields.text("kind"));
    let (name, port) = (fields.text("name"), fields.text("sectionName"));
    let known = group.as_deref().is_none_or(|group| group == "core") && kind.as_deref() == Some("Service");
    let name = name.filter(|name| names::label(name).is_ok());
    if !known {
        fields.report("kind", "only a Service of the core group may be the target; it is left out");
    } else if name.is_none() {
        fields.report("name", "is not the name of a Service; it is left out");
    }
    fields.end();
    let service = hosts::service(settings, namespace, &name.filter(|_| known)?);
    Some(Target { field: path, service, port })
}

fn validated(value: Value, faults: &mut Vec<Fault>) -> UpstreamTls {
    const PATH: &str = "spec.validation";
    let mut said = Vec::new();
    let mut fields = Fields::new(PATH, value, &mut said);
    let hostname = fields.text("hostname");
    let well_known = fields.text("wellKnownCACertificates");
    let references = fields.list("caCertificateRefs", REFERENCES);
    let names = fields.list("subjectAltNames", NAMES);
    match hostname.as_deref().map(names::subdomain) {
        Some(Ok(())) => {}
        Some(Err(why)) => fields.report("hostname", why),
        None => fields.report("hostname", "is missing"),
    }
    match (well_known.as_deref(), references.is_empty()) {
        (Some("System"), true) => {}
        (Some("System"), false) => {
            fields.report("caCertificateRefs", "stands beside wellKnownCACertificates, only one of them may");
        }
        (Some(_), _) => fields.report("wellKnownCACertificates", "is not System"),
        (None, false) => {
            fields.report("caCertificateRefs", "is not supported yet, only wellKnownCACertificates: System");
        }
        (None, true) => fields.report("wellKnownCACertificates", "is missing"),
    }
    fields.end();
    let names = names.into_iter().filter_map(|(path, value)| name(path, value, &mut said)).collect();
    let roots = match said.first() {
        Some(fault) => TrustedRoots::Unusable(format!("{}: {}", fault.field, fault.why)),
        None => TrustedRoots::System,
    };
    let why = |fault: &Fault| format!("{}; every connection is refused", fault.why);
    faults.extend(said.into_iter().map(|fault| Fault { why: why(&fault), ..fault }));
    UpstreamTls { server_name: hostname, names, roots }
}

/// One name that the certificate may have in place of the host's.
fn name(path: String, value: Value, said: &mut Vec<Fault>) -> Option<String> {
    let mut fields = Fields::new(path, value, said);
    let kind = fields.text("type");
    let (hostname, uri) = (fields.text("hostname"), fields.text("uri"));
    let found = match kind.as_deref() {
        Some("Hostname") if uri.is_none() => hostname.filter(|name| names::subdomain(name).is_ok()),
        Some("URI") if hostname.is_none() => {
            let is_uri = |uri: &String| uri.len() <= URI && uri.contains("://") && !uri.contains(char::is_whitespace);
            uri.filter(is_uri)
        }
        _ => None,
    };
    if found.is_none() {
        fields.report("type", "is neither Hostname with a host name (without `*`), nor URI with a URI");
    }
    fields.end();
    found
}

fn unusable(why: &str) -> UpstreamTls {
    UpstreamTls { server_name: None, names: Vec::new(), roots: TrustedRoots::Unusable(why.to_owned()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        index::tests::settings,
        translate::fields::tests::{any_json, broken, custom, said},
    };

    fn translated(spec: &str) -> (BackendTlsPolicy, Vec<String>) {
        let mut faults = Vec::new();
        let object = custom(&format!("metadata: {{name: p, namespace: shop}}\nspec: {spec}"));
        let policy = backend_tls_policy(&settings(), &object, &mut faults);
        (policy, said(faults))
    }

    const TARGET: &str = "targetRefs: [{group: '', kind: Service, name: pay, sectionName: https}]";

    #[test]
    fn a_service_is_spoken_to_in_verified_tls() {
        let (policy, said) = translated(&format!(
            "{{{TARGET}, validation: {{hostname: pay.example.com, wellKnownCACertificates: System, subjectAltNames: \
             [{{type: Hostname, hostname: a.b}}, {{type: URI, uri: 'spiffe://a/b'}}]}}}}"
        ));
        assert_eq!(said, [""; 0]);
        assert_eq!(policy.targets[0].service.to_string(), "shop/pay.shop.svc.cluster.local");
        assert_eq!(policy.targets[0].port.as_deref(), Some("https"));
        assert_eq!(policy.tls.server_name.as_deref(), Some("pay.example.com"));
        assert_eq!(policy.tls.names, ["a.b", "spiffe://a/b"]);
        assert_eq!(policy.tls.roots, TrustedRoots::System);
    }

    #[test]
    fn what_cannot_be_honoured_refuses_and_is_named() {
        for (validation, field) in [
            (
                "{hostname: a.b, caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}",
                "caCertificateRefs: is not",
            ),
            ("{hostname: a.b, wellKnownCACertificates: Mozilla}", "wellKnownCACertificates: is not System"),
            ("{hostname: a.b}", "wellKnownCACertificates: is missing"),
            ("{wellKnownCACertificates: System}", "hostname: is missing"),
            ("{hostname: '*.b', wellKnownCACertificates: System}", "hostname: `*.b`"),
            ("{hostname: a.b, wellKnownCACertificates: System, verify: false}", "verify: is not a known field"),
            (
                "{hostname: a.b, wellKnownCACertificates: System, subjectAltNames: [{type: Hostname, hostname: '*.b'}]}",
                "subjectAltNames[0].type: is neither",
            ),
        ] {
            let (policy, said) = translated(&format!("{{{TARGET}, validation: {validation}}}"));
            assert!(matches!(policy.tls.roots, TrustedRoots::Unusable(_)), "{validation}");
            assert!(said[0].starts_with(&format!("spec.validation.{field}")), "{validation}: {said:?}");
            assert!(said[0].ends_with("every connection is refused"));
        }
        let (policy, said) = translated("{targetRefs: [{kind: Service, name: a}, {group: g, kind: X, name: b}]}");
        assert_eq!(policy.targets.len(), 1);
        assert_eq!(said.len(), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn no_spec_makes_it_panic(value in any_json()) {
            let spec = serde_yaml_ng::from_str(
                "{targetRefs: [{group: '', kind: Service, name: pay, sectionName: x}], validation: {hostname: a.b, \
                 wellKnownCACertificates: System, subjectAltNames: [{type: URI, uri: 'a://b'}]}}",
            ).expect("YAML");
            for spec in broken(&spec, &value) {
                let metadata = custom("metadata: {name: r, namespace: shop}").metadata;
                let mut faults = Vec::new();
                let policy = backend_tls_policy(&settings(), &Custom { metadata, spec, fault: None }, &mut faults);
                prop_assert!(policy.targets.iter().all(|target| target.service.namespace == "shop"));
                prop_assert!(faults.iter().all(|fault| fault.field.starts_with("spec")));
                prop_assert_ne!(policy.tls.roots, TrustedRoots::Unverified);
            }
        }
    }
}
