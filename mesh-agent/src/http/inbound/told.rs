//! What an application is told of its client, in headers that nobody else may set.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_common::model::{Identity, traffic::CLIENT_HEADERS};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const CLIENT_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

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

/// Programs behind gateways of the CGI kind (RFC 3875, 4.1.18) do not tell `_` from `-`.
fn is_read_as(name: &HeaderName, own: &str) -> bool {
    name.as_str().bytes().map(|byte| if byte == b'_' { b'-' } else { byte }).eq(own.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

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
