//! What target processes use: processor, memory, sockets, GPUs.
//!
//! Looking takes system calls by the hundred, so it is done on a thread of its own.

mod gpu;
mod process;

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use crate::metrics::{Metrics, TargetUse};
use gpu::Gpus;

/// Most processes that are looked at.
pub const MAX_PROCESSES: usize = 64;

/// A thread that looks at the processes that it is told of, and ends with this value.
#[derive(Debug)]
pub struct Usage {
    ask: SyncSender<Vec<u32>>,
}

impl Usage {
    pub fn start(metrics: Metrics) -> std::io::Result<Self> {
        let (ask, asked) = sync_channel(1);
        std::thread::Builder::new().name("usage".into()).spawn(move || look(&asked, &metrics))?;
        Ok(Self { ask })
    }

    /// Has these looked at, the first [`MAX_PROCESSES`] of them. If the thread is still busy, they
    /// are not.
    pub fn look(&self, pids: Vec<u32>) {
        match self.ask.try_send(pids) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

fn look(asked: &Receiver<Vec<u32>>, metrics: &Metrics) {
    // The library takes a moment to load.
    let mut gpus = Gpus::find();
    while let Ok(mut pids) = asked.recv() {
        pids.truncate(MAX_PROCESSES);
        let mut of_gpus = gpus.as_mut().map(|gpus| gpus.look(&pids)).unwrap_or_default();
        let uses = pids.into_iter().filter_map(|pid| {
            let of_process = process::look(pid)?;
            Some(TargetUse { gpus: of_gpus.remove(&pid).unwrap_or_default(), ..of_process })
        });
        metrics.set_targets(uses.collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn own_process_shows_up_and_one_that_is_gone_does_not() {
        let metrics = Metrics::default();
        let usage = Usage::start(metrics.clone()).unwrap();
        let pid = std::process::id();
        let _socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let label = format!("llmtrace_target_open_sockets{{pid=\"{pid}\"");
        let deadline = Instant::now() + Duration::from_secs(10);
        let text = loop {
            usage.look(vec![pid, u32::MAX]);
            let text = metrics.encode_text();
            if text.contains(&label) || Instant::now() > deadline {
                break text;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|l| l.starts_with(&format!("{name}{{pid=\"{pid}\"")));
            line.unwrap_or_else(|| panic!("{text}")).rsplit_once(' ').unwrap().1.parse().unwrap()
        };
        assert!(value("llmtrace_target_open_sockets") >= 1.0);
        assert!(value("llmtrace_target_resident_memory_bytes") > 1e6);
        assert!(value("llmtrace_target_cpu_seconds_total") >= 0.0);
        assert!(!text.contains(&u32::MAX.to_string()), "{text}");
    }
}
