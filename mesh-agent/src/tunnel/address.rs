//! Addresses as they travel in headers. Reading is strict: two spellings of one address are two chances for a check and
//! a dial to disagree.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// `ip:port` or `[v6]:port`; never a zone, which means nothing on another node.
pub fn format_authority(address: SocketAddr) -> String {
    match address.ip() {
        IpAddr::V4(ip) => format!("{ip}:{}", address.port()),
        IpAddr::V6(ip) => format!("[{ip}]:{}", address.port()),
    }
}

/// Reads what [`format_authority`] writes: no name, user, zone, IPv4-mapped address, octal, hex or port outside
/// 1-65535.
pub fn parse_authority(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let ip = match host.strip_prefix('[') {
        Some(rest) => {
            let ip: Ipv6Addr = rest.strip_suffix(']')?.parse().ok()?;
            if ip.to_ipv4_mapped().is_some() {
                return None;
            }
            IpAddr::V6(ip)
        }
        None => IpAddr::V4(host.parse().ok()?),
    };
    Some(SocketAddr::new(ip, parse_port(port)?))
}

/// The value of a `forwarded` header (RFC 7239) for one client. Quoted, since a colon is no token character.
pub fn format_forwarded(client: SocketAddr) -> String {
    format!("for=\"{}\"", format_authority(client))
}

/// The client in a `forwarded` header, if it names exactly one by address and port. Peers write it with and without
/// quotes. A claim, not a proof.
pub fn parse_forwarded(value: &str) -> Option<SocketAddr> {
    // A comma separates hops: whose claim would count?
    if value.contains(',') {
        return None;
    }
    let mut found = None;
    for pair in value.split(';') {
        let (name, value) = pair.trim().split_once('=')?;
        if name.eq_ignore_ascii_case("for") {
            let bare = value.strip_prefix('"').map_or(Some(value), |rest| rest.strip_suffix('"'))?;
            if found.replace(parse_authority(bare)?).is_some() {
                return None;
            }
        }
    }
    found
}

fn parse_port(text: &str) -> Option<u16> {
    let plain = !text.starts_with('0') && text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_round_trip() {
        for text in ["10.0.0.1:80", "[fd00::1]:15008", "[::1]:1", "255.255.255.255:65535"] {
            let address = parse_authority(text).unwrap_or_else(|| panic!("{text} was refused"));
            assert_eq!(format_authority(address), text);
        }
        let zoned: SocketAddr = "[fe80::1%3]:80".parse().expect("valid");
        assert_eq!(format_authority(zoned), "[fe80::1]:80");
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            ":80",
            "10.0.0.1",
            "10.0.0.1:",
            "10.0.0.1:0",
            "10.0.0.1:65536",
            "10.0.0.1:080",
            "10.0.0.1:+80",
            "10.0.0.1: 80",
            "10.0.0.1:80 ",
            "10.0.0.1:8a",
            "010.0.0.1:80",
            "0x0a.0.0.1:80",
            "10.1:80",
            "167772161:80",
            "10.0.0.1.:80",
            "web:80",
            "web.shop.svc:80",
            "u@10.0.0.1:80",
            "u:p@10.0.0.1:80",
            "::1:80",
            "fd00::1:80",
            "[fd00::1]",
            "[fd00::1]80",
            "[fd00::1]:0",
            "[fd00::1%eth0]:80",
            "[fd00::1%1]:80",
            "[::ffff:10.0.0.1]:80",
            "[::ffff:a00:1]:80",
            "[10.0.0.1]:80",
            "[[fd00::1]]:80",
            "[fd00::1:80",
            "10.0.0.1:80:80",
            "[]:80",
            "http://10.0.0.1:80",
            "10.0.0.1:80/",
            "10.0.0.1:٨٠",
        ] {
            assert_eq!(parse_authority(text), None, "{text:?} was taken");
        }
    }

    #[test]
    fn forwarded_round_trips_and_is_read_without_quotes() {
        for text in ["10.0.0.1:4711", "[fd00::1]:4711"] {
            let client: SocketAddr = text.parse().expect("valid");
            assert_eq!(parse_forwarded(&format_forwarded(client)), Some(client));
            assert_eq!(parse_forwarded(&format!("For={text};host=web")), Some(client));
        }
    }

    #[test]
    fn a_doubtful_forwarded_is_none() {
        for text in [
            "",
            "for",
            "for=10.0.0.1",
            "for=_hidden",
            "for=unknown",
            "for=\"10.0.0.1:1",
            "host=web",
            "for=10.0.0.1:1,for=10.0.0.2:2",
            "for=10.0.0.1:1;for=10.0.0.1:1",
            "10.0.0.1:1",
        ] {
            assert_eq!(parse_forwarded(text), None, "{text:?} was taken");
        }
    }
}
