//! What a collector's answer means: which are to be tried again, by the specification of OTLP. Pure.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use prost::Message as _;
use tonic::{Code, Status};

#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// But for so many.
    Taken { rejected: u64, why: String },
    /// And the same would be refused again.
    Refused { why: String },
    /// Not now. `after`: not before, as it says itself.
    Later { after: Option<Duration>, why: String },
}

impl Outcome {
    pub fn later(why: impl ToString) -> Self {
        Self::Later { after: None, why: why.to_string() }
    }

    pub fn taken(rejected: i64, why: &str) -> Self {
        Self::Taken { rejected: u64::try_from(rejected).unwrap_or(0), why: why.to_owned() }
    }

    pub fn of_grpc(status: &Status) -> Self {
        let why = format!("{}: {}", status.code().description(), status.message());
        match status.code() {
            Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss => Self::Later { after: delay(status.details()), why },
            // Without a delay it means for ever.
            Code::ResourceExhausted => match delay(status.details()) {
                Some(after) => Self::Later { after: Some(after), why },
                None => Self::Refused { why },
            },
            // What tonic says of a connection that broke.
            Code::Unknown if std::error::Error::source(status).is_some() => Self::Later { after: None, why },
            _ => Self::Refused { why },
        }
    }

    /// Of an answer that is not 200.
    pub fn of_http(status: StatusCode, headers: &HeaderMap) -> Self {
        let why = status.to_string();
        match status.as_u16() {
            429 | 502 | 503 | 504 => {
                let after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
                Self::Later { after: after.map(Duration::from_secs), why }
            }
            _ => Self::Refused { why },
        }
    }
}

/// `google.rpc.Status`, of which only the details matter.
#[derive(Clone, PartialEq, prost::Message)]
struct Details {
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

fn delay(details: &[u8]) -> Option<Duration> {
    let details = Details::decode(details).ok()?.details;
    let info = details.iter().find(|detail| detail.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(&info.value[..]).ok()?.retry_delay.unwrap_or_default();
    Some(Duration::try_from(delay).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(seconds: i64) -> Vec<u8> {
        let info = RetryInfo { retry_delay: Some(prost_types::Duration { seconds, nanos: 500_000_000 }) };
        let type_url = "type.googleapis.com/google.rpc.RetryInfo".to_owned();
        Details { details: vec![prost_types::Any { type_url, value: info.encode_to_vec() }] }.encode_to_vec()
    }

    #[test]
    fn grpc_codes_are_retried_as_the_specification_says() {
        let later = |code| matches!(Outcome::of_grpc(&Status::new(code, "")), Outcome::Later { after: None, .. });
        for code in (0..17).map(Code::from_i32) {
            let wanted = matches!(code as i32, 1 | 4 | 10 | 11 | 14 | 15);
            assert_eq!(later(code), wanted, "{code:?}");
        }
        for code in [Code::ResourceExhausted, Code::Unavailable] {
            let status = Status::with_details(code, "slow", details(3).into());
            let Outcome::Later { after, .. } = Outcome::of_grpc(&status) else { panic!("{code:?}") };
            assert_eq!(after, Some(Duration::from_millis(3500)));
        }
        let garbage = Status::with_details(Code::ResourceExhausted, "slow", vec![0xff, 1, 2].into());
        assert!(matches!(Outcome::of_grpc(&garbage), Outcome::Refused { .. }));
    }

    #[test]
    fn http_answers_are_retried_as_the_specification_says() {
        let none = HeaderMap::new();
        for status in (300..600).map(|status| StatusCode::from_u16(status).unwrap()) {
            let later = matches!(Outcome::of_http(status, &none), Outcome::Later { after: None, .. });
            assert_eq!(later, [429, 502, 503, 504].contains(&status.as_u16()), "{status}");
        }
        for (value, after) in [("7", Some(7)), ("soon", None), ("Fri, 31 Dec 1999 23:59:59 GMT", None), ("-1", None)] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            let Outcome::Later { after: read, .. } = Outcome::of_http(StatusCode::SERVICE_UNAVAILABLE, &headers) else {
                panic!("503 is for later");
            };
            assert_eq!(read, after.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn a_count_below_zero_rejects_nothing() {
        assert_eq!(Outcome::taken(-1, ""), Outcome::Taken { rejected: 0, why: String::new() });
    }
}
