//! Values that routes have in common, each refused by its field's name.

use http::HeaderName;
use mesh_common::model::traffic::Millis;
use serde_json::Value;

use crate::status::Fault;

/// Of a path or a query parameter's value, and of a regular expression.
pub const LONGEST: usize = 1024;

/// What an API server leaves out.
pub fn is_default(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

/// A list that is not longer than it may be.
pub fn bounded<T>(field: &str, list: Option<Vec<T>>, most: usize) -> Result<Vec<T>, Fault> {
    let list = list.unwrap_or_default();
    if list.len() > most {
        return Err(Fault::new(field, format_args!("has {} items, {most} are the most", list.len())));
    }
    Ok(list)
}

/// A text that has between one and so many characters, none of them a control character.
pub fn text(field: &str, value: &str, longest: usize) -> Result<String, Fault> {
    if value.is_empty() {
        return Err(Fault::new(field, "is empty"));
    }
    if value.len() > longest {
        return Err(Fault::new(field, format_args!("has {} bytes, {longest} are the most", value.len())));
    }
    if value.chars().any(char::is_control) {
        return Err(Fault::new(field, "has a control character"));
    }
    Ok(value.to_owned())
}

/// A regular expression (RE2).
pub fn pattern(field: &str, value: &str) -> Result<String, Fault> {
    text(field, value, LONGEST)
}

/// In lower case.
pub fn header_name(field: &str, name: &str) -> Result<String, Fault> {
    let read = HeaderName::try_from(name).ok().filter(|name| name.as_str().len() <= 256);
    let read = read.ok_or_else(|| Fault::new(field, format_args!("`{name}` is no name of a header")))?;
    Ok(read.as_str().to_owned())
}

/// A DNS name in lower case; no address.
pub fn hostname(field: &str, name: &str) -> Result<String, Fault> {
    let is_label = |label: &str| {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        (1..=63).contains(&label.len()) && label.bytes().all(fits) && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_address = name.parse::<std::net::IpAddr>().is_ok();
    if name.len() > 253 || is_address || !name.split('.').all(is_label) {
        return Err(Fault::new(field, format_args!("`{name}` is no host name")));
    }
    Ok(name.to_owned())
}

pub fn port_number(field: &str, value: i64) -> Result<u16, Fault> {
    let port = u16::try_from(value).ok().filter(|port| *port != 0);
    port.ok_or_else(|| Fault::new(field, format_args!("{value} is not a port (1 to 65535)")))
}

/// A time span (GEP-2257): one to four of numbers with `h`, `m`, `s` or `ms`, as in `1h30m`.
pub fn duration(field: &str, text: &str) -> Result<Millis, Fault> {
    parse_duration(text).ok_or_else(|| Fault::new(field, format_args!("`{text}` is no time span, as in 1m30s")))
}

fn parse_duration(text: &str) -> Option<Millis> {
    let (mut rest, mut sum) = (text, 0u64);
    for part in 0.. {
        if rest.is_empty() {
            return (part > 0).then_some(Millis(sum));
        }
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if part == 4 || !(1..=5).contains(&digits) {
            return None;
        }
        let (number, after) = rest.split_at(digits);
        let unit = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(unit);
        let factor = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return None,
        };
        sum += number.parse::<u64>().ok()? * factor;
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_span_is_read_as_gep_2257_has_it() {
        for (text, millis) in [
            ("0s", 0),
            ("10s", 10_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("1h1m1s1ms", 3_661_001),
            ("99999h", 359_996_400_000),
        ] {
            assert_eq!(duration("f", text), Ok(Millis(millis)), "{text}");
        }
        for text in ["", "10", "1.5s", "-1s", "1d", "100000s", "1s1s1s1s1s", "s", "1 s", "1µs", "٣s"] {
            assert_eq!(duration("f", text).expect_err(text).field, "f");
        }
    }

    #[test]
    fn a_host_name_is_no_address() {
        assert!(hostname("f", "example.org").is_ok());
        for name in ["", "10.0.0.1", "*.example.org", "Example.org", "a..b", "-a", "a_b", &"a".repeat(64)] {
            assert_eq!(hostname("f", name).expect_err(name).field, "f");
        }
    }
}
