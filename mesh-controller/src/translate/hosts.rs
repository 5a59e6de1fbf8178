//! Names of hosts, as objects write them, -> names of services. `cart` is a service of the object's own namespace,
//! `cart.shop.svc` and `cart.shop.svc.<cluster domain>` name their namespace. `cart.shop` may be either a service of
//! Kubernetes or a host outside (`example.com`), as every other name: which of them is known where the services are.

use mesh_common::model::ServiceName;

use super::{Settings, traffic::HostRef};
use crate::names;

/// What a rule is about: wildcards are understood.
///
/// # Errors
/// Says why the text is no host, quoting it.
pub fn host(settings: &Settings, namespace: &str, text: &str) -> Result<HostRef, String> {
    match text.strip_prefix('*') {
        Some("") => Ok(HostRef::Every),
        Some(rest) => {
            let suffix = rest.strip_prefix('.').ok_or_else(|| format!("`{text}`: `*` stands for whole labels only"))?;
            let suffix = suffix.to_ascii_lowercase();
            names::subdomain(&suffix).map_err(|_| not_a_host(text))?;
            // As with names that have no wildcard: `*.shop.svc` is what ends in it with the cluster's domain.
            let suffix = if suffix.ends_with(".svc") || suffix == "svc" {
                format!("{suffix}.{}", settings.cluster_domain)
            } else {
                suffix
            };
            Ok(HostRef::Below(format!(".{suffix}")))
        }
        None => {
            let ServiceName { namespace, hostname } = destination(settings, namespace, text)?;
            Ok(if namespace.is_empty() {
                HostRef::Named(hostname)
            } else {
                HostRef::Service(ServiceName { namespace, hostname })
            })
        }
    }
}

/// Where something is sent to. The namespace is empty where only who knows all services can tell.
///
/// # Errors
/// Says why the text is no host, quoting it.
pub fn destination(settings: &Settings, namespace: &str, text: &str) -> Result<ServiceName, String> {
    let lower = text.to_ascii_lowercase();
    names::subdomain(&lower).map_err(|_| not_a_host(text))?;
    let local = lower.strip_suffix(&settings.cluster_domain).and_then(|rest| rest.strip_suffix('.')).unwrap_or(&lower);
    let labels: Vec<&str> = local.split('.').collect();
    Ok(match labels.as_slice() {
        [name] if *name == lower => service(settings, namespace, name),
        [name, namespace, "svc"] => service(settings, namespace, name),
        _ => ServiceName { namespace: String::new(), hostname: lower },
    })
}

/// The service of Kubernetes that a name of two labels may mean.
pub fn service_of_two_labels(settings: &Settings, hostname: &str) -> Option<ServiceName> {
    let (name, namespace) = hostname.split_once('.')?;
    (!namespace.contains('.')).then(|| service(settings, namespace, name))
}

/// A service of Kubernetes.
pub fn service(settings: &Settings, namespace: &str, name: &str) -> ServiceName {
    let hostname = format!("{name}.{namespace}.svc.{}", settings.cluster_domain);
    ServiceName { namespace: namespace.to_owned(), hostname }
}

fn not_a_host(text: &str) -> String {
    format!("`{text}` is no host name")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::tests::settings;

    #[test]
    fn every_way_to_name_a_service() {
        let cart = |namespace| HostRef::Service(service(&settings(), namespace, "cart"));
        let named = |name: &str| HostRef::Named(name.to_owned());
        for (text, expected) in [
            ("cart", cart("shop")),
            ("Cart", cart("shop")),
            ("cart.other.svc", cart("other")),
            ("cart.other.svc.cluster.local", cart("other")),
            ("cart.other", named("cart.other")),
            ("cart.cluster.local", named("cart.cluster.local")),
            ("cart.other.svc.example.com", named("cart.other.svc.example.com")),
            ("api.example.com", named("api.example.com")),
            ("cart-0.cart.shop.svc.cluster.local", named("cart-0.cart.shop.svc.cluster.local")),
            ("*", HostRef::Every),
            ("*.example.com", HostRef::Below(".example.com".into())),
            ("*.shop.svc", HostRef::Below(".shop.svc.cluster.local".into())),
            ("*.cluster.local", HostRef::Below(".cluster.local".into())),
        ] {
            assert_eq!(host(&settings(), "shop", text), Ok(expected), "{text}");
        }
        assert_eq!(service_of_two_labels(&settings(), "cart.shop"), Some(service(&settings(), "shop", "cart")));
        assert_eq!(service_of_two_labels(&settings(), "cart.shop.svc"), None);
    }

    #[test]
    fn what_is_no_host_is_quoted() {
        for text in ["", "*cart", "*.", "a.*.b", "a..b", ".a", "a.", "a b", "http://a", "a/b", "a:80", "ä", "*.*"] {
            let why = host(&settings(), "shop", text).expect_err(text);
            assert!(why.contains(&format!("`{text}`")), "{why}");
        }
        assert!(destination(&settings(), "shop", "*.example.com").is_err());
    }
}
