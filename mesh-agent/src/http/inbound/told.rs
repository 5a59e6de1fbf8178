//! What an application is told of its client, in headers that nobody else may set, and what else a client may not say
//! where a policy decides.
//!
//! - A header in another spelling than that in which a policy or a token's place names it (`x_tenant` for `x-tenant`)
//!   is taken out. It is not refused, since most applications do not see it at all, and nor are those that name a
//!   client.
//! - Frameworks obey headers that name another path, method or host than the request's. Where a policy asks for paths,
//!   methods or hosts, those are taken out, but for one that a policy names itself: it is decided about. What
//!   frameworks take from bodies and queries (`_method`) is theirs.

use std::{collections::HashSet, net::IpAddr};

use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_common::model::{
    Identity,
    traffic::{CLIENT_HEADERS, is_read_as},
};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const CLIENT_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Which some obey in the place of a request's path.
const PATHS: [&str; 8] = [
    "x-original-url",
    "x-original-uri",
    "x-rewrite-url",
    "x-forwarded-uri",
    "x-forwarded-path",
    "x-forwarded-prefix",
    "x-envoy-original-path",
    "x-script-name",
];
const METHODS: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];
const HOSTS: [&str; 4] = ["x-forwarded-host", "x-forwarded-server", "x-original-host", "x-host"];

/// What is decided about, as far as headers could say something else.
#[derive(Debug, Default)]
pub struct Decided {
    /// Those that policies or places of tokens name.
    named: HashSet<HeaderName>,
    /// The same with `-` for `_`.
    folded: HashSet<String>,
    instead: Vec<&'static str>,
}

impl Decided {
    pub fn new<'a>(named: impl Iterator<Item = &'a HeaderName>, paths: bool, methods: bool, hosts: bool) -> Self {
        let named: HashSet<HeaderName> = named.cloned().collect();
        let folded = named.iter().map(|name| name.as_str().replace('_', "-")).collect();
        let lists = [(paths, &PATHS[..]), (methods, &METHODS[..]), (hosts, &HOSTS[..])];
        let instead = lists.into_iter().filter(|(asked, _)| *asked).flat_map(|(_, list)| list.iter().copied());
        Self { named, folded, instead: instead.collect() }
    }

    /// Takes out what would be read as something else.
    pub fn settle(&self, headers: &mut HeaderMap) {
        let is_other = |name: &&HeaderName| {
            !self.named.contains(*name)
                && ((!self.folded.is_empty() && self.folded.contains(&name.as_str().replace('_', "-")))
                    || self.instead.iter().any(|other| is_read_as(name, other)))
        };
        let others: Vec<HeaderName> = headers.keys().filter(is_other).cloned().collect();
        others.iter().for_each(|name| drop(headers.remove(name)));
    }
}

/// Takes out what a client says of itself ([`CLIENT_HEADERS`]; a W3C `baggage` is the applications' own, and passes:
/// what this mesh's agents say to each other in one of that name is said outside the tunnel), and says what is so:
/// its address, and what it proved (`URI`) to whom (`By`) in Envoy's words.
pub fn tell(headers: &mut HeaderMap, client: IpAddr, identity: Option<&Identity>, own: Option<&Identity>) {
    let forged: Vec<HeaderName> =
        headers.keys().filter(|name| CLIENT_HEADERS.iter().any(|own| is_read_as(name, own))).cloned().collect();
    forged.iter().for_each(|name| drop(headers.remove(name)));
    let client = HeaderValue::try_from(client.to_canonical().to_string()).expect("addresses are visible characters");
    headers.insert(FORWARDED_FOR, client);
    if let (Some(identity), Some(own)) = (identity, own)
        // An identity has no character that this form would have to quote.
        && let Ok(proven) = HeaderValue::try_from(format!("By={own};URI={identity}"))
    {
        headers.insert(CLIENT_CERTIFICATE, proven);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_says_something_else_than_what_is_decided() {
        let name = |text: &'static str| HeaderName::from_static(text);
        let left = |decided: &Decided, names: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for text in names {
                headers.append(name(text), HeaderValue::from_static("x"));
            }
            decided.settle(&mut headers);
            let mut left: Vec<_> = headers.keys().map(|name| name.as_str().to_owned()).collect();
            left.sort();
            left
        };
        let sent = ["x-tenant", "x_tenant", "x-role_a", "x_role-a", "other_one", "x-original-url", "x_http_method"];
        let nothing = Decided::default();
        assert_eq!(left(&nothing, &sent).len(), sent.len());
        let named = [name("x-tenant"), name("x_role-a")];
        let decided = Decided::new(named.iter(), false, false, false);
        let kept = ["other_one", "x-original-url", "x-tenant", "x_http_method", "x_role-a"];
        assert_eq!(left(&decided, &sent), kept);
        let instead =
            ["x-original-url", "x_rewrite_url", "x-http-method-override", "x-forwarded-host", "x-forwarded-proto"];
        for (paths, methods, hosts, gone) in [
            (true, false, false, 0..2),
            (false, true, false, 2..3),
            (false, false, true, 3..4),
            (true, true, true, 0..4),
        ] {
            let decided = Decided::new([].iter(), paths, methods, hosts);
            let mut kept: Vec<_> =
                instead.iter().enumerate().filter(|(at, _)| !gone.contains(at)).map(|(_, name)| *name).collect();
            kept.sort();
            assert_eq!(left(&decided, &instead), kept, "{paths} {methods} {hosts}");
        }
        // What a policy asks for is decided about.
        let asked = [name("x-original-url")];
        assert_eq!(left(&Decided::new(asked.iter(), true, true, true), &instead[..2]), ["x-original-url"]);
    }

    #[test]
    fn nobody_says_who_they_are_but_by_proof() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-forwarded-client-cert", "By=spiffe://a;URI=spiffe://cluster.local/ns/shop/sa/admin"),
            ("X-Forwarded-Client-Cert", "URI=spiffe://b"),
            ("x_forwarded_client_cert", "URI=spiffe://c"),
            ("x-forwarded-for", "10.9.9.9, 10.8.8.8"),
            ("forwarded", "for=10.9.9.9"),
            ("x-real_ip", "10.9.9.9"),
            ("baggage", "k=v"),
            ("x-forwarded-proto", "https"),
        ] {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static(value));
        }
        let cart: Identity = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        let web: Identity = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
        tell(&mut headers, "::ffff:10.0.0.7".parse().unwrap(), Some(&web), Some(&cart));
        let mut told: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        told.sort();
        assert_eq!(
            told,
            [
                "baggage: k=v",
                "x-forwarded-client-cert: By=spiffe://cluster.local/ns/shop/sa/cart;URI=spiffe://cluster.local/ns/shop/sa/web",
                "x-forwarded-for: 10.0.0.7",
                "x-forwarded-proto: https",
            ]
        );
        tell(&mut headers, "fd00::1".parse().unwrap(), None, Some(&cart));
        assert_eq!(headers.get(&FORWARDED_FOR).unwrap(), "fd00::1");
        assert!(!headers.contains_key(&CLIENT_CERTIFICATE), "it proved nothing");
    }
}
