//! Spans and metrics by OTLP over HTTP, with OpenTelemetry's conventions for generative AI.
//!
//! ```text
//!  finished -> Done -> queue (bounded) | thread: span, histograms -> requests -> collector
//! ```
//!
//! The messages are the official generated types. The SDK's processors are not used: they drop
//! silently, do not try again, and their histograms have no exemplars. docs/otlp.md lists every
//! attribute.

#![forbid(unsafe_code)]

mod done;
mod exponential;
mod points;
mod sender;
mod settings;
mod span;
#[cfg(test)]
mod tests;
mod traceparent;

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use anyhow::Result;

use crate::llm::{Finished, Peer, Watch};
use crate::metrics::{Metrics, Sent};
use done::Done;
pub use settings::Settings;

/// Exchanges that wait for the thread, of some 500 bytes each.
const QUEUE: usize = 2_048;

/// How long the end of the agent waits for what is left to be exported.
const LAST: Duration = Duration::from_secs(3);

/// Hands exchanges to the thread that exports them, without waiting for it.
#[derive(Debug)]
pub struct Otlp {
    settings: Settings,
    /// None while the value is dropped.
    queue: Option<SyncSender<Done>>,
    over: Receiver<()>,
    metrics: Metrics,
    spans: bool,
}

impl Otlp {
    /// Starts the thread. `wall_offset`: nanoseconds since the Unix epoch, less those of
    /// `CLOCK_MONOTONIC`.
    pub fn start(settings: Settings, metrics: &Metrics, wall_offset: fn() -> i64) -> Result<Self> {
        let (queue, exchanges) = sync_channel(QUEUE);
        let spans = settings.traces.is_some();
        let sender = sender::Sender::new(settings.clone(), metrics.clone(), wall_offset);
        let builder = std::thread::Builder::new().name("otlp".into());
        let (ended, over) = sync_channel(1);
        builder.spawn(move || {
            sender.run(&exchanges);
            let _ = ended.send(());
        })?;
        Ok(Self { settings, queue: Some(queue), over, metrics: metrics.clone(), spans })
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}

impl Watch for Otlp {
    fn finished(&mut self, f: &Finished, peer: &Peer) {
        let Some(queue) = &self.queue else { return };
        match queue.try_send(Done::new(f, peer)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                let signal = if self.spans { sender::SPANS } else { sender::METRICS };
                self.metrics.exported(signal, Sent::Dropped, 1);
            }
        }
    }
}

/// Has what is left exported, for which it waits a little.
impl Drop for Otlp {
    fn drop(&mut self) {
        self.queue = None;
        let _ = self.over.recv_timeout(LAST);
    }
}
