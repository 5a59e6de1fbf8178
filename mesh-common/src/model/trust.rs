//! Whose signatures count.

use std::collections::BTreeSet;

/// The roots of one trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    pub trust_domain: String,
    /// X.509, DER; one at least.
    pub roots: BTreeSet<Vec<u8>>,
}
