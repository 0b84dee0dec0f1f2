//! What a connection's state needs of the pipeline while it handles one record.

use super::counts::{Counts, Lost, Resync, Verdict};
use super::pending::Pending;
use super::{Sink, label};
use crate::llm::{Exchange, Finished, Outcome, Peer, Role, Settings};
use crate::record::{Ns, Open};

/// What is known of the connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta<'a> {
    pub pid: u32,
    pub from_birth: bool,
    pub open: Option<&'a Open>,
}

pub(super) struct Cx<'a, K> {
    pub settings: &'a Settings,
    pub sink: &'a mut K,
    pub counts: &'a mut Counts,
    pub meta: Meta<'a>,
    /// For how long the connection's writes were held back, up to the record at hand.
    pub held: Ns,
    /// Set if the connection is not to be looked at any more.
    pub verdict: Option<Verdict>,
}

impl<K: Sink> Cx<'_, K> {
    /// Who talks to whom: named once per connection, and again if another process has it.
    pub fn peer<'p>(&mut self, role: Role, known: &'p mut Option<Peer>) -> &'p Peer {
        let meta = self.meta;
        if known.as_ref().is_none_or(|p| p.pid != meta.pid) {
            *known = None;
        }
        known.get_or_insert_with(|| label::peer(role, meta.open, meta.pid, self.sink))
    }

    /// An exchange turned out to be a call of an LLM.
    pub fn started(&mut self, role: Role, known: &mut Option<Peer>, exchange: &Exchange) -> Peer {
        let peer = self.peer(role, known).clone();
        self.counts.started += 1;
        self.sink.started_at(exchange.started(), role, &peer.server, exchange.endpoint());
        peer
    }

    pub fn finished(&mut self, mut pending: Pending) {
        let Some(peer) = &pending.peer else {
            self.counts.other_http += 1;
            return;
        };
        self.counts.finished += 1;
        let held = pending.held_until.unwrap_or(self.held);
        pending.exchange.held_back(held.saturating_sub(pending.held_before));
        let finished = pending.exchange.finish();
        self.over(&finished, pending.lost, peer);
    }

    /// An LLM exchange is over.
    pub fn over(&mut self, finished: &Finished, lost: Option<Lost>, peer: &Peer) {
        if finished.outcome == Outcome::Incomplete {
            self.counts.incomplete(lost);
        }
        let drops = finished.drops;
        self.counts.resyncs(Resync::LongEvent, drops.long_events);
        self.counts.resyncs(Resync::BadFrame, drops.bad_frames);
        self.sink.finished(finished, peer);
    }
}
