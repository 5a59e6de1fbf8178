//! Flow records that match a question, kept ones and those to come.

pub mod filter;
pub mod wire;

use mesh_common::{
    abi::Counter,
    proto::nodemesh::{self, FlowsQuery, FlowsWindow, item},
};
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Admin, Answer, QUEUE};
use crate::telemetry::{Flow, flows_lost};
use filter::Filter;

/// The kept records that match, and with `follow` those that come after them.
pub fn answer(admin: &Admin, query: FlowsQuery) -> Answer {
    let filter = match Filter::new(&query) {
        Ok(filter) => filter,
        Err(status) => return Box::pin(tokio_stream::once(Err(status))),
    };
    let (node, log) = (admin.node.clone(), &admin.flows);
    // Subscribed before the kept ones are read, so that none falls between; ids tell which came twice.
    let mut feed = log.follow();
    let mut kept: Vec<_> = log.newest().into_iter().filter(|flow| filter.matches(flow)).collect();
    // After the records were read: what made room before is known to it.
    let window = query.since.map(|_| window(admin));
    if query.last > 0 {
        kept.drain(..kept.len().saturating_sub(query.last as usize));
    }
    let seen: std::collections::HashSet<u64> = kept.iter().map(|flow| flow.id).collect();
    let (send, receive) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        for flow in kept {
            if send.send(Ok(told(&node, &flow))).await.is_err() {
                return;
            }
        }
        if !query.follow {
            if let Some(window) = window {
                let _ = send.send(Ok(nodemesh::Item { node, kind: Some(item::Kind::Window(window)) })).await;
            }
            return;
        }
        loop {
            let flow = tokio::select! {
                flow = feed.recv() => flow,
                () = send.closed() => return,
            };
            let item = match flow {
                Ok(flow) if seen.contains(&flow.id) => continue,
                Ok(flow) if filter.matches(&flow) => Ok(told(&node, &flow)),
                Ok(_) => continue,
                // An error ends the stream: better than a gap that nobody sees.
                Err(RecvError::Lagged(lost)) => {
                    flows_lost("slow_reader", lost);
                    let lost = Status::data_loss(format!("the reader was too slow; {lost} flows were lost"));
                    let _ = send.send(Err(lost)).await;
                    return;
                }
                Err(RecvError::Closed) => return,
            };
            if send.send(item).await.is_err() {
                return;
            }
        }
    });
    Box::pin(ReceiverStream::new(receive))
}

/// How far back the records reach.
fn window(admin: &Admin) -> FlowsWindow {
    let replaced = admin.flows.replaced();
    FlowsWindow {
        from: Some(replaced.map_or(admin.started, |replaced| replaced.newest).into()),
        replaced: replaced.map_or(0, |replaced| replaced.count),
        lost: [Counter::ClosedLost, Counter::EventsLost].map(|of| admin.datapath.counter(of)).iter().sum(),
    }
}

fn told(node: &str, flow: &Flow) -> nodemesh::Item {
    nodemesh::Item { node: node.to_owned(), kind: Some(item::Kind::Flow(wire::message(node, flow).into())) }
}
