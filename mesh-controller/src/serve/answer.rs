//! Answers on their way to one agent. A resource is encoded once for all agents; its bytes are copied into an agent's
//! stream when that takes them and not before. So a thousand first answers at once are a thousand lists of what is to
//! come, and an agent that does not read holds such a list and a window of bytes, however large its answer.
//!
//! Speaks gRPC's framing by itself (the protocol's `PROTOCOL-HTTP2.md`, "Length-Prefixed-Message"): an encoder of tonic
//! writes a message into one piece of memory, and keeps that for as long as the stream lives.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    vec,
};

use hyper::body::{Body, Bytes, Frame};
use mesh_common::proto::discovery::DeltaDiscoveryResponse;
use prost::Message;
use tokio::sync::mpsc;
use tonic::{Status, codegen::http::HeaderMap};

use super::catalog::Entry;

/// Bytes that are copied at once: what a TLS record holds.
const PIECE: usize = 16 << 10;

/// What is said to an agent at once.
#[derive(Debug)]
pub struct Answer {
    pub type_url: String,
    pub nonce: String,
    pub resources: Vec<Arc<Entry>>,
    pub removed: Vec<String>,
}

/// The body of an agent's stream.
#[derive(Debug)]
pub struct Answers {
    waiting: mpsc::Receiver<Result<Answer, Status>>,
    /// What of an answer is not written yet.
    open: Option<Pieces>,
    over: bool,
}

/// A message, piece by piece.
#[derive(Debug)]
pub struct Pieces {
    /// Its length, and all of it but the resources.
    head: Vec<u8>,
    resources: vec::IntoIter<Arc<Entry>>,
}

impl Answers {
    pub fn new(waiting: mpsc::Receiver<Result<Answer, Status>>) -> Self {
        Self { waiting, open: None, over: false }
    }

    fn end(&mut self, status: &Status) -> Option<Result<Frame<Bytes>, Status>> {
        self.over = true;
        let mut trailers = HeaderMap::new();
        Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers)))
    }
}

impl Body for Answers {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        loop {
            if let Some(piece) = self.open.as_mut().and_then(Pieces::next) {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let next = ready!(self.waiting.poll_recv(context)).unwrap_or_else(|| Err(Status::ok("")));
            match next.and_then(Pieces::try_from) {
                Ok(pieces) => self.open = Some(pieces),
                Err(status) => return Poll::Ready(self.end(&status)),
            }
        }
    }
}

impl TryFrom<Answer> for Pieces {
    type Error = Status;

    fn try_from(answer: Answer) -> Result<Self, Status> {
        let Answer { type_url, nonce, resources, removed } = answer;
        let rest =
            DeltaDiscoveryResponse { type_url, nonce, removed_resources: removed, ..DeltaDiscoveryResponse::default() };
        let length = rest.encoded_len() + resources.iter().map(|entry| entry.wire().len()).sum::<usize>();
        let length = u32::try_from(length);
        let length = length.map_err(|_| Status::out_of_range("an answer of 4 GiB or more cannot be sent"))?;
        // Not compressed.
        let mut head = vec![0];
        head.extend(length.to_be_bytes());
        head.extend(rest.encode_to_vec());
        Ok(Self { head, resources: resources.into_iter() })
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut piece = std::mem::take(&mut self.head);
        let (mut length, mut count) = (piece.len(), 0);
        for entry in self.resources.as_slice() {
            if length >= PIECE {
                break;
            }
            length += entry.wire().len();
            count += 1;
        }
        piece.reserve_exact(length - piece.len());
        for entry in self.resources.by_ref().take(count) {
            piece.extend_from_slice(entry.wire());
        }
        (!piece.is_empty()).then(|| piece.into())
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin};

    use mesh_common::proto::type_url;

    use super::*;

    #[tokio::test]
    async fn an_answer_is_written_piece_by_piece_and_a_refusal_ends_the_stream() {
        let resources: Vec<_> = (0..200)
            .map(|number| Arc::new(Entry::new(&format!("n{number}"), type_url::ADDRESS, &"x".repeat(number * 10))))
            .collect();
        let (all, waiting) = mpsc::channel(4);
        for (nonce, resources) in [("1", resources.clone()), ("2", Vec::new())] {
            let (type_url, nonce, removed) = (type_url::ADDRESS.into(), nonce.into(), vec!["gone".into()]);
            all.send(Ok(Answer { type_url, nonce, resources, removed })).await.expect("a reader");
        }
        all.send(Err(Status::unauthenticated("no more"))).await.expect("a reader");
        let mut body = pin!(Answers::new(waiting));
        let (mut bytes, mut trailers) = (Vec::new(), None);
        while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
            match frame.expect("a frame").into_data() {
                Ok(piece) => {
                    assert!(piece.len() < PIECE + 3000, "{} bytes at once", piece.len());
                    bytes.extend_from_slice(&piece);
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        assert_eq!(trailers.expect("trailers")["grpc-status"], "16");
        let mut rest = bytes.as_slice();
        for (nonce, count) in [("1", 200), ("2", 0)] {
            let (head, after) = rest.split_at(5);
            let length = u32::from_be_bytes(head[1..].try_into().expect("four bytes"));
            let (message, after) = after.split_at(length as usize);
            let response = DeltaDiscoveryResponse::decode(message).expect("a response");
            assert_eq!((head[0], response.nonce.as_str(), response.removed_resources.len()), (0, nonce, 1));
            let names: Vec<_> = response.resources.iter().map(|resource| resource.name.clone()).collect();
            assert_eq!(names, (0..count).map(|number| format!("n{number}")).collect::<Vec<_>>());
            rest = after;
        }
        assert!(rest.is_empty());
    }
}
