//! `nodemesh.v1.Accounts` <-> [`Accounts`].

use std::collections::BTreeSet;

use super::{WireError, local_pod::mode_from_wire, nodemesh as wire};
use crate::model::{Accounts, Identity};

impl TryFrom<wire::Accounts> for Accounts {
    type Error = WireError;

    fn try_from(message: wire::Accounts) -> Result<Self, WireError> {
        let wire::Accounts { namespace, names, mode } = message;
        let mode = mode_from_wire(mode)?;
        Identity::check_part("namespace", &namespace).map_err(|e| WireError::new("namespace", e))?;
        let mut known = BTreeSet::new();
        for (i, name) in names.into_iter().enumerate() {
            let field = || format!("names[{i}]");
            Identity::check_part("service account", &name).map_err(|e| WireError::new(field(), e))?;
            if known.contains(&name) {
                return Err(WireError::new(field(), format_args!("`{name}` is listed already")));
            }
            known.insert(name);
        }
        Ok(Self { namespace, names: known, mode })
    }
}

impl From<&Accounts> for wire::Accounts {
    fn from(accounts: &Accounts) -> Self {
        let Accounts { namespace, names, mode } = accounts;
        let mode = wire::Mode::from(*mode).into();
        Self { namespace: namespace.clone(), names: names.iter().cloned().collect(), mode }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(namespace: &str, names: &[&str]) -> wire::Accounts {
        wire::Accounts {
            namespace: namespace.into(),
            names: names.iter().map(ToString::to_string).collect(),
            mode: wire::Mode::Mesh.into(),
        }
    }

    #[test]
    fn accounts_go_there_and_back() {
        for names in [&["cart", "default", "web.v2"][..], &[]] {
            let model = Accounts::try_from(wire("shop", names)).expect("accounts");
            assert_eq!(model.names.len(), names.len());
            assert_eq!(wire::Accounts::from(&model), wire("shop", names));
        }
    }

    #[test]
    fn what_is_no_account_is_refused_by_field() {
        for (namespace, names, field) in [
            ("", &["cart"][..], "namespace"),
            ("shop/other", &["cart"], "namespace"),
            ("shop", &["cart", ""], "names[1]"),
            ("shop", &["Cart"], "names[0]"),
            ("shop", &["cart", "web", "a/b"], "names[2]"),
            ("shop", &["cart", "cart"], "names[1]"),
        ] {
            let error = Accounts::try_from(wire(namespace, names)).expect_err("refused");
            assert_eq!(error.field, field, "{error}");
        }
        let error = Accounts::try_from(wire::Accounts { mode: 7, ..wire("shop", &[]) }).expect_err("refused");
        assert_eq!(error.field, "mode", "{error}");
    }
}
