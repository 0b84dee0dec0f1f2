//! From packets to records: which end serves, and the bytes of both directions in order.
//!
//! The records are as if the serving end had been traced: what the client sent was read, what the
//! server sent was written, at the time of the packet. What was captured out of order, twice or
//! overlapping comes out once and in order; what is missing stays missing, and comes out as a
//! position that jumps.

mod flow;

use std::collections::hash_map::Entry;
use std::net::SocketAddr;

use rustc_hash::{FxHashMap, FxHashSet};

use self::flow::Flow;
use super::link::{Segment, Skip, segment};
use crate::record::{Ns, Record, SockId};

/// Connections followed at once; past it the least recently used are let go.
pub const MAX_FLOWS: usize = 65_536;
/// Bytes of one direction that wait for what is missing before them.
pub const HOLD_BYTES: usize = 4 << 20;
/// Segments of one direction that wait.
pub const HOLD_SEGMENTS: usize = 8192;
/// Bytes that wait in all connections together.
pub const HOLD_TOTAL: usize = 64 << 20;
/// How long they wait at most: a lost segment is sent again within seconds.
pub const HOLD_NS: Ns = 10_000_000_000;
/// Serving ends that are remembered, for connections joined in their middle.
const MAX_SERVERS: usize = 4096;
/// What one eviction makes room for.
const EVICT_SHARE: usize = 16;

/// What was passed over or put right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub packets: u64,
    pub not_tcp: u64,
    pub unknown_link: u64,
    pub fragments: u64,
    pub malformed: u64,
    /// Bytes that had been seen before.
    pub duplicate_bytes: u64,
    /// Segments that waited for one before them.
    pub held: u64,
    /// Holes that nothing filled.
    pub holes: u64,
    pub evicted: u64,
}

/// Both ends, the lower first.
type Key = (SocketAddr, SocketAddr);

/// What all flows share.
#[derive(Debug)]
struct Shared {
    counts: Counts,
    hold_left: usize,
    servers: FxHashSet<SocketAddr>,
}

/// All connections of a capture.
#[derive(Debug)]
pub struct Flows {
    map: FxHashMap<Key, Box<Flow>>,
    shared: Shared,
    next_id: u64,
}

impl Default for Flows {
    fn default() -> Self {
        let shared = Shared {
            counts: Counts::default(),
            hold_left: HOLD_TOTAL,
            servers: FxHashSet::default(),
        };
        Self { map: FxHashMap::default(), shared, next_id: 0 }
    }
}

impl Flows {
    pub fn counts(&self) -> Counts {
        self.shared.counts
    }

    /// Takes a packet, hands on what it completes.
    pub fn packet(
        &mut self,
        at: Ns,
        link: pcap_parser::Linktype,
        bytes: &[u8],
        original: u32,
        mut on: impl FnMut(&Record<'_>),
    ) {
        self.shared.counts.packets += 1;
        match segment(link, bytes, original) {
            Ok(segment) => self.segment(at, &segment, &mut on),
            Err(skip) => {
                let counts = &mut self.shared.counts;
                *match skip {
                    Skip::Link => &mut counts.unknown_link,
                    Skip::NotTcp => &mut counts.not_tcp,
                    Skip::Fragment => &mut counts.fragments,
                    Skip::Malformed => &mut counts.malformed,
                } += 1;
            }
        }
    }

    fn segment(&mut self, at: Ns, s: &Segment<'_>, on: &mut impl FnMut(&Record<'_>)) {
        let who = usize::from(s.from > s.to);
        let key = if who == 0 { (s.from, s.to) } else { (s.to, s.from) };
        if self.map.len() >= MAX_FLOWS && !self.map.contains_key(&key) {
            self.evict(on);
        }
        let next = &mut self.next_id;
        let mut id = || {
            *next += 1;
            // Apart in the bits that tables look at.
            SockId { addr: *next << 6, generation: 1 }
        };
        let shared = &mut self.shared;
        let mut entry = match self.map.entry(key) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => {
                if !s.syn && s.len == 0 {
                    // Of a connection that is over, or not yet interesting.
                    return;
                }
                entry.insert_entry(Box::new(Flow::new(id(), [key.0, key.1])))
            }
        };
        if entry.get().is_another(who, s) {
            entry.get_mut().close(at, shared, on);
            entry.insert(Box::new(Flow::new(id(), [key.0, key.1])));
        }
        let flow = entry.get_mut();
        if flow.was_taken_wrongly(who, s) {
            flow.close(at, shared, on);
            **flow = Flow::new(id(), [key.0, key.1]);
        }
        if flow.segment(who, at, s, shared, on) {
            entry.remove();
        }
    }

    /// The capture is over: hands on what waited.
    pub fn finish(&mut self, mut on: impl FnMut(&Record<'_>)) {
        let mut flows: Vec<_> = self.map.drain().map(|(_, flow)| flow).collect();
        flows.sort_unstable_by_key(|flow| flow.id.addr);
        for mut flow in flows {
            flow.flush(flow.last, &mut self.shared, &mut on);
        }
    }

    fn evict(&mut self, on: &mut impl FnMut(&Record<'_>)) {
        let mut by_age: Vec<(Ns, Key)> = self.map.iter().map(|(k, f)| (f.last, *k)).collect();
        let n = MAX_FLOWS / EVICT_SHARE;
        by_age.select_nth_unstable(n);
        for (_, key) in by_age.into_iter().take(n) {
            if let Some(mut flow) = self.map.remove(&key) {
                flow.flush(flow.last, &mut self.shared, on);
                self.shared.counts.evicted += 1;
            }
        }
    }
}
