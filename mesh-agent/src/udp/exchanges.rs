//! Exchanges of datagrams that go on: a record is made of each when nothing more comes. Knows nothing of names.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use mesh_common::abi::{DatagramKey, Datagrams, role};
use tokio::time::Instant;

use crate::telemetry::{Flow, Udp};

/// That go on at a time; of what is beyond, each round is a record.
const MOST: usize = 16_384;

/// Longer than two rounds.
const MOMENT: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub struct Exchanges {
    going: HashMap<DatagramKey, Exchange>,
    most: usize,
}

#[derive(Debug)]
struct Exchange {
    /// As its record will be; its end is the last datagram's.
    flow: Flow,
    /// When somebody told of it last.
    told: Instant,
}

impl Default for Exchanges {
    fn default() -> Self {
        Self::bounded(MOST)
    }
}

/// Datagrams and bytes from the source to the destination, and back.
pub fn either_way(key: &DatagramKey, passed: &Datagrams) -> ((u64, u64), (u64, u64)) {
    let Datagrams { first: _, last: _, sent, sent_bytes, received, received_bytes } = *passed;
    match key.role {
        role::SERVER => ((received, received_bytes), (sent, sent_bytes)),
        _ => ((sent, sent_bytes), (received, received_bytes)),
    }
}

impl Exchanges {
    fn bounded(most: usize) -> Self {
        Self { going: HashMap::new(), most }
    }

    /// Somebody told of it a moment ago.
    pub fn has(&self, key: &DatagramKey, now: Instant) -> bool {
        self.going.get(key).is_some_and(|exchange| now.saturating_duration_since(exchange.told) < MOMENT)
    }

    /// Its record as it is until now.
    pub fn flow(&self, key: &DatagramKey) -> Option<&Flow> {
        self.going.get(key).map(|exchange| &exchange.flow)
    }

    /// More passed, the last of it `at`; `flow` says between whom. The record, if there is no room to wait for its end.
    pub fn passed(
        &mut self,
        key: DatagramKey,
        flow: Flow,
        passed: &Datagrams,
        at: SystemTime,
        now: Instant,
    ) -> Option<Flow> {
        let before = self.going.get(&key).map(|exchange| &exchange.flow);
        let (there, back) = either_way(&key, passed);
        let udp = before.and_then(|before| before.udp).unwrap_or_default();
        let (id, start) = before.map_or((flow.id, flow.start), |before| (before.id, before.start));
        let (sent, received) = before.map_or((0, 0), |before| (before.sent, before.received));
        let flow = Flow {
            id,
            start,
            end: at.max(start),
            udp: Some(Udp { sent: udp.sent + there.0, received: udp.received + back.0 }),
            sent: sent + there.1,
            received: received + back.1,
            ..flow
        };
        if before.is_none() && self.going.len() >= self.most {
            return Some(flow);
        }
        self.going.insert(key, Exchange { flow, told: now });
        None
    }

    /// The records of those that nobody told of for `idle`.
    pub fn over(&mut self, now: Instant, idle: Duration) -> Vec<Flow> {
        let is_over = |_: &DatagramKey, exchange: &mut Exchange| now.saturating_duration_since(exchange.told) >= idle;
        self.going.extract_if(is_over).map(|(_, exchange)| exchange.flow).collect()
    }
}

#[cfg(test)]
mod tests {
    use mesh_common::abi::Ip;

    use super::*;
    use crate::telemetry::{Direction, Party};

    fn key(role: u32, port: u32) -> DatagramKey {
        DatagramKey { pod: 1, epoch: 1, role, port, remote: Ip::v4(7) }
    }

    const PASSED: Datagrams =
        Datagrams { first: 1, last: 2, sent: 3, sent_bytes: 300, received: 2, received_bytes: 20 };

    fn flow(id: u64) -> Flow {
        Flow::new(id, SystemTime::UNIX_EPOCH, Direction::Outbound, Party::default(), Party::default())
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn an_exchange_is_one_record_of_all_its_rounds_when_nothing_more_comes() {
        let (mut exchanges, start, idle) = (Exchanges::default(), Instant::now(), Duration::from_secs(5));
        let client = key(role::CLIENT, 53);
        assert!(exchanges.passed(client, flow(1), &PASSED, at(1), start).is_none());
        assert!(exchanges.passed(client, flow(2), &PASSED, at(9), start + idle).is_none());
        assert!(exchanges.passed(key(role::SERVER, 53), flow(3), &PASSED, at(2), start).is_none());
        let over = exchanges.over(start + idle, idle);
        assert_eq!(over.len(), 1);
        // The server's: what came in is what its client sent.
        assert_eq!((over[0].udp, over[0].sent, over[0].received), (Some(Udp { sent: 2, received: 3 }), 20, 300));
        assert!(exchanges.has(&client, start + idle) && !exchanges.has(&client, start + idle * 2));
        assert!(!exchanges.has(&key(role::SERVER, 53), start));
        let over = exchanges.over(start + idle * 2, idle);
        assert_eq!((over[0].id, over[0].start, over[0].end), (1, at(0), at(9)));
        assert_eq!((over[0].udp, over[0].sent, over[0].received), (Some(Udp { sent: 6, received: 4 }), 600, 40));
        assert!(exchanges.over(start + idle * 9, idle).is_empty());
    }

    #[test]
    fn what_finds_no_room_is_a_record_at_once() {
        let mut exchanges = Exchanges::bounded(1);
        let now = Instant::now();
        assert!(exchanges.passed(key(role::CLIENT, 53), flow(1), &PASSED, at(1), now).is_none());
        let record = exchanges.passed(key(role::CLIENT, 54), flow(2), &PASSED, at(1), now).unwrap();
        assert_eq!((record.id, record.udp), (2, Some(Udp { sent: 3, received: 2 })));
        assert!(exchanges.passed(key(role::CLIENT, 53), flow(3), &PASSED, at(2), now).is_none(), "it goes on");
    }
}
