//! Cross-origin requests (Fetch standard, 3.2). The agent permits; that a page may not read what was not permitted is
//! enforced by browsers. Origins, once permitted, are told by name, never as `*`, so answers vary by origin.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
        ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
    },
};

use super::{
    RouteError,
    effort::Effort,
    text::{Patterns, Text},
};
use crate::model::traffic::Cors;

/// Compiled [`Cors`].
#[derive(Clone, Debug)]
pub struct CrossOrigin {
    origins: Vec<Text>,
    methods: Option<Names>,
    headers: Option<Names>,
    exposed: Option<Names>,
    max_age: Option<HeaderValue>,
    credentials: bool,
    forward_unmatched_preflights: bool,
}

/// What is permitted: these, or whatever is asked for (`*`).
#[derive(Clone, Debug)]
struct Names {
    list: HeaderValue,
    any: bool,
}

/// What of a request its answer depends on: see [`CrossOrigin::answer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermittedOrigin(Option<HeaderValue>);

impl CrossOrigin {
    /// Errors name fields as in `allowOrigins[0].regex`.
    pub fn new(cors: &Cors) -> Result<Self, RouteError> {
        let Cors {
            allow_origins,
            allow_methods,
            allow_headers,
            expose_headers,
            max_age,
            allow_credentials,
            forward_unmatched_preflights,
        } = cors;
        let mut patterns = Patterns::default();
        let mut origin = |(number, text)| {
            Text::new(text, false, &mut patterns)
                .map_err(|why| RouteError::new(format!("allowOrigins[{number}].regex"), why))
        };
        Ok(Self {
            origins: allow_origins.iter().enumerate().map(&mut origin).collect::<Result<_, _>>()?,
            methods: Names::new("allowMethods", allow_methods)?,
            headers: Names::new("allowHeaders", allow_headers)?,
            exposed: Names::new("exposeHeaders", expose_headers)?,
            max_age: max_age.map(HeaderValue::from),
            credentials: *allow_credentials == Some(true),
            forward_unmatched_preflights: *forward_unmatched_preflights,
        })
    }

    /// The headers with which a preflight is to be answered at once, status 200 and no body; `None`: the request is
    /// none, or the backend shall answer it.
    ///
    /// A preflight of an origin that is not permitted is answered without permissions.
    pub fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<HeaderMap> {
        let asked = headers.get(ACCESS_CONTROL_REQUEST_METHOD).filter(|_| method == Method::OPTIONS)?;
        let origin = headers.get(ORIGIN)?;
        if !self.permits(origin) && self.forward_unmatched_preflights {
            return None;
        }
        let mut answer = HeaderMap::new();
        if self.permits(origin) {
            self.permit(origin, &mut answer);
            if let Some(methods) = &self.methods {
                answer.insert(ACCESS_CONTROL_ALLOW_METHODS, methods.permitted(self.credentials, Some(asked)));
            }
            if let Some(names) = &self.headers {
                let asked = headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
                answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.permitted(self.credentials, asked));
            }
            if let Some(max_age) = &self.max_age {
                answer.insert(ACCESS_CONTROL_MAX_AGE, max_age.clone());
            }
        }
        vary(&mut answer);
        Some(answer)
    }

    /// To be kept of a request that goes on, for its answer.
    pub fn origin(&self, headers: &HeaderMap) -> PermittedOrigin {
        PermittedOrigin(headers.get(ORIGIN).filter(|origin| self.permits(origin)).cloned())
    }

    /// Writes what the page of the request's origin may do with the answer. What the backend says of it itself is
    /// replaced if the origin is permitted, otherwise it stays.
    pub fn answer(&self, origin: &PermittedOrigin, headers: &mut HeaderMap) {
        if let PermittedOrigin(Some(origin)) = origin {
            headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
            self.permit(origin, headers);
            if let Some(exposed) = &self.exposed {
                headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed.list.clone());
            }
        }
        vary(headers);
    }

    fn permits(&self, origin: &HeaderValue) -> bool {
        let effort = Effort::default();
        self.origins.iter().any(|permitted| permitted.has(origin.as_bytes(), false, &effort))
    }

    fn permit(&self, origin: &HeaderValue, headers: &mut HeaderMap) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}

impl Names {
    fn new(field: &str, names: &[String]) -> Result<Option<Self>, RouteError> {
        // Methods are tokens (RFC 9110, 5.6.2) as names of headers are.
        if let Some(number) = names.iter().position(|name| HeaderName::from_bytes(name.as_bytes()).is_err()) {
            return Err(RouteError::new(format!("{field}[{number}]"), format_args!("`{}` is no name", names[number])));
        }
        let list = HeaderValue::from_str(&names.join(", ")).map_err(|error| RouteError::new(field, error))?;
        Ok((!names.is_empty()).then(|| Self { list, any: names.iter().any(|name| name == "*") }))
    }

    /// Beside credentials `*` is a name as any other: what is asked for is named instead.
    fn permitted(&self, credentials: bool, asked: Option<&HeaderValue>) -> HeaderValue {
        match asked {
            Some(asked) if self.any && credentials => asked.clone(),
            _ if self.any => HeaderValue::from_static("*"),
            _ => self.list.clone(),
        }
    }
}

/// Caches must not give one origin's answer to another one.
fn vary(headers: &mut HeaderMap) {
    let varies = |value: &HeaderValue| {
        let mut names = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        names.any(|name| name.eq_ignore_ascii_case(b"origin") || name == b"*")
    };
    if !headers.get_all(VARY).iter().any(varies) {
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::traffic::TextMatch;

    fn cors() -> Cors {
        Cors {
            allow_origins: vec![
                TextMatch::Exact("https://shop.example".into()),
                TextMatch::Regex(r"https://[a-z]+\.shop\.example".into()),
            ],
            allow_methods: vec!["GET".into(), "POST".into()],
            allow_headers: vec!["x-token".into(), "content-type".into()],
            expose_headers: vec!["x-total".into()],
            max_age: Some(600),
            allow_credentials: Some(true),
            forward_unmatched_preflights: false,
        }
    }

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        list.iter().map(pair).collect()
    }

    fn preflight(cors: &Cors, origin: &'static str) -> Option<HeaderMap> {
        let asked = headers(&[
            ("origin", origin),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-a,x-b"),
        ]);
        CrossOrigin::new(cors).unwrap().preflight(&Method::OPTIONS, &asked)
    }

    #[test]
    fn a_preflight_is_answered_with_what_is_permitted() {
        for origin in ["https://shop.example", "https://pay.shop.example"] {
            let want = headers(&[
                ("access-control-allow-credentials", "true"),
                ("access-control-allow-headers", "x-token, content-type"),
                ("access-control-allow-methods", "GET, POST"),
                ("access-control-allow-origin", origin),
                ("access-control-max-age", "600"),
                ("vary", "origin"),
            ]);
            assert_eq!(preflight(&cors(), origin), Some(want));
        }
    }

    #[test]
    fn a_preflight_of_another_origin_gets_no_permission() {
        for origin in ["https://evil.example", "https://shop.example.evil", "null", "https://pay.shop.example.evil"] {
            assert_eq!(preflight(&cors(), origin), Some(headers(&[("vary", "origin")])), "{origin}");
        }
        let forwards = Cors { forward_unmatched_preflights: true, ..cors() };
        assert_eq!(preflight(&forwards, "https://evil.example"), None);
        assert!(preflight(&forwards, "https://shop.example").is_some());
    }

    #[test]
    fn anything_is_permitted_in_the_form_that_browsers_take() {
        let any = Cors {
            allow_origins: vec![TextMatch::Any],
            allow_methods: vec!["*".into()],
            allow_headers: vec!["*".into()],
            allow_credentials: None,
            ..cors()
        };
        let answer = preflight(&any, "https://x").unwrap();
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_ORIGIN], "https://x");
        assert_eq!(
            (&answer[ACCESS_CONTROL_ALLOW_METHODS], &answer[ACCESS_CONTROL_ALLOW_HEADERS]),
            (&HeaderValue::from_static("*"), &HeaderValue::from_static("*"))
        );
        assert!(!answer.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS));
        let answer = preflight(&Cors { allow_credentials: Some(true), ..any }, "https://x").unwrap();
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_METHODS], "PUT");
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_HEADERS], "x-a,x-b");
    }

    #[test]
    fn what_is_no_preflight_goes_on() {
        let cors = CrossOrigin::new(&cors()).unwrap();
        let origin = ("origin", "https://shop.example");
        let method = ("access-control-request-method", "PUT");
        assert_eq!(cors.preflight(&Method::OPTIONS, &headers(&[origin])), None);
        assert_eq!(cors.preflight(&Method::OPTIONS, &headers(&[method])), None);
        assert_eq!(cors.preflight(&Method::GET, &headers(&[origin, method])), None);
    }

    #[test]
    fn an_answer_says_what_its_page_may_do() {
        let cross = CrossOrigin::new(&cors()).unwrap();
        let answered = |origin: &'static str, said: &[(&'static str, &'static str)]| {
            let mut answer = headers(said);
            cross.answer(&cross.origin(&headers(&[("origin", origin)])), &mut answer);
            answer
        };
        let permitted = headers(&[
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-origin", "https://shop.example"),
            ("access-control-expose-headers", "x-total"),
            ("vary", "origin"),
        ]);
        assert_eq!(answered("https://shop.example", &[]), permitted);
        let own = [("access-control-allow-origin", "*"), ("vary", "Accept, Origin")];
        let answer = answered("https://shop.example", &own);
        assert_eq!(answer.get_all(ACCESS_CONTROL_ALLOW_ORIGIN).iter().collect::<Vec<_>>(), ["https://shop.example"]);
        assert_eq!(answer.get_all(VARY).iter().collect::<Vec<_>>(), ["Accept, Origin"]);
        assert_eq!(answered("https://evil.example", &own), headers(&own));
        let mut answer = HeaderMap::new();
        cross.answer(&cross.origin(&HeaderMap::new()), &mut answer);
        assert_eq!(answer, headers(&[("vary", "origin")]));
        let without = CrossOrigin::new(&Cors { allow_credentials: Some(false), ..cors() }).unwrap();
        let mut answer = headers(&[("access-control-allow-credentials", "true")]);
        without.answer(&without.origin(&headers(&[("origin", "https://shop.example")])), &mut answer);
        assert!(!answer.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS));
    }

    #[test]
    fn a_name_that_is_none_is_refused() {
        for (cors, field) in [
            (Cors { allow_origins: vec![TextMatch::Regex("(".into())], ..cors() }, "allowOrigins[0].regex"),
            (Cors { allow_methods: vec!["GET".into(), "A B".into()], ..cors() }, "allowMethods[1]"),
            (Cors { allow_headers: vec!["".into()], ..cors() }, "allowHeaders[0]"),
            (Cors { expose_headers: vec!["a\r\nb".into()], ..cors() }, "exposeHeaders[0]"),
        ] {
            assert_eq!(CrossOrigin::new(&cors).expect_err(field).field, field);
        }
    }
}
