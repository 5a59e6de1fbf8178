//! `nodemesh.v1.TrustBundle` <-> [`TrustBundle`].

use std::collections::BTreeSet;

use super::{WireError, nodemesh as wire};
use crate::model::{Identity, TrustBundle};

impl TryFrom<wire::TrustBundle> for TrustBundle {
    type Error = WireError;

    fn try_from(message: wire::TrustBundle) -> Result<Self, WireError> {
        let wire::TrustBundle { trust_domain, roots } = message;
        Identity::new(&trust_domain, "namespace", "account").map_err(|e| WireError::new("trust_domain", e))?;
        if roots.is_empty() {
            return Err(WireError::new("roots", "is empty: nobody could be trusted"));
        }
        let mut known = BTreeSet::new();
        for (i, root) in roots.into_iter().enumerate() {
            if root.is_empty() {
                return Err(WireError::new(format!("roots[{i}]"), "is empty"));
            }
            if !known.insert(root) {
                return Err(WireError::new(format!("roots[{i}]"), "is listed already"));
            }
        }
        Ok(Self { trust_domain, roots: known })
    }
}

impl From<&TrustBundle> for wire::TrustBundle {
    fn from(bundle: &TrustBundle) -> Self {
        let TrustBundle { trust_domain, roots } = bundle;
        Self { trust_domain: trust_domain.clone(), roots: roots.iter().cloned().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(trust_domain: &str, roots: &[&[u8]]) -> wire::TrustBundle {
        wire::TrustBundle { trust_domain: trust_domain.into(), roots: roots.iter().map(|root| root.to_vec()).collect() }
    }

    #[test]
    fn a_bundle_goes_there_and_back() {
        let there = wire("cluster.local", &[b"one", b"two"]);
        let model = TrustBundle::try_from(there.clone()).expect("a bundle");
        assert_eq!(wire::TrustBundle::from(&model), there);
    }

    #[test]
    fn what_is_no_bundle_is_refused_by_field() {
        for (trust_domain, roots, field) in [
            ("", &[b"one".as_slice()][..], "trust_domain"),
            ("A/b", &[b"one"], "trust_domain"),
            ("cluster.local", &[], "roots"),
            ("cluster.local", &[b"one", b""], "roots[1]"),
            ("cluster.local", &[b"one", b"one"], "roots[1]"),
        ] {
            let error = TrustBundle::try_from(wire(trust_domain, roots)).expect_err("refused");
            assert_eq!(error.field, field, "{error}");
        }
    }
}
