//! Requests that went wrong or were slow: what there is to look into.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::names::{Key, clean};
use super::second::Counts;
use crate::llm::{Finished, Ns, Outcome, Peer};

/// How many are kept, the last ones.
pub const MAX_ENDED: usize = 100;

/// Slow is a first token that took this many times the usual.
const SLOW: f64 = 4.0;
/// Unless it took no longer than this.
const NOT_SLOW: Ns = 100_000_000;
/// A gap between two tokens that is looked into.
const STALL: Ns = 1_000_000_000;
/// Requests after which it is known what is usual, and how many of the last ones tell.
const USUAL_AFTER: u32 = 20;
const USUAL_OF: f64 = 100.0;

/// Why a request is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    Failed,
    ClientLeft,
    Incomplete,
    /// A success whose first token came late by what is usual for its series.
    SlowFirstToken,
    /// A success that stood still for a second or more.
    Stalled,
}

/// A request that went wrong or was slow.
#[derive(Clone, Debug, Serialize)]
pub struct Ended {
    #[serde(flatten)]
    pub key: Arc<Key>,
    pub why: Why,
    #[serde(serialize_with = "outcome")]
    pub outcome: Outcome,
    pub status: Option<u16>,
    pub endpoint: &'static str,
    pub client: Arc<str>,
    pub pid: u32,
    pub user_agent: Option<Box<str>>,
    pub traceparent: Option<Box<str>>,
    pub finish_reason: Option<Box<str>>,
    #[serde(rename = "start_ns")]
    pub start: Ns,
    #[serde(rename = "end_ns")]
    pub end: Ns,
    #[serde(rename = "ttft_ns")]
    pub ttft: Option<Ns>,
    #[serde(rename = "max_stall_ns")]
    pub max_stall: Option<Ns>,
    pub prompt_tokens: Option<u64>,
    pub output_tokens: Option<u64>,
}

/// As the `outcome` label has it.
fn outcome<S: Serializer>(outcome: &Outcome, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(outcome.name())
}

/// What is usual.
#[derive(Clone, Copy, Debug, Default)]
struct Usual {
    seen: u32,
    ttft: f64,
}

/// What is usual of each series that is in use.
#[derive(Debug, Default)]
pub(super) struct Judge(HashMap<Arc<Key>, Usual>);

impl Judge {
    /// Whether to keep it. Learns from it.
    pub(super) fn why(&mut self, f: &Finished, key: &Arc<Key>) -> Option<Why> {
        match f.outcome {
            Outcome::Success => {}
            Outcome::ClientDisconnect(_) => return Some(Why::ClientLeft),
            Outcome::Incomplete => return Some(Why::Incomplete),
            _ => return Some(Why::Failed),
        }
        let slow = f.time_to_first_token().is_some_and(|ttft| self.is_slow(ttft, key));
        if slow {
            return Some(Why::SlowFirstToken);
        }
        f.max_stall.is_some_and(|gap| gap >= STALL).then_some(Why::Stalled)
    }

    fn is_slow(&mut self, ttft: Ns, key: &Arc<Key>) -> bool {
        if !self.0.contains_key(key) {
            self.0.insert(key.clone(), Usual::default());
        }
        let Some(usual) = self.0.get_mut(key) else { return false };
        let known = usual.seen >= USUAL_AFTER;
        let slow = known && ttft > NOT_SLOW && ttft as f64 > usual.ttft * SLOW;
        usual.seen = usual.seen.saturating_add(1);
        // The mean at first, then one that forgets.
        usual.ttft += (ttft as f64 - usual.ttft) / f64::from(usual.seen).min(USUAL_OF);
        slow
    }

    pub(super) fn expire(&mut self) {
        // The other owners: the names, and seconds that are kept.
        self.0.retain(|key, _| Arc::strong_count(key) > 1);
    }
}

pub(super) fn ended(f: &Finished, peer: &Peer, key: Arc<Key>, why: Why) -> Ended {
    let boxed = |text: &str| -> Box<str> { (*clean(text)).into() };
    Ended {
        key,
        why,
        outcome: f.outcome,
        status: f.status,
        endpoint: f.endpoint,
        client: peer.client.clone(),
        pid: peer.pid,
        user_agent: f.user_agent.as_deref().map(boxed),
        traceparent: f.traceparent.as_deref().map(boxed),
        finish_reason: f.finish_reason.as_deref().map(boxed),
        start: f.start,
        end: f.end,
        ttft: f.time_to_first_token(),
        max_stall: f.max_stall,
        prompt_tokens: f.usage.prompt,
        output_tokens: f.output_tokens().map(|(n, _)| n),
    }
}

/// What an exchange that is over adds to its series, besides its times.
pub(super) fn count(f: &Finished, counts: &mut Counts) {
    *counts.outcomes.of(f.outcome) += 1;
    if f.outcome == Outcome::Incomplete {
        return;
    }
    let add = |total: &mut u64, n: u64| *total = total.saturating_add(n);
    add(&mut counts.events, f.progress.events);
    add(&mut counts.prompt_tokens, f.usage.prompt.unwrap_or(0));
    // What the server says at the end may be more than its events told.
    let output = f.output_tokens().map_or(0, |(n, _)| n);
    add(&mut counts.output_tokens, f.progress.tokens.max(output.saturating_sub(f.progress.told)));
    if matches!(f.outcome, Outcome::ClientDisconnect(_)) {
        add(&mut counts.wasted_tokens, output);
    }
}
