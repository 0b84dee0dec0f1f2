//! What processes cost, from /proc.

use std::fs;

/// Clock ticks per second in /proc: a constant of the kernel's interface.
const TICKS: u64 = 100;

/// CPU time of a process and all its threads, nanoseconds; of what it has reaped, too.
pub fn cpu_ns(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything.
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(4)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    ticks * (1_000_000_000 / TICKS)
}

/// Resident memory, bytes.
pub fn rss(pid: u32) -> u64 {
    status_kb(pid, "VmRSS:") * 1024
}

/// What of it is no file's and nobody else's, bytes.
pub fn anonymous(pid: u32) -> u64 {
    status_kb(pid, "RssAnon:") * 1024
}

/// The most it ever was, bytes.
pub fn peak_rss(pid: u32) -> u64 {
    status_kb(pid, "VmHWM:") * 1024
}

fn status_kb(pid: u32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_usage_is_seen() {
        let me = std::process::id();
        let begin = crate::clock::now();
        while crate::clock::now() - begin < 50_000_000 {
            std::hint::spin_loop();
        }
        assert!(cpu_ns(me) >= 20_000_000);
        assert!(rss(me) > 500_000 && peak_rss(me) >= rss(me) / 2);
    }
}
