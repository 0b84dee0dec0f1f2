//! What the user tells the agent by signals.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::Result;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::probe;

/// Signals that have come. A clone is the same.
#[derive(Clone, Debug)]
pub struct Signals {
    stop: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
}

impl Signals {
    /// From here on SIGINT and SIGTERM mean the end and SIGHUP a reload; a thread of its own takes
    /// them, since one that came to this thread would interrupt the verifier.
    pub fn watch() -> Result<Self> {
        let signals = Self { stop: Arc::default(), reload: Arc::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listen = |kind| -> std::io::Result<Signal> {
            let _in = runtime.enter();
            signal(kind)
        };
        let mut terminate = listen(SignalKind::terminate())?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut hang_up = listen(SignalKind::hangup())?;
        let Self { stop, reload } = signals.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = terminate.recv() => break,
                        _ = interrupt.recv() => break,
                        _ = hang_up.recv() => reload.store(true, Ordering::Release),
                    }
                }
            });
            stop.store(true, Ordering::Release);
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
