//! Random configurations: what the kernel does by what it was told is what the configuration says, as
//! `Snapshot::decide` and a slow reading of it say; and nothing is done by what does not hold any more.

#[path = "../../../tests/scenes/dice.rs"]
mod dice;
mod generate;
#[path = "../../../mesh-common/tests/authorize/reference.rs"]
mod reference;
mod slow;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use dice::Dice;
use generate::{NAMESPACES, PORTS, WORKLOADS};
use mesh_common::{
    abi::{
        Affinity, AffinityKey, Backend, BackendKey, Counter, Ip, PodEntry, Service, SockAddr, Verdict, VerdictKey,
        action,
    },
    model::{Connection, Passed},
    verdict::{Connect, Lives, Outcome, Permit, Routes, TCP, connect},
};
use slow::{Act, Answer, Mesh};

use super::judge::{Judged, Pair, is_alike, judge};
use crate::state::{Delta, Kind, Object, Snapshot, Store};

const HBONE: u16 = 15008;
/// Configurations of a seed, one made of another, and connections in each: 100,000 in all.
const SEEDS: u64 = 500;
const CHANGES: u64 = 5;
const CONNECTIONS: u64 = 40;

const SOURCE: u32 = 3;
const TARGET: u32 = 4;
const NOW: u64 = 1 << 40;

/// What is wrong with what the kernel was told, or with the dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    None,
    /// Must go to the agent, whatever was decided.
    Lease,
    SourceEpoch,
    TargetEpoch,
    TargetGone,
    Generation,
    GenerationUnknown,
    Torn,
    OfAnother,
    NotTold,
    OtherService,
    /// Cannot be direct, and may be denied.
    Full,
    ForeignAddress,
}

const FAULTS: [Fault; 12] = [
    Fault::Lease,
    Fault::SourceEpoch,
    Fault::TargetEpoch,
    Fault::TargetGone,
    Fault::Generation,
    Fault::GenerationUnknown,
    Fault::Torn,
    Fault::OfAnother,
    Fault::NotTold,
    Fault::OtherService,
    Fault::Full,
    Fault::ForeignAddress,
];

/// The kernel's tables.
struct Tables {
    key: VerdictKey,
    verdict: Option<Verdict>,
    service: Option<SockAddr>,
    backend: Option<Backend>,
    epoch: Option<u32>,
    generation: Option<u32>,
    full: bool,
}

impl Lives for Tables {
    fn epoch(&self, pod: u32) -> Option<u32> {
        self.epoch.filter(|_| pod == TARGET)
    }
    fn generation(&self, pod: u32) -> Option<u32> {
        self.generation.filter(|_| pod == TARGET)
    }
}

impl Routes for Tables {
    fn service(&self, at: &SockAddr) -> Option<Service> {
        (self.service == Some(*at)).then_some(Service { id: 8, count: 3, affinity: 0 })
    }
    fn backend(&self, key: &BackendKey) -> Option<Backend> {
        self.backend.filter(|_| *key == BackendKey { id: 8, slot: 1 })
    }
    fn kept(&self, _: &AffinityKey, _: impl FnOnce(&Affinity) -> bool) -> Option<Affinity> {
        None
    }
    fn keep(&self, _: &AffinityKey, _: &Affinity) {}
    fn verdict(&self, key: &VerdictKey) -> Option<Verdict> {
        self.verdict.filter(|_| *key == self.key)
    }
    fn has_room(&self) -> bool {
        !self.full
    }
    fn now(&self) -> u64 {
        NOW
    }
    fn random(&self) -> u32 {
        7
    }
}

/// What becomes of a connect by the judgement, with this fault.
fn dial(dice: &mut Dice, pair: &Pair, judged: &Judged, fault: Fault) -> Outcome {
    let destination: SockAddr = pair.destination.into();
    let key = VerdictKey { source: SOURCE, destination };
    let own: SockAddr = SocketAddr::new(pair.source_ip, 0).into();
    let (ip4, ip6) = if pair.source_ip.is_ipv4() { (own.ip, Ip::NONE) } else { (Ip::NONE, own.ip) };
    let (epoch, target_epoch, generation) = (1 + dice.roll(9) as u32, 1 + dice.roll(9) as u32, 1 + dice.roll(9) as u32);
    let pod = PodEntry { ip4, ip6, index: SOURCE, epoch, observed: 0 };
    let mut verdict = Verdict {
        expires: NOW + 1 + dice.roll(1 << 36),
        used: dice.roll(NOW),
        action: judged.action,
        source_epoch: epoch,
        target: TARGET,
        target_epoch,
        generation,
        decision: 1 + dice.roll(99) as u32,
        sum: 0,
        zero: 0,
    };
    match fault {
        Fault::Lease => verdict.expires = NOW - dice.roll(3),
        Fault::SourceEpoch => verdict.source_epoch = epoch - 1,
        Fault::TargetEpoch => verdict.target_epoch = target_epoch + 1,
        Fault::Generation => verdict.generation = generation - 1,
        _ => {}
    }
    let mut sealed = verdict.sealed(&key);
    match fault {
        Fault::OfAnother => sealed = verdict.sealed(&VerdictKey { source: SOURCE + 1, ..key }),
        // Read while it was exchanged: one word is of another value.
        Fault::Torn => match dice.roll(4) {
            0 => sealed.action = if sealed.action == action::DIRECT { action::DENY } else { action::DIRECT },
            1 => sealed.expires += 1 << dice.roll(30),
            2 => sealed.decision += 1,
            _ => sealed.sum ^= 1 << dice.roll(32),
        },
        _ => {}
    }
    let by_service = fault == Fault::OtherService || dice.chance(30);
    let virtual_ip = if pair.source_ip.is_ipv4() { "10.96.0.1:80" } else { "[fd00:96::1]:80" };
    let service: SockAddr = virtual_ip.parse::<SocketAddr>().expect("an address").into();
    let answers = if fault == Fault::OtherService { SockAddr { port: 81, ..service } } else { service };
    let tables = Tables {
        key,
        verdict: (fault != Fault::NotTold).then_some(sealed),
        service: by_service.then_some(service),
        backend: Some(Backend { address: destination, service: answers }),
        epoch: (fault != Fault::TargetGone).then_some(target_epoch),
        generation: (fault != Fault::GenerationUnknown).then_some(generation),
        full: fault == Fault::Full,
    };
    let foreign: SockAddr = "192.0.2.1:0".parse::<SocketAddr>().expect("an address").into();
    let facts = Connect {
        protocol: TCP,
        destination: if by_service { service } else { destination },
        by_agent: false,
        pod: Some(&pod),
        bound: match fault {
            Fault::ForeignAddress => foreign.ip,
            _ => *dice.pick(&[Ip::NONE, Ip::v4(0), own.ip]),
        },
        bound_device: 0,
        outbound_port: 15001,
        hbone_port: HBONE.into(),
    };
    let outcome = connect(&facts, &tables, || panic!("the pod is known"));
    // Who it is about is what was decided.
    match outcome {
        Outcome::Direct(to, permit) => {
            let Verdict { target, target_epoch, generation, decision, .. } = verdict;
            assert_eq!((to, permit), (destination, Permit { target, target_epoch, generation, decision }));
        }
        Outcome::Denied(counter, at, decision) => {
            assert_eq!((counter, at, decision), (Counter::ConnectDenied, destination, verdict.decision));
        }
        _ => {}
    }
    outcome
}

fn act(outcome: &Outcome) -> Act {
    match outcome {
        Outcome::Direct(..) => Act::Direct,
        Outcome::Denied(..) => Act::Deny,
        Outcome::Redirect(..) => Act::Redirect,
        other => panic!("{other:?}"),
    }
}

fn expected(answer: &Answer, fault: Fault) -> Act {
    match (fault, answer.act) {
        (Fault::None, act) | (Fault::Full | Fault::ForeignAddress, act @ Act::Deny) => act,
        _ => Act::Redirect,
    }
}

/// A first configuration, or a change of one.
fn change(dice: &mut Dice, mesh: &Mesh, first: bool) -> Delta {
    let mut objects = Vec::new();
    for number in 0..WORKLOADS {
        if dice.chance(if first { 95 } else { 8 }) {
            let workload = dice.workload(number);
            objects.push(Object::LocalPod(dice.pod(&workload)));
            objects.push(Object::Workload(workload));
        }
    }
    // By itself: another PeerAuthentication is behind what is asked for, or the pod's label changed.
    let alone = mesh.workloads.values().filter(|_| !first && dice.chance(10)).collect::<Vec<_>>();
    objects.extend(alone.into_iter().map(|workload| Object::LocalPod(dice.pod(workload))));
    let most = if first { 4 } else { 2 };
    objects.extend((0..dice.roll(most)).map(|_| Object::Policy(dice.policy())));
    if dice.chance(if first { 40 } else { 5 }) {
        objects.extend(NAMESPACES.map(|namespace| Object::Accounts(dice.accounts(namespace))));
    }
    let mut removals = Vec::new();
    if !first {
        removals.extend(mesh.policies.keys().filter(|_| dice.chance(25)).map(|name| (Kind::Policy, name.to_string())));
        removals.extend(mesh.unreadable.keys().map(|name| (Kind::Policy, name.to_string())));
        removals.extend(mesh.workloads.keys().filter(|_| dice.chance(2)).map(|uid| (Kind::Address, uid.clone())));
        removals.extend(mesh.accounts.keys().filter(|_| dice.chance(3)).map(|name| (Kind::Accounts, name.clone())));
    }
    let unreadable = if dice.chance(6) { vec![dice.unreadable()] } else { Vec::new() };
    let upserts = objects.into_iter().map(|object| (object.resource_name(), object)).collect();
    Delta { removals, upserts, unreadable, policies_answered: !first || dice.chance(90), pods_confirmed: true }
}

/// Two workloads, or one that the configuration does not have (any more).
fn pair(dice: &mut Dice, mesh: &Mesh) -> Pair {
    let (from, to) = (dice.roll(WORKLOADS), dice.roll(WORKLOADS));
    let family = dice.roll(2) as usize;
    let addresses = |number: u64| match mesh.workloads.get(&format!("w{number}")) {
        Some(workload) => workload.addresses.clone(),
        None => generate::addresses(1 + number),
    };
    // A redirected pod never dials itself here: the verdict on that is another one.
    let to = if addresses(from) == addresses(to) { WORKLOADS } else { to };
    let identity = mesh.workloads.get(&format!("w{from}")).map(|workload| workload.identity.clone());
    let gone = || mesh.workloads.values().next().map(|workload| workload.identity.clone());
    Pair {
        source: format!("w{from}"),
        target: format!("w{to}"),
        // One that left the mesh proves nothing; one that is gone was somebody.
        identity: if dice.chance(8) { None } else { identity.or_else(gone) },
        source_ip: addresses(from)[family],
        destination: SocketAddr::new(addresses(to)[family], *dice.pick(&PORTS)),
    }
}

/// The judgement, held against both readings.
fn judged(snapshot: &Snapshot, mesh: &Mesh, pair: &Pair) -> (Judged, Answer) {
    let judged = judge(snapshot, pair, HBONE);
    let answer = mesh.answer(pair);
    let wanted = match answer.act {
        Act::Direct => action::DIRECT,
        Act::Deny => action::DENY,
        Act::Redirect => action::REDIRECT,
    };
    assert_eq!((judged.action, judged.ends), (wanted, answer.ends), "{pair:?}: {answer:?}, {judged:?}");
    if let Some(outcome) = &answer.outcome {
        let Pair { target, identity, source_ip, destination, .. } = pair;
        let asked = Connection { source_identity: identity.clone(), source_ip: *source_ip, destination: *destination };
        let agent = snapshot.decide(snapshot.workload(target).expect("it decides"), &asked, Passed::BYTES).outcome;
        assert_eq!(reference::Outcome::of(&agent), *outcome, "{pair:?}");
        assert_eq!(judged.decision.outcome, agent, "{pair:?}");
    }
    (judged, answer)
}

/// How often each fault met each answer of the configuration, and how often an earlier judgement stood.
type Seen = BTreeMap<String, u32>;

type Judgements = Vec<(Pair, Judged)>;

fn play(seed: u64, seen: &mut Seen) {
    let mut dice = Dice(seed);
    let (store, mut mesh) = (Store::default(), Mesh::default());
    let mut before: Option<(Arc<Snapshot>, Judgements)> = None;
    for round in 0..CHANGES {
        let delta = change(&mut dice, &mesh, round == 0);
        mesh.apply(&delta);
        let snapshot = store.apply(delta).expect("accepted");
        if let Some((earlier, judgements)) = &before {
            for (pair, then) in judgements {
                if is_alike(&snapshot, earlier, pair) {
                    *seen.entry("stood".to_owned()).or_default() += 1;
                    let now = judge(&snapshot, pair, HBONE);
                    let (was, is) = (&then.decision.outcome, &now.decision.outcome);
                    assert_eq!((then.action, then.ends, was), (now.action, now.ends, is), "left as it was: {pair:?}");
                }
            }
        }
        let mut judgements = Judgements::new();
        for _ in 0..CONNECTIONS {
            let pair = pair(&mut dice, &mesh);
            let (judged, answer) = judged(&snapshot, &mesh, &pair);
            let fault = if dice.chance(50) { Fault::None } else { *dice.pick(&FAULTS) };
            let outcome = dial(&mut dice, &pair, &judged, fault);
            assert_eq!(act(&outcome), expected(&answer, fault), "{fault:?}, {pair:?}: {answer:?}, {outcome:?}");
            *seen.entry(format!("{fault:?} {:?}", answer.act)).or_default() += 1;
            judgements.push((pair, judged));
        }
        before = Some((snapshot, judgements));
    }
}

#[test]
fn the_kernel_does_what_the_configuration_says_and_nothing_by_what_is_over() {
    let mut seen = Seen::new();
    let part = |seeds: std::ops::Range<u64>| {
        let mut seen = Seen::new();
        for seed in seeds {
            let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(seed, &mut seen)));
            if let Err(why) = played {
                eprintln!("seed {seed} plays it again");
                std::panic::resume_unwind(why);
            }
        }
        seen
    };
    std::thread::scope(|scope| {
        let parts = [scope.spawn(|| part(0..SEEDS / 2)), scope.spawn(|| part(SEEDS / 2..SEEDS))];
        for part in parts {
            for (what, count) in part.join().expect("every seed agrees") {
                *seen.entry(what).or_default() += count;
            }
        }
    });
    assert_eq!(seen.iter().filter(|(what, _)| *what != "stood").map(|(_, count)| count).sum::<u32>(), 100_000);
    // Each fault met each answer, and often.
    assert_eq!(seen.len(), (FAULTS.len() + 1) * 3 + 1, "{seen:?}");
    assert!(seen.values().all(|count| *count >= 200), "{seen:?}");
}
