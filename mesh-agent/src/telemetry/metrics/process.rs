//! What the agent's process uses, under the names that every exporter has for it.

use std::{fs, time::Duration};

use super::text;
pub use crate::telemetry::cost::Used;

const CPU: (&str, &str) = ("process_cpu_seconds_total", "CPU of the agent's process, user and system.");
const MEMORY: (&str, &str) = ("process_resident_memory_bytes", "Resident memory of the agent's process.");
/// What [`Used::tell`] tells.
#[cfg(test)]
pub(super) const ALL: [(&str, &str); 2] = [CPU, MEMORY];

/// USER_HZ, on every architecture that the agent runs on.
const TICKS: u64 = 100;

impl Used {
    /// `None`: there is no /proc.
    pub fn now() -> Option<Self> {
        let (stat, status) =
            (fs::read_to_string("/proc/self/stat").ok()?, fs::read_to_string("/proc/self/status").ok()?);
        read(&stat, &status)
    }

    pub(super) fn tell(self, text: &mut String) {
        text::head(text, CPU.0, "counter", CPU.1);
        text::line(text, CPU.0, "", "", self.cpu.as_secs_f64());
        text::head(text, MEMORY.0, "gauge", MEMORY.1);
        text::line(text, MEMORY.0, "", "", self.memory);
    }
}

/// proc(5): the 14th and 15th field, the command's name in brackets before them may hold anything.
fn read(stat: &str, status: &str) -> Option<Used> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = resident.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Used { cpu: Duration::from_millis((user + system) * 1000 / TICKS), memory: kilobytes * 1024 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_read_as_it_writes() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 6 7 20 0 9 0 77 1 2";
        let used = read(stat, "Name:\ta\nVmRSS:\t   12 kB\nThreads:\t9\n").unwrap();
        assert_eq!(used, Used { cpu: Duration::from_secs(2), memory: 12 * 1024 });
        assert!(Used::now().is_some_and(|used| used.memory > 1 << 20));
    }
}
