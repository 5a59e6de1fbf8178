//! When another try follows a failed one, and after which pause. Envoy's reading of `x-envoy-retry-on`.
//!
//! Whatever the list names is tried again, whichever the method: who writes `5xx` for a service means its POSTs too. A
//! request whose body is gone cannot be sent again; that, and how often, is for the caller to know.

use std::time::Duration;

use http::HeaderMap;

use crate::model::traffic::{Retries, RetryOn};

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered {
        status: u16,
        /// In the head of the answer, see [`grpc_status`]; one in trailers comes too late.
        grpc_status: Option<u8>,
    },
    ConnectFailed,
    /// The connection or stream ended without an answer.
    Reset {
        /// Something of the request had been sent.
        sent: bool,
    },
    /// HTTP/2's REFUSED_STREAM.
    RefusedStream,
    /// The try's own time ended without an answer; the request had been sent.
    TryTimeout,
}

/// Whether another try may help, by what the user names.
pub fn retry_on(on: &[RetryOn], outcome: &Outcome) -> bool {
    on.iter().any(|on| names(*on, outcome))
}

fn names(on: RetryOn, outcome: &Outcome) -> bool {
    use Outcome::{Answered, ConnectFailed, RefusedStream, Reset, TryTimeout};
    match (on, outcome) {
        (RetryOn::ServerError, Answered { status, .. }) => *status >= 500,
        (RetryOn::GatewayError, Answered { status, .. }) => matches!(status, 502..=504),
        (RetryOn::RetriableClientError, Answered { status, .. }) => *status == 409,
        (RetryOn::Status(of), Answered { status, .. }) => of == *status,
        (RetryOn::Grpc(of), Answered { grpc_status, .. }) => *grpc_status == Some(of),
        // Without an answer the client would get 502, 503 or 504 for it.
        (RetryOn::ServerError | RetryOn::GatewayError | RetryOn::Reset, failed) => !matches!(failed, Answered { .. }),
        (RetryOn::ResetBeforeRequest, ConnectFailed | RefusedStream | Reset { sent: false }) => true,
        (RetryOn::ConnectFailure, ConnectFailed) => true,
        (RetryOn::RefusedStream, RefusedStream) => true,
        (
            RetryOn::ResetBeforeRequest
            | RetryOn::ConnectFailure
            | RetryOn::RefusedStream
            | RetryOn::RetriableClientError
            | RetryOn::Status(_)
            | RetryOn::Grpc(_),
            Answered { .. } | ConnectFailed | Reset { .. } | RefusedStream | TryTimeout,
        ) => false,
    }
}

/// The status that an answer of gRPC has in its head, if it has no body (Trailers-Only).
pub fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// The pause before the `retry`-th further try, from 1; `drawn` by chance from all of `u32`.
pub fn backoff(retries: &Retries, retry: u32, drawn: u32) -> Duration {
    let longest = Duration::from(retries.backoff)
        .saturating_mul(1_u32.checked_shl(retry.saturating_sub(1)).unwrap_or(u32::MAX))
        .min(retries.max_backoff.into());
    let micros = (longest.as_micros() * (u128::from(drawn) + 1)) >> 32;
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::{Outcome::*, *};
    use crate::model::traffic::Millis;

    const OUTCOMES: [(&str, Outcome); 13] = [
        ("200", Answered { status: 200, grpc_status: None }),
        ("409", Answered { status: 409, grpc_status: None }),
        ("429", Answered { status: 429, grpc_status: None }),
        ("500", Answered { status: 500, grpc_status: None }),
        ("502", Answered { status: 502, grpc_status: None }),
        ("504", Answered { status: 504, grpc_status: None }),
        ("599", Answered { status: 599, grpc_status: None }),
        ("unavailable", Answered { status: 200, grpc_status: Some(14) }),
        ("connect", ConnectFailed),
        ("unsent", Reset { sent: false }),
        ("sent", Reset { sent: true }),
        ("refused", RefusedStream),
        ("timeout", TryTimeout),
    ];

    fn named(list: &str) -> Vec<&'static str> {
        let on = RetryOn::parse_list(list).unwrap();
        OUTCOMES.iter().filter(|(_, outcome)| retry_on(&on, outcome)).map(|(name, _)| *name).collect()
    }

    #[test]
    fn what_users_name_is_tried_again_and_nothing_else() {
        let unanswered = ["connect", "unsent", "sent", "refused", "timeout"];
        for (list, statuses, others) in [
            ("5xx", &["500", "502", "504", "599"][..], &unanswered[..]),
            ("gateway-error", &["502", "504"], &unanswered),
            ("reset", &[], &unanswered),
            ("reset-before-request", &[], &["connect", "unsent", "refused"]),
            ("connect-failure", &[], &["connect"]),
            ("refused-stream", &[], &["refused"]),
            ("retriable-4xx", &["409"], &[]),
            ("retriable-status-codes,429", &["429"], &[]),
            ("unavailable", &["unavailable"], &[]),
            ("cancelled", &[], &[]),
            ("", &[], &[]),
            ("retriable-4xx,connect-failure", &["409"], &["connect"]),
        ] {
            assert_eq!(named(list), [statuses, others].concat(), "{list}");
        }
    }

    #[test]
    fn the_default_is_what_was_never_processed() {
        let names = |outcome: &&(&str, Outcome)| retry_on(&RetryOn::DEFAULT, &outcome.1);
        let names: Vec<_> = OUTCOMES.iter().filter(names).map(|(name, _)| *name).collect();
        assert_eq!(names, ["unavailable", "connect", "refused"]);
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_are_shortened_by_chance() {
        let retries = Retries { backoff: Millis(25), max_backoff: Millis(120), ..Retries::default() };
        let longest = |retry| backoff(&retries, retry, u32::MAX).as_millis();
        assert_eq!([1, 2, 3, 4, 33, u32::MAX].map(longest), [25, 50, 100, 120, 120, 120]);
        assert_eq!(backoff(&retries, 3, u32::MAX / 2), Duration::from_millis(50));
        assert_eq!(backoff(&retries, 3, 0), Duration::ZERO);
        let forever = Retries { backoff: Millis(u64::MAX), max_backoff: Millis(u64::MAX), ..retries };
        assert!(backoff(&forever, 9, u32::MAX) > Duration::from_secs(1 << 40));
    }

    #[test]
    fn a_grpc_status_is_read_from_the_head() {
        let headers = |value: &str| HeaderMap::from_iter([("grpc-status".parse().unwrap(), value.parse().unwrap())]);
        assert_eq!(grpc_status(&headers("14")), Some(14));
        assert_eq!(grpc_status(&headers("x")), None);
        assert_eq!(grpc_status(&HeaderMap::new()), None);
    }
}
