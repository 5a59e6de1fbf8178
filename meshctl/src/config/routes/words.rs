//! Rules of traffic in few words, for tables. JSON and YAML have all of it.

use mesh_common::model::traffic::{
    Action, ActiveCheck, Algorithm, Backend, Balancing, CheckKind, Clients, ConnectionMatch, ConnectionPool,
    DirectResponse, Fault, HashOn, HeaderEdit, HttpRoute, HttpUpgrade, Labels, Millis, Outlier, PathMatch, PathRewrite,
    Percent, Redirect, RedirectPort, RequestMatch, Retries, RetryBudget, RetryOn, Target, TextMatch, TrafficPolicy,
    TrustedRoots, UpstreamTls, WeightedBackend,
};

use crate::{output::Mood, words::short_service};

pub fn clients(clients: &Clients) -> String {
    match clients {
        Clients::Everybody => "all".into(),
        Clients::Namespaces(namespaces) => namespaces.iter().map(String::as_str).collect::<Vec<_>>().join(","),
    }
}

/// `GET /api/* x-canary=true | /health`
pub fn requests(matches: &[RequestMatch]) -> String {
    if matches.is_empty() {
        return "all".into();
    }
    matches.iter().map(request).collect::<Vec<_>>().join(" | ")
}

fn request(matched: &RequestMatch) -> String {
    let RequestMatch {
        path,
        ignore_path_case,
        method,
        scheme,
        authority,
        headers,
        query,
        port,
        source_labels,
        source_namespace,
    } = matched;
    let mut words = Vec::new();
    words.extend(method.as_ref().map(text));
    words.extend(path.as_ref().map(|path| {
        let case = if *ignore_path_case { " (any case)" } else { "" };
        match path {
            PathMatch::Exact(path) => format!("{path}{case}"),
            PathMatch::Prefix(path) => format!("{path}*{case}"),
            PathMatch::Elements(path) => format!("{}/...{case}", path.trim_end_matches('/')),
            PathMatch::Regex(pattern) => format!("~{pattern}{case}"),
        }
    }));
    words.extend(headers.iter().map(|header| {
        let equals = if header.not { "!=" } else { "=" };
        format!("{}{equals}{}", header.name, text(&header.value))
    }));
    words.extend(query.iter().map(|query| format!("?{}={}", query.name, text(&query.value))));
    words.extend(authority.as_ref().map(|authority| format!("host={}", text(authority))));
    words.extend(scheme.as_ref().map(|scheme| format!("scheme={}", text(scheme))));
    words.extend(port.map(|port| format!("port {port}")));
    words.extend(source(source_labels, source_namespace.as_ref()));
    if words.is_empty() { "all".into() } else { words.join(" ") }
}

pub fn connection(matched: &ConnectionMatch) -> String {
    let ConnectionMatch { port, destination_subnets, source_labels, source_namespace } = matched;
    let mut words = Vec::new();
    words.extend(port.map(|port| format!("port {port}")));
    words.extend(destination_subnets.iter().map(ToString::to_string));
    words.extend(source(source_labels, source_namespace.as_ref()));
    if words.is_empty() { "all".into() } else { words.join(" ") }
}

fn source(wanted: &Labels, namespace: Option<&String>) -> Vec<String> {
    let namespace = namespace.map(|namespace| format!("from namespace {namespace}"));
    let wanted = (!wanted.is_empty()).then(|| format!("from {}", labels(wanted)));
    namespace.into_iter().chain(wanted).collect()
}

fn text(text: &TextMatch) -> String {
    match text {
        TextMatch::Exact(text) => text.clone(),
        TextMatch::Prefix(text) => format!("{text}*"),
        TextMatch::Regex(pattern) => format!("~{pattern}"),
        TextMatch::Any => "*".into(),
    }
}

pub fn labels(labels: &Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

pub fn action(action: &Action) -> (String, Mood) {
    match action {
        Action::Forward(list) => backends(list, "500"),
        Action::Redirect(redirect) => (redirected(redirect), Mood::Plain),
        Action::Respond(DirectResponse { status, body: None }) => (status.to_string(), Mood::Plain),
        Action::Respond(DirectResponse { status, body: Some(body) }) => {
            (format!("{status} with {} bytes", body.len()), Mood::Plain)
        }
    }
}

/// `shop/cart v1 90%, shop/cart v2 10%`; `otherwise` is what becomes of it if nobody gets it.
pub fn backends(list: &[WeightedBackend], otherwise: &str) -> (String, Mood) {
    let sum: u64 = list.iter().map(|backend| u64::from(backend.weight)).sum();
    if sum == 0 {
        return (format!("{otherwise}, no backend has a weight"), Mood::Bad);
    }
    let mut mood = Mood::Plain;
    let words = list.iter().map(|WeightedBackend { weight, target, headers }| {
        let target = match target {
            Target::Backend(to) => backend(to),
            Target::Invalid { status, why } => {
                mood = Mood::Bad;
                format!("{status} ({why})")
            }
        };
        let edited = if headers.is_some() { " (headers)" } else { "" };
        if list.len() == 1 {
            return format!("{target}{edited}");
        }
        let share = (u64::from(*weight) * 1_000_000 / sum).min(1_000_000);
        format!("{target} {}{edited}", percent(Percent(u32::try_from(share).unwrap_or(u32::MAX))))
    });
    (words.collect::<Vec<_>>().join(", "), mood)
}

fn backend(Backend { service, port, subset }: &Backend) -> String {
    let name = short_service(&format!("{}/{}", service.namespace, service.hostname));
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    let subset = subset.as_ref().map(|subset| format!(" {subset}")).unwrap_or_default();
    format!("{name}{port}{subset}")
}

fn redirected(Redirect { scheme, host, port, path, status }: &Redirect) -> String {
    let mut words = format!("redirect {status} to ");
    let scheme = scheme.as_ref().map(|scheme| format!("{scheme}://")).unwrap_or_default();
    let port = match port {
        RedirectPort::Number(port) => format!(":{port}"),
        RedirectPort::Dialled | RedirectPort::Scheme | RedirectPort::Request => String::new(),
    };
    words += &scheme;
    words += host.as_deref().unwrap_or(if scheme.is_empty() && port.is_empty() { "" } else { "(same host)" });
    words += &port;
    words += &path.as_ref().map_or_else(|| "(same path)".into(), rewritten);
    words
}

fn rewritten(path: &PathRewrite) -> String {
    match path {
        PathRewrite::Full(path) => path.clone(),
        PathRewrite::Matched(prefix) => format!("{prefix}..."),
        PathRewrite::Regex { pattern, with } => format!("s~{pattern}~{with}~"),
    }
}

/// `timeout 10s, retries 3 on 5xx, 10% delayed 5s, mirror shop/cart v2 5%`
pub fn options(route: &HttpRoute) -> String {
    let HttpRoute {
        name: _,
        origin: _,
        matches: _,
        action: _,
        headers,
        rewrite,
        cors,
        timeout,
        try_timeout,
        retries,
        fault: injected,
        mirrors,
    } = route;
    let mut words = Vec::new();
    words.extend(timeout.map(|timeout| format!("timeout {}", span(timeout))));
    words.extend(try_timeout.map(|timeout| format!("try timeout {}", span(timeout))));
    words.extend(retries.as_ref().map(retried));
    words.extend(injected.iter().flat_map(fault));
    words.extend(mirrors.iter().map(|mirror| {
        let share =
            if mirror.percent == Percent::ALL { String::new() } else { format!(" {}", percent(mirror.percent)) };
        format!("mirror {}{share}", backend(&mirror.backend))
    }));
    if let Some(rewrite) = rewrite {
        words.extend(rewrite.path.as_ref().map(|path| format!("rewrite {}", rewritten(path))));
        words.extend(rewrite.authority.as_ref().map(|authority| format!("rewrite host {authority}")));
    }
    if let Some(changes) = headers {
        for (whose, edit) in [("request", &changes.request), ("response", &changes.response)] {
            words.extend(edited(edit).map(|edits| format!("{whose} headers {edits}")));
        }
    }
    words.extend(
        cors.as_ref()
            .map(|cors| format!("CORS for {}", cors.allow_origins.iter().map(text).collect::<Vec<_>>().join(" "))),
    );
    words.join(", ")
}

/// `-a =b +c`
fn edited(HeaderEdit { remove, set, add }: &HeaderEdit) -> Option<String> {
    let removed = remove.iter().map(|name| format!("-{name}"));
    let set = set.iter().map(|(name, _)| format!("={name}"));
    let words = removed.chain(set).chain(add.iter().map(|(name, _)| format!("+{name}"))).collect::<Vec<_>>();
    (!words.is_empty()).then(|| words.join(" "))
}

fn retried(Retries { attempts, try_timeout, on, backoff: _, max_backoff: _, avoid_tried: _ }: &Retries) -> String {
    if *attempts == 0 {
        return "no retries".into();
    }
    let on = on.iter().map(|on| match on {
        RetryOn::ServerError => "5xx".into(),
        RetryOn::GatewayError => "gateway-error".into(),
        RetryOn::Reset => "reset".into(),
        RetryOn::ResetBeforeRequest => "reset-before-request".into(),
        RetryOn::ConnectFailure => "connect-failure".into(),
        RetryOn::RetriableClientError => "retriable-4xx".into(),
        RetryOn::RefusedStream => "refused-stream".into(),
        RetryOn::Status(status) => status.to_string(),
        RetryOn::Grpc(code) => {
            let named = RetryOn::GRPC.iter().find(|(_, known)| known == code);
            named.map_or_else(|| format!("grpc {code}"), |(name, _)| (*name).into())
        }
    });
    let on: Vec<String> = on.collect();
    let each = try_timeout.map(|timeout| format!(" of {}", span(timeout))).unwrap_or_default();
    format!("retries {attempts}{each} on {}", on.join(" "))
}

/// `10% delayed 5s`, `5% aborted with 503`
pub fn fault(Fault { delay, abort }: &Fault) -> Vec<String> {
    let delay = delay.as_ref().map(|delay| format!("{} delayed {}", percent(delay.percent), span(delay.fixed)));
    let abort = abort.as_ref().map(|abort| {
        let status = abort.status.map(|status| status.to_string());
        let grpc = abort.grpc_status.map(|status| format!("gRPC {status}"));
        let with = status.into_iter().chain(grpc).collect::<Vec<_>>().join(", ");
        format!("{} aborted with {with}", percent(abort.percent))
    });
    delay.into_iter().chain(abort).collect()
}

pub fn balancing(Balancing { algorithm, locality, warmup }: &Balancing) -> String {
    let mut words = vec![match algorithm {
        Algorithm::LeastRequest => "least request".into(),
        Algorithm::RoundRobin => "round robin".into(),
        Algorithm::Random => "random".into(),
        Algorithm::PeakEwma => "peak EWMA".into(),
        Algorithm::Passthrough => "passthrough".into(),
        Algorithm::Hash(HashOn::Header(name)) => format!("hash of header {name}"),
        Algorithm::Hash(HashOn::Query(name)) => format!("hash of parameter {name}"),
        Algorithm::Hash(HashOn::SourceIp) => "hash of address".into(),
        Algorithm::Hash(HashOn::Cookie { name, .. }) => format!("hash of cookie {name}"),
    }];
    words.extend(locality.as_ref().map(|locality| match (locality.enabled, locality.distribute.is_empty()) {
        (false, _) => "localities alike".into(),
        (true, true) => "nearest locality".into(),
        (true, false) => "by locality".into(),
    }));
    words.extend(warmup.as_ref().map(|warmup| format!("warm-up {}", span(warmup.duration))));
    words.join(", ")
}

pub fn pool(pool: &ConnectionPool) -> String {
    let ConnectionPool {
        max_connections,
        connect_timeout,
        tcp_idle_timeout,
        max_connection_duration,
        max_pending,
        max_requests,
        max_requests_per_connection,
        max_retries,
        max_streams,
        http_idle_timeout,
        upgrade,
    } = pool;
    let counts = [
        (max_connections, "connections"),
        (max_pending, "pending"),
        (max_requests, "requests"),
        (max_requests_per_connection, "requests a connection"),
        (max_retries, "retries"),
        (max_streams, "streams"),
    ];
    let times = [
        (connect_timeout, "connect"),
        (tcp_idle_timeout, "TCP idle"),
        (http_idle_timeout, "HTTP idle"),
        (max_connection_duration, "connections for"),
    ];
    let counts = counts.into_iter().filter_map(|(count, what)| count.map(|count| format!("{count} {what}")));
    let times = times.into_iter().filter_map(|(time, what)| time.map(|time| format!("{what} {}", span(time))));
    let upgrade = match upgrade {
        HttpUpgrade::Default => None,
        HttpUpgrade::Never => Some("no HTTP/2".to_owned()),
        HttpUpgrade::Always => Some("HTTP/2".to_owned()),
    };
    counts.chain(times).chain(upgrade).collect::<Vec<_>>().join(", ")
}

/// All of a policy but balancing and pool.
pub fn more(TrafficPolicy { balancing: _, pool: _, outlier, tls, retry_budget, check }: &TrafficPolicy) -> String {
    let mut words = Vec::new();
    if let Some(outlier) = outlier {
        let Outlier {
            consecutive_5xx,
            consecutive_gateway_errors,
            consecutive_local_failures,
            interval: _,
            base_ejection,
            max_ejected,
            min_health: _,
        } = outlier;
        let counts = [
            (consecutive_5xx, "5xx"),
            (consecutive_gateway_errors, "gateway errors"),
            (consecutive_local_failures, "failed connections"),
        ];
        let counts = counts.into_iter().filter_map(|(count, what)| count.map(|count| format!("{count} {what}")));
        let counts = counts.collect::<Vec<_>>().join(" or ");
        words.push(format!("out for {} after {counts}, {} at most", span(*base_ejection), percent(*max_ejected)));
    }
    words.extend(tls.as_ref().map(|UpstreamTls { server_name, names: _, roots }| {
        let to = server_name.as_ref().map(|name| format!(" to {name}")).unwrap_or_default();
        match roots {
            TrustedRoots::System | TrustedRoots::Pem(_) => format!("TLS{to}"),
            TrustedRoots::Unverified => format!("TLS{to}, not verified"),
            TrustedRoots::Unusable(why) => format!("refused: {why}"),
        }
    }));
    words.extend(retry_budget.as_ref().map(|RetryBudget { percent: share, min_concurrency }| {
        format!("retries at most {} or {min_concurrency}", percent(*share))
    }));
    words.extend(check.as_ref().map(|ActiveCheck { kind, interval, .. }| {
        let kind = match kind {
            CheckKind::Tcp => "TCP".to_owned(),
            CheckKind::Http { path, .. } => format!("GET {path}"),
            CheckKind::Grpc { service } => format!("gRPC {service}"),
        };
        format!("{} asked every {}", kind.trim_end(), span(*interval))
    }));
    words.join(", ")
}

/// `10%`, `0.5%`
pub fn percent(Percent(millionths): Percent) -> String {
    let text = format!("{}.{:04}", millionths / 10_000, millionths % 10_000);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// As it was written: nothing is rounded.
pub fn span(Millis(millis): Millis) -> String {
    match millis {
        0 => "0s".into(),
        _ if millis % 3_600_000 == 0 => format!("{}h", millis / 3_600_000),
        _ if millis % 60_000 == 0 => format!("{}m", millis / 60_000),
        _ if millis % 1000 == 0 => format!("{}s", millis / 1000),
        _ => format!("{millis}ms"),
    }
}
