//! Routes and requests of a small alphabet, so that they often meet.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use mesh_common::{
    model::traffic::{
        Action, DirectResponse, HeaderMatch, HttpRoute, Labels, Origin, PathMatch, QueryMatch, RequestMatch, TextMatch,
    },
    route::Request,
};
use proptest::{collection::vec, option::weighted, prelude::*, sample::select};

const PATHS: [&str; 14] =
    ["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/abc", "/A/b", "/b", "/b/a", "/a/c", "/aa/b", "/a/b/", "/B/A"];
const PATTERNS: [&str; 10] =
    ["/a/[a-z]+", "/[ab]/b", ".*/b", "/a.*", "/a/(b|c)(/c)?", "(?i)/A.*", "/b/a", "/A/.*/C", ".*", "(?-i)/A/b"];
const VALUES: [&str; 6] = ["x", "y", "xy", "x,y", "X", ""];
const NAMES: [&str; 4] = ["k", "l", "host", ":method"];

pub fn routes() -> impl Strategy<Value = Vec<HttpRoute>> {
    vec(vec(matched(), 0..4), 0..12).prop_map(|routes| routes.into_iter().map(route).collect())
}

fn route(matches: Vec<RequestMatch>) -> HttpRoute {
    let action = Action::Respond(DirectResponse { status: 200, body: None });
    HttpRoute { matches, ..HttpRoute::new("", Origin::default(), action) }
}

fn path() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        4 => select(&PATHS[..]).prop_map(|path| PathMatch::Exact(path.into())),
        3 => select(&PATHS[..]).prop_map(|path| PathMatch::Prefix(path.into())),
        3 => select(&["/", "/a", "/a/b", "/A", "/ab"][..]).prop_map(|path| PathMatch::Elements(path.into())),
        3 => select(&PATTERNS[..]).prop_map(|path| PathMatch::Regex(path.into())),
        1 => Just(PathMatch::Prefix(String::new())),
    ]
}

fn text() -> impl Strategy<Value = TextMatch> {
    prop_oneof![
        6 => select(&VALUES[..]).prop_map(|text| TextMatch::Exact(text.into())),
        2 => select(&["x", "X", ""][..]).prop_map(|text| TextMatch::Prefix(text.into())),
        2 => select(&["x.*", "[xy]", "x,?y"][..]).prop_map(|text| TextMatch::Regex(text.into())),
        1 => Just(TextMatch::Any),
    ]
}

fn of(texts: &'static [&'static str]) -> impl Strategy<Value = TextMatch> {
    prop_oneof![
        select(texts).prop_map(|text| TextMatch::Exact(text.into())),
        select(texts).prop_map(|text| TextMatch::Prefix(text[..1].into())),
    ]
}

fn header() -> impl Strategy<Value = HeaderMatch> {
    let name = prop::sample::select(&NAMES[..]);
    (name, text(), prop::bool::weighted(0.2)).prop_map(|(name, value, not)| HeaderMatch {
        name: name.into(),
        value,
        not,
    })
}

fn matched() -> impl Strategy<Value = RequestMatch> {
    let query = (select(&["k", "q"][..]), text()).prop_map(|(name, value)| QueryMatch { name: name.into(), value });
    let texts = (
        weighted(0.15, of(&["GET", "POST"])),
        weighted(0.1, of(&["http", "https"])),
        weighted(0.1, of(&["x", "x:80", "X"])),
    );
    let source =
        (weighted(0.1, select(&["n", "m"][..])), weighted(0.1, labels()), weighted(0.2, select(&[80_u16, 81][..])));
    (weighted(0.8, path()), prop::bool::weighted(0.2), texts, vec(header(), 0..3), vec(query, 0..2), source).prop_map(
        |(path, ignore_path_case, (method, scheme, authority), headers, query, (namespace, labels, port))| {
            RequestMatch {
                path,
                ignore_path_case,
                method,
                scheme,
                authority,
                headers,
                query,
                port,
                source_labels: labels.unwrap_or_default(),
                source_namespace: namespace.map(Into::into),
            }
        },
    )
}

fn labels() -> impl Strategy<Value = Labels> {
    vec((select(&["app", "version"][..]), select(&["1", "2"][..])), 0..3)
        .prop_map(|labels| labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
}

#[derive(Clone, Debug)]
pub struct Asked {
    pub labels: Labels,
    pub request: http::Request<(u16, &'static str)>,
}

pub fn asked() -> impl Strategy<Value = Asked> {
    let query = select(&["", "k=x", "k=y&k=x", "q=%78", "k", "%6b=x&q=", "k=x=y&&=x"][..]);
    let headers = vec((select(&NAMES[..2]), select(&VALUES[..])), 0..4);
    let target = (select(&PATHS[..]), query, select(&["http", "https"][..]), select(&["x", "x:80", "y", "X:9"][..]));
    let client = (select(&[80_u16, 81][..]), select(&["n", "m"][..]), labels());
    (select(&["GET", "POST", "PUT"][..]), target, headers, client).prop_map(
        |(method, (path, query, scheme, authority), headers, (port, namespace, labels))| {
            let question = if query.is_empty() { "" } else { "?" };
            let mut request = http::Request::new((port, namespace));
            *request.method_mut() = Method::from_bytes(method.as_bytes()).expect("a method");
            *request.uri_mut() =
                format!("{scheme}://{authority}{path}{question}{query}").parse::<Uri>().expect("a URI");
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            *request.headers_mut() = map;
            Asked { labels, request }
        },
    )
}

pub fn request<'a>(labels: &'a Labels, request: &'a http::Request<(u16, &'static str)>) -> Request<'a> {
    Request {
        method: request.method(),
        path: request.uri().path(),
        query: request.uri().query(),
        scheme: request.uri().scheme_str().unwrap_or_default(),
        authority: request.uri().authority().map_or("", |authority| authority.as_str()),
        headers: request.headers(),
        port: request.body().0,
        source_labels: labels,
        source_namespace: request.body().1,
    }
}
