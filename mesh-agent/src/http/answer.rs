//! Answers of the agent's own, with the flags that Envoy has for them.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use mesh_common::route::{grpc_answer, grpc_of};

use super::body::ResponseBody;

/// The header that says which flag it was.
pub const FLAG_HEADER: HeaderName = HeaderName::from_static("nodemesh-flag");

/// The header with the stable code of a refusal.
pub const REASON_HEADER: HeaderName = HeaderName::from_static("nodemesh-reason");

/// Envoy's response flags (`%RESPONSE_FLAGS%`), as far as there is something for them here.
pub mod flag {
    /// No route matches.
    pub const NO_ROUTE: &str = "NR";
    /// The route leads to a service or subset that is not there.
    pub const NO_CLUSTER: &str = "NC";
    pub const NO_HEALTHY_ENDPOINT: &str = "UH";
    /// The endpoint did not take the connection.
    pub const CONNECT: &str = "UF";
    /// The endpoint ended the connection.
    pub const RESET: &str = "UC";
    /// A bound of the destination is reached.
    pub const OVERFLOW: &str = "UO";
    pub const TIMEOUT: &str = "UT";
    /// There were as many retries as there may be.
    pub const RETRIES: &str = "URX";
    pub const DELAY: &str = "DI";
    pub const ABORT: &str = "FI";
    pub const RATE_LIMITED: &str = "RL";
    /// A policy refuses the request, or its token is not right.
    pub const UNAUTHORIZED: &str = "UAEX";
    /// The client has gone.
    pub const CLIENT_GONE: &str = "DC";
    /// The endpoint's answer is none that can be passed on.
    pub const UPSTREAM_PROTOCOL: &str = "UPE";
    /// The request is none that can be passed on.
    pub const PROTOCOL: &str = "DPE";
}

/// An answer that no endpoint gave. A gRPC client gets it in its own terms.
pub fn own(status: StatusCode, flag: &'static str, why: &str, grpc: bool) -> Response<ResponseBody> {
    let mut response = if grpc {
        grpc_answer(grpc_of(status.as_u16()), why).map(|()| ResponseBody::Empty)
    } else {
        let mut response = Response::new(ResponseBody::Text(Some(Bytes::from(format!("{why}\n")))));
        *response.status_mut() = status;
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    };
    response.headers_mut().insert(FLAG_HEADER, HeaderValue::from_static(flag));
    response
}

/// The status for what may not go on, by its stable code.
pub fn refusal(code: &str) -> StatusCode {
    // RFC 6750, 3.1: another token would do.
    if code.starts_with("JWT_") { StatusCode::UNAUTHORIZED } else { StatusCode::FORBIDDEN }
}

/// An answer without a body.
pub fn empty(status: StatusCode, headers: HeaderMap) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Empty);
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    response
}
