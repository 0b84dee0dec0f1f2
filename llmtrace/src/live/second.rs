//! Seconds that are over, in a ring.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::Serialize;

use super::names::Key;
use super::sketch::{Closed, Merged};
use crate::llm::Outcome;

/// Seconds that are kept.
pub const MAX_SECONDS: u64 = 600;
/// Most bytes of all seconds together, the oldest given up first. A busy series takes some 300 bytes a
/// second, so ten minutes of forty fit.
pub const MAX_BYTES: usize = 8 << 20;

/// Distributions of a series, in the order in which they are stored.
pub(super) const TTFT: usize = 0;
pub(super) const ITL: usize = 1;
pub(super) const TPOT: usize = 2;
pub(super) const E2E: usize = 3;
pub(super) const SKETCHES: usize = 4;

/// Requests by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outcomes {
    pub success: u64,
    pub http_error: u64,
    pub stream_error: u64,
    pub client_disconnect: u64,
    pub server_disconnect: u64,
    pub timeout: u64,
    pub incomplete: u64,
}

impl Outcomes {
    pub(super) fn of(&mut self, outcome: Outcome) -> &mut u64 {
        match outcome {
            Outcome::Success => &mut self.success,
            Outcome::HttpError => &mut self.http_error,
            Outcome::StreamError => &mut self.stream_error,
            Outcome::ClientDisconnect(_) => &mut self.client_disconnect,
            Outcome::ServerDisconnect => &mut self.server_disconnect,
            Outcome::Timeout => &mut self.timeout,
            Outcome::Incomplete => &mut self.incomplete,
        }
    }

    pub fn all(&self) -> u64 {
        self.success + self.failed() + self.client_disconnect + self.incomplete
    }

    /// For a reason that is not the client's leaving, and not that bytes were not seen.
    pub fn failed(&self) -> u64 {
        self.http_error + self.stream_error + self.server_disconnect + self.timeout
    }

    fn share(&self, n: u64, of: u64) -> Self {
        Self {
            success: share(self.success, n, of),
            http_error: share(self.http_error, n, of),
            stream_error: share(self.stream_error, n, of),
            client_disconnect: share(self.client_disconnect, n, of),
            server_disconnect: share(self.server_disconnect, n, of),
            timeout: share(self.timeout, n, of),
            incomplete: share(self.incomplete, n, of),
        }
    }

    fn add(&mut self, other: &Self) {
        self.success += other.success;
        self.http_error += other.http_error;
        self.stream_error += other.stream_error;
        self.client_disconnect += other.client_disconnect;
        self.server_disconnect += other.server_disconnect;
        self.timeout += other.timeout;
        self.incomplete += other.incomplete;
    }
}

/// What is counted of a series. Tokens are as servers tell them, so they saturate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub outcomes: Outcomes,
    pub output_tokens: u64,
    pub prompt_tokens: u64,
    /// Output tokens of requests that the client left.
    pub wasted_tokens: u64,
    /// Events of streams.
    pub events: u64,
}

/// The `n`th of `of` parts of `all`, which differ by one at the most.
fn share(all: u64, n: u64, of: u64) -> u64 {
    let of = of.max(1);
    all / of + u64::from(n < all % of)
}

impl Counts {
    fn share(&self, n: u64, of: u64) -> Self {
        Self {
            outcomes: self.outcomes.share(n, of),
            output_tokens: share(self.output_tokens, n, of),
            prompt_tokens: share(self.prompt_tokens, n, of),
            wasted_tokens: share(self.wasted_tokens, n, of),
            events: share(self.events, n, of),
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.outcomes.add(&other.outcomes);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.wasted_tokens = self.wasted_tokens.saturating_add(other.wasted_tokens);
        self.events = self.events.saturating_add(other.events);
    }
}

/// A series in a second.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) key: Arc<Key>,
    pub(super) counts: Counts,
    /// Requests under way, at the last look and the most of all looks.
    pub(super) in_flight: u32,
    pub(super) in_flight_max: u32,
    pub(super) sketches: Box<[u8]>,
}

impl Slot {
    pub(super) fn merge(&self, into: &mut [Merged; SKETCHES]) {
        let mut closed = Closed(&self.sketches);
        into.iter_mut().for_each(|merged| closed.merge(merged));
    }
}

/// A second that is over.
#[derive(Debug)]
pub(super) struct Second {
    /// Its number on the clock of the agent.
    pub(super) at: u64,
    /// Of series in which anything happened or was under way.
    pub(super) slots: Box<[Slot]>,
}

impl Second {
    fn bytes(&self) -> usize {
        size_of::<Self>()
            + size_of_val(&*self.slots)
            + self.slots.iter().map(|slot| slot.sketches.len()).sum::<usize>()
    }

    /// What was told late and is of `seconds` seconds, as so many. Counts are spread, as nobody knows
    /// when what happened; times are in the last.
    pub(super) fn spread(self, seconds: u64) -> Vec<Self> {
        let mut all: Vec<Self> = (0..seconds.saturating_sub(1))
            .map(|n| {
                let slots = self.slots.iter().map(|slot| Slot {
                    key: slot.key.clone(),
                    counts: slot.counts.share(n, seconds),
                    sketches: [0; SKETCHES].into(),
                    ..*slot
                });
                Self { at: self.at + n, slots: slots.collect() }
            })
            .collect();
        let mut last = self;
        let n = seconds.saturating_sub(1);
        last.at += n;
        last.slots.iter_mut().for_each(|slot| slot.counts = slot.counts.share(n, seconds));
        all.push(last);
        all
    }
}

/// The last seconds, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Ring {
    seconds: VecDeque<Arc<Second>>,
    bytes: usize,
    /// The first second that was ever kept.
    first: Option<u64>,
    /// Seconds before this one were given up for want of space.
    given_up: u64,
}

/// The ring as it was: the newest second first.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) seconds: Vec<Arc<Second>>,
    /// Nothing is known of the time before this second.
    pub(super) since: u64,
}

impl Ring {
    /// Takes one that is newer than all before.
    pub(super) fn push(&mut self, second: Second) {
        self.first.get_or_insert(second.at);
        let oldest = second.at.saturating_sub(MAX_SECONDS - 1);
        self.bytes += second.bytes();
        self.seconds.push_back(Arc::new(second));
        while let Some(front) = self.seconds.front()
            && (front.at < oldest || (self.bytes > MAX_BYTES && self.seconds.len() > 1))
        {
            if front.at >= oldest {
                self.given_up = front.at + 1;
            }
            self.bytes -= front.bytes();
            self.seconds.pop_front();
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let since = self.first.unwrap_or(u64::MAX).max(self.given_up);
        Snapshot { seconds: self.seconds.iter().rev().cloned().collect(), since }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Snapshot {
    /// The second after the last one to tell of at `now`: what is not over yet is not told. An agent
    /// that is late by a second is not waited for.
    pub(super) fn end(&self, now: u64) -> u64 {
        let known = self.seconds.first().map_or(0, |newest| newest.at + 1);
        known.max(now.saturating_sub(1))
    }

    /// Seconds of `[end - seconds, end)` of which anything is known.
    pub(super) fn covered(&self, end: u64, seconds: u64) -> u64 {
        seconds.min(end.saturating_sub(self.since))
    }
}
