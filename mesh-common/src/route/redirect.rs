//! Answers that a route gives itself: redirects and direct responses.

use http::{
    HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, LOCATION},
    uri::Authority,
};

use super::{
    RouteError,
    condition::{Matched, Request, without_port},
    rewrite::{NewPath, NoPath, authority},
};
use crate::model::traffic::{DirectResponse, Redirect, RedirectPort};

/// A compiled [`Redirect`].
#[derive(Clone, Debug)]
pub struct Redirecting {
    scheme: Option<String>,
    host: Option<Authority>,
    port: RedirectPort,
    path: Option<NewPath>,
    status: StatusCode,
}

impl Redirecting {
    /// Errors name fields as in `path.full`.
    pub fn new(redirect: &Redirect) -> Result<Self, RouteError> {
        let Redirect { scheme, host, port, path, status } = redirect;
        let code = StatusCode::from_u16(*status).ok().filter(StatusCode::is_redirection);
        let scheme = match scheme.as_deref().map(str::to_ascii_lowercase) {
            Some(other) if port_of(&other).is_none() => {
                return Err(RouteError::new("scheme", format_args!("`{other}` is neither http nor https")));
            }
            scheme => scheme,
        };
        let without_port = |host: &Authority| host.port().is_none();
        let host = match host {
            Some(text) => match authority(text).ok().filter(without_port) {
                Some(host) => Some(host),
                None => return Err(RouteError::new("host", format_args!("`{text}` is no host without a port"))),
            },
            None => None,
        };
        Ok(Self {
            scheme,
            host,
            port: *port,
            path: path.as_ref().map(NewPath::new).transpose().map_err(|error| error.within("path"))?,
            status: code.ok_or_else(|| RouteError::new("status", format_args!("{status} is no redirect")))?,
        })
    }

    /// The answer; `matched` as the router found it.
    pub fn answer(&self, request: &Request<'_>, matched: Matched) -> Result<Response<()>, NoPath> {
        let location = HeaderValue::try_from(self.location(request, matched)?).map_err(|_| NoPath)?;
        let mut answer = Response::new(());
        *answer.status_mut() = self.status;
        answer.headers_mut().insert(LOCATION, location);
        Ok(answer)
    }

    fn location(&self, request: &Request<'_>, matched: Matched) -> Result<String, NoPath> {
        let scheme = self.scheme.as_deref().unwrap_or(request.scheme);
        let requested = without_port(request.authority);
        let host = self.host.as_ref().map_or(requested.unwrap_or(request.authority), Authority::as_str);
        let port = self.port(scheme, request).filter(|port| port_of(scheme) != Some(*port));
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let target = match &self.path {
            Some(path) => path.path_and_query(request.path, request.query, matched)?.to_string(),
            None => {
                // `*` (RFC 9112, 3.2.4) is nowhere to go.
                let path = if request.path.starts_with('/') { request.path } else { "/" };
                format!("{path}{}", request.query.map(|query| format!("?{query}")).unwrap_or_default())
            }
        };
        if host.is_empty() {
            return Ok(target);
        }
        Ok(format!("{scheme}://{host}{port}{target}"))
    }

    fn port(&self, scheme: &str, request: &Request<'_>) -> Option<u16> {
        match self.port {
            RedirectPort::Number(port) => Some(port),
            RedirectPort::Scheme => None,
            RedirectPort::Dialled => self.scheme.is_none().then_some(request.port),
            RedirectPort::Request => {
                let port = without_port(request.authority).map(|host| &request.authority[host.len() + 1..]);
                let port = port.and_then(|port| port.parse().ok());
                // `http://a:80` to https is not `https://a:80`.
                port.filter(|port| scheme == request.scheme || port_of(request.scheme) != Some(*port))
            }
        }
    }
}

/// The port that needs not be written (RFC 9110, 4.2).
fn port_of(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// The answer with its body; text, if there is one. The status must be one (100 to 999), and final.
pub fn direct_response(response: &DirectResponse) -> Result<Response<String>, RouteError> {
    let DirectResponse { status, body } = response;
    let code = StatusCode::from_u16(*status).ok().filter(|code| !code.is_informational());
    let code = code.ok_or_else(|| RouteError::new("status", format_args!("{status} is no final status")))?;
    let mut answer = Response::new(body.clone().unwrap_or_default());
    *answer.status_mut() = code;
    if !answer.body().is_empty() {
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method, Uri};

    use super::*;
    use crate::model::traffic::{Labels, PathRewrite};

    fn redirect() -> Redirect {
        Redirect { scheme: None, host: None, port: RedirectPort::Dialled, path: None, status: 302 }
    }

    fn with_request<T>(uri: &str, port: u16, ask: impl FnOnce(&Request<'_>) -> T) -> T {
        let uri: Uri = uri.parse().unwrap();
        let (headers, labels) = (HeaderMap::new(), Labels::new());
        ask(&Request {
            method: &Method::GET,
            path: uri.path(),
            query: uri.query(),
            scheme: uri.scheme_str().unwrap(),
            authority: uri.authority().unwrap().as_str(),
            headers: &headers,
            port,
            source_labels: &labels,
            source_namespace: "",
        })
    }

    fn location(redirect: &Redirect, uri: &str, port: u16) -> String {
        let redirecting = Redirecting::new(redirect).unwrap();
        let answer = with_request(uri, port, |request| redirecting.answer(request, Matched::Elements(2))).unwrap();
        assert_eq!(answer.status().as_u16(), redirect.status);
        answer.headers()[LOCATION].to_str().unwrap().to_owned()
    }

    #[test]
    fn a_redirect_changes_what_it_says_and_leaves_out_usual_ports() {
        use RedirectPort::{Dialled, Number, Request, Scheme};
        for (scheme, host, port, uri, dialled, to) in [
            // Gateway API: HTTPRequestRedirectFilter's port.
            (None, Some("new"), Dialled, "http://a/p", 80, "http://new/p"),
            (None, Some("new"), Dialled, "http://a/p", 8080, "http://new:8080/p"),
            (None, None, Dialled, "http://a:8080/p?q", 8080, "http://a:8080/p?q"),
            (Some("https"), None, Dialled, "http://a:8080/p", 8080, "https://a/p"),
            (Some("HTTP"), None, Dialled, "http://a/p", 8080, "http://a/p"),
            (None, None, Number(8443), "http://a/p", 80, "http://a:8443/p"),
            (None, None, Number(80), "http://a:81/p", 81, "http://a/p"),
            (Some("https"), None, Number(443), "http://a/p", 80, "https://a/p"),
            (Some("https"), None, Number(80), "http://a/p", 80, "https://a:80/p"),
            (Some("http"), None, Number(443), "https://a/p", 443, "http://a:443/p"),
            // VirtualService.
            (None, Some("new"), Scheme, "http://a:8080/p", 8080, "http://new/p"),
            (None, Some("new"), Request, "http://a:8080/p", 80, "http://new:8080/p"),
            (None, None, Request, "http://a/p", 8080, "http://a/p"),
            (Some("https"), None, Request, "http://a:80/p", 80, "https://a/p"),
            (Some("https"), None, Request, "http://a:8080/p", 80, "https://a:8080/p"),
            (None, None, Request, "http://[::1]:81/p", 80, "http://[::1]:81/p"),
            (None, None, Scheme, "http://[::1]/p", 80, "http://[::1]/p"),
        ] {
            let redirect = Redirect { scheme: scheme.map(Into::into), host: host.map(Into::into), port, ..redirect() };
            assert_eq!(location(&redirect, uri, dialled), to, "{redirect:?} {uri} {dialled}");
        }
    }

    #[test]
    fn a_redirect_may_change_the_path_and_keeps_the_query() {
        let to = |path| Redirect { path: Some(path), status: 307, ..redirect() };
        assert_eq!(location(&to(PathRewrite::Full("/n".into())), "http://a/p/x?q=1", 80), "http://a/n?q=1");
        assert_eq!(location(&to(PathRewrite::Matched("/n/".into())), "http://a/p/x?q=1", 80), "http://a/n/x?q=1");
        let broken = to(PathRewrite::Regex { pattern: "x".into(), with: "\n".into() });
        let broken = Redirecting::new(&broken).unwrap();
        let answer = with_request("http://a/p/x", 80, |request| broken.answer(request, Matched::Whole));
        assert_eq!(answer.unwrap_err(), NoPath);
    }

    #[test]
    fn a_redirect_of_a_request_without_host_or_path_is_still_one() {
        let redirecting = Redirecting::new(&redirect()).unwrap();
        let location = with_request("http://a/p?q", 80, |request| {
            let bare = Request { authority: "", ..*request };
            let star = Request { path: "*", query: None, ..*request };
            [&bare, &star]
                .map(|request| redirecting.answer(request, Matched::Whole).unwrap().headers()[LOCATION].clone())
        });
        assert_eq!(location, ["/p?q", "http://a/"]);
    }

    #[test]
    fn a_redirect_that_is_none_is_refused() {
        for (redirect, field) in [
            (Redirect { status: 200, ..redirect() }, "status"),
            (Redirect { scheme: Some("ftp".into()), ..redirect() }, "scheme"),
            (Redirect { host: Some("a:80".into()), ..redirect() }, "host"),
            (Redirect { host: Some("a/b".into()), ..redirect() }, "host"),
            (Redirect { path: Some(PathRewrite::Full("/#".into())), ..redirect() }, "path.full"),
        ] {
            assert_eq!(Redirecting::new(&redirect).expect_err(field).field, field);
        }
    }

    #[test]
    fn a_direct_response_is_answered_as_written() {
        let answer = direct_response(&DirectResponse { status: 418, body: Some("short".into()) }).unwrap();
        assert_eq!((answer.status().as_u16(), answer.body().as_str()), (418, "short"));
        assert_eq!(answer.headers()[CONTENT_TYPE], "text/plain");
        let empty = direct_response(&DirectResponse { status: 204, body: None }).unwrap();
        assert!(empty.body().is_empty() && empty.headers().is_empty());
        for status in [99, 101, 1000] {
            let error = direct_response(&DirectResponse { status, body: None }).unwrap_err();
            assert_eq!(error.to_string(), format!("status: {status} is no final status"));
        }
    }
}
