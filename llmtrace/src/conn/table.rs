//! Which connections there are.

use rustc_hash::FxHashMap;

use super::{Counts, MAX_CONNECTIONS, Shared, Stream};
use crate::record::{Data, Direction, Ns, Open, Reached, SockId};

/// Where a connection lies in its table. Valid until that connection is removed.
pub type Slot = u32;

/// Slots remembered by hash, so that a record rarely needs the map.
const HINTS: usize = 1024;
/// What one eviction makes room for: a sixteenth, so that its scan is paid once per many.
const EVICT_SHARE: usize = 16;

/// A connection, with the state of the layer above.
#[derive(Debug)]
pub struct Entry<S> {
    pub id: SockId,
    /// The process that used it last.
    pub pid: u32,
    /// When it was last used.
    pub last: Ns,
    /// Seen from its first byte; else joined in its middle.
    pub from_birth: bool,
    /// Whether a byte was seen.
    pub used: bool,
    /// End points; none if the OPEN record was lost.
    pub open: Option<Box<Open>>,
    pub read: Stream,
    pub write: Stream,
    pub state: S,
}

impl<S> Entry<S> {
    /// One direction's stream and the state, to be used together.
    pub fn side(&mut self, direction: Direction) -> (&mut Stream, &mut S) {
        match direction {
            Direction::Read => (&mut self.read, &mut self.state),
            Direction::Write => (&mut self.write, &mut self.state),
        }
    }

    pub fn waits(&self) -> bool {
        self.read.waits() || self.write.waits()
    }

    /// Whether bytes are missing of what comes before its end.
    pub fn lacks(&self, end: Reached) -> bool {
        self.read.lacks(end.read) > 0 || self.write.lacks(end.written) > 0
    }
}

/// All connections. The state `S` belongs to the layer above.
#[derive(Debug)]
pub struct Table<S> {
    map: FxHashMap<SockId, Slot>,
    slots: Vec<Option<Box<Entry<S>>>>,
    free: Vec<Slot>,
    hints: Box<[Slot; HINTS]>,
    evicted: Vec<Box<Entry<S>>>,
    limit: usize,
    /// Among connections that have to make room, those of a lower rank go first.
    rank: fn(&S) -> u8,
    sweep: usize,
    pub shared: Shared,
}

impl<S: Default> Default for Table<S> {
    fn default() -> Self {
        Self::new(MAX_CONNECTIONS)
    }
}

impl<S: Default> Table<S> {
    /// A table of at most `limit` connections.
    pub fn new(limit: usize) -> Self {
        Self {
            map: FxHashMap::default(),
            slots: Vec::new(),
            free: Vec::new(),
            hints: Box::new([0; HINTS]),
            evicted: Vec::new(),
            limit: limit.max(1),
            rank: |_| 0,
            sweep: 0,
            shared: Shared::default(),
        }
    }

    /// Connections of a lower rank make room first, whatever their age.
    #[must_use]
    pub fn ranked(mut self, rank: fn(&S) -> u8) -> Self {
        self.rank = rank;
        self
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub fn counts(&self) -> Counts {
        self.shared.counts
    }

    /// Takes note of a connection's end points.
    pub fn open(&mut self, open: &Open) -> Slot {
        let slot = self.slot_or_new(open.id, open.pid, open.at);
        if let Some(entry) = self.slots[slot as usize].as_mut() {
            entry.from_birth |= open.fresh && !entry.used;
            if let Some(Reached { read, written }) = open.reached {
                entry.read.begins(read);
                entry.write.begins(written);
            }
            entry.open = Some(Box::new(open.clone()));
        }
        slot
    }

    /// The connection of a record, which is made if need be, and what its streams share.
    #[inline]
    pub fn touch(&mut self, data: &Data<'_>) -> (Slot, &mut Entry<S>, &mut Shared) {
        let hint = hint(data.id);
        let guess = self.hints[hint];
        let known = self
            .slots
            .get(guess as usize)
            .is_some_and(|s| s.as_ref().is_some_and(|e| e.id == data.id));
        let slot = if known { guess } else { self.slot_or_new(data.id, data.pid, data.exit) };
        self.hints[hint] = slot;
        let entry = self.slots[slot as usize].as_mut().expect("a slot in the map is in use");
        entry.pid = data.pid;
        entry.last = entry.last.max(data.exit);
        if !entry.used {
            entry.used = true;
            entry.from_birth |= data.fresh;
        }
        (slot, entry, &mut self.shared)
    }

    /// A connection that is known already.
    pub fn find(&self, id: SockId) -> Option<Slot> {
        self.map.get(&id).copied()
    }

    pub fn get(&mut self, slot: Slot) -> Option<(&mut Entry<S>, &mut Shared)> {
        let entry = self.slots.get_mut(slot as usize)?.as_mut()?;
        Some((entry, &mut self.shared))
    }

    pub fn remove(&mut self, id: SockId) -> Option<Box<Entry<S>>> {
        let slot = self.map.remove(&id)?;
        let mut entry = self.slots[slot as usize].take()?;
        self.free.push(slot);
        entry.read.discard(&mut self.shared);
        entry.write.discard(&mut self.shared);
        Some(entry)
    }

    /// The connections that had to make room since the last call.
    pub fn take_evicted(&mut self) -> Vec<Box<Entry<S>>> {
        std::mem::take(&mut self.evicted)
    }

    pub fn has_evicted(&self) -> bool {
        !self.evicted.is_empty()
    }

    /// Looks at up to `n` connections, going round, and returns those that `pick` names.
    pub fn sweep(&mut self, n: usize, mut pick: impl FnMut(&Entry<S>) -> bool) -> Vec<SockId> {
        let mut picked = Vec::new();
        for _ in 0..n.min(self.slots.len()) {
            self.sweep = if self.sweep + 1 < self.slots.len() { self.sweep + 1 } else { 0 };
            if let Some(entry) = &self.slots[self.sweep]
                && pick(entry)
            {
                picked.push(entry.id);
            }
        }
        picked
    }

    /// Every connection, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Entry<S>> {
        self.slots.iter().flatten().map(|e| &**e)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry<S>> {
        self.slots.iter_mut().flatten().map(|e| &mut **e)
    }

    #[cold]
    fn slot_or_new(&mut self, id: SockId, pid: u32, now: Ns) -> Slot {
        if let Some(&slot) = self.map.get(&id) {
            return slot;
        }
        if self.map.len() >= self.limit {
            self.evict();
        }
        let entry = Box::new(Entry {
            id,
            pid,
            last: now,
            from_birth: false,
            used: false,
            open: None,
            read: Stream::default(),
            write: Stream::default(),
            state: S::default(),
        });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(entry);
                slot
            }
            None => {
                self.slots.push(Some(entry));
                (self.slots.len() - 1) as Slot
            }
        };
        self.map.insert(id, slot);
        slot
    }

    /// Lets the least recently used connections go.
    fn evict(&mut self) {
        let n = (self.limit / EVICT_SHARE).max(1);
        let mut by_age: Vec<(u8, Ns, SockId)> =
            self.iter().map(|e| ((self.rank)(&e.state), e.last, e.id)).collect();
        if n < by_age.len() {
            by_age.select_nth_unstable(n - 1);
            by_age.truncate(n);
        }
        for (.., id) in by_age {
            if let Some(entry) = self.remove(id) {
                self.shared.counts.evicted += 1;
                self.evicted.push(entry);
            }
        }
    }
}

#[inline]
fn hint(id: SockId) -> usize {
    // Socket addresses differ above their alignment, generations in their low bits.
    let mixed = ((id.addr >> 6) ^ u64::from(id.generation)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 54) as usize
}
