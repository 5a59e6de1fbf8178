//! The policies that decide on connections to a workload, as one thing that is made once and asked often.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak, mpsc},
    thread,
};

use http::HeaderName;
use mesh_common::{
    authz,
    model::{Connection, Denied, Observation, Passing, Permit, Policy, PolicyName, authorize, observe},
};

/// They are the same for every workload of a namespace that names the same ones. The same in memory means the same.
#[derive(Debug, Default)]
pub struct Applicable {
    /// Mesh-wide ones by name, those of the namespace by name, then those that the workload names, in its order.
    /// None stands twice.
    pub policies: Arc<[Arc<Policy>]>,
    /// The first policy that the workload names and nobody has, or that exists and cannot be read: it must deny.
    pub unknown: Option<PolicyName>,
    /// Some policy asks for what only a request can tell.
    pub asks: bool,
    /// Some policy asks for the name in TLS of the application's own.
    pub asks_server_name: bool,
    /// Some policy asks for paths.
    pub asks_paths: bool,
    /// Some policy asks for methods.
    pub asks_methods: bool,
    /// Some policy asks for hosts.
    pub asks_hosts: bool,
    /// Those that policies ask for.
    pub headers: HashSet<HeaderName>,
    /// Of many rules, an index; it takes about a second for 100,000 rules, so that whoever asks does not wait for it.
    compiled: OnceLock<authz::Rules>,
}

/// So many rules are asked one by one in the time that an index takes.
const FEW: usize = 32;

impl Applicable {
    pub fn new(policies: Arc<[Arc<Policy>]>, unknown: Option<PolicyName>) -> Self {
        let rules = policies.iter().flat_map(|policy| &policy.rules);
        let matches = rules.flat_map(|rule| &rule.clauses).flat_map(|clause| &clause.matches);
        let conditions = || matches.clone().filter_map(|matched| matched.http.as_deref());
        let names_header = |names: &[&str]| {
            conditions().flat_map(|http| &http.headers).any(|condition| names.contains(&condition.name.as_str()))
        };
        let names = conditions().flat_map(|http| &http.headers).map(|condition| HeaderName::try_from(&condition.name));
        Self {
            asks: policies.iter().any(|policy| policy.asks()),
            asks_server_name: policies.iter().any(|policy| policy.asks_server_name()),
            asks_paths: conditions().any(|http| !http.paths.is_empty() || !http.not_paths.is_empty()),
            asks_methods: names_header(&[":method"])
                || conditions().any(|http| !http.methods.is_empty() || !http.not_methods.is_empty()),
            asks_hosts: names_header(&["host", ":authority"])
                || conditions().any(|http| !http.hosts.is_empty() || !http.not_hosts.is_empty()),
            headers: names.flatten().collect(),
            compiled: OnceLock::new(),
            policies,
            unknown,
        }
    }

    /// The same policies, in memory.
    pub fn is_like(&self, other: &Self) -> bool {
        self.unknown == other.unknown
            && self.policies.len() == other.policies.len()
            && self.policies.iter().zip(&*other.policies).all(|(one, other)| Arc::ptr_eq(one, other))
    }

    /// As [`mesh_common::model::authorize`].
    pub fn authorize(&self, connection: &Connection, passing: &Passing<'_>) -> Result<Permit, Denied> {
        match self.compiled.get() {
            Some(rules) => rules.decide(self.unknown.as_ref(), connection, passing),
            None => authorize(self.each(), self.unknown.as_ref(), connection, passing),
        }
    }

    /// What those say that are not enforced, see [`mesh_common::model::observe`].
    pub fn observe(
        &self,
        outcome: &Result<Permit, Denied>,
        connection: &Connection,
        passing: &Passing<'_>,
    ) -> Vec<Observation> {
        match self.compiled.get() {
            Some(rules) => rules.observe(outcome, connection, passing),
            None => observe(self.each(), outcome, connection, passing),
        }
    }

    /// They are worth an index, and there is none yet.
    pub fn is_slow(&self) -> bool {
        self.compiled.get().is_none() && self.policies.iter().map(|policy| policy.rules.len()).sum::<usize>() > FEW
    }

    /// Makes it. Who asks meanwhile gets the same answers, later.
    pub fn compile(&self) {
        self.compiled.get_or_init(|| authz::Rules::new(&self.policies));
    }

    fn each(&self) -> impl Iterator<Item = &Policy> + Clone {
        self.policies.iter().map(|policy| &**policy)
    }
}

/// Compiles beside those who ask, one after the other. Its thread begins with the first.
#[derive(Debug, Default)]
pub(super) struct Compiler(Mutex<Option<mpsc::Sender<Weak<Applicable>>>>);

impl Compiler {
    /// What nobody holds any more when its turn comes is left out.
    pub fn compile(&self, applicable: &Arc<Applicable>) {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.is_none() {
            let (sender, receiver) = mpsc::channel::<Weak<Applicable>>();
            let work = move || receiver.iter().filter_map(|turn| turn.upgrade()).for_each(|turn| turn.compile());
            match thread::Builder::new().name("policies".to_owned()).spawn(work) {
                Ok(_) => *turns = Some(sender),
                Err(error) => tracing::warn!(%error, "policies are not compiled: each rule is asked"),
            }
        }
        if let Some(turns) = &*turns {
            // It ends with this sender only.
            let _ = turns.send(Arc::downgrade(applicable));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use mesh_common::model::{Action, Clause, Match, Rule, Scope, StringMatch};

    use super::*;

    /// An ALLOW policy of one rule for each of these accounts.
    fn policy(name: &str, accounts: std::ops::Range<usize>) -> Arc<Policy> {
        let from = |account| Match {
            principals: vec![StringMatch::Exact(format!("cluster.local/ns/shop/sa/a{account}"))],
            ..Match::default()
        };
        Arc::new(Policy {
            name: PolicyName { namespace: "shop".into(), name: name.into() },
            scope: Scope::Namespace,
            action: Action::Allow,
            rules: accounts.map(|one| Rule { clauses: vec![Clause { matches: vec![from(one)] }] }).collect(),
            dry_run: false,
        })
    }

    fn from(account: usize) -> Connection {
        Connection {
            source_identity: Some(format!("spiffe://cluster.local/ns/shop/sa/a{account}").parse().unwrap()),
            source_ip: [10, 0, 0, 1].into(),
            destination: ([10, 0, 0, 2], 80).into(),
        }
    }

    #[test]
    fn many_rules_are_compiled_meanwhile_and_say_the_same() {
        let few = Arc::new(Applicable::new([policy("few", 0..FEW)].into(), None));
        assert!(!few.is_slow());
        let many = Arc::new(Applicable::new([policy("few", 0..FEW), policy("more", FEW..FEW + 1)].into(), None));
        assert!(many.is_slow());
        let ask = |account| many.authorize(&from(account), &Passing::BYTES);
        let before: Vec<_> = (0..=FEW + 1).map(ask).collect();
        assert!(before[FEW].is_ok() && before[FEW + 1].is_err());

        let compiler = Compiler::default();
        compiler.compile(&Arc::new(Applicable::new([policy("gone", 0..1)].into(), None)));
        compiler.compile(&many);
        let patience = Instant::now() + Duration::from_secs(20);
        while many.is_slow() {
            assert!(Instant::now() < patience, "it is not compiled");
            thread::yield_now();
        }
        assert_eq!((0..=FEW + 1).map(ask).collect::<Vec<_>>(), before);
    }
}
