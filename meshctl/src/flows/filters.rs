//! Which flows are asked for: the same words for `flows` and `tap`. Agents filter.

use mesh_common::proto::nodemesh::{Direction, Flow, FlowsQuery, Path, Security, Verdict, flows_query::Only};

use crate::{
    client::Failure,
    output::Namespaces,
    words::{DirectionFilter, PathFilter, SecurityFilter, VerdictFilter},
};

#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Filters (all must hold)")]
pub struct Filters {
    #[command(flatten)]
    namespaces: Namespaces,
    /// Source or destination is this pod or workload: NAME or NAMESPACE/NAME
    #[arg(long, value_parser = pod)]
    pod: Option<String>,
    /// The source is this pod or workload
    #[arg(long, value_name = "POD", value_parser = pod)]
    from: Option<String>,
    /// The destination is this pod, workload or service
    #[arg(long, value_name = "POD", value_parser = pod)]
    to: Option<String>,
    /// The client dialled this service: NAME, NAMESPACE/NAME, or a host
    #[arg(long, value_name = "SERVICE", value_parser = service)]
    service: Option<String>,
    /// Source or destination has this port
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// How it ended
    #[arg(long, value_enum, ignore_case = true)]
    verdict: Option<VerdictFilter>,
    /// Why it was refused or failed, as in the column REASON
    #[arg(long, value_name = "CODE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    reason: Option<String>,
    /// This policy decided: NAMESPACE/NAME
    #[arg(long, value_name = "POLICY", value_parser = policy)]
    policy: Option<String>,
    /// As the reporting node saw it
    #[arg(long, value_enum, ignore_case = true)]
    direction: Option<DirectionFilter>,
    /// The way that its bytes took
    #[arg(long, value_name = "PATH", value_enum, ignore_case = true)]
    path_taken: Option<PathFilter>,
    /// How it was secured
    #[arg(long, value_enum, ignore_case = true)]
    security: Option<SecurityFilter>,
    /// Requests with this answer: 503, or 5xx for a hundred
    #[arg(long, value_name = "STATUS", value_parser = status)]
    http_status: Option<String>,
    /// Requests with this method
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    method: Option<String>,
    /// Requests whose path begins so
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    path: Option<String>,
    /// Requests of this trace: 32 hexadecimal digits
    #[arg(long, value_name = "ID", value_parser = trace)]
    trace_id: Option<String>,
}

impl Filters {
    pub fn question(&self) -> FlowsQuery {
        let Self {
            namespaces,
            pod,
            from,
            to,
            service,
            port,
            verdict,
            reason,
            policy,
            direction,
            path_taken,
            security,
            http_status,
            method,
            path,
            trace_id,
        } = self;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        FlowsQuery {
            namespace: namespaces.wanted(),
            pod: text(pod),
            from: text(from),
            to: text(to),
            service: text(service),
            port: port.map_or(0, u32::from),
            verdict: verdict.map_or(Verdict::Unspecified, Verdict::from).into(),
            reason: text(reason),
            policy: text(policy),
            direction: direction.map_or(Direction::Unspecified, Direction::from).into(),
            passed: path_taken.map_or(Path::Unspecified, Path::from).into(),
            security: security.map_or(Security::Unspecified, Security::from).into(),
            http_status: text(http_status),
            method: text(method),
            path: text(path),
            trace_id: text(trace_id),
            ..FlowsQuery::default()
        }
    }
}

/// Agents of an earlier version take no notice of filters that they do not know, and protobuf does not tell.
///
/// # Errors
/// If the flow shows that its agent left one of these out.
pub fn understood(question: &FlowsQuery, flow: &Flow) -> Result<(), Failure> {
    let http = flow.http.as_ref();
    let status = http.map_or(0, |http| http.status);
    let is_status = match question.http_status.to_ascii_lowercase().strip_suffix("xx") {
        Some(hundred) => (status / 100).to_string() == hundred,
        None => question.http_status.is_empty() || question.http_status == status.to_string(),
    };
    let is_kind = match question.only() {
        Only::All => true,
        Only::Tcp => http.is_none() && flow.udp.is_none(),
        Only::Udp => flow.udp.is_some(),
        Only::Http => http.is_some(),
        Only::Grpc => http.is_some_and(|http| http.grpc),
    };
    let missed = [
        ("--protocol", is_kind),
        ("--http-status", is_status),
        (
            "--method",
            question.method.is_empty() || http.is_some_and(|h| h.method.eq_ignore_ascii_case(&question.method)),
        ),
        ("--path", http.map_or(question.path.is_empty(), |http| http.path.starts_with(&question.path))),
        ("--service", question.service.is_empty() || !flow.service.is_empty()),
        ("--reason", question.reason.is_empty() || flow.reason.eq_ignore_ascii_case(&question.reason)),
        ("--policy", question.policy.is_empty() || flow.policy == question.policy),
        ("--trace-id", question.trace_id.is_empty() || http.is_some_and(|h| h.trace_id == question.trace_id)),
        ("--path-taken", question.passed() == Path::Unspecified || flow.path() == question.passed()),
        ("--security", question.security() == Security::Unspecified || flow.security() == question.security()),
    ]
    .into_iter()
    .find_map(|(name, holds)| (!holds).then_some(name));
    match missed {
        None => Ok(()),
        Some(name) => Err(Failure::Unreachable(format!(
            "the agent of node {} is too old to know {name}: bring it to this version, or ask the others by --node",
            flow.node
        ))),
    }
}

/// `name` or `namespace/name`.
pub fn pod(text: &str) -> Result<String, String> {
    let parts = text.split('/').collect::<Vec<_>>();
    if parts.len() <= 2 && parts.iter().all(|part| !part.is_empty()) {
        Ok(text.to_string())
    } else {
        Err("a pod is NAME or NAMESPACE/NAME".into())
    }
}

fn service(text: &str) -> Result<String, String> {
    pod(text).map_err(|_| "a service is NAME, NAMESPACE/NAME or a host".into())
}

fn policy(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some(_) => pod(text).map_err(|_| "a policy is NAMESPACE/NAME".into()),
        None => Err("a policy is NAMESPACE/NAME".into()),
    }
}

fn status(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.strip_suffix("xx").map_or((lower.as_str(), 3), |hundred| (hundred, 1));
    let is_one = digits.0.len() == digits.1
        && digits.0.bytes().all(|byte| byte.is_ascii_digit())
        && digits.0.starts_with(|first| ('1'..='5').contains(&first));
    if is_one { Ok(lower) } else { Err("a status is one, as 503, or a hundred, as 5xx".into()) }
}

fn prefix(text: &str) -> Result<String, String> {
    match text.split_once('?') {
        _ if text.is_empty() => Err("a path is not empty".into()),
        Some(_) => Err("queries of requests are not recorded: leave out what follows the question mark".into()),
        None => Ok(text.to_owned()),
    }
}

fn trace(text: &str) -> Result<String, String> {
    let is_one = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_one { Ok(text.to_ascii_lowercase()) } else { Err("a trace id is 32 hexadecimal digits".into()) }
}
