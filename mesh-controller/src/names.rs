//! Names as Kubernetes takes them. Whatever else a name contains could pass for another object's, or for a path.

/// The longest subdomain, and the longest label.
const SUBDOMAIN: usize = 253;
const LABEL: usize = 63;

/// A DNS subdomain (RFC 1123): labels with dots between them. The name of most objects, nodes among them.
///
/// # Errors
/// Says what is wrong, quoting the name.
pub fn subdomain(name: &str) -> Result<(), String> {
    if name.len() <= SUBDOMAIN && name.split('.').all(is_label) {
        Ok(())
    } else {
        Err(format!("`{name}` is not a DNS name (a-z, 0-9, `-` and `.`, at most {SUBDOMAIN} characters)"))
    }
}

/// A DNS label (RFC 1123): the name of a namespace, and of a service.
///
/// # Errors
/// Says what is wrong, quoting the name.
pub fn label(name: &str) -> Result<(), String> {
    if name.len() <= LABEL && is_label(name) {
        Ok(())
    } else {
        Err(format!("`{name}` is not a DNS label (a-z, 0-9 and `-`, at most {LABEL} characters)"))
    }
}

fn is_label(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains() {
        for good in ["a", "0", "a-b", "a1", &"x".repeat(63)] {
            assert!(label(good).is_ok() && subdomain(good).is_ok(), "{good}");
        }
        assert!(subdomain("a.b-c.0").is_ok() && label("a.b").is_err());
        assert!(label(&"x".repeat(64)).is_err() && subdomain(&"x".repeat(254)).is_err());
        for bad in ["", "A", "a/b", "..", ".", "a.", "a..b", "-a", "a-", "a_b", "a b", "ä", "a\0"] {
            assert!(label(bad).is_err() && subdomain(bad).is_err(), "{bad}");
        }
    }
}
