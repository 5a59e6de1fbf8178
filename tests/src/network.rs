//! Namespaces, links and addresses, made with iproute2.
//!
//! ```text
//!   node a 10.244.1.0/24 ── link0 172.18.0.0/24 ── node b 10.244.2.0/24        each node: bridge br0 with its pods
//!        └────────── ctl0 172.19.0.0/24, bridge in namespace c, the controller at .1 ──────────┘
//!        └── out0 203.0.113.0/24 ── namespace x, a host outside the cluster, at .10
//! ```
//!
//! IPv6 is beside it on the pods' networks (fd00:10:244:1::/64 and fd00:10:244:2::/64) and the link (fd00:172:18::/64).
//! A pod gets what its [`Families`] say.

use std::{
    fs::{self, File},
    io::Write,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{Families, NodeId, config};

/// The controller's address, reached by both nodes through a network of its own.
pub const CONTROLLER: Ipv4Addr = Ipv4Addr::new(172, 19, 0, 1);
/// A host that is no part of the cluster.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The network between the nodes, seen from each.
pub(crate) const LINK: &str = "link0";

/// The namespaces of one world.
#[derive(Debug)]
pub(crate) struct Network {
    id: String,
}

/// A kernel may be without: built so, or booted with `ipv6.disable=1`.
fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

impl Network {
    /// The nodes and what is between them; pods come later.
    pub fn new(id: &str) -> Result<Self> {
        let network = Self { id: id.to_owned() };
        let [a, b, c, x] = ["a", "b", "c", "x"].map(|part| network.name(part));
        ip(None, &format!("netns add {a}\nnetns add {b}\nnetns add {c}\nnetns add {x}\n"))?;
        for node in [&a, &b] {
            // Before there are links: as long as a link-local address asks whether others have it, one second and more,
            // the node asks nobody for a neighbour's, and holds what it should pass on.
            inside(node, || if has_ipv6() { set("net/ipv6/conf/default/accept_dad", "0") } else { Ok(()) })??;
        }
        ip(
            None,
            &format!(
                "link add link0 netns {a} type veth peer name link0 netns {b}\n\
                 link add ctl0 netns {a} type veth peer name to-a netns {c}\n\
                 link add ctl0 netns {b} type veth peer name to-b netns {c}\n\
                 link add out0 netns {a} type veth peer name eth0 netns {x}\n"
            ),
        )?;
        // A bridge's port comes up before its peer: the kernel tells the bridge at once of a carrier that appears, but
        // of one that was there already up to a second later, and drops what arrives until then.
        ip(
            Some(&c),
            "link set lo up\nlink add br0 type bridge\nlink set to-a master br0\nlink set to-b master br0\n\
             link set to-a up\nlink set to-b up\naddr add 172.19.0.1/24 dev br0\nlink set br0 up\n",
        )?;
        for node in [NodeId::A, NodeId::B] {
            let other = node.other();
            let mut lines = format!(
                "link set lo up\n\
                 link add br0 type bridge\naddr add {bridge}/24 dev br0\nlink set br0 up\n\
                 addr add {own}/24 dev link0\nlink set link0 up\n\
                 addr add {to_controller}/24 dev ctl0\nlink set ctl0 up\n\
                 route add {pods} via {theirs} dev link0\n",
                bridge = node.bridge(),
                own = node.address(),
                to_controller = to_controller(node),
                pods = other.pods(),
                theirs = other.address(),
            );
            if has_ipv6() {
                lines += &format!(
                    "addr add {}/64 dev br0 nodad\naddr add {}/64 dev link0 nodad\nroute add {} via {} dev link0\n",
                    node.bridge6(),
                    node.address6(),
                    other.pods6(),
                    other.address6(),
                );
            }
            lines += match node {
                NodeId::A => "addr add 203.0.113.1/24 dev out0\nlink set out0 up\n".to_owned(),
                NodeId::B => format!("route add 203.0.113.0/24 via {} dev link0\n", other.address()),
            }
            .as_str();
            let name = network.name(node.name());
            ip(Some(&name), &lines)?;
            inside(&name, || {
                set("net/ipv4/ip_forward", "1")?;
                if has_ipv6() {
                    set("net/ipv6/conf/all/forwarding", "1")?;
                }
                tune()
            })??;
        }
        ip(
            Some(&x),
            "link set lo up\naddr add 203.0.113.10/24 dev eth0\nlink set eth0 up\nroute add default via 203.0.113.1\n",
        )?;
        Ok(network)
    }

    /// The name of a namespace of this world.
    pub fn name(&self, part: &str) -> String {
        format!("nm-{}-{part}", self.id)
    }

    /// A pod's namespace with its addresses on the node's bridge.
    pub fn add_pod(
        &self,
        node: NodeId,
        name: &str,
        address: Ipv4Addr,
        address6: Ipv6Addr,
        families: Families,
    ) -> Result<PathBuf> {
        let (pod, host) = (self.name(name), self.name(node.name()));
        let port = port(address);
        ip(None, &format!("netns add {pod}\nlink add eth0 netns {pod} type veth peer name {port} netns {host}\n"))?;
        // The port before its peer, as above.
        ip(Some(&host), &format!("link set {port} master br0\nlink set {port} up\n"))?;
        inside(&pod, || {
            // Before the link is up: a link-local address is used at once, without asking whether others have it.
            if has_ipv6() {
                set("net/ipv6/conf/eth0/accept_dad", "0")?;
            }
            tune()
        })??;
        let mut lines = "link set lo up\nlink set eth0 up\n".to_owned();
        if families != Families::V6 {
            lines += &format!("addr add {address}/24 dev eth0\nroute add default via {}\n", node.bridge());
        }
        if families != Families::V4 {
            lines += &format!("addr add {address6}/64 dev eth0 nodad\nroute add default via {}\n", node.bridge6());
        }
        ip(Some(&pod), &lines)?;
        Ok(file(&pod))
    }

    /// A pod's namespace as a container runtime makes it: nothing in it but loopback.
    pub fn add_empty_pod(&self, name: &str) -> Result<PathBuf> {
        let pod = self.name(name);
        ip(None, &format!("netns add {pod}\n"))?;
        inside(&pod, || {
            if has_ipv6() {
                set("net/ipv6/conf/default/accept_dad", "0")?;
            }
            tune()
        })??;
        ip(Some(&pod), "link set lo up\n")?;
        Ok(file(&pod))
    }

    pub fn remove_empty_pod(&self, name: &str) -> Result<()> {
        ip(None, &format!("netns del {}\n", self.name(name)))
    }

    /// Its link at once, so that the address is free; the kernel takes its time for the namespace.
    pub fn remove_pod(&self, node: NodeId, name: &str, address: Ipv4Addr) -> Result<()> {
        ip(Some(&self.name(node.name())), &format!("link del {}\n", port(address)))?;
        ip(None, &format!("netns del {}\n", self.name(name)))
    }
}

/// The node's address on the controller's network.
pub(crate) fn to_controller(node: NodeId) -> Ipv4Addr {
    Ipv4Addr::new(172, 19, 0, node as u8 + 11)
}

/// The file that stands for a namespace.
pub(crate) fn file(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// Runs `work` on a thread of its own that entered the network namespace `name`.
pub fn inside<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    let path = file(name);
    thread::scope(|scope| {
        let entered = scope.spawn(|| {
            let namespace = File::open(&path).with_context(|| format!("open {}", path.display()))?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("enter {}", path.display()))?;
            Ok(work())
        });
        entered.join().unwrap_or_else(|_| Err(anyhow!("panic inside {name}")))
    })
}

/// The bridge's port of the pod at `address`.
fn port(address: Ipv4Addr) -> String {
    format!("p{}", address.octets()[3])
}

/// Many `ip` commands at once, in one namespace.
pub(crate) fn ip(namespace: Option<&str>, lines: &str) -> Result<()> {
    let mut command = Command::new(config::installed("ip")?);
    if let Some(name) = namespace {
        command.args(["-n", name]);
    }
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("start ip")?;
    let mut input = child.stdin.take().context("ip has no standard input")?;
    input.write_all(lines.as_bytes()).context("write to ip")?;
    drop(input);
    let output = child.wait_with_output().context("wait for ip")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip in {}: {}", namespace.unwrap_or("the host"), errors.trim());
    Ok(())
}

/// What makes many short connections in a row behave like on a real node.
fn tune() -> Result<()> {
    set("net/ipv4/tcp_tw_reuse", "1")?;
    // Only what the host allows to namespaces can be chosen there.
    let allowed = fs::read_to_string("/proc/sys/net/ipv4/tcp_allowed_congestion_control").unwrap_or_default();
    if allowed.split_whitespace().any(|name| name == "cubic") {
        set("net/ipv4/tcp_congestion_control", "cubic")?;
    }
    Ok(())
}

fn set(key: &str, value: &str) -> Result<()> {
    fs::write(Path::new("/proc/sys").join(key), value).with_context(|| format!("set {key} to {value}"))
}
