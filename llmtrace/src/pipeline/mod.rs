//! From records to finished LLM exchanges.
//!
//! One connection at a time: its two directions are put into order (`conn`), parsed (`http`), and
//! what the parsers say is told to the exchanges (`llm`). Whatever is missing, broken or not HTTP
//! ends up in a counter, never in a wrong measurement.
//!
//! Architecture Invariant: no I/O, no wall clock, no names of its own. Time is what the records
//! and the caller say; what is found goes to a [`Sink`]. The same records give the same results.
//! Architecture Invariant: memory is bounded by constants, whatever the records claim.
#![forbid(unsafe_code)]

mod counts;
mod cx;
mod early;
mod ending;
mod events;
mod h1;
mod h2;
mod held;
mod label;
mod late;
mod link;
mod pending;
mod sink;
mod start;
#[cfg(test)]
mod tests;
mod ws;

use std::collections::VecDeque;

use rustc_hash::FxHashSet;

pub use counts::{Counts, Lost, RECORD_KINDS, Resync, Verdict};
pub use held::LONG_WRITE_NS;
pub use sink::Sink;

use crate::conn::{Entry, Slot, Stream, Table};
use crate::llm::{Peer, Running, Settings};
use crate::record::{Data, Direction, Ns, Record, SockId};
use cx::{Cx, Meta};
use late::End;
use link::{Link, opposite};

/// Response bytes of one connection that wait for their request.
pub const EARLY_BYTES: usize = 64 * 1024;
/// Bytes of a connection joined in its middle, in each of both directions, without a request line:
/// no HTTP. One direction alone may be the rest of a long message, so it may have more.
pub const JOINED_BYTES: u64 = 64 * 1024;
pub const JOINED_ONE_WAY_BYTES: u64 = 16 * 1024 * 1024;
/// After a loss among pipelined requests, this long without a response byte sets things right.
pub const QUIET_NS: Ns = 1_000_000_000;
/// A connection without a byte for so long is let go; an open exchange has timed out.
pub const IDLE_NS: Ns = 600_000_000_000;
/// Verdicts kept for the caller.
pub const MAX_VERDICTS: usize = 4096;
/// Connections that wait for records that are late; past it nothing waits.
const MAX_WAITING: usize = 1024;
/// Connections looked at in one tick for their age.
const SWEEP: usize = 1024;

/// Everything between the ring and the metrics.
#[derive(Debug)]
pub struct Pipeline {
    settings: Settings,
    table: Table<Link>,
    counts: Counts,
    verdicts: Vec<SockId>,
    /// Ends of connections with something open: records from other CPUs may still come.
    ends: VecDeque<End>,
    /// Connections that hold something back until time passes.
    waiting: Vec<SockId>,
    /// Connections whose end the kernel side may not see, but that of their process.
    unix: FxHashSet<SockId>,
    /// The latest time seen.
    now: Ns,
    next_late: Ns,
}

impl Pipeline {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            table: Table::default().ranked(Link::rank),
            counts: Counts::default(),
            verdicts: Vec::new(),
            ends: VecDeque::new(),
            waiting: Vec::new(),
            unix: FxHashSet::default(),
            now: 0,
            next_late: 0,
        }
    }

    /// What is decided about exchanges that begin from here on.
    pub fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// Takes one record, in ring order.
    #[inline]
    pub fn push(&mut self, rec: &Record<'_>, sink: &mut impl Sink) {
        match rec {
            Record::Data(data) => self.data(data, sink),
            _ => self.other(rec, sink),
        }
    }

    /// Time passes; to be called a few times a second at least.
    pub fn tick(&mut self, now: Ns, sink: &mut impl Sink) {
        self.now = self.now.max(now);
        self.late(sink);
        let now = self.now;
        for id in self.table.sweep(SWEEP, |e| now.saturating_sub(e.last) > IDLE_NS) {
            if let Some(mut entry) = self.remove(id) {
                self.counts.expired += 1;
                let (.., link, mut cx) = parts(&mut entry, &self.settings, &mut self.counts, sink);
                link.timed_out(now, &mut cx);
            }
        }
    }

    /// The pipeline stops: what waits is handed on, what is open then is only counted.
    pub fn finish(&mut self, now: Ns, sink: &mut impl Sink) {
        self.now = self.now.max(now);
        for id in std::mem::take(&mut self.waiting) {
            self.settle(id, true, sink);
        }
        while let Some(end) = self.ends.pop_front() {
            self.apply(&end, sink);
        }
        self.counts.still_open += self.table.iter().map(|e| e.state.open()).sum::<usize>() as u64;
        let conn = self.table.counts();
        self.table = Table::default().ranked(Link::rank);
        self.table.shared.counts = conn;
        self.unix.clear();
    }

    /// Nothing more comes of the processes that `gone` names: what they have open is incomplete.
    pub fn let_go(&mut self, gone: impl Fn(u32) -> bool, sink: &mut impl Sink) {
        let ids: Vec<_> = self.table.iter().filter(|e| gone(e.pid)).map(|e| e.id).collect();
        for id in ids {
            self.settle(id, true, sink);
            if let Some(mut entry) = self.remove(id) {
                let now = self.now;
                let (.., link, mut cx) = parts(&mut entry, &self.settings, &mut self.counts, sink);
                link.lose_all(now, Lost::Silenced, &mut cx);
            }
        }
    }

    /// Connections that need no further records, since the last call.
    pub fn take_verdicts(&mut self) -> Vec<SockId> {
        std::mem::take(&mut self.verdicts)
    }

    /// Everything counted, as (group, reason, count). Groups: `records`, `resyncs`, `incomplete`,
    /// `silenced`, `exchanges`, `connections`, `bytes`, `stream`.
    pub fn counts(&self) -> Vec<(&'static str, &'static str, u64)> {
        self.counts.all(&self.table.counts(), self.table.len())
    }

    /// Connections that are followed now.
    pub fn connections(&self) -> usize {
        self.table.len()
    }

    /// Tells `on` of every LLM exchange that is under way, with what it brought since the last call.
    pub fn running(&mut self, mut on: impl FnMut(Running<'_>, &Peer)) {
        for entry in self.table.iter_mut() {
            entry.state.running(&mut on);
        }
    }

    #[inline]
    fn data(&mut self, data: &Data<'_>, sink: &mut impl Sink) {
        self.counts.records[data.direction as usize] += 1;
        self.counts.bytes += data.bytes.len() as u64;
        self.now = self.now.max(data.exit);
        if self.now >= self.next_late {
            self.late(sink);
        }
        let (slot, entry, shared) = self.table.touch(data);
        if entry.state.is_silent() {
            return self.ignored(slot);
        }
        let from_birth = entry.from_birth;
        let (read, write, link, mut cx) = parts(entry, &self.settings, &mut self.counts, sink);
        let (own, other) = match data.direction {
            Direction::Read => (&mut *read, &mut *write),
            Direction::Write => (&mut *write, &mut *read),
        };
        if other.waits() && link.begins_request(data.direction) {
            // Nobody asks again before the answer is over: what is missing of it will not come,
            // and must not be found missing only when the next exchange is open.
            let back = opposite(data.direction);
            own.flush(shared, &mut |piece| link.piece(data.direction, piece, &mut cx));
            other.flush(shared, &mut |piece| link.piece(back, piece, &mut cx));
        }
        let stream = match data.direction {
            Direction::Read => &mut *read,
            Direction::Write => &mut *write,
        };
        stream.push(data, from_birth, shared, |piece| link.piece(data.direction, piece, &mut cx));
        let verdict = cx.verdict;
        let waits = read.waits() || write.waits() || link.waits();
        if waits || verdict.is_some() || self.table.has_evicted() {
            self.after(slot, data.id, verdict, sink);
        }
    }

    /// What rarely follows a record.
    #[cold]
    fn after(&mut self, slot: Slot, id: SockId, verdict: Option<Verdict>, sink: &mut impl Sink) {
        if let Some(verdict) = verdict {
            self.silence(slot, verdict, sink);
            self.verdict(id);
        } else if let Some((entry, shared)) = self.table.get(slot) {
            let full = self.waiting.len() >= MAX_WAITING && !entry.state.listed;
            let hasty = entry.state.waits_for_room();
            if let Some(direction) = hasty {
                let (read, write, link, mut cx) =
                    parts(entry, &self.settings, &mut self.counts, sink);
                let stream = if direction == Direction::Read { read } else { write };
                stream.flush(shared, &mut |piece| link.piece(direction, piece, &mut cx));
                if link.waits() {
                    link.drop_early(&mut cx);
                }
                if let Some(verdict) = cx.verdict {
                    self.silence(slot, verdict, sink);
                    self.verdict(id);
                }
            } else if full {
                self.settle(id, true, sink);
            } else if !entry.state.listed && (entry.waits() || entry.state.waits()) {
                entry.state.listed = true;
                self.waiting.push(id);
            }
        }
        self.evicted(sink);
    }

    fn evicted(&mut self, sink: &mut impl Sink) {
        for mut entry in self.table.take_evicted() {
            self.unix.remove(&entry.id);
            let now = self.now;
            let (.., link, mut cx) = parts(&mut entry, &self.settings, &mut self.counts, sink);
            link.lose_all(now, Lost::Evicted, &mut cx);
        }
    }

    #[cold]
    fn ignored(&mut self, slot: Slot) {
        self.counts.ignored += 1;
        let Some((entry, _)) = self.table.get(slot) else { return };
        let n = &mut entry.state.ignored;
        *n = n.saturating_add(1);
        // The kernel side seems not to know, or to have forgotten.
        if *n >= 64 && n.is_power_of_two() {
            let id = entry.id;
            self.verdict(id);
        }
    }

    fn verdict(&mut self, id: SockId) {
        if self.verdicts.len() < MAX_VERDICTS {
            self.verdicts.push(id);
        } else {
            self.counts.verdicts_dropped += 1;
        }
    }

    fn silence(&mut self, slot: Slot, verdict: Verdict, sink: &mut impl Sink) {
        let now = self.now;
        let Some((entry, shared)) = self.table.get(slot) else { return };
        entry.read.discard(shared);
        entry.write.discard(shared);
        if entry.state.is_silent() {
            return;
        }
        self.counts.verdict(verdict);
        let (.., link, mut cx) = parts(entry, &self.settings, &mut self.counts, sink);
        link.lose_all(now, Lost::Silenced, &mut cx);
        link.silence();
    }

    fn remove(&mut self, id: SockId) -> Option<Box<Entry<Link>>> {
        self.unix.remove(&id);
        self.table.remove(id)
    }
}

type Parts<'e, K> = (&'e mut Stream, &'e mut Stream, &'e mut Link, Cx<'e, K>);

/// A connection's streams and state, and what the state needs.
#[inline]
fn parts<'e, K: Sink>(
    entry: &'e mut Entry<Link>,
    settings: &'e Settings,
    counts: &'e mut Counts,
    sink: &'e mut K,
) -> Parts<'e, K> {
    let Entry { pid, from_birth, open, read, write, state, .. } = entry;
    let meta = Meta { pid: *pid, from_birth: *from_birth, open: open.as_deref() };
    (read, write, state, Cx { settings, sink, counts, meta, held: 0, verdict: None })
}
