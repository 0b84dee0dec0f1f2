//! The agent's own `process_*` metrics, read from `/proc/self`.

use std::fs;

/// `USER_HZ`, in which the kernel reports times whatever its own tick is.
pub(crate) const USER_HZ: f64 = 100.0;

/// What could be read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident: Option<f64>,
    pub(super) virtual_size: Option<f64>,
    pub(super) open_fds: Option<f64>,
    pub(super) max_fds: Option<f64>,
    pub(super) start_time: Option<f64>,
    pub(super) threads: Option<f64>,
}

impl Process {
    pub(super) fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let stat = text("/proc/self/stat");
        let status = text("/proc/self/status");
        let boot = field(&text("/proc/stat"), "btime ");
        Self {
            cpu_seconds: ticks(&stat, 14).zip(ticks(&stat, 15)).map(|(u, s)| (u + s) / USER_HZ),
            resident: field(&status, "VmRSS:").map(|kib| kib * 1024.0),
            virtual_size: field(&status, "VmSize:").map(|kib| kib * 1024.0),
            // One is the directory that is being read.
            open_fds: fs::read_dir("/proc/self/fd")
                .ok()
                .map(|d| d.count().saturating_sub(1) as f64),
            max_fds: field(&text("/proc/self/limits"), "Max open files"),
            start_time: ticks(&stat, 22).zip(boot).map(|(t, boot)| boot + t / USER_HZ),
            threads: field(&status, "Threads:"),
        }
    }
}

/// The first number after the name with which a line starts.
pub(crate) fn field(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// A field of `/proc/pid/stat`, numbered as in proc(5). The second may contain anything.
pub(crate) fn ticks(stat: &str, number: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own() {
        let p = Process::read();
        assert!(p.cpu_seconds.is_some_and(|v| v >= 0.0));
        assert!(p.resident < p.virtual_size && p.resident > Some(100_000.0));
        assert!(p.open_fds.is_some_and(|v| v >= 1.0));
        assert!(p.threads.is_some_and(|v| v >= 1.0));
        assert!(p.start_time.is_some_and(|v| v > 1e9));
    }

    #[test]
    fn name_with_parentheses() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 3 0 9000 1 2";
        assert_eq!(ticks(stat, 14), Some(250.0));
        assert_eq!(ticks(stat, 22), Some(9000.0));
        assert_eq!(
            field("Max open files            1024    4096 files\n", "Max open files"),
            Some(1024.0)
        );
    }
}
