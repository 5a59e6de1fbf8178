//! Whoever asked waits until a pod is what it shall be: in the mesh, observed, or not to be in it by the
//! configuration's word. What is not so in time is to be asked again; nobody is let through because it takes long.

use std::os::fd::OwnedFd;

use mesh_common::model::Mode;
use tokio::time::{Duration, Instant};

use super::{Done, Key, Redirection, Registry};
use crate::{
    pods::{Answer, Netns, Refusal, Request, cgroup, table::Addresses},
    state::Snapshot,
};

/// Somebody waits for an answer.
pub(super) struct Waiting {
    key: Key,
    /// Of the namespace that it is about: another pod of the name is no answer.
    cookie: u64,
    until: Instant,
    /// It wants proof that is younger than this.
    proof: Option<std::time::SystemTime>,
    done: Done,
}

impl Registry {
    pub(super) fn join_and_wait(&mut self, request: Request, netns: OwnedFd, done: Done) {
        let (key, wait) = ((request.namespace.clone(), request.name.clone()), Duration::from_millis(request.wait_ms));
        let joined = self.join(request, netns);
        match joined {
            Ok(cookie) if !wait.is_zero() => {
                self.waiting.push(Waiting { key, cookie, until: Instant::now() + wait, proof: None, done });
            }
            // Nobody may be there to hear it.
            other => drop(done.send(other.map(|_| Answer::Done))),
        }
    }

    /// Answers once an audit has looked at the pod.
    pub(super) fn check(&mut self, request: Request, done: Done) {
        let key = (request.namespace, request.name);
        let refuse = |why: String| Err::<u64, _>(Refusal::now(why));
        let answer = match self.joined.get(&key) {
            None => refuse("the agent does not know the pod".to_owned()),
            Some(joined)
                if [&joined.container, &request.container].iter().all(|name| !name.is_empty())
                    && joined.container != request.container =>
            {
                refuse(format!("the pod's container is {}", joined.container))
            }
            Some(joined)
                if joined.given.zip(Addresses::of(&request.addresses)).is_some_and(|(given, now)| given != now) =>
            {
                refuse("its addresses are others than at ADD".to_owned())
            }
            Some(joined) => Ok(joined.netns.cookie()),
        };
        match answer {
            Ok(cookie) => {
                self.next_audit = Instant::now();
                let until = Instant::now() + Duration::from_millis(request.wait_ms);
                let proof = Some(std::time::SystemTime::now());
                self.waiting.push(Waiting { key, cookie, until, proof, done });
            }
            Err(refusal) => drop(done.send(Err(refusal))),
        }
    }

    /// Tells everybody what can be told; says when somebody's patience ends.
    pub(super) fn answer(&mut self, snapshot: &Snapshot) -> Option<Duration> {
        let now = Instant::now();
        for waiting in std::mem::take(&mut self.waiting) {
            match self.outcome(snapshot, &waiting, now) {
                // Fails only if whoever asked has gone.
                Some(outcome) => drop(waiting.done.send(outcome)),
                None => self.waiting.push(waiting),
            }
        }
        self.waiting.iter().map(|waiting| waiting.until.saturating_duration_since(now)).min()
    }

    fn outcome(&self, snapshot: &Snapshot, waiting: &Waiting, now: Instant) -> Option<Result<Answer, Refusal>> {
        let Some(joined) = self.joined.get(&waiting.key).filter(|joined| joined.netns.cookie() == waiting.cookie)
        else {
            return Some(Err(Refusal::later("the pod left meanwhile")));
        };
        let late = now >= waiting.until;
        let proven = match waiting.proof {
            // Nothing is proven of what nobody redirects.
            Some(_) if joined.redirection == Redirection::Disabled => true,
            Some(since) => !joined.audited.broken && joined.audited.proven.is_some_and(|at| at >= since),
            None => true,
        };
        match &joined.redirection {
            Redirection::Enabled if proven => Some(Ok(Answer::Enrolled)),
            Redirection::Observed if proven => Some(Ok(Answer::Observed)),
            Redirection::Disabled => Some(Ok(Answer::Unmeshed)),
            _ if !late => None,
            Redirection::Enabled | Redirection::Observed => {
                Some(Err(Refusal::now(match joined.audited.fault.as_str() {
                    "" => "its hooks were not looked at in time",
                    fault => fault,
                })))
            }
            Redirection::Pending(why) => {
                let unknown = super::named(snapshot, &waiting.key, &joined.pod_uid).is_none();
                let outside = matches!(snapshot.namespace_mode(&waiting.key.0), Some(Mode::None | Mode::Observe));
                if unknown && outside && waiting.proof.is_none() {
                    // Without the controller's word about a pod the word about its namespace counts: pods outside the
                    // mesh must start without a controller.
                    tracing::warn!(
                        namespace = waiting.key.0,
                        pod = waiting.key.1,
                        "the configuration does not name the pod; its namespace is not in the mesh, so it starts"
                    );
                    return Some(Ok(Answer::Unmeshed));
                }
                Some(Err(Refusal::later(why.clone())))
            }
            Redirection::Failed(why) => Some(Err(Refusal::later(why.clone()))),
        }
    }

    /// Pods of other containers than these are gone. Of pods that no runtime named nothing is said.
    pub(super) fn keep(&mut self, containers: &[String]) {
        let is_gone = |container: &str| !container.is_empty() && !containers.iter().any(|name| name == container);
        let joined = self.joined.iter().filter(|(_, joined)| is_gone(&joined.container)).map(|(key, _)| key);
        let lost = self.lost.iter().filter(|(_, lost)| is_gone(&lost.entry.container)).map(|(key, _)| key);
        let gone: Vec<Key> = joined.chain(lost).cloned().collect();
        for key in gone {
            tracing::info!(namespace = key.0, pod = key.1, "the runtime has no such container any more");
            self.forget(&key);
            self.remember();
        }
    }

    /// Whose pod a runtime speaks of that says DEL. It may speak of a sandbox that another one of the same pod has
    /// followed.
    pub(super) fn meant(&self, request: &Request, netns: Option<OwnedFd>) -> Option<Key> {
        let Request { namespace, name, container, .. } = request;
        if !container.is_empty() {
            let joined = self.joined.iter().find(|(_, joined)| joined.container == *container).map(|(key, _)| key);
            let lost = || self.lost.iter().find(|(_, lost)| lost.entry.container == *container).map(|(key, _)| key);
            if let Some(key) = joined.or_else(lost) {
                return Some(key.clone());
            }
        }
        let key = (namespace.clone(), name.clone());
        let known = self.joined.get(&key).map(|joined| &joined.container);
        let known = known.or_else(|| self.lost.get(&key).map(|lost| &lost.entry.container))?;
        match (known.is_empty(), container.is_empty()) {
            (_, true) => Some(key),
            (false, false) => None,
            // It was found without a runtime's word: by its namespace, or by there being nothing of it any more.
            (true, false) => {
                let joined = self.joined.get(&key)?;
                let is_it = match netns.map(Netns::new) {
                    Some(Ok(netns)) => netns.cookie() == joined.netns.cookie(),
                    Some(Err(_)) | None => !cgroup::is_populated(&joined.cgroup),
                };
                is_it.then_some(key)
            }
        }
    }
}
