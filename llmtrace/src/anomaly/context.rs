//! The requests behind an anomaly; nothing of prompt or answer.

use std::sync::Arc;

use crate::llm::{Finished, Ns, Outcome, Peer, Running};

/// Most requests that are kept of an anomaly.
pub const MAX_REQUESTS: usize = 20;

/// A request that is out of line.
#[derive(Clone, Debug, PartialEq)]
pub struct Offender {
    pub start: Ns,
    /// None if it is not over.
    pub end: Option<Ns>,
    pub first_token: Option<Ns>,
    /// None if it is not over.
    pub outcome: Option<Outcome>,
    pub status: Option<u16>,
    pub endpoint: &'static str,
    pub model: Option<Box<str>>,
    pub client: Arc<str>,
    pub output_tokens: Option<u64>,
    /// In the unit of the signal; 1 of a share.
    pub value: f64,
}

impl Offender {
    pub(super) fn finished(f: &Finished, peer: &Peer, value: f64) -> Self {
        Self {
            start: f.start,
            end: Some(f.end),
            first_token: f.first_token,
            outcome: Some(f.outcome),
            status: f.status,
            endpoint: f.endpoint,
            model: f.model.clone(),
            client: peer.client.clone(),
            output_tokens: f.output_tokens().map(|(n, _)| n),
            value,
        }
    }

    pub(super) fn running(r: &Running<'_>, peer: &Peer, value: f64) -> Self {
        Self {
            start: r.start,
            end: None,
            first_token: r.first_token,
            outcome: None,
            status: r.status,
            endpoint: r.endpoint,
            model: r.model.map(Into::into),
            client: peer.client.clone(),
            output_tokens: Some(r.token_events),
            value,
        }
    }
}

/// The worst of an interval; of equal ones the first.
#[derive(Debug, Default)]
pub(super) struct Worst(Vec<Offender>);

/// Most that are kept of an interval.
const PER_INTERVAL: usize = 8;

impl Worst {
    pub(super) fn offer(&mut self, value: f64, make: impl FnOnce() -> Offender) {
        let place = self.0.partition_point(|kept| kept.value >= value);
        if place < PER_INTERVAL {
            self.0.truncate(PER_INTERVAL - 1);
            self.0.insert(place.min(self.0.len()), make());
        }
    }

    pub(super) fn take(&mut self) -> Vec<Offender> {
        std::mem::take(&mut self.0)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
