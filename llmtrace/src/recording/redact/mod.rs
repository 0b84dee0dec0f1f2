//! Takes prompts, answers and secrets out of a recording, and leaves its sizes, its times and
//! what an exchange is measured by: a replay finds the same exchanges.
//!
//! Text becomes filler of the same length. What is kept is listed ([`json`], [`head`]); what
//! cannot be parsed is filled whole: bodies and WebSockets that are compressed or no JSON.
//!
//! Records are put into order for that as the pipeline does it, and come out in the order in
//! which they came in: one that has to wait for another holds back those behind it.

mod grpc;
mod h2;
mod head;
mod json;
mod link;
mod sse;
mod text;
mod websocket;

use std::collections::VecDeque;

use self::h2::{Patch, Place};
use self::link::Link;
use crate::conn::{HOLD_NS, Piece, Table};
use crate::record::{Data, Direction, Ns, Record, SockId};

/// What text becomes.
pub const FILLER: u8 = b'x';
/// Bytes that wait for records before theirs.
pub const MAX_WAITING_BYTES: usize = 32 << 20;
/// Records that wait.
pub const MAX_WAITING: usize = 1 << 17;

/// What goes into a recording, in its order.
#[derive(Clone, Debug)]
pub enum Item<'a> {
    Record(Record<'a>),
    Name(u32, Box<str>),
    Tick { now: Ns, lost: u64, last: bool },
}

#[derive(Debug)]
struct Waiting {
    item: Item<'static>,
    /// Of data: filler, or the bytes that may be seen.
    bytes: Vec<u8>,
    decided: bool,
}

#[derive(Debug)]
pub struct Redactor {
    table: Table<Link>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Number of the first of those that wait.
    first: u64,
    buffer: Vec<u8>,
}

impl Default for Redactor {
    fn default() -> Self {
        Self {
            table: Table::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            // So that no number is zero, which a time may be.
            first: 1,
            buffer: Vec::new(),
        }
    }
}

impl Redactor {
    /// Takes an item, hands on what may go out now.
    pub fn push(&mut self, item: Item<'_>, mut on: impl FnMut(&Item<'_>)) {
        match item {
            Item::Record(Record::Data(data)) => {
                let mut bytes = std::mem::take(&mut self.buffer);
                let decided = self.data(&data, &mut bytes);
                if decided && self.waiting.is_empty() {
                    on(&Item::Record(Record::Data(Data { bytes: &bytes, ..data })));
                    self.first += 1;
                    self.buffer = bytes;
                    return;
                }
                self.waiting_bytes += bytes.len();
                let item = Item::Record(Record::Data(Data { bytes: &[], ..data }));
                self.waiting.push_back(Waiting { item, bytes, decided });
            }
            other => {
                let item = match other {
                    Item::Record(record) => Item::Record(owned(record)),
                    Item::Name(pid, name) => Item::Name(pid, name),
                    Item::Tick { now, lost, last } => {
                        self.tick(now);
                        Item::Tick { now, lost, last }
                    }
                };
                if let Item::Record(Record::Open(open)) = &item {
                    self.table.open(open);
                }
                let closed = match &item {
                    Item::Record(Record::End { id, reason, .. }) => {
                        (*reason == crate::record::EndReason::Closed).then_some(*id)
                    }
                    _ => None,
                };
                self.waiting.push_back(Waiting { item, bytes: Vec::new(), decided: true });
                // What waits of a connection that is closed waits no longer than its time.
                if let Some(id) = closed
                    && !self.waits(id)
                {
                    self.table.remove(id);
                }
            }
        }
        self.hand_on(&mut on);
    }

    /// Nothing more comes: hands on everything.
    pub fn finish(&mut self, mut on: impl FnMut(&Item<'_>)) {
        self.tick(Ns::MAX);
        self.waiting.iter_mut().for_each(|w| w.decided = true);
        self.hand_on(&mut on);
    }

    fn waits(&mut self, id: SockId) -> bool {
        let slot = self.table.find(id);
        slot.and_then(|slot| self.table.get(slot)).is_some_and(|(entry, _)| entry.waits())
    }

    /// Redacts a record, and those that waited for it. Whether it is decided what of it is seen.
    fn data(&mut self, data: &Data<'_>, out: &mut Vec<u8>) -> bool {
        out.clear();
        out.resize(data.bytes.len(), FILLER);
        let number = self.first + self.waiting.len() as u64;
        let Self { table, waiting, first, .. } = self;
        let (_, entry, shared) = table.touch(data);
        let from_birth = entry.from_birth;
        let (stream, link) = entry.side(data.direction);
        let (mut seen, mut patches) = (data.bytes.is_empty(), Vec::new());
        // A stream hands times through: the number of the record goes along in one of them.
        let numbered = Data { enter: number, ..*data };
        stream.push(&numbered, from_birth, shared, |piece| match piece {
            Piece::Bytes { enter, bytes, .. } if enter == number => {
                put(link, data.direction, from_birth, number, bytes, out, &mut patches);
                seen = true;
            }
            piece => {
                late(link, data.direction, from_birth, piece, *first, waiting, &mut patches);
            }
        });
        for Patch { place, bytes } in patches.extract_if(.., |p| p.place.number == number) {
            replace(out, place, &bytes);
        }
        apply(&patches, link, data.direction, *first, waiting);
        // Not in order and not waiting: it had been seen before.
        if seen { !link.holds(data.direction, number) } else { !stream.waits() }
    }

    /// Gives up on records that did not come.
    fn tick(&mut self, now: Ns) {
        let Self { table, waiting, first, .. } = self;
        let mut ids: Vec<(SockId, Direction)> = Vec::new();
        for w in waiting.iter().filter(|w| !w.decided) {
            if let Item::Record(Record::Data(data)) = &w.item
                && !ids.contains(&(data.id, data.direction))
            {
                ids.push((data.id, data.direction));
            }
        }
        for (id, direction) in ids {
            let Some((entry, shared)) = table.find(id).and_then(|slot| table.get(slot)) else {
                continue;
            };
            let from_birth = entry.from_birth;
            let (stream, link) = entry.side(direction);
            let mut patches = Vec::new();
            stream.tick(now, shared, &mut |piece| {
                late(link, direction, from_birth, piece, *first, waiting, &mut patches);
            });
            apply(&patches, link, direction, *first, waiting);
        }
    }

    fn hand_on(&mut self, on: &mut impl FnMut(&Item<'_>)) {
        while let Some(front) = self.waiting.front() {
            let full = self.waiting.len() > MAX_WAITING || self.waiting_bytes > MAX_WAITING_BYTES;
            if !front.decided && !full && !self.given_up() {
                return;
            }
            let Some(w) = self.waiting.pop_front() else { return };
            self.first += 1;
            self.waiting_bytes -= w.bytes.len();
            match w.item {
                Item::Record(Record::Data(data)) => {
                    on(&Item::Record(Record::Data(Data { bytes: &w.bytes, ..data })));
                }
                item => on(&item),
            }
        }
    }

    /// Whether the first that waits does so for nothing.
    fn given_up(&mut self) -> bool {
        let Some(Item::Record(Record::Data(data))) = self.waiting.front().map(|w| &w.item) else {
            return true;
        };
        let (id, direction, exit) = (data.id, data.direction, data.exit);
        let newest = self.waiting.back().map_or(0, |w| match &w.item {
            Item::Record(Record::Data(data)) => data.exit,
            Item::Tick { now, .. } => *now,
            _ => 0,
        });
        if newest.saturating_sub(exit) > 4 * HOLD_NS {
            return true;
        }
        let entry = self.table.find(id).and_then(|slot| self.table.get(slot));
        entry.is_none_or(|(entry, _)| {
            let (stream, link) = entry.side(direction);
            !stream.waits() && !link.holds(direction, self.first)
        })
    }
}

/// Redacts a piece into the end of its record: what went before had been seen.
fn put(
    link: &mut Link,
    direction: Direction,
    from_birth: bool,
    number: u64,
    bytes: &[u8],
    out: &mut [u8],
    patches: &mut Vec<Patch>,
) {
    let Some(at) = out.len().checked_sub(bytes.len()) else { return };
    let end = &mut out[at..];
    end.copy_from_slice(bytes);
    link.bytes(direction, from_birth, Place { number, at }, end, patches);
}

/// Puts in what was not known when the records it belongs to came.
fn apply(
    patches: &[Patch],
    link: &Link,
    direction: Direction,
    first: u64,
    waiting: &mut VecDeque<Waiting>,
) {
    for Patch { place, bytes } in patches {
        // What is not there has gone out as filler.
        let index = place.number.checked_sub(first).and_then(|i| usize::try_from(i).ok());
        if let Some(w) = index.and_then(|i| waiting.get_mut(i)) {
            replace(&mut w.bytes, *place, bytes);
            w.decided = !link.holds(direction, place.number);
        }
    }
}

fn replace(out: &mut [u8], place: Place, bytes: &[u8]) {
    if let Some(end) = out.get_mut(place.at..)
        && let Some(old) = end.get_mut(..bytes.len())
    {
        old.copy_from_slice(bytes);
    }
}

/// A piece of a record that waited, or a hole.
fn late(
    link: &mut Link,
    direction: Direction,
    from_birth: bool,
    piece: Piece<'_>,
    first: u64,
    waiting: &mut VecDeque<Waiting>,
    patches: &mut Vec<Patch>,
) {
    match piece {
        Piece::Gap { len, .. } => link.gap(direction, len, patches),
        Piece::Bytes { enter, bytes, .. } => {
            let index = enter.checked_sub(first).and_then(|i| usize::try_from(i).ok());
            match index.and_then(|i| waiting.get_mut(i)) {
                Some(w) => {
                    put(link, direction, from_birth, enter, bytes, &mut w.bytes, patches);
                    w.decided = !link.holds(direction, enter);
                }
                // It has gone out as filler; where the stream stands is still to be known.
                None => {
                    let place = Place { number: enter, at: 0 };
                    link.bytes(direction, from_birth, place, &mut bytes.to_vec(), patches);
                }
            }
        }
    }
}

fn owned(record: Record<'_>) -> Record<'static> {
    match record {
        Record::Data(data) => Record::Data(Data { bytes: &[], ..data }),
        Record::Open(open) => Record::Open(open),
        Record::End { id, pid, at, reason, reached } => {
            Record::End { id, pid, at, reason, reached }
        }
        Record::Silenced { id, pid, at, sniffed } => Record::Silenced { id, pid, at, sniffed },
        Record::Arrived { id, arrived, at } => Record::Arrived { id, arrived, at },
        Record::Refused { id, at, taken } => Record::Refused { id, at, taken },
        Record::Process { at, event } => Record::Process { at, event },
    }
}
