//! What waits for records that are late: bytes that are out of order, and ends of connections.

use super::link::opposite;
use super::{Pipeline, Sink, parts};
use crate::conn::{HOLD_NS, Piece, Slot};
use crate::record::{Direction, EndReason, Ns, Reached, SockId};

/// Ends that wait for records that are late.
const MAX_ENDS: usize = 8192;
/// How often records alone drive what waits.
const LATE_NS: Ns = 10_000_000;

/// An end of a connection, or of one of its directions.
#[derive(Debug)]
pub(super) struct End {
    pub due: Ns,
    pub id: SockId,
    pub at: Ns,
    pub reason: EndReason,
    pub reached: Option<Reached>,
}

impl Pipeline {
    /// What waited long enough.
    #[cold]
    pub(super) fn late(&mut self, sink: &mut impl Sink) {
        self.next_late = self.now.saturating_add(LATE_NS);
        if !self.waiting.is_empty() {
            let mut waiting = std::mem::take(&mut self.waiting);
            waiting.retain(|&id| self.settle(id, false, sink));
            waiting.append(&mut self.waiting);
            self.waiting = waiting;
        }
        while self.ends.front().is_some_and(|e| e.due <= self.now)
            && let Some(end) = self.ends.pop_front()
        {
            self.apply(&end, sink);
        }
    }

    /// Hands on what a connection held back, all of it or what did so for too long. Whether it
    /// holds something back still.
    pub(super) fn settle(&mut self, id: SockId, all: bool, sink: &mut impl Sink) -> bool {
        let now = self.now;
        let Some(slot) = self.table.find(id) else { return false };
        let Some((entry, shared)) = self.table.get(slot) else { return false };
        let (read, write, link, mut cx) = parts(entry, &self.settings, &mut self.counts, sink);
        // What was asked before what was answered.
        let asks = link.request_direction();
        for direction in [asks, opposite(asks)] {
            let stream = if direction == Direction::Read { &mut *read } else { &mut *write };
            let mut piece = |piece: Piece<'_>| link.piece(direction, piece, &mut cx);
            if all {
                stream.flush(shared, &mut piece);
            } else {
                stream.tick(now, shared, &mut piece);
            }
        }
        if all {
            link.drop_early(&mut cx);
        } else {
            link.tick(now, &mut cx);
        }
        let verdict = cx.verdict;
        let waits = read.waits() || write.waits() || link.waits();
        if !all {
            link.listed = waits;
        }
        if let Some(verdict) = verdict {
            self.silence(slot, verdict, sink);
            self.verdict(id);
        }
        waits
    }

    /// An end waits as long as there is something that a late record could still complete.
    pub(super) fn end(&mut self, mut end: End, sink: &mut impl Sink) {
        let End { id, at, reason, .. } = end;
        let Some((entry, _)) = self.table.find(id).and_then(|s| self.table.get(s)) else { return };
        if entry.state.is_silent() {
            end.reached = None;
        }
        let lacks = end.reached.is_some_and(|reached| entry.lacks(reached));
        let settled = !entry.state.busy() && !entry.waits() && !entry.state.waits() && !lacks;
        // The first end decides: what answers an end that waits, as a client's FIN answers the
        // server's, waits behind it.
        let noted = entry.state.only_notes(reason)
            && (settled || !self.ends.iter().any(|end| end.id == id && end.at <= at));
        if noted || settled {
            return self.apply(&end, sink);
        }
        end.due = self.now.saturating_add(HOLD_NS);
        self.ends.push_back(end);
        if self.ends.len() > MAX_ENDS
            && let Some(end) = self.ends.pop_front()
        {
            self.counts.ends_early += 1;
            self.apply(&end, sink);
        }
    }

    pub(super) fn apply(&mut self, end: &End, sink: &mut impl Sink) {
        let End { id, at, reason, reached, .. } = *end;
        let Some(slot) = self.table.find(id) else { return };
        if self.table.get(slot).is_some_and(|(e, _)| !e.state.only_notes(reason)) {
            self.settle(id, true, sink);
            if let Some(reached) = reached {
                self.ends_at(slot, reached, at, sink);
            }
        }
        let Some((entry, _)) = self.table.get(slot) else { return };
        let (.., link, mut cx) = parts(entry, &self.settings, &mut self.counts, sink);
        link.end(reason, at, &mut cx);
        if reason == EndReason::Closed {
            self.remove(id);
        }
    }

    /// Both streams end there: what is missing before that will not come.
    fn ends_at(&mut self, slot: Slot, end: Reached, at: Ns, sink: &mut impl Sink) {
        let Some((entry, shared)) = self.table.get(slot) else { return };
        if entry.state.is_silent() || !entry.lacks(end) {
            return;
        }
        let (read, write, link, mut cx) = parts(entry, &self.settings, &mut self.counts, sink);
        read.ends(end.read, at, shared, &mut |p| link.piece(Direction::Read, p, &mut cx));
        write.ends(end.written, at, shared, &mut |p| link.piece(Direction::Write, p, &mut cx));
    }
}
