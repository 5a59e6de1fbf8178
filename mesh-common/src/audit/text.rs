//! A record as one line: JSON in ASCII, so that nothing that a client said moves a terminal's cursor or begins a line.

use std::io;

use serde::Serialize as _;
use serde_json::ser::{Formatter, Serializer};

use super::{Denied, Party, Record, Request};

/// Bytes of a text; longer ones end in `...`. Names of Kubernetes have 253 at most; paths can have as many as a client
/// likes.
const LONGEST: usize = 1024;

pub(super) fn line(record: &Record) -> Vec<u8> {
    let mut text = Vec::with_capacity(512);
    let written = record.serialize(&mut Serializer::with_formatter(&mut text, Ascii));
    debug_assert!(written.is_ok(), "{written:?}");
    text.push(b'\n');
    text
}

struct Ascii;

impl Formatter for Ascii {
    /// Quotes, backslashes and what is below a space never come here.
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        for c in fragment.chars() {
            match c {
                ' '..='~' => writer.write_all(&[c as u8])?,
                _ => c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?,
            }
        }
        Ok(())
    }
}

/// Whatever a client may have chosen the length of.
pub(super) fn cut(record: &mut Record) {
    for text in [&mut record.message, &mut record.caller].into_iter().flatten() {
        shorten(text);
    }
    if let Some(denied) = &mut record.denied {
        let Denied { source, destination, service, request, .. } = &mut **denied;
        for party in [source, destination].into_iter().flatten() {
            let Party { namespace, pod, workload, identity, address: _ } = party;
            [namespace, pod, workload, identity].into_iter().flatten().for_each(shorten);
        }
        service.as_mut().into_iter().for_each(shorten);
        if let Some(Request { method, path, host, principal, .. }) = request {
            [method, path, host].into_iter().chain(principal).for_each(shorten);
        }
    }
    if let Some(identity) = record.certificate.as_mut().and_then(|certificate| certificate.identity.as_mut()) {
        shorten(identity);
    }
}

fn shorten(text: &mut String) {
    const END: &str = "...";
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST - END.len()));
        text.push_str(END);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Kind, *};

    fn denied(path: &str, message: &str) -> Record {
        let request = Request { method: "GET".into(), path: path.into(), ..Request::default() };
        let mut record = Record::new(Kind::Denied);
        record.message = Some(message.into());
        record.denied = Some(Box::new(Denied { request: Some(request), ..Denied::default() }));
        record
    }

    #[test]
    fn nothing_gets_out_of_its_text() {
        let hostile = "\"}\n{\"kind\":\"lost\"}\r\u{1b}[2J\u{9b}2J\u{7f}\u{2028}\u{202e}\u{0}\\ü😀";
        let record = denied(hostile, hostile);
        let line = record.line();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
        assert!(
            line[..line.len() - 1].iter().all(|byte| (b' '..=b'~').contains(byte)),
            "{:?}",
            String::from_utf8(line)
        );
        let read: Record = serde_json::from_slice(&line).expect("JSON");
        // Microseconds are enough.
        assert_eq!(read, Record { time: read.time, ..record }, "and it says the same");
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        let mut record = denied(&"/ü".repeat(40_000), &"x".repeat(LONGEST));
        cut(&mut record);
        let line = record.line();
        assert!(line.len() < 10_000, "{}", line.len());
        let read: Record = serde_json::from_slice(&line).expect("JSON");
        let path = read.denied.expect("it is one").request.expect("of a request").path;
        assert!(path.len() <= LONGEST && path.starts_with("/ü") && path.ends_with("..."), "{path}");
        assert_eq!(read.message, Some("x".repeat(LONGEST)));
    }

    #[test]
    fn a_line_has_no_field_that_nobody_knows() {
        let known = r#"{"time":"2026-01-31T12:00:00.000000Z","program":"p","instance":"i","kind":"lost","count":2}"#;
        let record: Record = serde_json::from_str(known).expect("all that is needed");
        assert_eq!(String::from_utf8(record.line()).expect("ASCII").trim_end(), known);
        assert!(serde_json::from_str::<Record>(&known.replace("\"count\"", "\"counts\":1,\"count\"")).is_err());
        assert!(serde_json::from_str::<Record>(&known.replace("lost", "gone")).is_err());
    }
}
