//! On which ports of a pod somebody listens: what the kernel's table says is brought to what its namespace holds. The
//! kernel adds ports as they open; only here are they taken out, since only a look at all listeners tells that nobody
//! else has the port.

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use mesh_common::abi::ANY_PORT;

use super::{Netns, Pod};
use crate::{bpf::Datapath, sock_diag::open_ports};

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

/// One correction; `false`: it did not work, or there is no room for every port.
pub fn refresh(datapath: &Datapath, pod: &Pod) -> bool {
    corrected(datapath, pod).unwrap_or_else(|e| {
        let why = format!("{e:#}");
        tracing::warn!(namespace = pod.namespace, pod = pod.name, error = why, "cannot see which ports are open");
        false
    })
}

/// What opens between the first two looks is only in the second, and so is left alone. Ports that are gone go first,
/// and only then the third look finds what opened between: a listener that opens at any time is seen by that look, or
/// puts itself into the table after it.
fn corrected(datapath: &Datapath, pod: &Pod) -> anyhow::Result<bool> {
    let cookie = pod.netns.cookie();
    let known = datapath.listening(cookie);
    let open = listening(&pod.netns)?;
    let gone: Vec<u16> =
        known.into_iter().filter(|port| !open.contains(port) && u32::from(*port) != ANY_PORT).collect();
    datapath.remove_listening(cookie, &gone)?;
    let open: Vec<u16> = listening(&pod.netns)?.into_iter().collect();
    let room = datapath.add_listening(pod.index, cookie, &open)?;
    if !pod.leaves() {
        datapath.ports_known(cookie)?;
        // Unless that began meanwhile.
        if pod.leaves() {
            datapath.ports_unknown(pod.index, cookie)?;
        }
    }
    Ok(room)
}

/// Ends it that closed ports look open: if the ports of all `pods` are known and fit into the table again.
pub fn relearn(datapath: &Datapath, pods: &[Arc<Pod>]) -> anyhow::Result<()> {
    // All are looked at, whatever the first say.
    let all_fit = || pods.iter().filter(|pod| !refresh(datapath, pod)).count() == 0;
    if all_fit() {
        datapath.clear_overflow()?;
        // What opened before that and found no room; if there is still none, this look says so.
        all_fit();
    }
    Ok(())
}
