//! `tls`: what the agent speaks to endpoints. Nothing here ends in plaintext that was not written so.

use mesh_common::model::traffic::{TrustedRoots, UpstreamTls};
use serde_json::Value;

use crate::{names, translate::fields::Fields};

/// Names that a certificate may have.
const NAMES: usize = 64;
const NAME: usize = 2048;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// What the mesh makes of it.
    Mesh,
    Upstream(UpstreamTls),
}

impl Tls {
    pub fn upstream(self) -> Option<UpstreamTls> {
        match self {
            Self::Mesh => None,
            Self::Upstream(tls) => Some(tls),
        }
    }
}

/// `value` is that of the field `tls` of `parent`.
pub fn tls(parent: &mut Fields<'_>, value: Value) -> Tls {
    let is_object = value.is_object();
    let path = parent.path("tls");
    let mut said = Vec::new();
    let mut fields = Fields::new(path.as_str(), value, &mut said);
    let mode = match (fields.has("mode"), fields.text("mode")) {
        (false, _) => Some("DISABLE".to_owned()),
        (true, mode) => mode,
    };
    let found = match mode.as_deref() {
        Some("DISABLE") if is_object => {
            let why = "DISABLE is not honoured: clients do not switch off what the mesh does for all connections";
            fields.report("mode", why);
            ignore(&mut fields);
            Tls::Mesh
        }
        Some("ISTIO_MUTUAL") => {
            ignore(&mut fields);
            Tls::Mesh
        }
        Some(mode @ ("SIMPLE" | "MUTUAL")) => Tls::Upstream(upstream(&mut fields, mode == "MUTUAL")),
        _ => {
            let why = "is none of DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL; every connection is refused";
            fields.report("mode", why);
            ignore(&mut fields);
            Tls::Upstream(unusable(&format!("{path}.mode cannot be read")))
        }
    };
    fields.end();
    // What cannot be read may have been a name to check.
    let found = match (found, said.first()) {
        (Tls::Upstream(mut tls), Some(fault)) => {
            if !matches!(tls.roots, TrustedRoots::Unusable(_)) {
                tls.roots = TrustedRoots::Unusable(format!("{}: {}", fault.field, fault.why));
            }
            Tls::Upstream(tls)
        }
        (found, _) => found,
    };
    parent.add(said);
    found
}

fn upstream(fields: &mut Fields<'_>, mutual: bool) -> UpstreamTls {
    let mut refused = Vec::new();
    for (name, what) in [
        ("clientCertificate", "is a file of the client's pod, which the agent of its node does not read"),
        ("privateKey", "is a file of the client's pod, which the agent of its node does not read"),
        ("caCrl", "is a file of the client's pod, which the agent of its node does not read"),
        ("credentialName", "names a Secret, which is not supported yet"),
    ] {
        if fields.text(name).is_some() {
            refused.push((name, what));
        }
    }
    if fields.text("caCertificates").is_some_and(|file| file != "system") {
        refused.push(("caCertificates", "is a file of the client's pod, which the agent of its node does not read"));
    }
    if mutual && refused.is_empty() {
        refused.push(("mode", "MUTUAL without a certificate of the client"));
    }
    let server_name = fields.text("sni").map(|name| name.to_ascii_lowercase());
    if let Some(Err(why)) = server_name.as_deref().map(names::subdomain) {
        fields.report("sni", why);
    }
    let names = fields.texts("subjectAltNames", NAMES);
    if names.iter().any(|name| name.len() > NAME) {
        fields.report("subjectAltNames", format_args!("has a name of more than {NAME} characters"));
    }
    let unverified = fields.take("insecureSkipVerify").unwrap_or(false);
    let roots = match refused.first() {
        Some((name, what)) => TrustedRoots::Unusable(format!("{} {what}", fields.path(name))),
        None if unverified => TrustedRoots::Unverified,
        None => TrustedRoots::System,
    };
    for (name, what) in refused {
        fields.report(name, format_args!("{what}; every connection is refused"));
    }
    UpstreamTls { server_name, names, roots }
}

fn unusable(why: &str) -> UpstreamTls {
    UpstreamTls { server_name: None, names: Vec::new(), roots: TrustedRoots::Unusable(why.to_owned()) }
}

/// The other fields, beside a mode for which they mean nothing.
fn ignore(fields: &mut Fields<'_>) {
    let others = ["clientCertificate", "privateKey", "caCertificates", "caCrl", "credentialName", "subjectAltNames"];
    for name in others.into_iter().chain(["sni", "insecureSkipVerify"]) {
        fields.idle(name, "has no meaning in this mode");
    }
}
