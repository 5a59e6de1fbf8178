//! Clients that dial in a loop while something happens to the mesh.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use mesh_tests::{Patience, Place, eventually};

/// Connections in a row of one process of a client.
const ROW: &str = "20";

/// Dials over and over until told to stop; every connection must be answered.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    clients: Vec<thread::JoinHandle<Result<()>>>,
}

impl Load {
    pub fn start(clients: &[(&'static str, &Place, SocketAddr)]) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let clients = clients.iter().map(|(what, place, to)| {
            let (what, place, to, stop, done) = (*what, (*place).clone(), *to, Arc::clone(&stop), Arc::clone(&done));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for report in place.dial(to, &["--text", "hello", "--count", ROW])? {
                        let number = done.fetch_add(1, Ordering::Relaxed);
                        ensure!(report.echoed(), "{what}: connection {number}: {report:?}");
                    }
                }
                Ok(())
            })
        });
        Self { clients: clients.collect(), stop, done }
    }

    pub fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Until so many more were answered; an error if a client gave up.
    pub fn until(&self, count: usize) -> Result<()> {
        let patience = Patience::LONG.within(Duration::from_secs(60));
        eventually("connections are answered", patience, || {
            let given_up = self.clients.iter().any(thread::JoinHandle::is_finished);
            Ok((given_up || self.done() >= count).then_some(()))
        })
    }

    pub fn finish(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(self.done.load(Ordering::Relaxed))
    }
}
