//! Connections within the node: their source's record is the only one, and counts for both reporters, so that who looks
//! at what destinations report misses nothing.

use crate::telemetry::flow::{Direction, Flow, Path};

/// Who reports for the other end of a connection.
pub enum OtherEnd {
    /// Its own agent, if it has one, or nobody.
    Elsewhere,
    /// This record too: as its destination would have it.
    Counts(Box<Flow>),
    /// The other record, for this end as well.
    CountsThis,
}

pub fn other_end(flow: &Flow) -> OtherEnd {
    match (flow.direction, flow.path) {
        (Direction::Outbound, Some(Path::Local | Path::Direct)) => OtherEnd::Counts(Box::new(turned(flow))),
        // It was to go past the agent, and did not: the kernel tells of it as the source's.
        (Direction::Inbound, Some(Path::Local)) => OtherEnd::CountsThis,
        _ => OtherEnd::Elsewhere,
    }
}

/// What labels are made of, with the settings of the destination's pod.
fn turned(flow: &Flow) -> Flow {
    let (source, destination) = (flow.source.clone(), flow.destination.clone());
    Flow {
        verdict: flow.verdict,
        reason: flow.reason.clone(),
        service: flow.service.clone(),
        security: flow.security,
        told: flow.told_there.clone(),
        ..Flow::new(flow.id, flow.start, Direction::Inbound, source, destination)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::telemetry::{
        flow::Party,
        metrics::traffic::{CLOSED, OPENED, RECEIVED, SENT, Traffic},
    };

    fn record(direction: Direction, path: Path) -> Flow {
        let mut flow = Flow::new(1, SystemTime::now(), direction, Party::default(), Party::default());
        (flow.path, flow.sent, flow.received) = (Some(path), 5, 7);
        flow
    }

    /// What is counted for each reporter: labels as they are told, and values.
    fn told(traffic: &Traffic) -> Vec<(String, [u64; 5])> {
        let all = traffic.connections.read().into_iter();
        let mut told: Vec<_> = all.map(|(labels, connections)| (labels.to_string(), connections.values)).collect();
        told.sort();
        told
    }

    #[test]
    fn one_record_within_the_node_counts_for_both_ends() {
        let mut values = [0; 5];
        (values[OPENED], values[CLOSED], values[SENT], values[RECEIVED]) = (1, 1, 7, 5);
        for path in [Path::Local, Path::Direct] {
            let traffic = Traffic::default();
            let mut flow = record(Direction::Outbound, path);
            traffic.opened(&flow);
            traffic.passed(&flow, 2, 3);
            (flow.counted.opened, flow.counted.sent, flow.counted.received) = (true, 2, 3);
            traffic.ended(&flow);
            let [(there, at_destination), (here, at_source)] = &told(&traffic)[..] else { panic!("{traffic:?}") };
            assert!(
                there.contains("reporter=\"destination\"") && here.contains("reporter=\"source\""),
                "{there} {here}"
            );
            assert_eq!((*at_source, *at_destination), (values, values));
            assert_eq!(traffic.verdicts.read().iter().map(|(_, count)| count).sum::<u64>(), 1, "one decision");
            // The same connection, as the agent met it at the destination's door.
            traffic.ended(&record(Direction::Inbound, Path::Local));
            assert_eq!(told(&traffic).iter().map(|(_, values)| values[CLOSED]).sum::<u64>(), 2);
        }
        for (direction, path) in [(Direction::Outbound, Path::Tunnel), (Direction::Inbound, Path::Tunnel)] {
            let traffic = Traffic::default();
            traffic.ended(&record(direction, path));
            assert_eq!(told(&traffic).len(), 1, "the other node's agent tells of the other end");
        }
    }
}
