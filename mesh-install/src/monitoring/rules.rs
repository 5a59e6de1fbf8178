//! Alerts, as data: for the Prometheus operator (a PrometheusRule), and as a file for a Prometheus without one. Each
//! has a test that it fires, and one that it does not (`tests/alerts`, by promtool).

use serde_json::{Map, Value, json};

/// What is wrong, from which expression one sees it, and after which time that is worth somebody's attention.
#[derive(Clone, Copy, Debug)]
pub struct Alert {
    pub name: &'static str,
    pub expression: &'static str,
    /// How long it must hold, as Prometheus writes durations.
    pub held: &'static str,
    pub severity: Severity,
    /// One line. `{{ $labels.x }}` and `{{ $value }}` as in any alert.
    pub summary: &'static str,
    /// What to look at.
    pub advice: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Somebody should look now.
    Critical,
    /// Somebody should look today.
    Warning,
    /// Good to know.
    Info,
}

/// Alerts that are about the same part.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    pub name: &'static str,
    pub alerts: &'static [Alert],
}

pub const GROUPS: &[Group] = &[
    Group { name: "nodemesh.requests", alerts: REQUESTS },
    Group { name: "nodemesh.security", alerts: SECURITY },
    Group { name: "nodemesh.agents", alerts: AGENTS },
    Group { name: "nodemesh.controller", alerts: CONTROLLER },
];

const REQUESTS: &[Alert] = &[
    Alert {
        name: "MeshRequestErrors",
        // Ten requests a minute at least: one that fails of two in a night is no news.
        expression: r#"sum by (destination_service_namespace, destination_service_name) (
  rate(istio_requests_total{reporter="source", response_code=~"5..|0"}[5m])
) / sum by (destination_service_namespace, destination_service_name) (
  rate(istio_requests_total{reporter="source"}[5m])
) > 0.05 and sum by (destination_service_namespace, destination_service_name) (
  rate(istio_requests_total{reporter="source"}[5m])
) > 10 / 60"#,
        held: "5m",
        severity: Severity::Warning,
        summary: "{{ $value | humanizePercentage }} of the requests to {{ $labels.destination_service_namespace }}/{{ \
                  $labels.destination_service_name }} fail",
        advice: "meshctl flows --http-status 500-599 names the requests; response_flags says whose answer it was.",
    },
    Alert {
        name: "MeshRequestsSlow",
        expression: r#"histogram_quantile(0.99, sum by (le, destination_service_namespace, destination_service_name) (
  rate(istio_request_duration_milliseconds_bucket{reporter="source"}[5m])
)) > 1000"#,
        held: "10m",
        severity: Severity::Warning,
        summary: "One of a hundred requests to {{ $labels.destination_service_namespace }}/{{ \
                  $labels.destination_service_name }} takes longer than {{ $value }} ms",
        advice: "Compare reporter=destination, which has the application's time alone.",
    },
    Alert {
        name: "MeshRetryBudgetSpent",
        expression: "sum by (instance, by) (rate(mesh_retry_budget_exhausted_total[5m])) > 0",
        held: "5m",
        severity: Severity::Warning,
        summary: "Requests of {{ $labels.instance }} are not tried again: too many are already",
        advice: "Something behind a service fails for many; retries no longer hide it. meshctl stat names the service.",
    },
    Alert {
        name: "MeshEndpointsEjected",
        expression: "sum by (instance) (mesh_outlier_ejections_active) > 0",
        held: "10m",
        severity: Severity::Warning,
        summary: "{{ $value }} endpoints get no requests from pods of {{ $labels.instance }}, since they failed",
        advice: "meshctl routes names them. Ejected again and again, an endpoint is broken or its bounds are too tight.",
    },
    Alert {
        name: "MeshCircuitOpen",
        expression: "sum by (instance) (rate(mesh_circuit_open_total[5m])) > 0",
        held: "5m",
        severity: Severity::Warning,
        summary: "Requests of {{ $labels.instance }} are answered 503 at once: a connection pool's bounds are reached",
        advice: "Flag UO in meshctl flows names the service; see connectionPool of its DestinationRule.",
    },
];

const SECURITY: &[Alert] = &[
    Alert {
        name: "MeshPlaintextUnderStrict",
        // A series that was not there five minutes ago began with its first count, of which `increase` sees nothing.
        expression: r#"sum by (instance) (increase(mesh_policy_verdicts_total{reason="PLAINTEXT_STRICT"}[5m])) > 0
or sum by (instance) (mesh_policy_verdicts_total{reason="PLAINTEXT_STRICT"}
  unless mesh_policy_verdicts_total{reason="PLAINTEXT_STRICT"} offset 5m) > 0"#,
        held: "0s",
        severity: Severity::Warning,
        summary: "Plaintext was sent to pods of {{ $labels.instance }} that take mutual TLS only, and was refused",
        advice: "meshctl flows --verdict dropped names the clients: they are outside the mesh, or dial past it.",
    },
    Alert {
        name: "MeshCertificateExpires",
        // Of 24 hours as they come; agents renew long before.
        expression: "mesh_cert_soonest_expiry_seconds < 2 * 3600",
        held: "10m",
        severity: Severity::Critical,
        summary: "A workload's certificate at {{ $labels.instance }} ends in {{ $value | humanizeDuration }} and was not renewed",
        advice: "meshctl identity lists them with the last error. The controller must be reachable, and sign.",
    },
    Alert {
        name: "MeshCaExpires",
        expression: "min(mesh_controller_ca_expiry_seconds) < 30 * 86400",
        held: "1h",
        severity: Severity::Critical,
        summary: "The certificate authority ends in {{ $value | humanizeDuration }}: nothing is signed afterwards",
        advice: "A given CA must be replaced; one of the mesh's own or of cert-manager should have been rotated: see the \
                 controller's log.",
    },
    Alert {
        name: "MeshSigningRefused",
        expression: r#"sum by (reason) (
  increase(mesh_controller_refused_total{reason=~"SIGNING_FAILED|IDENTITY_.*|CSR_.*"}[10m])
) > 0 or sum by (reason) (
  mesh_controller_refused_total{reason=~"SIGNING_FAILED|IDENTITY_.*|CSR_.*"}
  unless mesh_controller_refused_total{reason=~"SIGNING_FAILED|IDENTITY_.*|CSR_.*"} offset 10m
) > 0"#,
        held: "0s",
        severity: Severity::Warning,
        summary: "Certificates are refused: {{ $labels.reason }}",
        advice: "The controller's audit stream names node and identity. IDENTITY_NOT_HERE of many nodes at once is an attack \
                 or a controller that lags behind.",
    },
];

const AGENTS: &[Alert] = &[
    Alert {
        name: "MeshAgentDown",
        expression: r#"up{job=~"(.*/)?mesh-agent"} == 0"#,
        held: "1m",
        severity: Severity::Critical,
        summary: "The agent at {{ $labels.instance }} does not answer: new connections of its node's pods are refused",
        advice: "kubectl -n nodemesh-system get pods -o wide; meshctl doctor.",
    },
    Alert {
        name: "MeshAgentsMissing",
        expression: r#"absent(up{job=~"(.*/)?mesh-agent"})"#,
        held: "5m",
        severity: Severity::Critical,
        summary: "No agent is known to Prometheus",
        advice: "The DaemonSet has no pods, or the PodMonitor finds none.",
    },
    Alert {
        name: "MeshAgentCutOff",
        expression: "mesh_controller_connected == 0",
        held: "5m",
        severity: Severity::Warning,
        summary: "The agent at {{ $labels.instance }} has not reached a controller for minutes: its configuration grows old",
        advice: "It goes on with what it knows, until its certificates end. Its log says why it cannot connect.",
    },
    Alert {
        name: "MeshHooksBroken",
        expression: "sum by (instance, check) (increase(mesh_audit_faults_total[15m])) > 0
or sum by (instance, check) (mesh_audit_faults_total unless mesh_audit_faults_total offset 15m) > 0",
        held: "0s",
        severity: Severity::Critical,
        summary: "At {{ $labels.instance }} something of the mesh was taken out of the kernel, and put back ({{ \
                  $labels.check }})",
        advice: "Somebody detaches programs or changes maps: until the audit traffic went past the agent there.",
    },
    Alert {
        name: "MeshFlowRecordsLost",
        // What newer records replaced is no loss of theirs.
        expression: r#"sum by (instance, why) (rate(mesh_flow_events_lost_total{why!="replaced"}[5m])) > 0"#,
        held: "5m",
        severity: Severity::Info,
        summary: "{{ $labels.instance }} loses {{ $value }} flow records a second ({{ $labels.why }})",
        advice: "ring: the node opens more connections than its agent reads, give it more CPU; slow_reader: a follower of \
                 meshctl flows does not keep up.",
    },
    Alert {
        name: "MeshMapNearlyFull",
        // Of OVERFLOWED the value is told, which is no number of entries.
        expression: r#"mesh_bpf_map_entries{map!="OVERFLOWED"} / mesh_bpf_map_entries_max > 0.9"#,
        held: "5m",
        severity: Severity::Warning,
        summary: "The map {{ $labels.map }} at {{ $labels.instance }} is {{ $value | humanizePercentage }} full",
        advice: "ARCHITECTURE.md, Failures, says what happens when it is. The agent's --max-* options make it larger.",
    },
];

const CONTROLLER: &[Alert] = &[
    Alert {
        name: "MeshControllerDown",
        expression: r#"absent(up{job=~"(.*/)?mesh-controller"} == 1)"#,
        held: "2m",
        severity: Severity::Critical,
        summary: "No controller answers: nothing changes, and certificates are not renewed",
        advice: "Agents go on with what they know. kubectl -n nodemesh-system logs deploy/mesh-controller.",
    },
    Alert {
        name: "MeshNoLeader",
        expression: "max(mesh_controller_leader) == 0",
        held: "2m",
        severity: Severity::Warning,
        summary: "No replica of the controller leads: conditions are not written, and the root is not rotated",
        advice: "The Lease mesh-controller, and what the logs say of the election.",
    },
    Alert {
        name: "MeshConfigurationRefused",
        expression: "sum by (kind) (increase(mesh_controller_nacks_total[10m])) > 0",
        held: "0s",
        severity: Severity::Warning,
        summary: "Agents refuse configuration of the kind {{ $labels.kind }}",
        advice: "The controller's log names node, resource and field. Older agents refuse what they do not know.",
    },
    Alert {
        name: "MeshConfigurationStale",
        expression: "sum by (instance) (mesh_controller_agents_behind) > 0",
        held: "5m",
        severity: Severity::Warning,
        summary: "{{ $value }} agents of {{ $labels.instance }} have not taken the newest configuration for minutes",
        advice: "meshctl status shows each node's generation.",
    },
    Alert {
        name: "MeshConfigurationProblems",
        expression: r#"sum by (kind) (mesh_controller_problems{extent=~"part|whole|conflict"}) > 0"#,
        held: "15m",
        severity: Severity::Info,
        summary: "{{ $value }} problems in objects of the kind {{ $labels.kind }}: they are not honoured as written",
        advice: "meshctl analyze names object and field; conditions on the objects do too.",
    },
    Alert {
        name: "MeshWatchesFail",
        expression: "sum by (instance, kind) (increase(mesh_controller_watch_failures_total[10m])) > 5",
        held: "5m",
        severity: Severity::Warning,
        summary: "{{ $labels.instance }} cannot follow {{ $labels.kind }} of the Kubernetes API",
        advice: "The last state stays. The log says what the API answers; a permission may be missing.",
    },
    Alert {
        name: "MeshKeysNotFetched",
        expression: r#"sum by (instance) (increase(mesh_jwks_fetches_total{result="failed"}[10m])) > 5"#,
        held: "5m",
        severity: Severity::Warning,
        summary: "{{ $labels.instance }} cannot fetch keys of issuers of tokens",
        advice: "The last keys count for an hour; then requests with tokens of that issuer are refused (JWT_KEYS).",
    },
];

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// As Prometheus reads it from a file, and as the operator has it in `spec`.
pub fn groups() -> Value {
    let groups = GROUPS
        .iter()
        .map(|Group { name, alerts }| json!({ "name": name, "rules": alerts.iter().map(rule).collect::<Vec<_>>() }));
    json!({ "groups": groups.collect::<Vec<_>>() })
}

fn rule(alert: &Alert) -> Value {
    let Alert { name, expression, held, severity, summary, advice } = alert;
    let mut rule = Map::new();
    rule.insert("alert".into(), (*name).into());
    rule.insert("expr".into(), expression.split_whitespace().collect::<Vec<_>>().join(" ").into());
    if *held != "0s" {
        rule.insert("for".into(), (*held).into());
    }
    rule.insert("labels".into(), json!({ "severity": severity.name() }));
    rule.insert("annotations".into(), json!({ "summary": summary, "description": advice }));
    rule.into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn alerts_have_names_of_their_own_and_sentences() {
        let alerts = GROUPS.iter().flat_map(|group| group.alerts).collect::<Vec<_>>();
        let names = alerts.iter().map(|alert| alert.name).collect::<BTreeSet<_>>();
        assert_eq!(names.len(), alerts.len());
        for alert in alerts {
            assert!(alert.name.starts_with("Mesh") && !alert.summary.is_empty(), "{}", alert.name);
            assert!(alert.advice.ends_with('.') && !alert.summary.ends_with('.'), "{}", alert.name);
            // A place of ours for values begins so.
            assert!(!alert.expression.contains("${"), "{}", alert.name);
        }
    }
}
