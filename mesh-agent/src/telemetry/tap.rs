//! Requests as they pass, for those who look: with their headers, which no record keeps. Nobody pays for it while
//! nobody looks.

use std::sync::{Arc, atomic::Ordering};

use http::HeaderMap;
use tokio::sync::broadcast::{self, error::RecvError};

use super::{flow::Flow, flows::FlowLog};

/// Requests that one who looks may lag behind before it loses some; the loss is told.
pub(super) const FEED: usize = 1024;
/// Of one head; what is beyond is left out.
const HEADERS: usize = 64;
/// Names and values of one head, bytes.
const BYTES: usize = 8 * 1024;

/// A request that has ended.
#[derive(Clone, Debug)]
pub struct Seen {
    pub flow: Arc<Flow>,
    /// `None`: nobody looked when it began.
    pub headers: Option<Box<Headers>>,
}

/// The headers of a request as they were passed on, and those of its answer. Secrets are in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    pub request: Vec<(String, Vec<u8>)>,
    pub answer: Vec<(String, Vec<u8>)>,
}

/// One who looks, until this drops.
#[derive(Debug)]
pub struct Tap {
    log: Arc<FlowLog>,
    feed: broadcast::Receiver<Arc<Seen>>,
}

impl Tap {
    pub(super) fn new(log: Arc<FlowLog>, feed: broadcast::Receiver<Arc<Seen>>) -> Self {
        log.taps.fetch_add(1, Ordering::Relaxed);
        Self { log, feed }
    }

    /// The next request that ended.
    ///
    /// # Errors
    /// If some were lost, and how many.
    pub async fn next(&mut self) -> Result<Arc<Seen>, RecvError> {
        self.feed.recv().await
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.log.taps.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Headers {
    /// A copy within the bounds: what came in one piece from a connection is not held whole for a part of it.
    pub fn copied(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
        let mut left = BYTES;
        let mut copied = Vec::with_capacity(headers.len().min(HEADERS));
        for (name, value) in headers.iter().take(HEADERS) {
            let size = name.as_str().len() + value.len();
            if size > left {
                break;
            }
            left -= size;
            copied.push((name.as_str().to_owned(), value.as_bytes().to_vec()));
        }
        copied
    }
}
