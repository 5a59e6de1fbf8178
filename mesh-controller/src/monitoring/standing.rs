//! What is not counted but stands: it is looked at when somebody reads the metrics.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use metrics::gauge;
use tokio::sync::watch;

use crate::{
    ca::Material,
    index::World,
    leader::Leading,
    publish::Published,
    status::{Extent, Problem},
};

/// Kinds with problems of which is told each; those beyond are `other`.
const MOST_KINDS: usize = 64;

type Look = Box<dyn FnMut() + Send>;

/// Where to look. Clones are the same.
#[derive(Clone, Default)]
pub struct Standing(Arc<Mutex<Vec<Look>>>);

impl std::fmt::Debug for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Standing").finish_non_exhaustive()
    }
}

impl Standing {
    /// Looks everywhere.
    pub fn look(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter_mut().for_each(|look| look());
    }

    fn add(&self, look: impl FnMut() + Send + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(look));
    }

    pub fn leads(&self, leading: Leading) {
        self.add(move || gauge!("mesh_controller_leader").set(f64::from(leading.is_leading())));
    }

    pub fn signs(&self, material: watch::Receiver<Arc<Material>>) {
        self.add(move || expiry(&material.borrow(), SystemTime::now()));
    }

    pub fn serves(&self, published: watch::Receiver<Arc<Published>>) {
        let mut told = BTreeMap::new();
        self.add(move || {
            let now = published.borrow().clone();
            resources(&now.world);
            problems(&now.world.problems, &mut told);
        });
    }
}

fn expiry(material: &Material, now: SystemTime) {
    let since_1970 = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let (chain, root, now) = (since_1970(material.not_after), since_1970(material.last_root()), since_1970(now));
    gauge!("mesh_controller_ca_expiry_seconds").set(chain - now);
    gauge!("mesh_controller_root_expiry_seconds").set(root - now);
    gauge!("citadel_server_cert_chain_expiry_timestamp").set(chain);
    gauge!("citadel_server_cert_chain_expiry_seconds").set(chain - now);
    gauge!("citadel_server_root_cert_expiry_timestamp").set(root);
    gauge!("citadel_server_root_cert_expiry_seconds").set(root - now);
}

fn resources(world: &World) {
    let pods = world.local_pods.values().map(BTreeMap::len).sum::<usize>();
    let counts = [
        ("workload", world.workloads.len()),
        ("service", world.services.len()),
        ("policy", world.policies.len()),
        ("traffic", world.traffic.len()),
        ("local_pod", pods),
    ];
    for (kind, count) in counts {
        gauge!("mesh_controller_resources", "kind" => kind).set(count as f64);
    }
    gauge!("pilot_services").set(world.services.len() as f64);
    let routes = world.written.keys().filter(|key| key.kind == "VirtualService").count();
    gauge!("pilot_virt_services").set(routes as f64);
}

/// `told`: what was told before; what is no more is zero.
fn problems(problems: &[Problem], told: &mut BTreeMap<(String, &'static str), usize>) {
    told.values_mut().for_each(|count| *count = 0);
    for problem in problems {
        let extent = match problem.extent {
            Extent::Note => "note",
            Extent::Part => "part",
            Extent::Whole => "whole",
            Extent::Conflict => "conflict",
        };
        let key = (kind(problem).to_owned(), extent);
        let key = if told.len() < MOST_KINDS || told.contains_key(&key) { key } else { ("other".to_owned(), extent) };
        *told.entry(key).or_default() += 1;
    }
    for ((kind, extent), count) in told {
        gauge!("mesh_controller_problems", "kind" => kind.clone(), "extent" => *extent).set(*count as f64);
    }
}

/// Of the object; `File` where a whole file cannot be read.
fn kind(problem: &Problem) -> &str {
    let word = problem.object.split(' ').next().unwrap_or_default();
    match word.len() {
        1..=63 if word.bytes().all(|byte| byte.is_ascii_alphanumeric()) => word,
        _ => "File",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitoring::figures;

    fn problem(object: &str, extent: Extent) -> Problem {
        Problem { object: object.to_owned(), extent, ..Problem::of_file("a.yaml", "why") }
    }

    #[test]
    fn problems_are_told_by_kind_and_go_to_zero() {
        let recorder = figures::recorder().unwrap().build_recorder();
        let handle = recorder.handle();
        let has = |line: &str| {
            let text = handle.render();
            assert!(text.lines().any(|told| told == line), "no {line} in:\n{text}");
        };
        metrics::with_local_recorder(&recorder, || {
            let mut told = BTreeMap::new();
            let all = [
                problem("Pod shop/cart", Extent::Part),
                problem("Pod shop/web", Extent::Part),
                problem("VirtualService shop/web", Extent::Conflict),
                problem("", Extent::Part),
                problem("a\"b\n x", Extent::Whole),
            ];
            problems(&all, &mut told);
            has("mesh_controller_problems{kind=\"Pod\",extent=\"part\"} 2");
            has("mesh_controller_problems{kind=\"VirtualService\",extent=\"conflict\"} 1");
            has("mesh_controller_problems{kind=\"File\",extent=\"part\"} 1");
            has("mesh_controller_problems{kind=\"File\",extent=\"whole\"} 1");
            problems(&all[..1], &mut told);
            has("mesh_controller_problems{kind=\"Pod\",extent=\"part\"} 1");
            has("mesh_controller_problems{kind=\"VirtualService\",extent=\"conflict\"} 0");
            let many = (0..500).map(|n| problem(&format!("Kind{n} x"), Extent::Part)).collect::<Vec<_>>();
            problems(&many, &mut told);
            assert!(told.len() <= MOST_KINDS + 4, "{}", told.len());
        });
    }
}
