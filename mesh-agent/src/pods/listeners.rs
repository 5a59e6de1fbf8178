//! On which ports of a pod somebody listens: what the kernel's table says is brought to what its namespace holds. The
//! kernel adds ports as they open; only here are they taken out, since only a look at all listeners tells that nobody
//! else has the port.

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use super::{Netns, Pod};
use crate::bpf::{Datapath, open_ports};

/// The kernel tells of a listener's end a moment before it takes the socket out of its tables.
const SETTLE: Duration = Duration::from_millis(20);
/// Between two rounds: a pod that opens and closes listeners all day must not keep the agent busy.
const REST: Duration = Duration::from_millis(100);

/// The ports of the namespace on which somebody listens that others can reach.
pub fn listening(netns: &Netns) -> io::Result<BTreeSet<u16>> {
    netns.run(open_ports)?
}

/// Corrects the kernel's table for the pod after each listener that closes, until the pod is no longer redirected.
pub async fn follow(datapath: Arc<Datapath>, pod: Arc<Pod>) {
    let following = async {
        loop {
            pod.listener_closed.notified().await;
            refresh(&datapath, &pod);
            tokio::time::sleep(SETTLE).await;
            refresh(&datapath, &pod);
            tokio::time::sleep(REST).await;
        }
    };
    tokio::select! {
        () = following => {}
        () = pod.unhooked() => {}
    }
}

/// One correction. Ports that are gone go first, and only then a second look finds what opened between: a listener
/// that opens at any time is seen by that look, or puts itself into the table after it.
pub fn refresh(datapath: &Datapath, pod: &Pod) {
    let refreshed = || -> anyhow::Result<()> {
        let open = listening(&pod.netns)?;
        let known = datapath.listening(pod.netns.cookie());
        let gone: Vec<u16> = known.into_iter().filter(|port| !open.contains(port)).collect();
        datapath.remove_listening(pod.netns.cookie(), &gone)?;
        let open: Vec<u16> = listening(&pod.netns)?.into_iter().collect();
        Ok(datapath.add_listening(pod.index, pod.netns.cookie(), &open)?)
    };
    if let Err(e) = refreshed() {
        let why = format!("{e:#}");
        tracing::warn!(namespace = pod.namespace, pod = pod.name, error = why, "cannot see which ports are open");
    }
}
