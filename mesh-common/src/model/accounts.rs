//! Which identities there are: an identity is its ServiceAccount's, and is over when that is deleted.

use std::collections::BTreeSet;

use super::Mode;

/// The ServiceAccounts of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accounts {
    pub namespace: String,
    /// Empty: nobody of the namespace has an identity.
    pub names: BTreeSet<String>,
    /// Of the namespace's pods that say nothing of it themselves.
    pub mode: Mode,
}
