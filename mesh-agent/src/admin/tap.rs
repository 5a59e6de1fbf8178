//! Requests as they pass, for whoever looks. What is secret in them leaves the agent by its own socket only:
//! `control/link` refuses to ask for it.

mod redact;

use mesh_common::proto::nodemesh::{self, FlowsQuery, Header, TapQuery, Tapped, item};
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    Admin, Answer, QUEUE,
    flows::{filter::Filter, wire},
};
use crate::telemetry::{Seen, flows_lost};

/// From now on, until there were `count` or nobody looks any more.
pub fn answer(admin: &Admin, query: TapQuery) -> Answer {
    let TapQuery { flows, headers, secrets, count } = query;
    let flows = FlowsQuery { since: None, ..flows.unwrap_or_default() };
    let filter = match Filter::new(&flows) {
        Ok(filter) => filter,
        Err(status) => return Box::pin(tokio_stream::once(Err(status))),
    };
    let (node, mut tap) = (admin.node.clone(), admin.flows.tap());
    let (send, receive) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut told = 0;
        while count == 0 || told < count {
            let seen = tokio::select! {
                seen = tap.next() => seen,
                () = send.closed() => return,
            };
            let item = match seen {
                Ok(seen) if filter.matches(&seen.flow) => {
                    let tapped = message(&node, &seen, headers, secrets);
                    Ok(nodemesh::Item { node: node.clone(), kind: Some(item::Kind::Tapped(tapped.into())) })
                }
                Ok(_) => continue,
                // An error ends the stream: better than a gap that nobody sees.
                Err(RecvError::Lagged(lost)) => {
                    flows_lost("slow_reader", lost);
                    Err(Status::data_loss(format!("the reader was too slow; {lost} requests were lost")))
                }
                Err(RecvError::Closed) => return,
            };
            let is_end = item.is_err();
            if send.send(item).await.is_err() || is_end {
                return;
            }
            told += 1;
        }
    });
    Box::pin(ReceiverStream::new(receive))
}

fn message(node: &str, seen: &Seen, headers: bool, secrets: bool) -> Tapped {
    let Seen { flow, headers: copied } = seen;
    let copied = copied.as_deref().filter(|_| headers);
    let told = |headers: &[(String, Vec<u8>)]| {
        let told = headers.iter().map(|(name, value)| Header {
            name: name.clone(),
            value: redact::told(name, &String::from_utf8_lossy(value), secrets),
        });
        told.collect()
    };
    Tapped {
        flow: Some(wire::message(node, flow)),
        request_headers: copied.map(|copied| told(&copied.request)).unwrap_or_default(),
        response_headers: copied.map(|copied| told(&copied.answer)).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
