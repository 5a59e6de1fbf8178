//! The clients. Times are taken around system calls, and nothing is printed while they run.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

const WARM_UP: usize = 200;
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// A serial client of the fastest machine makes no more in a minute.
const SAMPLES: usize = 1 << 22;
/// After an error: what fails at once must not count a million errors.
const PAUSE: Duration = Duration::from_millis(1);
/// Parts of a counted run whose rates are told.
const PARTS: usize = 10;

/// `bytes_per_second` in all and `each`; bytes are those that the server has read.
pub fn bulk(to: SocketAddr, connections: usize, seconds: f64) -> Result<()> {
    let streams: Vec<TcpStream> = (0..connections).map(|_| dial(to).context("connect")).collect::<Result<_>>()?;
    let start = Instant::now();
    let until = start + Duration::from_secs_f64(seconds);
    let pushed = thread::scope(|scope| {
        let pushing: Vec<_> = streams.into_iter().map(|stream| scope.spawn(move || push(stream, until))).collect();
        pushing.into_iter().map(joined).collect::<Result<Vec<_>>>()
    })?;
    let elapsed = start.elapsed().as_secs_f64();
    let bytes: u64 = pushed.iter().map(|(bytes, _)| bytes).sum();
    let each: Vec<f64> = pushed.iter().map(|(bytes, time)| *bytes as f64 / time).collect();
    print(&json!({ "bytes": bytes, "seconds": elapsed, "bytes_per_second": bytes as f64 / elapsed, "each": each }))
}

fn push(mut stream: TcpStream, until: Instant) -> Result<(u64, f64)> {
    let chunk = vec![0x5a; 256 * 1024];
    let start = Instant::now();
    while Instant::now() < until {
        stream.write_all(&chunk).context("write")?;
    }
    stream.shutdown(Shutdown::Write).context("shut down")?;
    let mut count = [0; 8];
    stream.read_exact(&mut count).context("read the server's count")?;
    Ok((u64::from_le_bytes(count), start.elapsed().as_secs_f64()))
}

/// Microseconds.
pub fn ping_pong(to: SocketAddr, size: usize, seconds: f64) -> Result<()> {
    let mut stream = dial(to).context("connect")?;
    let mut message = vec![0x5a; size];
    for _ in 0..WARM_UP {
        exchange(&mut stream, &mut message).context("warm up")?;
    }
    let mut times = Vec::new();
    let start = Instant::now();
    let until = start + Duration::from_secs_f64(seconds);
    let mut before = start;
    while before < until && times.len() < SAMPLES {
        exchange(&mut stream, &mut message).context("exchange")?;
        let now = Instant::now();
        times.push(micros(now - before));
        before = now;
    }
    let mut figures = percentiles(&mut times)?;
    // Those before the clock started cost as much.
    figures["exchanges"] = json!(times.len() + WARM_UP);
    print(&figures)
}

/// Rate a second, microseconds, errors by kind of fault: connect or exchange.
pub fn connects(to: SocketAddr, threads: usize, seconds: f64, count: Option<usize>) -> Result<()> {
    let begun = AtomicUsize::new(0);
    let limit = count.unwrap_or(usize::MAX);
    let part = (limit / PARTS).max(1);
    let start = Instant::now();
    let until = if count.is_some() { None } else { Some(start + Duration::from_secs_f64(seconds)) };
    let runs = thread::scope(|scope| {
        let one = || {
            let (mut times, mut ends, mut errors) = (Vec::new(), [0_usize; PARTS], [0_usize; 2]);
            let mut last = [Duration::ZERO; PARTS];
            let mut said = None;
            loop {
                let number = begun.fetch_add(1, Ordering::Relaxed);
                let before = Instant::now();
                if number >= limit || until.is_some_and(|until| before >= until) {
                    return Ok((times, ends, last, errors, said));
                }
                match connect_once(to) {
                    Ok(()) => {
                        times.push(micros(before.elapsed()));
                        if count.is_some() {
                            let part = (number / part).min(PARTS - 1);
                            ends[part] += 1;
                            last[part] = start.elapsed();
                        }
                    }
                    Err((step, error)) => {
                        errors[step] += 1;
                        said = Some(error.to_string());
                        thread::sleep(PAUSE);
                    }
                }
            }
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        running.into_iter().map(joined).collect::<Result<Vec<_>>>()
    })?;
    let elapsed = start.elapsed().as_secs_f64();
    let mut times: Vec<f64> = runs.iter().flat_map(|run| run.0.iter().copied()).collect();
    let sum = |step: usize| runs.iter().map(|run| run.3[step]).sum::<usize>();
    let (refused, broken) = (sum(0), sum(1));
    let said = runs.iter().find_map(|run| run.4.clone());
    ensure!(!times.is_empty(), "none of {} connections was answered: {said:?}", refused + broken);
    let mut figures = percentiles(&mut times)?;
    figures["rate"] = json!(times.len() as f64 / elapsed);
    figures["seconds"] = json!(elapsed);
    figures["errors"] = json!({ "connect": refused, "exchange": broken, "said": said });
    if count.is_some() {
        let mut before = 0.0;
        let rates: Vec<f64> = (0..PARTS)
            .map(|part| {
                let end = runs.iter().map(|run| run.2[part].as_secs_f64()).fold(before, f64::max);
                let done: usize = runs.iter().map(|run| run.1[part]).sum();
                let rate = done as f64 / (end - before).max(f64::EPSILON);
                before = end;
                rate
            })
            .collect();
        figures["rates"] = json!(rates);
    }
    print(&figures)
}

/// Until each has answered: `seconds`, and how often one did not.
pub fn each(to: &[SocketAddr], threads: usize, seconds: f64) -> Result<()> {
    let open = Mutex::new(to.iter().copied().collect::<VecDeque<_>>());
    let (start, errors) = (Instant::now(), AtomicUsize::new(0));
    let until = start + Duration::from_secs_f64(seconds);
    let next = || open.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let one = || -> Result<()> {
        while let Some(to) = next() {
            while let Err((_, error)) = connect_once(to) {
                errors.fetch_add(1, Ordering::Relaxed);
                ensure!(Instant::now() < until, "{to} did not answer within {seconds} s: {error}");
                thread::sleep(PAUSE);
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        running.into_iter().map(joined).collect::<Result<Vec<_>>>()
    })?;
    print(&json!({ "seconds": start.elapsed().as_secs_f64(), "errors": errors.into_inner() }))
}

pub fn hold(to: SocketAddr, connections: usize) -> Result<()> {
    let mut held = Vec::with_capacity(connections);
    for number in 0..connections {
        let mut stream = dial(to).with_context(|| format!("connection {number}"))?;
        exchange(&mut stream, &mut [0x5a]).with_context(|| format!("exchange on connection {number}"))?;
        held.push(stream);
    }
    println!("holding {}", held.len());
    thread::scope(|scope| {
        for stream in held {
            scope.spawn(move || wait_for_end(stream));
        }
    });
    Ok(())
}

/// Says when the connection was over: milliseconds since 1970.
fn wait_for_end(mut stream: TcpStream) {
    let _ = stream.set_read_timeout(None);
    let how = match stream.read(&mut [0]) {
        Ok(_) => "closed".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis());
    println!("ended {now} {how}");
}

/// On failure: 0 for the connect, 1 for the exchange.
pub(super) fn connect_once(to: SocketAddr) -> Result<(), (usize, io::Error)> {
    let mut stream = dial(to).map_err(|error| (0, error))?;
    exchange(&mut stream, &mut [0x5a]).map_err(|error| (1, error))
}

fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream, message: &mut [u8]) -> io::Result<()> {
    stream.write_all(message)?;
    stream.read_exact(message)
}

pub(super) fn percentiles(times: &mut [f64]) -> Result<Value> {
    ensure!(!times.is_empty(), "nothing was measured");
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    Ok(json!({ "count": times.len(), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1.0) }))
}

fn joined<T>(handle: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    handle.join().map_err(|_| anyhow!("a client's thread panicked"))?
}

pub(super) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

pub(super) fn print(figures: &Value) -> Result<()> {
    println!("{}", serde_json::to_string(figures).context("write the figures")?);
    Ok(())
}
