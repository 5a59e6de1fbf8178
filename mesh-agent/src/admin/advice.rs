//! That every code of an agent has its sentence in the table of mesh-common.

use mesh_common::{
    abi::Counter,
    model::{Reason, advice},
};

use crate::{telemetry::reason, tunnel};

#[test]
fn every_code_has_its_sentence() {
    // What the kernel counts without refusing anybody.
    let fine = [
        Counter::ConnectAgent,
        Counter::ConnectNotEnrolled,
        Counter::ConnectOwnPod,
        Counter::ConnectNotTcp,
        Counter::ConnectRedirected,
        Counter::ConnectObserved,
        Counter::ObservedOpened,
        Counter::ObservedAccepted,
        Counter::PendingPublished,
        Counter::PendingTaken,
        Counter::Attested,
        Counter::SteeredAgent,
        Counter::SteeredOwnPod,
        Counter::SteeredAttested,
        Counter::SteeredNotTcp,
        Counter::SteeredProbe,
        Counter::ListenerClosed,
        Counter::ConnectDirect,
        Counter::ConnectObserved,
        Counter::DirectOpened,
        Counter::ObservedOpened,
        // Nothing is refused for it.
        Counter::SteeredLate,
        Counter::UdpUnnamedBytes,
        Counter::UdpGroup,
        Counter::UdpUnread,
    ];
    let kernel = Counter::ALL.iter().filter(|counter| !fine.contains(counter)).map(|counter| counter.name());
    let codes = reason::ALL.iter().copied().chain(Reason::ALL.map(Reason::code)).chain(kernel);
    for code in codes.chain(tunnel::CODES.iter().copied()) {
        let sentence = advice(code).unwrap_or_else(|| panic!("{code} has no sentence in the table of mesh-common"));
        assert!(sentence.ends_with(['.', '?']) && !sentence.contains("  "), "{code}: {sentence}");
    }
    assert_eq!(advice("NO_SUCH_CODE"), None);
}
