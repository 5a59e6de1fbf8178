//! What TCP counts of a connection: the part of `struct tcp_info` (include/uapi/linux/tcp.h) that is of use here. The
//! struct has grown at its end with the kernel, so that each field is read by itself.

use std::time::Duration;

/// Offsets in `struct tcp_info`, in bytes.
const RTT: usize = 68;
const TOTAL_RETRANS: usize = 100;
const BYTES_ACKED: usize = 120;
const BYTES_RECEIVED: usize = 128;

/// Counts of the connection so far; what the kernel is too old to tell is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Bytes that the peer has acknowledged, its SYN's and FIN's acknowledgements among them (one each).
    pub bytes_acked: u64,
    /// Bytes that arrived in order, the peer's FIN among them (one).
    pub bytes_received: u64,
    /// Smoothed; zero before the first measurement.
    pub rtt: Duration,
    /// Segments that were sent again.
    pub retransmits: u32,
}

impl Info {
    /// Of what the attribute INET_DIAG_INFO holds.
    pub(super) fn read(info: &[u8]) -> Self {
        let short = |at| number(info, at).map_or(0, u32::from_ne_bytes);
        let long = |at| number(info, at).map_or(0, u64::from_ne_bytes);
        Self {
            bytes_acked: long(BYTES_ACKED),
            bytes_received: long(BYTES_RECEIVED),
            rtt: Duration::from_micros(short(RTT).into()),
            retransmits: short(TOTAL_RETRANS),
        }
    }
}

fn number<const N: usize>(info: &[u8], at: usize) -> Option<[u8; N]> {
    info.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_kernel_tells_less() {
        let mut info = vec![0; 240];
        info[RTT..RTT + 4].copy_from_slice(&1500_u32.to_ne_bytes());
        info[TOTAL_RETRANS..TOTAL_RETRANS + 4].copy_from_slice(&3_u32.to_ne_bytes());
        info[BYTES_ACKED..BYTES_ACKED + 8].copy_from_slice(&(1_u64 << 40).to_ne_bytes());
        info[BYTES_RECEIVED..BYTES_RECEIVED + 8].copy_from_slice(&7_u64.to_ne_bytes());
        let rtt = Duration::from_micros(1500);
        let all = Info { bytes_acked: 1 << 40, bytes_received: 7, rtt, retransmits: 3 };
        assert_eq!(Info::read(&info), all);
        // Linux 3.15 ended before the bytes; half a field is none.
        assert_eq!(Info::read(&info[..BYTES_ACKED + 4]), Info { bytes_acked: 0, bytes_received: 0, ..all });
        assert_eq!(Info::read(&[]), Info::default());
    }
}
