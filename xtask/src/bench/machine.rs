//! What this machine itself costs. On virtual machines waking another CPU can cost a hundred times what it costs on
//! metal, and every message through an agent wakes somebody: without this figure the others say little.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    thread,
    time::Instant,
};

use anyhow::{Context, Result, anyhow};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::{Value, json};

/// Enough for a steady figure, and a second at the worst.
const TURNS: u32 = 3000;

/// Microseconds from a byte that wakes a thread to its answer: `same_cpu` with both on one CPU, `other_cpu` with each
/// on its own (absent where there is only one).
pub fn wake_ups() -> Result<Value> {
    let allowed = sched_getaffinity(None).context("which CPUs this may use")?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    let first = cpus.next().context("no CPU")?;
    let mut figures = json!({ "same_cpu": turns(first, first)? });
    if let Some(second) = cpus.next() {
        figures["other_cpu"] = json!(turns(first, second)?);
    }
    Ok(figures)
}

fn turns(own: usize, other: usize) -> Result<f64> {
    let (mut here, mut there) = UnixStream::pair().context("a pair of sockets")?;
    let echo = thread::spawn(move || -> Result<()> {
        pin(other)?;
        let mut byte = [0];
        for _ in 0..TURNS {
            there.read_exact(&mut byte)?;
            there.write_all(&byte)?;
        }
        Ok(())
    });
    // A thread of its own: this one may go where it likes afterwards.
    let asks = thread::spawn(move || -> Result<f64> {
        pin(own)?;
        let (start, mut byte) = (Instant::now(), [0]);
        for _ in 0..TURNS {
            here.write_all(&byte)?;
            here.read_exact(&mut byte)?;
        }
        Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(TURNS))
    });
    let figure = asks.join().map_err(|_| anyhow!("a thread of the measurement panicked"))?;
    echo.join().map_err(|_| anyhow!("a thread of the measurement panicked"))??;
    figure
}

fn pin(cpu: usize) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(cpu);
    sched_setaffinity(None, &one).with_context(|| format!("run on CPU {cpu}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_wake_up_takes_its_time() {
        let figures = super::wake_ups().unwrap();
        assert!(figures["same_cpu"].as_f64().unwrap() > 0.0, "{figures}");
    }
}
