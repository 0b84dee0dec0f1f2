//! Finds the series of an exchange, and closes intervals.

use std::collections::HashMap;
use std::sync::Arc;

use super::series::{IDLE, Series, Shared};
use super::{Anomaly, End, Event, Signal};
use crate::config;
use crate::llm::{Finished, Ns, Outcome, Peer, Running, Watch};

/// Most combinations of server and model that are watched. One takes some 36 KiB.
pub const MAX_SERIES: usize = 200;
/// Most names of a server under which it was asked for models that it calls otherwise.
const MAX_ALIASES: usize = 64;

/// Watches every series. Told of exchanges as a [`Watch`].
#[derive(Debug)]
pub struct Engine {
    settings: config::Anomaly,
    signals: Vec<Signal>,
    pub(super) servers: HashMap<Arc<str>, Server>,
    count: usize,
    events: Vec<Event>,
    next_id: u64,
    next_close: Option<Ns>,
    unattributed: u64,
}

#[derive(Debug, Default)]
pub(super) struct Server {
    pub(super) models: HashMap<Arc<str>, Series>,
    /// What requests call a model, where answers call it otherwise.
    aliases: HashMap<Box<str>, Arc<str>>,
    /// The model that answered last.
    last: Option<Arc<str>>,
}

impl Engine {
    pub fn new(settings: config::Anomaly) -> Self {
        Self {
            signals: wanted(&settings),
            settings,
            servers: HashMap::new(),
            count: 0,
            events: Vec::new(),
            next_id: 0,
            next_close: None,
            unattributed: 0,
        }
    }

    pub fn settings(&self) -> &config::Anomaly {
        &self.settings
    }

    /// Watches by other settings from `now` on. What was learned is kept, except of signals that are
    /// no longer looked at and where intervals have another length: what one of ten seconds looks like
    /// says little of one of a minute.
    pub fn set(&mut self, settings: config::Anomaly, now: Ns) {
        let anew = settings.interval != self.settings.interval;
        self.signals = wanted(&settings);
        let Self { settings: old, signals, servers, events, next_id, .. } = self;
        let mut shared = Shared { settings: old, events, next_id };
        for series in servers.values_mut().flat_map(|s| s.models.values_mut()) {
            series.set(signals, &settings, anew, now, &mut shared);
        }
        if anew {
            self.next_close = None;
        }
        self.settings = settings;
    }

    /// Ends what is under way: nobody watches any more.
    pub fn end(&mut self, now: Ns) {
        let Self { settings, servers, events, next_id, .. } = self;
        let mut shared = Shared { settings, events, next_id };
        for series in servers.values_mut().flat_map(|s| s.models.values_mut()) {
            series.end((now, End::Unwatched), &mut shared);
        }
    }

    /// What happened since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Anomalies that are not over.
    pub fn active(&self) -> impl Iterator<Item = &Anomaly> {
        self.servers.values().flat_map(|s| s.models.values()).flat_map(Series::active)
    }

    /// Series that are watched.
    pub fn series(&self) -> usize {
        self.count
    }

    /// Exchanges that belong to no series: failures of models that never answered, and all of
    /// series for which there is no room.
    pub fn unattributed(&self) -> u64 {
        self.unattributed
    }

    /// Makes room for one more series.
    fn make_room(&mut self, now: Ns) -> bool {
        if self.count < MAX_SERIES {
            return true;
        }
        let all = self.servers.iter().flat_map(|(name, server)| {
            server.models.values().map(move |series| (name, &series.model, series.last_seen))
        });
        let Some((name, model, seen)) = all.min_by_key(|(.., seen)| *seen) else { return false };
        if now.saturating_sub(seen) < IDLE {
            return false;
        }
        let (name, model) = (name.clone(), model.clone());
        let Some(server) = self.servers.get_mut(&name) else { return false };
        if let Some(mut gone) = server.models.remove(&model) {
            let Self { settings, events, next_id, .. } = self;
            gone.end((now, End::Evicted), &mut Shared { settings, events, next_id });
            self.count -= 1;
        }
        if server.models.is_empty() {
            self.servers.remove(&name);
        }
        true
    }

    /// Learns of a model that answered.
    fn learn(&mut self, f: &Finished, peer: &Peer) {
        let named = f.model.as_deref().unwrap_or_default();
        let known = self.servers.get(&peer.server).is_some_and(|s| s.models.contains_key(named));
        if !known {
            if !self.make_room(f.end) {
                return;
            }
            let model: Arc<str> = named.into();
            let series = Series::new(peer.server.clone(), model.clone(), &self.signals, f.end);
            self.servers.entry(peer.server.clone()).or_default().models.insert(model, series);
            self.count += 1;
        }
        let Some(server) = self.servers.get_mut(&peer.server) else { return };
        if server.last.as_deref() != Some(named) || f.asked.model.as_deref() != Some(named) {
            let Some((model, _)) = server.models.get_key_value(named) else { return };
            let model = model.clone();
            if let Some(asked) = f.asked.model.as_deref().filter(|asked| *asked != named)
                && server.aliases.get(asked) != Some(&model)
                && (server.aliases.len() < MAX_ALIASES || server.aliases.contains_key(asked))
            {
                server.aliases.insert(asked.into(), model.clone());
            }
            server.last = Some(model);
        }
    }

    /// The series of an exchange; of one whose model is not known, that which answered last.
    fn find(&mut self, server: &str, model: Option<&str>) -> Option<&mut Series> {
        let server = self.servers.get_mut(server)?;
        let named = model.unwrap_or_default();
        let key = if server.models.contains_key(named) {
            None
        } else {
            Some(server.aliases.get(named).or(server.last.as_ref())?.clone())
        };
        server.models.get_mut(key.as_deref().unwrap_or(named))
    }
}

/// The signals that are looked at.
fn wanted(settings: &config::Anomaly) -> Vec<Signal> {
    let wanted = |signal: &Signal| {
        settings.signals.is_empty() || settings.signals.iter().any(|s| s == signal.name())
    };
    Signal::ALL.into_iter().filter(wanted).collect()
}

impl Watch for Engine {
    fn running(&mut self, now: Ns, running: &Running<'_>, peer: &Peer) {
        if let Some(series) = self.find(&peer.server, running.model) {
            series.running(now, running, peer);
        }
    }

    fn finished(&mut self, f: &Finished, peer: &Peer) {
        if f.outcome == Outcome::Incomplete {
            return;
        }
        // Anybody can ask for any model; only a server that has it answers.
        if f.outcome == Outcome::Success && f.status.is_some_and(|s| s / 100 == 2) {
            self.learn(f, peer);
        }
        match self.find(&peer.server, f.model.as_deref()) {
            Some(series) => series.finished(f, peer),
            None => self.unattributed += 1,
        }
    }

    fn tick(&mut self, now: Ns) {
        let interval = self.settings.interval.as_nanos() as Ns;
        let next = *self.next_close.get_or_insert(now + interval);
        let close = now >= next;
        if close {
            // After a pause there is one long interval, not many empty ones.
            self.next_close = Some(now + interval - (now - next) % interval.max(1));
        }
        let Self { settings, servers, events, next_id, .. } = self;
        let mut shared = Shared { settings, events, next_id };
        for series in servers.values_mut().flat_map(|s| s.models.values_mut()) {
            series.looked();
            if close {
                series.close(now, &mut shared);
            }
            series.look_again();
        }
    }
}
