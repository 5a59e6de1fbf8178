//! Which identities there are: an identity is its ServiceAccount's, and is over when that is deleted.

use std::collections::BTreeSet;

/// The ServiceAccounts of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accounts {
    pub namespace: String,
    /// Empty: nobody of the namespace has an identity.
    pub names: BTreeSet<String>,
}
