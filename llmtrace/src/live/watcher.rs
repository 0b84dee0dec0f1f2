//! Sees exchanges, keeps the second at hand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::ended::{self, Judge, MAX_ENDED};
use super::names::{Key, Names};
use super::second::{Counts, E2E, ITL, SKETCHES, Second, Slot, TPOT, TTFT};
use super::sketch::{Scale, Sketch};
use super::streams::{Look, MAX_STREAMS, Seen};
use super::{SECOND, Shared, lock};
use crate::llm::{Finished, Ns, Outcome, Peer, Running, Watch};

/// Most seconds over which is spread what an agent tells that was held up for longer than one.
const MAX_SPREAD: u64 = 30;
/// How often names that are out of use are looked for, in seconds.
const EXPIRE: u64 = 60;

/// A series in the second at hand.
#[derive(Debug, Default)]
struct Open {
    counts: Counts,
    /// Seen in this look so far.
    running: u32,
    in_flight: u32,
    in_flight_max: u32,
    sketches: [Sketch; SKETCHES],
}

impl Open {
    fn is_empty(&self) -> bool {
        self.counts == Counts::default()
            && self.in_flight_max == 0
            && self.sketches.iter().all(Sketch::is_empty)
    }
}

pub(super) struct Watcher {
    shared: Arc<Mutex<Shared>>,
    names: Names,
    judge: Judge,
    scale: Scale,
    /// The second at hand.
    at: Option<u64>,
    open: HashMap<Arc<Key>, Open>,
    look: Look,
    /// For the bytes of sketches, before they are known to be all.
    scratch: Vec<u8>,
}

impl Watcher {
    pub(super) fn new(shared: Arc<Mutex<Shared>>) -> Self {
        Self {
            shared,
            names: Names::default(),
            judge: Judge::default(),
            scale: Scale::default(),
            at: None,
            open: HashMap::new(),
            look: Look::default(),
            scratch: Vec::new(),
        }
    }

    /// The second at hand. What is told with the time of its end belongs to it, so the clock does not
    /// move here; only `tick` ends a second.
    fn second(&mut self, now: Ns) -> u64 {
        *self.at.get_or_insert(now / SECOND)
    }

    /// The second at hand becomes one that is over.
    fn close(&mut self, at: u64) -> Second {
        let scratch = &mut self.scratch;
        let mut slots = Vec::new();
        self.open.retain(|key, open| {
            if open.is_empty() {
                return false;
            }
            scratch.clear();
            open.sketches.iter_mut().for_each(|sketch| sketch.close(scratch));
            slots.push(Slot {
                key: key.clone(),
                counts: std::mem::take(&mut open.counts),
                in_flight: open.in_flight,
                in_flight_max: open.in_flight_max,
                sketches: scratch.as_slice().into(),
            });
            open.in_flight_max = open.in_flight;
            true
        });
        Second { at, slots: slots.into() }
    }
}

impl Watch for Watcher {
    fn running(&mut self, now: Ns, r: &Running<'_>, peer: &Peer) {
        let second = self.second(now);
        let accepted = r.status.is_some_and(|s| s / 100 == 2 || s == 101);
        let key = self.names.key(r.role, &peer.server, r.model, accepted, second);
        let open = self.open.entry(key.clone()).or_default();
        open.running = open.running.saturating_add(1);
        let new = &r.progress;
        open.counts.events = open.counts.events.saturating_add(new.events);
        open.counts.output_tokens = open.counts.output_tokens.saturating_add(new.tokens);
        if let Some(t) = r.first_token.filter(|_| new.first) {
            open.sketches[TTFT].observe(&self.scale, t.saturating_sub(r.start));
        }
        new.gaps().iter().for_each(|us| open.sketches[ITL].observe_us(&self.scale, *us));
        self.look.all += 1;
        if self.look.seen.len() < MAX_STREAMS {
            self.look.seen.push(Seen {
                key,
                endpoint: r.endpoint,
                client: peer.client.clone(),
                pid: peer.pid,
                tls: peer.tls,
                stream: r.stream,
                status: r.status,
                start: r.start,
                first_token: r.first_token,
                last_token: r.last_token,
                tokens: new.told.saturating_add(new.tokens),
            });
        }
    }

    fn finished(&mut self, f: &Finished, peer: &Peer) {
        let second = self.second(f.end);
        let accepted = f.outcome == Outcome::Success
            && f.status.is_some_and(|status| status / 100 == 2 || status == 101);
        let key = self.names.key(f.role, &peer.server, f.model.as_deref(), accepted, second);
        let open = self.open.entry(key.clone()).or_default();
        ended::count(f, &mut open.counts);
        if f.outcome != Outcome::Incomplete {
            let Self { scale, .. } = self;
            let [ttft, itl, tpot, e2e] = &mut open.sketches;
            debug_assert_eq!([TTFT, ITL, TPOT, E2E], [0, 1, 2, 3]);
            if let Some(t) = f.time_to_first_token().filter(|_| f.progress.first) {
                ttft.observe(scale, t);
            }
            f.progress.gaps().iter().for_each(|us| itl.observe_us(scale, *us));
            if let Some(t) = f.per_output_token() {
                tpot.observe(scale, t);
            }
            e2e.observe(scale, f.end.saturating_sub(f.start));
        }
        if let Some(why) = self.judge.why(f, &key) {
            let ended = Arc::new(ended::ended(f, peer, key, why));
            let mut shared = lock(&self.shared);
            if shared.ended.len() >= MAX_ENDED {
                shared.ended.pop_front();
            }
            shared.ended.push_back(ended);
        }
    }

    fn tick(&mut self, now: Ns) {
        for open in self.open.values_mut() {
            open.in_flight = std::mem::take(&mut open.running);
            open.in_flight_max = open.in_flight_max.max(open.in_flight);
        }
        let (new, at) = (now / SECOND, self.second(now));
        let over = (new > at).then(|| {
            self.at = Some(new);
            // Not in one second, next to others in which nothing would have happened.
            self.close(at).spread((new - at).min(MAX_SPREAD))
        });
        if over.is_some() && new / EXPIRE > at / EXPIRE {
            self.names.expire(new);
            self.judge.expire();
        }
        self.look.at = now;
        let mut look = Look::default();
        look.seen.reserve(self.look.seen.len());
        let look = Arc::new(std::mem::replace(&mut self.look, look));
        let mut shared = lock(&self.shared);
        let old = std::mem::replace(&mut shared.streams, look);
        over.into_iter().flatten().for_each(|second| shared.ring.push(second));
        drop(shared);
        // Outside of the lock, if it is the last.
        drop(old);
    }
}
