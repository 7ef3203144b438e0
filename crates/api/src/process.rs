//! Processor time, memory and open files of this process, where `/proc` tells.

use crate::Metrics;
use std::{fs, path::Path, time::SystemTime};

/// `/proc` counts processor time in hundredths of a second on every Linux architecture (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

pub(crate) fn register(metrics: &Metrics) {
    let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    metrics.gauge("process_start_time_seconds", "Start of the process, in Unix seconds", move || started);
    if !Path::new("/proc/self/stat").exists() {
        return;
    }
    metrics.counter("process_cpu_seconds", "Processor time of the process, user and system", || {
        read("stat").and_then(|stat| cpu_seconds(&stat)).unwrap_or(0.0)
    });
    metrics.gauge("process_resident_memory_bytes", "Resident memory of the process", || {
        read("status").and_then(|status| kilobytes(&status, "VmRSS:")).unwrap_or(0.0)
    });
    metrics.gauge("process_virtual_memory_bytes", "Virtual memory of the process", || {
        read("status").and_then(|status| kilobytes(&status, "VmSize:")).unwrap_or(0.0)
    });
    metrics.gauge("process_open_fds", "Open file descriptors of the process", || {
        fs::read_dir("/proc/self/fd").map_or(0.0, |entries| entries.count() as f64)
    });
}

fn read(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/self/{name}")).ok()
}

/// Fields 14 and 15. The second field, the name in parentheses, may hold spaces and parentheses.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// In bytes.
fn kilobytes(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find(|line| line.starts_with(name))?;
    let kilobytes: f64 = line[name.len()..].trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 4 0 100 1 1 1 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("nonsense"), None);
        assert_eq!(kilobytes("Name:\tx\nVmRSS:\t    2048 kB\n", "VmRSS:"), Some(2_097_152.0));
        assert_eq!(kilobytes("Name:\tx\n", "VmRSS:"), None);
    }
}
