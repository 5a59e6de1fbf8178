//! What every Prometheus client tells of its process, under the names that all of them use. Written by hand: CPU time
//! is a counter with a fraction, and the recorder's counters are whole numbers.

use std::fs;

use rustix::process::{Resource, getrlimit};

/// Parts of a second in which the kernel tells times to programs (USER_HZ), the same on all systems that we know.
const TICKS: f64 = 100.0;

/// What of `/proc` is told.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Facts {
    cpu_seconds: f64,
    /// Since 1970.
    start_seconds: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
    threads: u64,
}

/// Lines for Prometheus; none of what this system does not say.
pub fn render() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let facts = facts(&read("/proc/self/stat"), &read("/proc/self/status"), &read("/proc/stat"));
    let open = fs::read_dir("/proc/self/fd").map(Iterator::count).ok();
    facts.map(|facts| text(&facts, open, getrlimit(Resource::Nofile).current)).unwrap_or_default()
}

/// As in proc(5). `stat` is one line, in which the second word, in brackets, is a name with any characters.
fn facts(stat: &str, status: &str, system: &str) -> Option<Facts> {
    let (_, rest) = stat.rsplit_once(") ")?;
    // The first is field 3, the state.
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let named = |text: &str, name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok())
    };
    let seconds = |ticked: u64| ticked as f64 / TICKS;
    Some(Facts {
        cpu_seconds: seconds(field(14)? + field(15)?),
        start_seconds: named(system, "btime")? as f64 + seconds(field(22)?),
        virtual_bytes: field(23)?,
        resident_bytes: named(status, "VmRSS:")? * 1024,
        threads: field(20)?,
    })
}

fn text(facts: &Facts, open: Option<usize>, most_open: Option<u64>) -> String {
    let Facts { cpu_seconds, start_seconds, virtual_bytes, resident_bytes, threads } = *facts;
    let mut text = String::new();
    let mut tell = |name: &str, kind: &str, help: &str, value: String| {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n\n"));
    };
    tell("process_cpu_seconds_total", "counter", "CPU time in user and kernel.", cpu_seconds.to_string());
    tell("process_start_time_seconds", "gauge", "When the process began, unix time.", start_seconds.to_string());
    tell("process_virtual_memory_bytes", "gauge", "Virtual memory.", virtual_bytes.to_string());
    tell("process_resident_memory_bytes", "gauge", "Memory that is there.", resident_bytes.to_string());
    tell("process_threads", "gauge", "Threads.", threads.to_string());
    if let Some(open) = open {
        tell("process_open_fds", "gauge", "Files and sockets that are open.", open.to_string());
    }
    if let Some(most) = most_open {
        tell("process_max_fds", "gauge", "How many may be.", most.to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_hides_nothing() {
        let stat =
            "7 (a) b) (c) S 1 7 7 0 -1 4194560 12 0 3 0 150 50 0 0 20 0 9 0 4200 1048576 25 18446744073709551615";
        let system = "cpu 1 2\nbtime 1700000000\nprocesses 5\n";
        let status = "Name:\ta) b\nVmRSS:\t    100 kB\n";
        let facts = facts(stat, status, system).unwrap();
        let expected = Facts {
            cpu_seconds: 2.0,
            start_seconds: 1_700_000_042.0,
            virtual_bytes: 1_048_576,
            resident_bytes: 100 * 1024,
            threads: 9,
        };
        assert_eq!(facts, expected);
        assert_eq!(super::facts("7 (x", status, system), None);
        assert_eq!(super::facts(stat, status, ""), None);
        let text = text(&facts, Some(3), None);
        assert!(text.contains("# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 2\n"), "{text}");
        assert!(text.contains("\nprocess_open_fds 3\n") && !text.contains("process_max_fds"), "{text}");
    }

    #[test]
    fn this_process_is_told_of() {
        let text = render();
        for name in ["cpu_seconds_total", "resident_memory_bytes", "open_fds", "start_time_seconds"] {
            assert!(text.lines().any(|line| line.starts_with(&format!("process_{name} "))), "{name}: {text}");
        }
    }
}
