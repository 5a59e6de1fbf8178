//! What is on the wire between the nodes: tcpdump into a file that is searched as raw bytes.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{Node, Patience, Process, config, eventually, inside, network};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A mark that was not seen for so long is sent again.
const MARK_AGAIN: Duration = Duration::from_millis(500);

/// A running capture of the link between the nodes.
#[derive(Debug)]
pub struct Capture {
    process: Arc<Process>,
    file: PathBuf,
    netns: String,
    far_end: SocketAddr,
}

impl Capture {
    /// Capturing when this returns.
    pub(crate) fn start(node: &Node) -> Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = node.host.logs.join(format!("link-{number}.pcap"));
        let path = file.display().to_string();
        // Each packet takes room for the longest one: with the usual buffer 17 are too many for a tcpdump that waits
        // for its turn, and the rest is not seen.
        let options = ["-i", network::LINK, "-U", "--immediate-mode", "-s", "65535", "-B", "65536"];
        let options = [options.as_slice(), &["-Z", "root", "-w", &path]].concat();
        let options: Vec<String> = options.into_iter().map(str::to_owned).collect();
        let process = Arc::new(node.host.start("tcpdump", &config::installed("tcpdump")?, &options)?);
        node.host.crew.join(&process);
        process.says("listening on", Patience::SHORT)?;
        // The discard port of the other node: where nobody answers, but the packet crosses the link.
        let far_end = SocketAddr::from((node.id.other().address(), 9));
        Ok(Self { process, file, netns: node.netns.clone(), far_end })
    }

    /// These bytes crossed the link since the capture began, within one packet.
    pub fn contains(&self, bytes: &[u8]) -> Result<bool> {
        Ok(find(&self.flushed()?, bytes))
    }

    /// Everything captured so far, in pcap's format. A packet of our own marks the end: when it is in the file, all
    /// before it are.
    fn flushed(&self) -> Result<Vec<u8>> {
        let marker = format!("nodemesh-capture-mark-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mark = || {
            inside(&self.netns, || {
                let socket = UdpSocket::bind("0.0.0.0:0").context("open a socket for the mark")?;
                socket.send_to(marker.as_bytes(), self.far_end).context("send the mark")
            })?
        };
        let mut marked: Option<Instant> = None;
        self.process.alive_until(format_args!("the capture shows its mark"), Patience::SHORT, || {
            // One that was lost is not waited for.
            if marked.is_none_or(|marked| marked.elapsed() > MARK_AGAIN) {
                mark()?;
                marked = Some(Instant::now());
            }
            let content = fs::read(&self.file).with_context(|| format!("read {}", self.file.display()))?;
            Ok(find(&content, marker.as_bytes()).then_some(content))
        })
    }

    /// Ends the capture; the file stays as long as the world.
    pub fn stop(&self) -> Result<()> {
        self.process.terminate(Patience::SHORT).map(drop)
    }

    /// A count of the captured bytes, for messages.
    pub fn size(&self) -> Result<usize> {
        eventually("the capture is readable", Patience::SHORT, || self.flushed().map(Some)).map(|all| all.len())
    }
}

fn find(content: &[u8], bytes: &[u8]) -> bool {
    content.windows(bytes.len()).any(|window| window == bytes)
}
