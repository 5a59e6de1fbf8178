//! `outlierDetection`: 5 errors in a row, looked at every 10 s, 30 s of ejection, of a tenth of all endpoints, where
//! nobody says otherwise.

use mesh_common::model::traffic::{Millis, Outlier, Percent};

use crate::translate::fields::Fields;

const ERRORS: u32 = 5;

pub fn outlier(mut fields: Fields<'_>) -> Outlier {
    let mut count = |name: &str| fields.number(name, 0..=u32::MAX);
    let (server, old) = (count("consecutive5xxErrors"), count("consecutiveErrors").filter(|count| *count != 0));
    let gateway = count("consecutiveGatewayErrors").filter(|count| *count != 0);
    let local = count("consecutiveLocalOriginFailures");
    if old.is_some() {
        let why = match server {
            None => "is an old name: it is honoured as consecutive5xxErrors",
            Some(_) => "is an old name of consecutive5xxErrors, which is honoured in its place",
        };
        fields.note("consecutiveErrors", why);
    }
    let split = fields.take("splitExternalLocalOriginErrors").unwrap_or(false);
    if local.is_some() && !split {
        fields.report("consecutiveLocalOriginFailures", "has no meaning without splitExternalLocalOriginErrors");
    }
    let outlier = Outlier {
        // 0 switches it off.
        consecutive_5xx: Some(server.or(old).unwrap_or(ERRORS)).filter(|count| *count != 0),
        consecutive_gateway_errors: gateway,
        consecutive_local_failures: split.then(|| local.unwrap_or(ERRORS)).filter(|count| *count != 0),
        interval: fields.some_span("interval").unwrap_or(Millis(10_000)),
        base_ejection: fields.some_span("baseEjectionTime").unwrap_or(Millis(30_000)),
        max_ejected: fields.percent("maxEjectionPercent").filter(|p| *p != Percent(0)).unwrap_or(Percent(100_000)),
        min_health: fields.percent("minHealthPercent").unwrap_or(Percent(0)),
    };
    fields.end();
    outlier
}
