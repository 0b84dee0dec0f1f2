//! What the user tells the agent by signals.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::probe;

/// For how long after the signal to stop another one is the same.
const SAME: Duration = Duration::from_millis(500);

/// What SIGHUP means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HangUp {
    /// The configuration is to be read again.
    Reloads,
    /// The terminal is gone: the end, unless `nohup` says otherwise.
    Ends,
}

/// Signals that have come. A clone is the same.
#[derive(Clone, Debug)]
pub struct Signals {
    stop: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
}

impl Signals {
    /// From here on SIGINT and SIGTERM mean the end, a second of them the end at once, and SIGHUP
    /// what `meaning` says. A thread of its own takes them, since one that came to this thread would
    /// interrupt the verifier.
    pub fn watch(meaning: HangUp) -> Result<Self> {
        let signals = Self { stop: Arc::default(), reload: Arc::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listen = |kind| -> std::io::Result<Signal> {
            let _in = runtime.enter();
            signal(kind)
        };
        let mut terminate = listen(SignalKind::terminate())?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        let hears = meaning == HangUp::Reloads || !is_hang_up_ignored();
        let mut hang_up = hears.then(|| listen(SignalKind::hangup())).transpose()?;
        let Self { stop, reload } = signals.clone();
        let mut ends = async move || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(async {
                loop {
                    let hung_up = async {
                        match &mut hang_up {
                            Some(signal) => signal.recv().await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        () = ends() => break,
                        _ = hung_up => match meaning {
                            HangUp::Reloads => reload.store(true, Ordering::Release),
                            HangUp::Ends => break,
                        },
                    }
                }
                stop.store(true, Ordering::Release);
                // A terminal and who relays its signals send the same one twice.
                let _ = tokio::time::timeout(SAME, async {
                    loop {
                        ends().await;
                    }
                })
                .await;
                ends().await;
            });
            log::warn!("ended by a second signal; what was not written yet is lost");
            std::process::exit(1);
        })?;
        probe::signals::block();
        Ok(signals)
    }

    /// The end was asked for.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// A reload was asked for since the last call.
    pub fn take_reload(&self) -> bool {
        self.reload.swap(false, Ordering::AcqRel)
    }
}

/// Whether this process was started to ignore SIGHUP.
fn is_hang_up_ignored() -> bool {
    const BIT: u64 = 1 << (SignalKind::hangup().as_raw_value() - 1);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    ignored.is_some_and(|set| set & BIT != 0)
}
