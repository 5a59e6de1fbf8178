//! Control against a controller of its own process, over TLS on loopback. A test is handed each stream that the agent
//! opens and plays the controller's part itself.

mod ca;
mod discovery;
mod link;
mod on_demand;
mod pods;
mod world;

use std::{future::Future, time::Duration};

/// Fails the test instead of hanging it.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(10), future).await {
        Ok(value) => value,
        Err(_) => panic!("not within 10 s: {what}"),
    }
}
