//! What a TCP socket says of itself when it is over, and what of it was payload.

use crate::abi::ending;

// enum of include/net/tcp_states.h
const SYN_SENT: u32 = 2;
const SYN_RECV: u32 = 3;
const FIN_WAIT2: u32 = 5;
const CLOSE_WAIT: u32 = 8;
const LAST_ACK: u32 = 9;
const CLOSING: u32 = 11;

/// A socket at its last change of state, to TCP_CLOSE.
#[derive(Clone, Copy, Debug)]
pub struct Last {
    /// The state before.
    pub state: u32,
    /// It dialled: the peer acknowledged its SYN, which counts as a byte (`tcp_rcv_synsent_state_process`; for one that
    /// was accepted `snd_una` begins behind it).
    pub dialled: bool,
    /// The peer's FIN was seen after its own.
    pub fin_seen: bool,
    /// A segment without payload came after its own FIN was acknowledged (FIN_WAIT2).
    pub heard_since: bool,
    /// `tcp_sock::bytes_acked` and `bytes_received` (RFC 4898), which count SYN and FIN.
    pub acked: u64,
    pub received: u64,
    /// Everything that was sent is acknowledged (`snd_una == snd_nxt`).
    pub all_acked: bool,
}

/// How it ended, an [`mod@ending`], and the payload bytes that were acknowledged and received. Exact for what was
/// established and ended in order; of a reset, what the peer acknowledged until then.
#[inline(always)]
pub fn ending(last: &Last) -> (u32, u64, u64) {
    if last.state == SYN_SENT || last.state == SYN_RECV {
        return (ending::FAILED, 0, 0);
    }
    let own_fin = match last.state {
        // From here a socket that nobody holds any more goes at once (tcp_rcv_state_process), with the peer's FIN or
        // without. If something else came that ended it, that was a reset.
        FIN_WAIT2 => true,
        // The last acknowledgement, or a reset in its place.
        LAST_ACK | CLOSING => last.all_acked,
        _ => false,
    };
    let peer_fin = matches!(last.state, CLOSE_WAIT | LAST_ACK | CLOSING) || last.fin_seen;
    let reset = !own_fin || (last.state == FIN_WAIT2 && !last.fin_seen && last.heard_since);
    let how = if reset { ending::RESET } else { ending::IN_ORDER };
    let sent = last.acked.saturating_sub(u64::from(last.dialled)).saturating_sub(u64::from(own_fin));
    (how, sent, last.received.saturating_sub(u64::from(peer_fin)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ESTABLISHED: u32 = 1;
    const FIN_WAIT1: u32 = 4;

    /// 1,000 bytes went, 70 came.
    fn last(state: u32, acked: u64, received: u64) -> Last {
        Last { state, dialled: true, fin_seen: false, heard_since: false, acked, received, all_acked: true }
    }

    #[test]
    fn syn_and_fin_are_no_payload() {
        let order = (ending::IN_ORDER, 1000, 70);
        // It closed first: the peer's FIN came later, together with the last acknowledgement, or never to this socket.
        assert_eq!(ending(&Last { fin_seen: true, heard_since: true, ..last(FIN_WAIT2, 1002, 71) }), order);
        assert_eq!(ending(&last(FIN_WAIT2, 1002, 70)), order);
        // Both at once, and the peer first
        assert_eq!(ending(&last(CLOSING, 1002, 71)), order);
        assert_eq!(ending(&last(LAST_ACK, 1002, 71)), order);
        // It accepted.
        assert_eq!(ending(&Last { dialled: false, ..last(LAST_ACK, 1001, 71) }), order);
    }

    #[test]
    fn a_reset_counts_what_was_acknowledged() {
        let reset = (ending::RESET, 1000, 70);
        assert_eq!(ending(&last(ESTABLISHED, 1001, 70)), reset);
        assert_eq!(ending(&last(FIN_WAIT1, 1001, 70)), reset);
        assert_eq!(ending(&Last { heard_since: true, ..last(FIN_WAIT2, 1002, 70) }), reset);
        assert_eq!(ending(&last(CLOSE_WAIT, 1001, 71)), reset);
        assert_eq!(ending(&Last { all_acked: false, ..last(LAST_ACK, 1001, 71) }), reset);
    }

    #[test]
    fn what_was_never_established_moved_nothing() {
        assert_eq!(ending(&last(SYN_SENT, 0, 0)), (ending::FAILED, 0, 0));
        assert_eq!(ending(&last(SYN_RECV, 0, 0)), (ending::FAILED, 0, 0));
    }
}
