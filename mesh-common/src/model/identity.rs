//! SPIFFE identities of workloads: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.

use std::{fmt, str::FromStr};

/// Who a workload is. Two are equal only if all three parts are, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    trust_domain: String,
    namespace: String,
    service_account: String,
}

/// Why a text is not a workload identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not of the form `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    #[error("`{0}` is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Shape(String),
    /// A part is empty, too long or has a character that Kubernetes names cannot have.
    #[error("{part} `{value}` is not a DNS name (a-z, 0-9, `-` and `.`, at most 253 characters)")]
    Part { part: &'static str, value: String },
}

impl Identity {
    /// Parts must be DNS subdomains (RFC 1123), as Kubernetes and SPIFFE both require of them.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, IdentityError> {
        Ok(Self {
            trust_domain: checked("trust domain", trust_domain)?,
            namespace: checked("namespace", namespace)?,
            service_account: checked("service account", service_account)?,
        })
    }

    /// Whether `value` can be a part of an identity: a DNS subdomain. `part` names it in the error.
    pub(crate) fn check_part(part: &'static str, value: &str) -> Result<(), IdentityError> {
        checked(part, value).map(|_| ())
    }

    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn service_account(&self) -> &str {
        &self.service_account
    }

    /// The form that policies match: the SPIFFE id without its scheme.
    pub fn principal(&self) -> String {
        format!("{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

fn checked(part: &'static str, value: &str) -> Result<String, IdentityError> {
    let label = |label: &str| {
        let bytes = label.as_bytes();
        !bytes.is_empty()
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
            && bytes[0] != b'-'
            && bytes[bytes.len() - 1] != b'-'
    };
    if value.len() <= 253 && value.split('.').all(label) {
        Ok(value.to_string())
    } else {
        Err(IdentityError::Part { part, value: value.to_string() })
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shape = || IdentityError::Shape(text.to_string());
        let rest = text.strip_prefix("spiffe://").ok_or_else(shape)?;
        let mut parts = rest.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(trust_domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) => {
                Self::new(trust_domain, namespace, account)
            }
            _ => Err(shape()),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let text = "spiffe://cluster.local/ns/shop/sa/cart";
        let identity: Identity = text.parse().expect("valid");
        assert_eq!(identity.to_string(), text);
        assert_eq!(identity.principal(), "cluster.local/ns/shop/sa/cart");
    }

    #[test]
    fn look_alikes_are_refused() {
        for text in [
            "",
            "cluster.local/ns/a/sa/b",
            "SPIFFE://cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/b/",
            "spiffe://cluster.local/ns/a/sa/b/..",
            "spiffe://cluster.local/ns/a/sa/",
            "spiffe:///ns/a/sa/b",
            "spiffe://cluster.local/ns/a%2fsa/sa/b",
            "spiffe://cluster.local/ns/A/sa/b",
            "spiffe://cluster.local/ns/a/sa/b\0",
            "spiffe://cluster.local/ns/*/sa/b",
            "spiffe://cluster.local/ns/a/sa/b?x",
            "spiffe://u@cluster.local/ns/a/sa/b",
            "spiffe://cluster.local:80/ns/a/sa/b",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text:?} was taken");
        }
    }
}
