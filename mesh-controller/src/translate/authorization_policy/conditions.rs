//! The values of single conditions.

use std::net::IpAddr;

use ipnet::IpNet;
use mesh_common::model::{ServiceAccountMatch, StringMatch};

use super::{rules::Context, spec::List};
use crate::status::Fault;

/// The trust domain that policies may always write for the mesh's own.
const OWN_TRUST_DOMAIN: &str = "cluster.local/";

impl Context<'_> {
    /// Reads each value; those that have no meaning are errors of the policy.
    fn values<T>(&mut self, field: &str, list: List<String>, read: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let list = list.unwrap_or_default().into_iter().enumerate();
        list.filter_map(|(i, text)| {
            read(&text).map_err(|why| self.errors.push(Fault::new(format!("{field}[{i}]"), why))).ok()
        })
        .collect()
    }

    pub fn principals(&mut self, field: &str, list: List<String>) -> Vec<StringMatch> {
        let trust_domain = self.settings.trust_domain.clone();
        self.values(field, list, move |text| {
            if text.starts_with("spiffe://") {
                return Err(format!("`{text}`: principals are written without spiffe://"));
            }
            match text.strip_prefix(OWN_TRUST_DOMAIN) {
                Some(rest) => pattern(&format!("{trust_domain}/{rest}")),
                None => pattern(text),
            }
        })
    }

    pub fn strings(&mut self, field: &str, list: List<String>) -> Vec<StringMatch> {
        self.values(field, list, pattern)
    }

    pub fn accounts(&mut self, field: &str, list: List<String>) -> Vec<ServiceAccountMatch> {
        let own = self.namespace.to_owned();
        self.values(field, list, move |text| {
            let (namespace, account) = text.split_once('/').unwrap_or((&own, text));
            if namespace.is_empty() || account.is_empty() || account.contains('/') || text.contains('*') {
                return Err(format!("`{text}` is neither an account nor namespace/account"));
            }
            Ok(ServiceAccountMatch { namespace: namespace.to_owned(), service_account: account.to_owned() })
        })
    }

    pub fn networks(&mut self, field: &str, list: List<String>) -> Vec<IpNet> {
        self.values(field, list, |text| {
            let address = || text.parse::<IpAddr>().map(|ip| IpNet::from(ip.to_canonical()));
            let network = text.parse::<IpNet>().map(|network| network.trunc()).or_else(|_| address());
            network.map_err(|_| format!("`{text}` is neither an address nor a network (address/prefix length)"))
        })
    }

    pub fn ports(&mut self, field: &str, list: List<String>) -> Vec<u16> {
        self.values(field, list, |text| {
            let port = text.parse::<u16>().ok().filter(|port| *port != 0);
            port.ok_or_else(|| format!("`{text}` is not a port (1 to 65535)"))
        })
    }
}

/// `*` asks for presence; one `*` at an end stands for anything.
fn pattern(text: &str) -> Result<StringMatch, String> {
    let found = if text == "*" {
        StringMatch::Presence
    } else if let Some(prefix) = text.strip_suffix('*') {
        StringMatch::Prefix(prefix.to_owned())
    } else if let Some(suffix) = text.strip_prefix('*') {
        StringMatch::Suffix(suffix.to_owned())
    } else {
        StringMatch::Exact(text.to_owned())
    };
    match &found {
        StringMatch::Exact(rest) | StringMatch::Prefix(rest) | StringMatch::Suffix(rest) if rest.contains('*') => {
            Err(format!("`{text}`: a `*` may only stand at the start or at the end"))
        }
        StringMatch::Exact(rest) if rest.is_empty() => Err("is empty".to_owned()),
        _ => Ok(found),
    }
}
