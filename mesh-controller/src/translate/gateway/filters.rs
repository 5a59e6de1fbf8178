//! Filters: what is done to requests and answers beside sending them somewhere.

use http::HeaderValue;
use mesh_common::model::traffic::{
    Action, Cors, HeaderChanges, HeaderEdit, PathMatch, PathRewrite, Percent, Redirect, RedirectPort, Rewrite,
    TextMatch,
};
use mesh_common::route::{Changes, NewPath};
use serde::Deserialize;
use serde_json::Value;

use super::{BackendRefSpec, Draft, ITEMS, Kind, MirrorRef, bounded, header_name, hostname, port_number, text};
use crate::status::Fault;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FilterSpec {
    #[serde(rename = "type")]
    type_: String,
    request_header_modifier: Option<HeadersSpec>,
    response_header_modifier: Option<HeadersSpec>,
    request_mirror: Option<MirrorSpec>,
    request_redirect: Option<RedirectSpec>,
    url_rewrite: Option<RewriteSpec>,
    cors: Option<CorsSpec>,
    external_auth: Option<Value>,
    extension_ref: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadersSpec {
    set: Option<Vec<HeaderSpec>>,
    add: Option<Vec<HeaderSpec>>,
    remove: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderSpec {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct MirrorSpec {
    backend_ref: BackendRefSpec,
    percent: Option<i64>,
    fraction: Option<FractionSpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FractionSpec {
    numerator: i64,
    denominator: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RedirectSpec {
    scheme: Option<String>,
    hostname: Option<String>,
    path: Option<PathSpec>,
    port: Option<i64>,
    status_code: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RewriteSpec {
    hostname: Option<String>,
    path: Option<PathSpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PathSpec {
    #[serde(rename = "type")]
    type_: String,
    replace_full_path: Option<String>,
    replace_prefix_match: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CorsSpec {
    allow_origins: Option<Vec<String>>,
    allow_credentials: Option<bool>,
    allow_methods: Option<Vec<String>>,
    allow_headers: Option<Vec<String>>,
    expose_headers: Option<Vec<String>>,
    max_age: Option<i64>,
}

/// What filters did to a rule.
#[derive(Default)]
pub struct Edits {
    headers: HeaderChanges,
    rewrite: Option<Rewrite>,
    cors: Option<Cors>,
    redirect: Option<Redirect>,
    seen: Vec<&'static str>,
}

/// The filters of a rule, which stand in it afterwards. Its matches must be there already.
pub fn edits(draft: &mut Draft<'_>, written: Option<Vec<FilterSpec>>) {
    let field = format!("{}.filters", draft.field);
    let Some(list) = draft.take(bounded(&field, written, ITEMS)) else { return };
    let mut edits = Edits::default();
    for (i, filter) in list.into_iter().enumerate() {
        let read = edits.add(draft, &format!("{field}[{i}]"), filter);
        draft.take(read);
    }
    let Edits { headers, rewrite, cors, redirect, seen: _ } = edits;
    if redirect.is_some() && rewrite.is_some() {
        draft.errors.push(Fault::new(&field, "has both RequestRedirect and URLRewrite"));
    }
    let paths = [rewrite.as_ref().and_then(|r| r.path.as_ref()), redirect.as_ref().and_then(|r| r.path.as_ref())];
    if paths.into_iter().flatten().any(|path| matches!(path, PathRewrite::Matched(_))) {
        let is_prefix = |path: &Option<PathMatch>| matches!(path, None | Some(PathMatch::Elements(_)));
        if !draft.rule.matches.iter().all(|matched| is_prefix(&matched.request.path)) {
            let why = "replacePrefixMatch needs matches of type PathPrefix, and no others";
            draft.errors.push(Fault::new(field, why));
        }
    }
    let template = &mut draft.rule.template;
    template.headers = (headers != HeaderChanges::default()).then_some(headers);
    (template.rewrite, template.cors) = (rewrite, cors);
    if let Some(redirect) = redirect {
        template.action = Action::Redirect(redirect);
    }
}

/// The filters of a backend: of its requests' and answers' headers only.
pub fn header_changes(
    kind: Kind,
    field: &str,
    written: Option<Vec<FilterSpec>>,
) -> Result<Option<HeaderChanges>, Fault> {
    let field = format!("{field}.filters");
    let list = bounded(&field, written, ITEMS)?;
    if !kind.is_http() && !list.is_empty() {
        return Err(Fault::new(field, "is not known"));
    }
    let mut headers = HeaderChanges::default();
    for (i, filter) in list.into_iter().enumerate() {
        let field = format!("{field}[{i}]");
        let is_headers = matches!(filter.type_.as_str(), "RequestHeaderModifier" | "ResponseHeaderModifier");
        if !is_headers {
            let why = format!("`{}` is not honoured for one backend", filter.type_);
            return Err(Fault::new(format!("{field}.type"), why));
        }
        filter.only(&field)?;
        let edit = if filter.type_ == "RequestHeaderModifier" { &mut headers.request } else { &mut headers.response };
        if !edit.is_nothing() {
            return Err(Fault::new(field, "stands twice"));
        }
        if let Some(spec) = filter.request_header_modifier {
            *edit = spec.read(&format!("{field}.requestHeaderModifier"), of_request)?;
        } else if let Some(spec) = filter.response_header_modifier {
            *edit = spec.read(&format!("{field}.responseHeaderModifier"), of_response)?;
        }
    }
    Ok((headers != HeaderChanges::default()).then_some(headers))
}

impl FilterSpec {
    /// It has what its type says, and nothing else.
    fn only(&self, field: &str) -> Result<(), Fault> {
        let fields = [
            ("RequestHeaderModifier", "requestHeaderModifier", self.request_header_modifier.is_some()),
            ("ResponseHeaderModifier", "responseHeaderModifier", self.response_header_modifier.is_some()),
            ("RequestMirror", "requestMirror", self.request_mirror.is_some()),
            ("RequestRedirect", "requestRedirect", self.request_redirect.is_some()),
            ("URLRewrite", "urlRewrite", self.url_rewrite.is_some()),
            ("CORS", "cors", self.cors.is_some()),
            ("ExternalAuth", "externalAuth", self.external_auth.is_some()),
            ("ExtensionRef", "extensionRef", self.extension_ref.is_some()),
        ];
        for (type_, name, given) in fields {
            if given != (type_ == self.type_) {
                let why =
                    format!("{} in a filter of type `{}`", if given { "stands" } else { "is missing" }, self.type_);
                return Err(Fault::new(format!("{field}.{name}"), why));
            }
        }
        Ok(())
    }
}

impl Edits {
    fn add(&mut self, draft: &mut Draft<'_>, field: &str, filter: FilterSpec) -> Result<(), Fault> {
        let (type_, gateway_only) = match filter.type_.as_str() {
            "RequestHeaderModifier" => ("requestHeaderModifier", false),
            "ResponseHeaderModifier" => ("responseHeaderModifier", false),
            "RequestMirror" => ("requestMirror", false),
            "RequestRedirect" => ("requestRedirect", draft.kind == Kind::Grpc),
            "URLRewrite" => ("urlRewrite", draft.kind == Kind::Grpc),
            "CORS" => ("cors", draft.kind == Kind::Grpc),
            other => return Err(Fault::new(format!("{field}.type"), format_args!("`{other}` is not honoured"))),
        };
        if gateway_only {
            return Err(Fault::new(format!("{field}.type"), format_args!("`{}` is not for gRPC", filter.type_)));
        }
        filter.only(field)?;
        let field = format!("{field}.{type_}");
        if type_ != "requestMirror" && self.seen.contains(&type_) {
            return Err(Fault::new(field, "stands twice"));
        }
        self.seen.push(type_);
        let FilterSpec {
            type_: _,
            request_header_modifier,
            response_header_modifier,
            request_mirror,
            request_redirect,
            url_rewrite,
            cors,
            external_auth: _,
            extension_ref: _,
        } = filter;
        if let Some(spec) = request_header_modifier {
            self.headers.request = spec.read(&field, of_request)?;
        }
        if let Some(spec) = response_header_modifier {
            self.headers.response = spec.read(&field, of_response)?;
        }
        if let Some(spec) = request_mirror {
            let mirror = spec.read(draft.namespace, &field)?;
            draft.rule.mirrors.push(mirror);
        }
        if let Some(spec) = request_redirect {
            self.redirect = Some(spec.read(&field)?);
        }
        if let Some(RewriteSpec { hostname: host, path }) = url_rewrite {
            let authority = host.map(|name| hostname(&format!("{field}.hostname"), &name)).transpose()?;
            let path = path.map(|path| path.read(&format!("{field}.path"))).transpose()?;
            self.rewrite = Some(Rewrite { authority, path });
        }
        if let Some(spec) = cors {
            self.cors = Some(spec.read(&field)?);
        }
        Ok(())
    }
}

impl HeadersSpec {
    /// Of requests or of answers: what agents would not do is refused here.
    fn read(self, field: &str, of: fn(HeaderEdit) -> HeaderChanges) -> Result<HeaderEdit, Fault> {
        let pairs = |key: &str, list: Option<Vec<HeaderSpec>>| {
            let field = format!("{field}.{key}");
            let list = bounded(&field, list, ITEMS)?;
            let pair = |(i, HeaderSpec { name, value }): (usize, HeaderSpec)| {
                let name = header_name(&format!("{field}[{i}].name"), &name)?;
                let fits = value.len() <= 4096 && HeaderValue::try_from(&value).is_ok();
                fits.then_some((name, value))
                    .ok_or_else(|| Fault::new(format!("{field}[{i}].value"), "is no value of a header"))
            };
            list.into_iter().enumerate().map(pair).collect::<Result<Vec<_>, Fault>>()
        };
        let (set, add) = (pairs("set", self.set)?, pairs("add", self.add)?);
        let remove_field = format!("{field}.remove");
        let remove = bounded(&remove_field, self.remove, ITEMS)?.into_iter().enumerate();
        let remove = remove.map(|(i, name)| header_name(&format!("{remove_field}[{i}]"), &name));
        let edit = HeaderEdit { remove: remove.collect::<Result<_, _>>()?, set, add };
        Changes::new(&of(edit.clone())).map_err(|error| {
            let (_, inside) = error.field.split_once('.').unwrap_or_default();
            Fault::new(format!("{field}.{inside}"), error.why)
        })?;
        Ok(edit)
    }
}

fn of_request(request: HeaderEdit) -> HeaderChanges {
    HeaderChanges { request, ..HeaderChanges::default() }
}

fn of_response(response: HeaderEdit) -> HeaderChanges {
    HeaderChanges { response, ..HeaderChanges::default() }
}

impl MirrorSpec {
    fn read(self, namespace: &str, field: &str) -> Result<MirrorRef, Fault> {
        let Self { backend_ref, percent, fraction } = self;
        let wrong = |key: &str, why: String| Fault::new(format!("{field}.{key}"), why);
        let percent = match (percent, fraction) {
            (None, None) => Percent::ALL,
            (Some(_), Some(_)) => return Err(wrong("fraction", "stands beside percent".into())),
            (Some(percent), None) => {
                let share = u32::try_from(percent).ok().filter(|share| *share <= 100);
                Percent(share.ok_or_else(|| wrong("percent", format!("{percent} is not from 0 to 100")))? * 10_000)
            }
            (None, Some(FractionSpec { numerator, denominator })) => {
                let denominator = denominator.unwrap_or(100);
                if !(1..=i64::from(i32::MAX)).contains(&denominator) {
                    return Err(wrong("fraction.denominator", format!("{denominator} is not from 1 on")));
                }
                if !(0..=denominator).contains(&numerator) {
                    return Err(wrong("fraction.numerator", format!("{numerator} is not from 0 to {denominator}")));
                }
                let share = i128::from(numerator) * 1_000_000 / i128::from(denominator);
                Percent(u32::try_from(share).unwrap_or(Percent::ALL.0))
            }
        };
        let reference = backend_ref.plain(namespace, format!("{field}.backendRef"))?;
        Ok(MirrorRef { reference, percent })
    }
}

impl RedirectSpec {
    fn read(self, field: &str) -> Result<Redirect, Fault> {
        let Self { scheme, hostname: host, path, port, status_code } = self;
        let scheme = scheme.filter(|scheme| !scheme.is_empty());
        if let Some(other) = scheme.as_ref().filter(|scheme| !["http", "https"].contains(&scheme.as_str())) {
            return Err(Fault::new(format!("{field}.scheme"), format_args!("`{other}` is neither http nor https")));
        }
        let host = host.filter(|host| !host.is_empty());
        let host = host.map(|name| hostname(&format!("{field}.hostname"), &name)).transpose()?;
        let port = port.map(|port| port_number(&format!("{field}.port"), port)).transpose()?;
        let status = match status_code.unwrap_or(302) {
            301 => 301,
            302 => 302,
            303 => 303,
            307 => 307,
            308 => 308,
            other => {
                let why = format!("{other} is none of 301, 302, 303, 307, 308");
                return Err(Fault::new(format!("{field}.statusCode"), why));
            }
        };
        let path = path.map(|path| path.read(&format!("{field}.path"))).transpose()?;
        Ok(Redirect { scheme, host, port: port.map_or(RedirectPort::Dialled, RedirectPort::Number), path, status })
    }
}

impl PathSpec {
    fn read(self, field: &str) -> Result<PathRewrite, Fault> {
        let Self { type_, replace_full_path, replace_prefix_match } = self;
        let path = |key: &str, value: String| {
            let field = format!("{field}.{key}");
            // An empty one takes away what it stands for.
            if !value.is_empty() {
                text(&field, &value, super::checks::LONGEST)?;
            }
            let path = if value.starts_with('/') { value } else { format!("/{value}") };
            // What more is no path agents say: they make one of it.
            let is_path = path.bytes().all(|b| b.is_ascii_graphic());
            if !is_path || NewPath::new(&PathRewrite::Full(path.clone())).is_err() {
                return Err(Fault::new(field, format_args!("`{path}` is no path")));
            }
            Ok(path)
        };
        match (type_.as_str(), replace_full_path, replace_prefix_match) {
            ("ReplaceFullPath", Some(full), None) => Ok(PathRewrite::Full(path("replaceFullPath", full)?)),
            ("ReplacePrefixMatch", None, Some(prefix)) => {
                let prefix = path("replacePrefixMatch", prefix)?;
                let trimmed = prefix.trim_end_matches('/');
                Ok(PathRewrite::Matched(if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() }))
            }
            ("ReplaceFullPath", ..) => Err(Fault::new(field, "of type ReplaceFullPath needs replaceFullPath alone")),
            ("ReplacePrefixMatch", ..) => {
                Err(Fault::new(field, "of type ReplacePrefixMatch needs replacePrefixMatch alone"))
            }
            (other, ..) => Err(Fault::new(
                format!("{field}.type"),
                format_args!("`{other}` is neither ReplaceFullPath nor ReplacePrefixMatch"),
            )),
        }
    }
}

impl CorsSpec {
    fn read(self, field: &str) -> Result<Cors, Fault> {
        const MOST: usize = 64;
        let Self { allow_origins, allow_credentials, allow_methods, allow_headers, expose_headers, max_age } = self;
        let names = |key: &str, list: Option<Vec<String>>| {
            let field = format!("{field}.{key}");
            let list = bounded(&field, list, MOST)?.into_iter().enumerate();
            let name = |(i, name): (usize, String)| match name.as_str() {
                "*" => Ok(name),
                _ => header_name(&format!("{field}[{i}]"), &name),
            };
            list.map(name).collect::<Result<Vec<_>, Fault>>()
        };
        let origins_field = format!("{field}.allowOrigins");
        let origins = bounded(&origins_field, allow_origins, MOST)?.into_iter().enumerate();
        let origins = origins.map(|(i, origin)| cors_origin(&format!("{origins_field}[{i}]"), &origin));
        let methods_field = format!("{field}.allowMethods");
        let methods = bounded(&methods_field, allow_methods, MOST)?;
        for (i, method) in methods.iter().enumerate() {
            if http::Method::from_bytes(method.as_bytes()).is_err() {
                return Err(Fault::new(format!("{methods_field}[{i}]"), format_args!("`{method}` is no method")));
            }
        }
        let max_age = match max_age.unwrap_or(5) {
            age @ 1..=2_147_483_647 => u64::try_from(age).unwrap_or_default(),
            age => return Err(Fault::new(format!("{field}.maxAge"), format_args!("{age} is not from 1 on"))),
        };
        Ok(Cors {
            allow_origins: origins.collect::<Result<_, _>>()?,
            allow_methods: methods,
            allow_headers: names("allowHeaders", allow_headers)?,
            expose_headers: names("exposeHeaders", expose_headers)?,
            max_age: Some(max_age),
            allow_credentials,
            forward_unmatched_preflights: false,
        })
    }
}

/// `*`, or `<scheme>://<host>[:<port>]` with `*` in the host for any text.
fn cors_origin(field: &str, origin: &str) -> Result<TextMatch, Fault> {
    if origin == "*" {
        return Ok(TextMatch::Any);
    }
    let wrong = || Fault::new(field, format_args!("`{origin}` is no origin, as in https://example.com"));
    let (scheme, rest) = origin.split_once("://").ok_or_else(wrong)?;
    let usual = match scheme {
        "http" => "80",
        "https" => "443",
        _ => return Err(wrong()),
    };
    let (host, port) = rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
    let is_host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'*');
    let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|number| number > 0));
    if host.is_empty() || host.len() > 253 || !host.bytes().all(is_host) || !is_port {
        return Err(wrong());
    }
    // Browsers leave out the port that is the scheme's own.
    let port = port.filter(|port| *port != usual).map(|port| format!(":{port}")).unwrap_or_default();
    let host = host.to_ascii_lowercase();
    Ok(if host.contains('*') {
        let host = host.replace('.', r"\.").replace('*', ".*");
        TextMatch::Regex(format!("{scheme}://{host}{port}"))
    } else {
        TextMatch::Exact(format!("{scheme}://{host}{port}"))
    })
}
