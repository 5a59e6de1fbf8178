//! Readers that rest: their senders wait, the agents' memory stays within the windows, and nobody else waits.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    A, B, NodeId, Pod,
    talk::{Ending, Then},
};

use crate::bytes_stage::{Stage, Way, Words, idle, read, script, to_end, write};

const MIB: u64 = 1 << 20;

/// The agent's window of a stream (`Windows` in mesh-agent/src/tunnel.rs).
const WINDOW: u64 = MIB;
/// What a connection costs beside it: a buffer of 64 KiB each way at both agents, h2's send buffer and the allocator's
/// odds and ends.
const EACH: u64 = MIB / 2;
/// What an agent's memory moves by without any load: threads' arenas, logs, flow records.
const NOISE: u64 = 12 * MIB;

/// Resident memory of a node's agent, in bytes.
fn memory(stage: &Stage, node: NodeId) -> Result<u64> {
    let path = format!("/proc/{}/status", stage.world.agent(node)?.process.pid());
    let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).context("no number")?.parse().context("no number")?;
    Ok(kib << 10)
}

/// The most that either agent has grown while `work` ran, and what came of it.
fn growth<T: Send>(stage: &Stage, work: impl FnOnce() -> Result<T> + Send) -> Result<(u64, T)> {
    let before = [memory(stage, A)?, memory(stage, B)?];
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let working = scope.spawn(|| {
            let outcome = work();
            done.store(true, Ordering::Release);
            outcome
        });
        let mut most = 0;
        while !done.load(Ordering::Acquire) {
            for (node, before) in [A, B].into_iter().zip(before) {
                most = most.max(memory(stage, node)?.saturating_sub(before));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok((most, working.join().expect("it does not panic")?))
    })
}

/// Lets the kernel keep little for a pod's connections, so that it is the agents that would keep the rest.
fn small_buffers(pod: &Pod) -> Result<()> {
    let small = "for way in wmem rmem; do echo 4096 65536 131072 > /proc/sys/net/ipv4/tcp_$way || exit 1; done";
    let output = pod.output(Path::new("/bin/sh"), &["-c".to_owned(), small.to_owned()], Duration::from_secs(5))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn a_resting_reader_holds_its_sender_and_costs_a_window() -> Result<()> {
    let stage = Stage::new("resting reader")?;
    let size = 48 * MIB;
    let scripts = [script("", [(write(size).then(Then::Fin), to_end().after(1500)), (idle(), idle())])];
    for way in [Way::Direct, Way::Local, Way::Tunnel] {
        let (grown, played) = growth(&stage, || stage.play(way, &scripts, 1))?;
        let (client, server) = (&played[0].client[0], &played[0].server[0]);
        assert_eq!((server.read, server.wrong_at, &server.end), (size, None, &Ending::Eof), "{way:?}: {played:?}");
        assert!(client.took_ms >= 1400, "{way:?}: {size} bytes were taken in {} ms without a reader", client.took_ms);
        assert!(grown <= WINDOW + EACH + NOISE, "{way:?}: {} KiB", grown >> 10);
    }
    Ok(())
}

/// Bytes that wait in the kernel for the connections of a pod, on their way out and in (proc_net_tcp in the kernel's
/// documentation: the fifth column).
fn queued(pod: &Pod) -> Result<u64> {
    let text = pod.read("/proc/net/tcp")? + &pod.read("/proc/net/tcp6")?;
    let queues = text.lines().filter_map(|line| line.split_whitespace().nth(4)?.split_once(':'));
    let bytes =
        queues.filter_map(|(out, come)| Some(u64::from_str_radix(out, 16).ok()? + u64::from_str_radix(come, 16).ok()?));
    Ok(bytes.sum())
}

/// The buffer that a connection begins with, and the largest, as `tcp_rmem` or `tcp_wmem` says.
fn buffers(pod: &Pod, way: &str) -> Result<(u64, u64)> {
    let text = pod.read(&format!("/proc/sys/net/ipv4/tcp_{way}"))?;
    let number = |at| text.split_whitespace().nth(at).context("three numbers")?.parse().context("a number");
    Ok((number(1)?, number(2)?))
}

#[test]
fn a_resting_reader_of_a_direct_connection_costs_the_kernel_its_buffers() -> Result<()> {
    let stage = Stage::new("kernel memory")?;
    let size = 48 * MIB;
    let scripts = [script("", [(write(size).then(Then::Fin), to_end().after(1500)), (idle(), idle())])];
    let ((first, reader), (_, writer)) = (buffers(&stage.near, "rmem")?, buffers(&stage.client, "wmem")?);
    let bound = reader + writer;
    let done = AtomicBool::new(false);
    let (most, played) = thread::scope(|scope| -> Result<_> {
        let working = scope.spawn(|| {
            let outcome = stage.play(Way::Direct, &scripts, 1);
            done.store(true, Ordering::Release);
            outcome
        });
        let mut most = 0;
        while !done.load(Ordering::Acquire) {
            most = most.max(queued(&stage.client)? + queued(&stage.near)?);
            thread::sleep(Duration::from_millis(20));
        }
        Ok((most, working.join().expect("it does not panic")?))
    })?;
    let (client, server) = (&played[0].client[0], &played[0].server[0]);
    assert_eq!((server.read, server.wrong_at, &server.end), (size, None, &Ending::Eof), "{played:?}");
    assert!(client.took_ms >= 1400, "{size} bytes were taken in {} ms without a reader", client.took_ms);
    // How far the kernel lets both buffers grow meanwhile is its own affair.
    assert!(most > first, "nothing was seen to wait: {most} bytes");
    assert!(most <= bound, "{most} bytes waited in the kernel, and the buffers hold {bound}");
    Ok(())
}

#[test]
fn a_hundred_resting_readers_cost_a_hundred_windows() -> Result<()> {
    let stage = Stage::new("hundred readers")?;
    small_buffers(&stage.client)?;
    small_buffers(&stage.far)?;
    let (count, size) = (100, 3 * MIB);
    let one = script("", [(write(size), read(size).after(3000)), (idle().then(Then::Fin), to_end())]);
    let scripts = vec![one; count as usize];
    let (grown, played) = growth(&stage, || stage.play(Way::Tunnel, &scripts, scripts.len()))?;
    for one in &played {
        assert_eq!((one.server[0].read, one.server[0].wrong_at), (size, None), "{one:?}");
        assert_eq!(one.server[1].end, Ending::Eof, "{one:?}");
    }
    println!("a hundred resting readers: {} MiB", grown / MIB);
    assert!(grown > count * WINDOW / 3, "the windows were not filled: {} MiB", grown / MIB);
    assert!(grown <= count * (WINDOW + EACH) + NOISE, "{} MiB", grown / MIB);
    Ok(())
}

#[test]
fn resting_readers_stop_nobody_else_on_their_connection() -> Result<()> {
    let stage = Stage::new("head of line")?;
    stage.far.serve("echo", 7000)?;
    let held = stage.client.hold(stage.far.at(7000))?;
    // More than the kernel takes from a writer on the way: sockets of four hops, each with up to six MiB.
    let (count, size) = (8, 32 * MIB);
    let one = script("", [(write(size), read(size).after(4000)), (idle().then(Then::Fin), to_end())]);
    let scripts = vec![one; count];
    thread::scope(|scope| {
        let resting = scope.spawn(|| stage.play(Way::Tunnel, &scripts, count));
        let start = Instant::now();
        // Until the readers rest no more, and by then all windows are full.
        while start.elapsed() < Duration::from_millis(3500) {
            let echo = stage.client.dial_once(stage.far.at(7000), &["--text", "still there?", "--timeout", "1.5"])?;
            assert!(echo.echoed(), "after {:?}: {echo:?}", start.elapsed());
            assert!(held.is_open()?, "the connection that was there before");
            thread::sleep(Duration::from_millis(100));
        }
        let tunnels = stage.far.clients_of(15008)?;
        assert_eq!(tunnels.len(), 1, "all of them share one connection: {tunnels:?}");
        for one in resting.join().expect("it does not panic")? {
            assert!(one.client[0].took_ms > 3000, "its sender did not wait: {one:?}");
            assert_eq!((one.server[0].read, one.server[0].wrong_at), (size, None), "{one:?}");
        }
        Ok(())
    })
}
