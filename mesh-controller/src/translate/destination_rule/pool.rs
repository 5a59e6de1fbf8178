//! `connectionPool`. A bound of 0 is none, as in the kind's own defaults.

use mesh_common::model::traffic::{ConnectionPool, HttpUpgrade, Millis};

use crate::translate::fields::Fields;

pub fn pool(mut fields: Fields<'_>) -> ConnectionPool {
    let mut pool = ConnectionPool::default();
    if let Some(tcp) = fields.within("tcp") {
        of_connections(tcp, &mut pool);
    }
    if let Some(http) = fields.within("http") {
        of_requests(http, &mut pool);
    }
    fields.end();
    pool
}

fn of_connections(mut fields: Fields<'_>, pool: &mut ConnectionPool) {
    pool.max_connections = fields.bound("maxConnections");
    pool.connect_timeout = fields.some_span("connectTimeout");
    // None at all is what 0s asks for, and what there is if nothing is said.
    pool.tcp_idle_timeout = fields.span("idleTimeout").filter(|span| *span != Millis(0));
    pool.max_connection_duration = fields.some_span("maxConnectionDuration");
    fields.idle("tcpKeepalive", "is not supported yet; connections between nodes have probes of their own");
    fields.end();
}

fn of_requests(mut fields: Fields<'_>, pool: &mut ConnectionPool) {
    pool.max_pending = fields.bound("http1MaxPendingRequests");
    pool.max_requests = fields.bound("http2MaxRequests");
    pool.max_requests_per_connection = fields.bound("maxRequestsPerConnection");
    pool.max_retries = fields.bound("maxRetries");
    pool.max_streams = fields.bound("maxConcurrentStreams");
    pool.http_idle_timeout = fields.span("idleTimeout").filter(|span| *span != Millis(0));
    let upgrade = fields.text("h2UpgradePolicy");
    pool.upgrade = match upgrade.as_deref() {
        None | Some("DEFAULT") => HttpUpgrade::Default,
        Some("DO_NOT_UPGRADE") => HttpUpgrade::Never,
        Some("UPGRADE") => HttpUpgrade::Always,
        Some(other) => {
            let known = "DEFAULT, DO_NOT_UPGRADE, UPGRADE";
            fields.report("h2UpgradePolicy", format_args!("`{other}` is none of {known}; it is not honoured"));
            HttpUpgrade::Default
        }
    };
    if fields.take("useClientProtocol") == Some(true) {
        if pool.upgrade == HttpUpgrade::Always {
            fields.report("h2UpgradePolicy", "`useClientProtocol` holds in its place");
        }
        pool.upgrade = HttpUpgrade::Never;
    }
    fields.end();
}
