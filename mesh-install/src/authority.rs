//! The CA where cert-manager issues it. The kind is cert-manager's, so it is there only if it is asked for.

use serde_json::{Value, json};

use crate::{CONTROLLER, labels, when};

/// The Secret that the controller signs with, and the Certificate for which cert-manager makes it.
pub const NAME: &str = "mesh-ca";

pub fn objects() -> Vec<Value> {
    vec![when("certManager.issuer", certificate())]
}

fn certificate() -> Value {
    json!({
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": { "name": NAME, "namespace": "${namespace}", "labels": labels(CONTROLLER) },
        "spec": {
            "isCA": true,
            "commonName": "nodemesh",
            "subject": { "organizations": ["${trustDomain}"] },
            "secretName": NAME,
            "duration": "${certManager.duration}",
            "renewBefore": "${certManager.renewBefore}",
            // A new key each time; that it overlaps with the old one is the controller's work.
            "privateKey": { "algorithm": "ECDSA", "size": 256, "encoding": "PKCS8", "rotationPolicy": "Always" },
            "usages": ["cert sign", "crl sign"],
            "issuerRef": {
                "name": "${certManager.issuer}",
                "kind": "${certManager.issuerKind}",
                "group": "${certManager.issuerGroup}",
            },
        },
    })
}
