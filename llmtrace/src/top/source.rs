//! Where the data come from: an agent on a thread of this process, or one that runs.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};

use super::data::Data;
use crate::{
    agent::{Agent, KernelOptions, wall_offset},
    live::Live,
    metrics::Metrics,
    probe::{ProbeError, clock::monotonic_ns, target::Wanted},
    serve,
};

/// How long another agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Seconds of history that are asked for.
const HISTORY: u64 = 600;
/// Longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 64 << 20;

/// Gives the data of now.
pub enum Source {
    Own(Own),
    Other { agent: ureq::Agent, url: String },
}

impl Source {
    /// Traces by itself.
    pub fn own(wanted: Wanted, kernel: KernelOptions) -> Result<Self> {
        Ok(Self::Own(Own::start(wanted, kernel)?))
    }

    /// Asks an agent that runs.
    pub fn other(url: &str) -> Self {
        let config = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).build();
        // An address is enough.
        let scheme = if url.contains("://") { "" } else { "http://" };
        let url = format!(
            "{scheme}{}/api/v1/summary?window=10s,60s,600s&history={HISTORY}&streams=1&ended=1",
            url.trim_end_matches('/')
        );
        Self::Other { agent: config.into(), url }
    }

    /// For the title.
    pub fn name(&self) -> String {
        match self {
            Self::Own(own) => format!("targets {}", own.targets),
            Self::Other { url, .. } => url.split("/api/").next().unwrap_or(url).to_owned(),
        }
    }

    pub fn get(&self) -> Result<Data> {
        let json = match self {
            Self::Own(own) => own.get()?,
            Self::Other { agent, url } => {
                let mut answer = agent.get(url).call().with_context(|| {
                    format!("no answer from {url}: does `llmtrace run` listen there?")
                })?;
                answer.body_mut().with_config().limit(MAX_ANSWER).read_to_vec()?
            }
        };
        serde_json::from_slice(&json).context("the answer is none of llmtrace")
    }
}

/// An agent on a thread.
pub struct Own {
    live: Live,
    metrics: Metrics,
    targets: String,
    stop: Arc<AtomicBool>,
    failed: Arc<Mutex<Option<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Own {
    fn start(wanted: Wanted, kernel: KernelOptions) -> Result<Self> {
        let (live, metrics) = (Live::new(wall_offset()), Metrics::default());
        let targets = wanted.describe();
        let (stop, failed) = (Arc::<AtomicBool>::default(), Arc::<Mutex<_>>::default());
        let (send, started) = mpsc::channel::<Result<(), ProbeError>>();
        let thread = {
            let (live, metrics) = (live.clone(), metrics.clone());
            let (stop, failed) = (stop.clone(), failed.clone());
            thread::Builder::new().name("agent".into()).spawn(move || {
                crate::probe::signals::block();
                let mut agent = match Agent::start(wanted, &kernel, metrics, None) {
                    Ok(agent) => agent,
                    Err(e) => return drop(send.send(Err(e))),
                };
                agent.watch(live.watch());
                let _ = send.send(Ok(()));
                while !stop.load(Ordering::Acquire) {
                    if let Err(e) = agent.step() {
                        *failed.lock().unwrap_or_else(PoisonError::into_inner) =
                            Some(e.to_string());
                        return;
                    }
                }
                agent.stop();
            })?
        };
        started.recv().map_err(|_| anyhow!("the agent's thread ended"))??;
        Ok(Self { live, metrics, targets, stop, failed, thread: Some(thread) })
    }

    fn get(&self) -> Result<Vec<u8>> {
        if let Some(failed) = &*self.failed.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(anyhow!("{failed}"));
        }
        Ok(serve::everything(&self.live, &self.metrics, monotonic_ns(), HISTORY)?)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_enough() {
        for (said, name) in [
            ("127.0.0.1:9466", "http://127.0.0.1:9466"),
            ("http://host:1/", "http://host:1"),
            ("https://host", "https://host"),
        ] {
            assert_eq!(Source::other(said).name(), name);
        }
    }
}
