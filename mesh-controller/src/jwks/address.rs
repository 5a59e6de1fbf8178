//! Where key sets may be fetched from. The controller reaches what authors of policies may not: its own node, the
//! cloud's metadata, the API server, the nodes. Services of the cluster are permitted: issuers run there.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// AWS's metadata over IPv6, among addresses that are otherwise private.
const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Why an address is none to fetch from; `api` are those of the API server.
pub fn refused(address: IpAddr, api: &[IpAddr]) -> Option<&'static str> {
    let ip = plain(address);
    if api.iter().any(|own| plain(*own) == ip) {
        return Some("it is the API server's");
    }
    let is_link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6 == METADATA,
    };
    let is_nowhere = match ip {
        // RFC 791: this network; connecting there is connecting to oneself.
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unspecified(),
    };
    match () {
        () if ip.is_loopback() => Some("it is a loopback address"),
        () if is_link_local => Some("it is a link-local address, as clouds' metadata have"),
        () if is_nowhere => Some("it is nobody's address"),
        () if ip.is_multicast() => Some("it is a multicast address"),
        () => None,
    }
}

/// What an address leads to: one of IPv4 may be within one of IPv6 (RFC 4291, 2.5.5; RFC 6052; RFC 3056).
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let segments = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

/// Where a node serves what runs in the cluster: as an ingress, or at the node ports of services (by Kubernetes'
/// default). At its other ports are the kubelet and its like.
fn is_served(port: u16) -> bool {
    matches!(port, 80 | 443 | 30_000..=32_767)
}

/// One of these addresses of a host, if all of them are permitted: a name that leads to one that is not is not what it
/// seems.
pub fn permitted(
    found: &[SocketAddr],
    api: &[IpAddr],
    nodes: &BTreeSet<IpAddr>,
    besides: &[SocketAddr],
) -> Result<Vec<SocketAddr>, String> {
    for address in found.iter().filter(|address| !besides.contains(address)) {
        if let Some(why) = refused(address.ip(), api) {
            return Err(format!("nothing is fetched from {}: {why}", address.ip()));
        }
        let is_node = || nodes.iter().any(|node| plain(*node) == plain(address.ip()));
        if !is_served(address.port()) && is_node() {
            let why = "nothing is fetched from a node of the cluster but from the ports 80, 443 and 30000 to 32767";
            return Err(why.to_owned());
        }
    }
    if found.is_empty() { Err("its host has no address".into()) } else { Ok(found.to_vec()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_leads_to_the_node_or_its_neighbours() {
        let api = ["10.96.0.1".parse().expect("an address")];
        for (text, permitted) in [
            ("10.0.0.1", true),
            ("192.168.1.1", true),
            ("172.16.0.1", true),
            ("100.64.0.1", true),
            ("93.184.216.34", true),
            ("fd00::1", true),
            ("2606:2800:220:1::1", true),
            ("::ffff:10.0.0.1", true),
            ("64:ff9b::a00:1", true),
            ("127.0.0.1", false),
            ("127.8.9.10", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("::127.0.0.1", false),
            ("64:ff9b::7f00:1", false),
            ("2002:7f00:1::", false),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("::", false),
            ("255.255.255.255", false),
            ("169.254.169.254", false),
            ("169.254.0.1", false),
            ("::ffff:169.254.169.254", false),
            ("64:ff9b::a9fe:a9fe", false),
            ("2002:a9fe:a9fe::1", false),
            ("fe80::1", false),
            ("febf::1", false),
            ("fd00:ec2::254", false),
            ("224.0.0.1", false),
            ("ff02::1", false),
            ("10.96.0.1", false),
            ("::ffff:10.96.0.1", false),
        ] {
            let ip: IpAddr = text.parse().expect("an address");
            assert_eq!(refused(ip, &api).is_none(), permitted, "{text}");
        }
    }

    #[test]
    fn one_bad_address_is_enough() {
        let all =
            |list: &[&str]| list.iter().map(|text| text.parse().expect("an address")).collect::<Vec<SocketAddr>>();
        let none = BTreeSet::new();
        assert_eq!(permitted(&all(&["10.0.0.1:80", "10.0.0.2:80"]), &[], &none, &[]).map(|all| all.len()), Ok(2));
        assert!(permitted(&all(&["10.0.0.1:80", "127.0.0.1:80"]), &[], &none, &[]).is_err());
        assert!(permitted(&[], &[], &none, &[]).is_err());
        let one = all(&["127.0.0.1:80"]);
        assert!(permitted(&one, &[], &none, &one).is_ok());
        assert!(permitted(&all(&["127.0.0.1:81"]), &[], &none, &one).is_err());
    }

    #[test]
    fn of_a_node_only_what_it_serves_for_others() {
        let nodes = ["10.1.0.1", "fd00::1"].map(|text| text.parse().expect("an address")).into();
        for (text, expected) in [
            ("10.1.0.1:443", true),
            ("10.1.0.1:80", true),
            ("10.1.0.1:30000", true),
            ("10.1.0.1:32767", true),
            ("10.1.0.1:10250", false),
            ("10.1.0.1:2379", false),
            ("10.1.0.1:29999", false),
            ("10.1.0.1:32768", false),
            ("[::ffff:10.1.0.1]:10250", false),
            ("[fd00::1]:10255", false),
            ("10.1.0.2:10250", true),
        ] {
            let address = text.parse().expect("an address");
            assert_eq!(permitted(&[address], &[], &nodes, &[]).is_ok(), expected, "{text}");
        }
    }
}
