//! What a rule says of the endpoints of its host or of a subset, part by part, and how the parts become whole.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::model::traffic::{
    ActiveCheck, Algorithm, Balancing, ConnectionPool, Outlier, RetryBudget, Subset, TrafficPolicy,
};
use serde_json::Value;

use super::{balancing, balancing::Balance, outlier, pool, tls, tls::Tls};
use crate::{
    status::Fault,
    translate::{Labels, fields::Fields, port},
};

/// `trafficPolicy`, as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    own: Settable,
    retry_budget: Option<RetryBudget>,
    /// Whole: what is said of a port takes the place of `own`.
    ports: BTreeMap<u16, Settable>,
    /// Where nothing says an algorithm; of a rule only.
    pub algorithm: Option<Algorithm>,
    /// Of a rule only.
    pub check: Option<ActiveCheck>,
}

/// What may be said of a port too. Each is taken over whole, or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Settable {
    balance: Option<Balance>,
    pool: Option<ConnectionPool>,
    outlier: Option<Outlier>,
    tls: Option<Tls>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubsetParts {
    pub name: String,
    pub labels: Labels,
    pub policy: Parts,
}

/// A policy in the form in which it is looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    pub all: TrafficPolicy,
    pub ports: BTreeMap<u16, TrafficPolicy>,
}

impl Parts {
    pub fn read(path: &str, value: Value, most: usize, faults: &mut Vec<Fault>) -> Self {
        let mut fields = Fields::new(path, value, faults);
        let own = Settable::read(&mut fields);
        let retry_budget = fields.within("retryBudget").map(retry_budget);
        fields.idle("tunnel", "is not supported yet; connections go to the endpoints themselves");
        fields.idle("proxyProtocol", "is not supported yet; no PROXY header is sent");
        let list = fields.list("portLevelSettings", most);
        fields.end();
        let mut ports = BTreeMap::new();
        for (path, value) in list {
            let mut fields = Fields::new(path.as_str(), value, faults);
            let number = fields.within("port").and_then(|mut selector| {
                let number: Option<i32> = selector.take("number");
                selector.end();
                number
            });
            let settings = Settable::read(&mut fields);
            fields.end();
            let field = format!("{path}.port.number");
            let number = number.ok_or_else(|| Fault::new(field.as_str(), "is missing"));
            match number.and_then(|number| port(field.as_str(), number)) {
                Ok(number) if ports.contains_key(&number) => {
                    faults.push(Fault::new(field, format_args!("{number} stands above already; this is left out")));
                }
                Ok(number) => {
                    ports.insert(number, settings);
                }
                Err(fault) => faults.push(Fault { why: format!("{}; it is left out", fault.why), ..fault }),
            }
        }
        Self { own, retry_budget, ports, algorithm: None, check: None }
    }

    /// Whether agents must do anything about it.
    pub fn asks(&self) -> bool {
        let Self { own, retry_budget, ports, algorithm, check } = self;
        let asked = own.asks() || ports.values().any(Settable::asks);
        asked || retry_budget.is_some() || algorithm.is_some() || check.is_some()
    }

    /// The policy of all endpoints.
    pub fn settled(&self) -> Settled {
        let all = self.whole(&self.own);
        let ports = self.ports.iter().map(|(port, settings)| (*port, self.whole(settings)));
        Settled { ports: ports.filter(|(_, policy)| *policy != all).collect(), all }
    }

    /// The policy of a subset, which takes over from this one what it does not say itself.
    pub fn of_subset(&self, subset: &SubsetParts) -> Subset {
        let over = &subset.policy;
        let base = Self {
            retry_budget: over.retry_budget.clone().or_else(|| self.retry_budget.clone()),
            algorithm: self.algorithm.clone(),
            check: self.check.clone(),
            ..Self::default()
        };
        let all = base.whole(&self.own.overlaid(&over.own));
        let numbers: BTreeSet<u16> = self.ports.keys().chain(over.ports.keys()).copied().collect();
        let ports = numbers.into_iter().map(|port| {
            let settings = match over.ports.get(&port) {
                Some(settings) => settings.clone(),
                None => self.ports.get(&port).unwrap_or(&self.own).overlaid(&over.own),
            };
            (port, base.whole(&settings))
        });
        Subset { labels: subset.labels.clone(), ports: ports.filter(|(_, policy)| *policy != all).collect(), all }
    }

    fn whole(&self, settings: &Settable) -> TrafficPolicy {
        let Settable { balance, pool, outlier, tls } = settings.clone();
        let Balance { algorithm, locality, warmup } = balance.unwrap_or_default();
        let algorithm = algorithm.or_else(|| self.algorithm.clone()).unwrap_or_default();
        TrafficPolicy {
            balancing: Balancing { algorithm, locality, warmup },
            pool: pool.unwrap_or_default(),
            outlier,
            tls: tls.and_then(Tls::upstream),
            retry_budget: self.retry_budget.clone(),
            check: self.check.clone(),
        }
    }

    /// Whether it says TLS for some port that the mesh does not speak anyway.
    #[cfg(test)]
    pub fn has_tls(&self) -> bool {
        [&self.own].into_iter().chain(self.ports.values()).any(|settings| {
            let tls = settings.tls.clone().and_then(Tls::upstream);
            tls.is_some()
        })
    }
}

impl Settable {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            balance: fields.within("loadBalancer").map(balancing::balance),
            pool: fields.within("connectionPool").map(pool::pool),
            outlier: fields.within("outlierDetection").map(outlier::outlier),
            tls: fields.value("tls").map(|value| tls::tls(fields, value)),
        }
    }

    fn overlaid(&self, over: &Self) -> Self {
        Self {
            balance: over.balance.clone().or_else(|| self.balance.clone()),
            pool: over.pool.clone().or_else(|| self.pool.clone()),
            outlier: over.outlier.clone().or_else(|| self.outlier.clone()),
            tls: over.tls.clone().or_else(|| self.tls.clone()),
        }
    }

    fn asks(&self) -> bool {
        let Self { balance, pool, outlier, tls } = self;
        let balance = balance.as_ref().is_some_and(|balance| *balance != Balance::default());
        let pool = pool.as_ref().is_some_and(|pool| *pool != ConnectionPool::default());
        balance || pool || outlier.is_some() || tls.clone().and_then(Tls::upstream).is_some()
    }
}

/// A fifth of all requests and three at the same time, where nobody says otherwise.
fn retry_budget(mut fields: Fields<'_>) -> RetryBudget {
    let percent = fields.percent("percent").unwrap_or(mesh_common::model::traffic::Percent(200_000));
    let min_concurrency = fields.number("minRetryConcurrency", 0..=u32::MAX).unwrap_or(3);
    fields.end();
    RetryBudget { percent, min_concurrency }
}
