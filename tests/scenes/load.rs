//! Clients that dial in a loop while something happens to the mesh.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail, ensure};
use mesh_tests::{Patience, Place, eventually};

/// Connections in a row of one process of a client.
const ROW: &str = "20";

/// Dials over and over until told to stop; every connection must be answered.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    /// Why the first client gave up.
    failed: Arc<OnceLock<String>>,
    clients: Vec<thread::JoinHandle<()>>,
}

impl Load {
    pub fn start(clients: &[(&'static str, &Place, SocketAddr)]) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let failed = Arc::new(OnceLock::new());
        let clients = clients.iter().map(|(what, place, to)| {
            let (what, place, to, stop, done) = (*what, (*place).clone(), *to, Arc::clone(&stop), Arc::clone(&done));
            let (failed, start) = (Arc::clone(&failed), Instant::now());
            let dial = move || -> Result<()> {
                while !stop.load(Ordering::Relaxed) {
                    for report in place.dial(to, &["--text", "hello", "--count", ROW])? {
                        let number = done.fetch_add(1, Ordering::Relaxed);
                        ensure!(report.echoed(), "connection {number}: {report:?}");
                    }
                }
                Ok(())
            };
            thread::spawn(move || {
                if let Err(error) = dial() {
                    let after = start.elapsed().as_secs_f64();
                    let _ = failed.set(format!("load {what}, {after:.1} s after it began: {error:#}"));
                }
            })
        });
        Self { clients: clients.collect(), failed: Arc::clone(&failed), stop, done }
    }

    pub fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Until so many more were answered; an error if a client gave up.
    pub fn until(&self, count: usize) -> Result<()> {
        let patience = Patience::LONG.within(Duration::from_secs(60));
        eventually("connections are answered", patience, || {
            Ok((self.failed.get().is_some() || self.done() >= count).then_some(()))
        })?;
        self.failed.get().map_or(Ok(()), |why| bail!("{why}"))
    }

    pub fn finish(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().map_err(|_| anyhow!("a client panicked"))?;
        }
        match self.failed.get() {
            Some(why) => bail!("{why}"),
            None => Ok(self.done.load(Ordering::Relaxed)),
        }
    }
}
