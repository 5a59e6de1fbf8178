//! What is asked of every request to the dashboard, and said with every answer. Who lures a browser to it from another
//! page, or by a name that leads to loopback, gets nothing.

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};

/// The page's own files and the API, and nothing from elsewhere.
const CONTENT: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                       worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

/// Why a request is not answered; `None`: it may be.
pub fn refusal(request: &Request<()>) -> Option<(StatusCode, &'static str)> {
    if request.method() != Method::GET {
        return Some((StatusCode::METHOD_NOT_ALLOWED, "only GET\n"));
    }
    let mut hosts = request.headers().get_all(header::HOST).into_iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().unwrap_or_default(),
        _ => "",
    };
    // A name that somebody else made lead here: its page would read the answers as its own.
    let is_here = is_loopback(host) && request.uri().authority().is_none_or(|named| is_loopback(named.as_str()));
    if !is_here || request.version() < Version::HTTP_11 {
        return Some((StatusCode::MISDIRECTED_REQUEST, "the dashboard answers at localhost or 127.0.0.1 only\n"));
    }
    let from = request.headers().get("sec-fetch-site").map_or("none", |site| site.to_str().unwrap_or("cross-site"));
    if !matches!(from, "none" | "same-origin") && request.uri().path().starts_with("/api/") {
        return Some((StatusCode::FORBIDDEN, "not for other pages\n"));
    }
    None
}

/// Another port is possible: that of a port-forward.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() && !name.is_empty() => name,
        _ => host,
    };
    name.eq_ignore_ascii_case("localhost") || name == "127.0.0.1" || name == "[::1]"
}

pub fn harden<B>(response: &mut Response<B>) {
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(change: impl FnOnce(http::request::Builder) -> http::request::Builder) -> Option<StatusCode> {
        let request = change(Request::builder().uri("/api/graph")).body(()).unwrap();
        refusal(&request).map(|(status, _)| status)
    }

    #[test]
    fn only_loopback_by_its_own_names() {
        for host in ["127.0.0.1:15080", "localhost:1", "LOCALHOST", "[::1]:15080", "[::1]"] {
            assert_eq!(asked(|r| r.header("host", host)), None, "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example:80", "localhost.evil.example", "", "10.0.0.1:80", ":80"] {
            assert_eq!(asked(|r| r.header("host", host)), Some(StatusCode::MISDIRECTED_REQUEST), "{host}");
        }
        assert_eq!(asked(|r| r), Some(StatusCode::MISDIRECTED_REQUEST), "no host");
        let two = asked(|r| r.header("host", "localhost").header("host", "localhost"));
        assert_eq!(two, Some(StatusCode::MISDIRECTED_REQUEST));
        let absolute = asked(|r| r.uri("http://evil.example/api/graph").header("host", "localhost"));
        assert_eq!(absolute, Some(StatusCode::MISDIRECTED_REQUEST));
    }

    #[test]
    fn nothing_but_get_and_nothing_for_other_pages() {
        for method in ["POST", "OPTIONS", "HEAD", "DELETE"] {
            let refused = asked(|r| r.method(method).header("host", "localhost"));
            assert_eq!(refused, Some(StatusCode::METHOD_NOT_ALLOWED), "{method}");
        }
        let from = |site: &str| asked(|r| r.header("host", "localhost").header("sec-fetch-site", site));
        assert_eq!(from("same-origin"), None);
        for site in ["cross-site", "same-site"] {
            assert_eq!(from(site), Some(StatusCode::FORBIDDEN), "{site}");
        }
    }

    #[test]
    fn answers_forbid_what_a_page_does_not_need() {
        let mut response = Response::new(());
        harden(&mut response);
        let content = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(content.contains("default-src 'none'") && !content.contains("unsafe"), "{content}");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        assert!(!response.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    }
}
