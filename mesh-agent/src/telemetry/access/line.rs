//! A record as one line of ASCII. Whatever else a text has is escaped: it begins no line, moves no cursor, and does not
//! read in another order than it stands.

use std::{
    fmt::{self, Write as _},
    net::SocketAddr,
};

use mesh_common::audit::Time;

use super::condition::line_flags;
use crate::telemetry::flow::{Direction, Flow, HttpRequest, Path};

/// What a field says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    Text(&'a str),
    Number(u64),
}

/// `{"time":"…","log":"access","verdict":"FORWARDED",…}` without a line's end. A field that would say nothing is left
/// out.
pub fn json(flow: &Flow, line: &mut String) {
    put(line, format_args!(r#"{{"time":"{}","log":"access""#, Time(flow.end)));
    fields(flow, |name, value| {
        put(line, format_args!(r#","{name}":"#));
        match value {
            Field::Number(number) => put(line, format_args!("{number}")),
            Field::Text(text) => {
                line.push('"');
                text.chars().for_each(|c| json_char(c, line));
                line.push('"');
            }
        }
    });
    line.push('}');
}

/// `2026-01-31T12:00:00.000000Z access verdict=FORWARDED src.workload="cart" …` without a line's end. Bytes that are no
/// printable ASCII are `\xNN`, as Envoy writes them.
pub fn plain(flow: &Flow, line: &mut String) {
    put(line, format_args!("{} access", Time(flow.end)));
    fields(flow, |name, value| {
        put(line, format_args!(" {name}="));
        match value {
            Field::Number(number) => put(line, format_args!("{number}")),
            Field::Text(text) => {
                line.push('"');
                text.bytes().for_each(|byte| plain_byte(byte, line));
                line.push('"');
            }
        }
    });
}

/// [`plain`], as a text of its own.
pub fn text(flow: &Flow) -> String {
    let mut line = String::with_capacity(512);
    plain(flow, &mut line);
    line
}

/// A text takes whatever is written.
fn put(line: &mut String, text: fmt::Arguments<'_>) {
    let _ = line.write_fmt(text);
}

fn json_char(c: char, line: &mut String) {
    match c {
        '"' | '\\' => line.extend(['\\', c]),
        ' '..='~' => line.push(c),
        _ => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| put(line, format_args!("\\u{unit:04x}"))),
    }
}

fn plain_byte(byte: u8, line: &mut String) {
    match byte {
        b'"' | b'\\' => line.extend(['\\', byte.into()]),
        b' '..=b'~' => line.push(byte.into()),
        _ => put(line, format_args!("\\x{byte:02X}")),
    }
}

/// Each with what it says, in order; those that say nothing do not come. Names are ztunnel's where it has one, but that
/// `dst.addr` is where the payload goes, and `dst.hbone_addr` where the tunnel does.
pub fn fields(flow: &Flow, told: impl FnMut(&'static str, Field<'_>)) {
    let mut told = Told(told);
    told.text("verdict", flow.verdict.name());
    told.text("reason", flow.reason.as_deref().unwrap_or_default());
    told.shown("src.addr", flow.source.address.map(unmapped));
    told.text("src.pod", &flow.source.pod);
    told.text("src.workload", &flow.source.workload);
    told.text("src.namespace", &flow.source.namespace);
    told.shown("src.identity", flow.source.identity.as_ref());
    told.shown("dst.addr", flow.destination.address.map(unmapped));
    told.shown("dst.hbone_addr", flow.tunnel.filter(|_| flow.direction == Direction::Outbound));
    told.text("dst.service", flow.service.as_ref().map_or("", |service| &service.hostname));
    told.text("dst.pod", &flow.destination.pod);
    told.text("dst.workload", &flow.destination.workload);
    told.text("dst.namespace", &flow.destination.namespace);
    told.shown("dst.identity", flow.destination.identity.as_ref());
    told.text("direction", if flow.direction == Direction::Outbound { "outbound" } else { "inbound" });
    told.text("via", flow.path.map_or("", Path::name));
    told.text("connection_security_policy", flow.security.name());
    told.number("bytes_sent", flow.sent);
    told.number("bytes_recv", flow.received);
    let duration = flow.end.duration_since(flow.start).unwrap_or_default();
    told.text("duration", &format!("{}.{:03}ms", duration.as_millis(), duration.subsec_micros() % 1000));
    if let Some(http) = flow.http.as_deref() {
        request(http, &mut told);
    }
    told.text("response_flags", line_flags(flow).unwrap_or_default());
    told.shown("policy", flow.policy.as_ref());
    if let Some(rule) = flow.rule {
        told.number("rule", rule as u64);
    }
    told.text("error", flow.error.as_deref().unwrap_or_default());
    told.number("flow", flow.id);
}

fn request(http: &HttpRequest, told: &mut Told<impl FnMut(&'static str, Field<'_>)>) {
    told.text("method", &http.method);
    told.text("path", &http.path);
    told.text("authority", &http.host);
    told.text("protocol", http.version);
    // 0: there was no answer.
    told.number("response_code", http.status.into());
    if let Some(status) = http.grpc_status {
        told.number("grpc_status", status.into());
    }
    told.text("request_id", http.request_id.as_deref().unwrap_or_default());
    told.shown("trace_id", http.trace.map(|ids| format!("{:032x}", ids.trace)));
    told.shown("span_id", http.trace.map(|ids| format!("{:016x}", ids.span)));
    told.text("request_principal", http.principal.as_deref().unwrap_or_default());
    told.text("route", http.route.as_deref().unwrap_or_default());
    told.number("retries", http.retries.into());
}

/// Whom the fields are told to.
struct Told<F>(F);

impl<F: FnMut(&'static str, Field<'_>)> Told<F> {
    fn text(&mut self, name: &'static str, value: &str) {
        if !value.is_empty() {
            (self.0)(name, Field::Text(value));
        }
    }

    fn shown(&mut self, name: &'static str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.text(name, &value.to_string());
        }
    }

    fn number(&mut self, name: &'static str, value: u64) {
        (self.0)(name, Field::Number(value));
    }
}

/// What has an IPv4 address is told by that.
fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
