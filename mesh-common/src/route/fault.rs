//! Faults that users ask for, and the agent's own answers to gRPC clients.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::model::traffic::{Abort, Fault};

/// What befalls one request: the delay first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Befalls {
    pub delay: Option<Duration>,
    pub abort: Option<Aborted>,
}

/// How a request is answered that is aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aborted {
    /// An HTTP status.
    Status(u16),
    /// A gRPC status, see [`grpc_answer`].
    Grpc(u8),
}

/// `drawn` by chance from all of `u32`, for the delay and for the abort: each has its own share. `grpc`: see
/// [`is_grpc`].
pub fn decide(fault: &Fault, grpc: bool, drawn: (u32, u32)) -> Befalls {
    let Fault { delay, abort } = fault;
    Befalls {
        delay: delay.as_ref().filter(|delay| delay.percent.has(drawn.0)).map(|delay| delay.fixed.into()),
        abort: abort.as_ref().filter(|abort| abort.percent.has(drawn.1)).map(|abort| aborted(abort, grpc)),
    }
}

/// An HTTP status said to a gRPC client is said in its own terms, and the other way round.
fn aborted(abort: &Abort, grpc: bool) -> Aborted {
    match (grpc, abort.status, abort.grpc_status) {
        (true, _, Some(status)) => Aborted::Grpc(status),
        (true, Some(status), None) => Aborted::Grpc(grpc_of(status)),
        (false, Some(status), _) => Aborted::Status(status),
        (false, None, Some(status)) => Aborted::Status(http_of(status)),
        // Such an abort says nothing of its answer.
        (_, None, None) => Aborted::Status(StatusCode::SERVICE_UNAVAILABLE.as_u16()),
    }
}

/// Whether a request speaks gRPC (grpc/doc/PROTOCOL-HTTP2.md): its content type is `application/grpc`, alone or with
/// `+` or `;` after it.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
    let Some((name, rest)) = kind.split_at_checked("application/grpc".len()) else { return false };
    name.eq_ignore_ascii_case(b"application/grpc") && matches!(rest.first(), None | Some(b'+' | b';'))
}

/// The gRPC status of an HTTP one (grpc/doc/http-grpc-status-mapping.md).
pub fn grpc_of(status: u16) -> u8 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// The HTTP status of a gRPC one (google/rpc/code.proto).
fn http_of(status: u8) -> u16 {
    match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// All but printable ASCII, and the percent sign itself (grpc/doc/PROTOCOL-HTTP2.md, Percent-Encoded).
const MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

/// An answer that only has a status: HTTP 200, the status in its head, no body (Trailers-Only).
pub fn grpc_answer(status: u8, message: &str) -> Response<()> {
    let mut answer = Response::new(());
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(u16::from(status)));
    let message = utf8_percent_encode(message, MESSAGE).to_string();
    let message = HeaderValue::try_from(message).expect("what no header may have was encoded");
    if !message.is_empty() {
        headers.insert("grpc-message", message);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::traffic::{Delay, Millis, Percent};

    fn abort(status: Option<u16>, grpc_status: Option<u8>) -> Fault {
        Fault { delay: None, abort: Some(Abort { percent: Percent::ALL, status, grpc_status }) }
    }

    #[test]
    fn each_fault_has_its_own_share_of_requests() {
        let fault = Fault {
            delay: Some(Delay { percent: Percent(100_000), fixed: Millis(5000) }),
            abort: Some(Abort { percent: Percent(50_000), status: Some(503), grpc_status: None }),
        };
        let (mut delayed, mut aborted, mut both) = (0, 0, 0);
        for n in 0..200_u32 {
            for m in 0..200_u32 {
                let Befalls { delay, abort } = decide(&fault, false, (n * (u32::MAX / 200), m * (u32::MAX / 200)));
                assert!(delay.is_none_or(|delay| delay == Duration::from_secs(5)));
                assert!(abort.is_none_or(|abort| abort == Aborted::Status(503)));
                delayed += u32::from(delay.is_some());
                aborted += u32::from(abort.is_some());
                both += u32::from(delay.is_some() && abort.is_some());
            }
        }
        // Of the first 20 (and 10) of 200 even steps; the next step lies on the edge, just inside it.
        assert_eq!((delayed, aborted, both), (21 * 200, 11 * 200, 21 * 11));
        assert_eq!(decide(&Fault::default(), false, (0, 0)), Befalls::default());
        assert_eq!(decide(&abort(Some(503), None), false, (0, u32::MAX)).abort, Some(Aborted::Status(503)));
        let never =
            Fault { abort: Some(Abort { percent: Percent(0), status: Some(500), grpc_status: None }), delay: None };
        assert_eq!(decide(&never, false, (0, 0)).abort, None);
    }

    #[test]
    fn an_abort_speaks_as_its_client_does() {
        for (status, grpc_status, grpc, answer) in [
            (Some(503), Some(8), false, Aborted::Status(503)),
            (Some(503), Some(8), true, Aborted::Grpc(8)),
            (Some(503), None, true, Aborted::Grpc(14)),
            (Some(404), None, true, Aborted::Grpc(12)),
            (None, Some(8), false, Aborted::Status(429)),
            (None, Some(14), true, Aborted::Grpc(14)),
        ] {
            assert_eq!(decide(&abort(status, grpc_status), grpc, (0, 0)).abort, Some(answer));
        }
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        for (kind, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC; charset=x", true),
            ("application/grpc-web", false),
            ("application/json", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_grpc(&headers), grpc, "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn a_grpc_answer_is_a_head_alone() {
        let answer = grpc_answer(14, "100 % ü\n");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "application/grpc");
        assert_eq!(answer.headers()["grpc-status"], "14");
        assert_eq!(answer.headers()["grpc-message"], "100 %25 %C3%BC%0A");
        assert!(!grpc_answer(0, "").headers().contains_key("grpc-message"));
    }
}
