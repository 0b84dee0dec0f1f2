//! A short look at the traffic of everything that listens.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::Serialize;

use crate::{
    agent::{Agent, KernelOptions},
    llm::{Finished, Ns, Peer, Role, Running, Watch},
    metrics::Metrics,
    probe::target::Wanted,
};

/// Most names that are kept of a server.
const MAX_NAMES: usize = 16;

/// What was seen of a server.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Seen {
    /// Requests that ended, or are under way.
    pub requests: u64,
    pub models: BTreeSet<String>,
    pub endpoints: BTreeSet<&'static str>,
}

impl Seen {
    fn add(&mut self, endpoint: &'static str, model: Option<&str>) {
        if self.endpoints.len() < MAX_NAMES {
            self.endpoints.insert(endpoint);
        }
        if let Some(model) = model
            && self.models.len() < MAX_NAMES
        {
            self.models.insert(model.to_owned());
        }
    }
}

type All = BTreeMap<u32, Seen>;

struct Eye {
    all: Arc<Mutex<All>>,
    /// Those under way, at the last look.
    running: BTreeMap<u32, u64>,
    last: Arc<Mutex<BTreeMap<u32, u64>>>,
}

impl Watch for Eye {
    fn running(&mut self, _: Ns, running: &Running<'_>, peer: &Peer) {
        if running.role == Role::Server {
            *self.running.entry(peer.pid).or_default() += 1;
            if let Ok(mut all) = self.all.lock() {
                all.entry(peer.pid).or_default().add(running.endpoint, running.model);
            }
        }
    }

    fn finished(&mut self, f: &Finished, peer: &Peer) {
        if f.role == Role::Server
            && let Ok(mut all) = self.all.lock()
        {
            let seen = all.entry(peer.pid).or_default();
            seen.requests += 1;
            seen.add(f.endpoint, f.model.as_deref());
        }
    }

    fn tick(&mut self, _: Ns) {
        if let Ok(mut last) = self.last.lock() {
            *last = std::mem::take(&mut self.running);
        }
    }
}

/// What is served within so many seconds, by process.
pub(super) fn watch(seconds: u64) -> Result<All> {
    if seconds == 0 {
        return Ok(All::default());
    }
    let metrics = Metrics::default();
    let mut agent = Agent::start(Wanted::default(), &KernelOptions::default(), metrics, None)?;
    let (all, last) = (Arc::<Mutex<All>>::default(), Arc::<Mutex<BTreeMap<u32, u64>>>::default());
    agent.watch(Box::new(Eye { all: all.clone(), running: BTreeMap::new(), last: last.clone() }));
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        agent.step()?;
    }
    // Not stopped: for an agent that is, nothing is under way. What the ring holds of the last
    // milliseconds is not waited for.
    drop(agent);
    let mut all = all.lock().map(|all| all.clone()).unwrap_or_default();
    for (pid, running) in last.lock().map(|last| last.clone()).unwrap_or_default() {
        all.entry(pid).or_default().requests += running;
    }
    Ok(all)
}
