//! One TCP connection of a capture.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{HOLD_BYTES, HOLD_NS, HOLD_SEGMENTS, MAX_SERVERS, Shared};
use crate::http::{Sniff, looks_like_request, looks_like_response};
use crate::record::{Address, Data, Direction, EndReason, Ns, Open, Position, Record, SockId};
use crate::recording::link::Segment;

/// A sequence number further off than this belongs to something else.
const MAX_JUMP: i64 = 1 << 30;
/// How much later than its acknowledgement a segment may come out of a capture.
const LATE_NS: Ns = 20_000_000;
/// Where a stream begins in 64 bits: what comes a little before the first byte has a place too.
const BASE: u64 = 1 << 40;

#[derive(Debug)]
pub(super) struct Flow {
    pub id: SockId,
    pub last: Ns,
    ends: [SocketAddr; 2],
    /// Index of the serving end, once it is known.
    server: Option<usize>,
    /// By more than its port.
    sure: bool,
    /// A SYN was seen.
    from_birth: bool,
    /// First sequence numbers, as far as SYNs told them.
    initial: [Option<u32>; 2],
    sides: [Side; 2],
    announced: bool,
    used: bool,
}

/// What one end sends.
#[derive(Debug, Default)]
struct Side {
    /// Position of the next byte, its low half the sequence number; 0 before the first.
    next: u64,
    held: BTreeMap<u64, Held>,
    held_bytes: usize,
    /// Position and time of its FIN.
    fin: Option<(u64, Ns)>,
    over: bool,
    /// Since when the peer is known to have what was not seen.
    unseen: Option<Ns>,
}

#[derive(Debug)]
struct Held {
    at: Ns,
    len: u32,
    bytes: Vec<u8>,
}

impl Side {
    fn ahead(&self, seq: u32) -> i64 {
        i64::from(seq.wrapping_sub(self.next as u32).cast_signed())
    }
}

impl Flow {
    pub fn new(id: SockId, ends: [SocketAddr; 2]) -> Self {
        Self {
            id,
            last: 0,
            ends,
            server: None,
            sure: false,
            from_birth: false,
            initial: [None; 2],
            sides: Default::default(),
            announced: false,
            used: false,
        }
    }

    /// The same two ends begin another connection.
    pub fn is_another(&self, who: usize, s: &Segment<'_>) -> bool {
        s.syn
            && match self.initial[who] {
                Some(initial) => initial != s.seq,
                // A SYN in what was joined in its middle.
                None => self.used && s.ack.is_none(),
            }
    }

    /// A request from the end that was taken for the server by its port.
    pub fn was_taken_wrongly(&self, who: usize, s: &Segment<'_>) -> bool {
        !self.sure && self.server == Some(who) && is_request(s.payload)
    }

    /// Takes a segment that end `who` sent. True: the connection is over.
    pub fn segment(
        &mut self,
        who: usize,
        at: Ns,
        s: &Segment<'_>,
        shared: &mut Shared,
        on: &mut impl FnMut(&Record<'_>),
    ) -> bool {
        self.last = self.last.max(at);
        if s.syn {
            self.initial[who] = Some(s.seq);
            self.from_birth = true;
            let client = if s.ack.is_some() { 1 - who } else { who };
            self.serve(1 - client, true, shared);
            let side = &mut self.sides[who];
            if side.next == 0 {
                side.next = BASE + u64::from(s.seq.wrapping_add(1));
            }
        }
        if let Some(ack) = s.ack.filter(|_| !s.syn) {
            // First: what the peer answers to must not be found missing after the answer.
            self.acknowledged(1 - who, ack, at, s, shared, on);
        }
        if s.len > 0 {
            if self.server.is_none() {
                self.find_server(who, s.payload, shared);
            }
            self.announce(at, on);
            let seq = if s.syn { s.seq.wrapping_add(1) } else { s.seq };
            self.data(who, at, seq, s, shared, on);
        }
        if s.rst {
            self.flush(at, shared, on);
            self.end(who, at, true, on);
            self.report(EndReason::Closed, at, on);
            return true;
        }
        if s.fin {
            let side = &mut self.sides[who];
            let end = s.seq.wrapping_add(s.len);
            if side.next == 0 {
                side.next = BASE + u64::from(end);
            }
            let ahead = side.ahead(end);
            side.fin.get_or_insert((side.next.saturating_add_signed(ahead), at));
        }
        self.check_fin(who, on);
        if self.sides.iter().all(|side| side.over) {
            self.report(EndReason::Closed, at, on);
            return true;
        }
        false
    }

    fn find_server(&mut self, who: usize, payload: &[u8], shared: &mut Shared) {
        if is_request(payload) {
            self.serve(1 - who, true, shared);
        } else if looks_like_response(payload) == Sniff::Yes {
            self.serve(who, true, shared);
        } else if let Some(known) = (0..2).find(|&i| shared.servers.contains(&self.ends[i])) {
            self.serve(known, false, shared);
        } else {
            let lower = usize::from(self.ends[1].port() < self.ends[0].port());
            self.server = Some(lower);
        }
    }

    fn serve(&mut self, server: usize, sure: bool, shared: &mut Shared) {
        if self.sure {
            return;
        }
        self.server = Some(server);
        self.sure = sure;
        if sure && shared.servers.len() < MAX_SERVERS {
            shared.servers.insert(self.ends[server]);
        }
    }

    fn announce(&mut self, at: Ns, on: &mut impl FnMut(&Record<'_>)) {
        if std::mem::replace(&mut self.announced, true) {
            return;
        }
        let server = self.server.unwrap_or(0);
        let (local, remote) = (self.ends[server], self.ends[1 - server]);
        let comm = match local {
            SocketAddr::V4(a) => a.ip().to_string(),
            SocketAddr::V6(a) => format!("[{}]", a.ip()),
        };
        on(&Record::Open(Open {
            id: self.id,
            pid: 0,
            ppid: 0,
            at,
            local: Address::Ip(local),
            remote: Address::Ip(remote),
            comm: comm.into(),
            cgroup: 0,
            netns: 0,
            fresh: self.from_birth,
            tls: false,
            reached: None,
        }));
    }

    fn data(
        &mut self,
        who: usize,
        at: Ns,
        seq: u32,
        s: &Segment<'_>,
        shared: &mut Shared,
        on: &mut impl FnMut(&Record<'_>),
    ) {
        let side = &mut self.sides[who];
        if side.next == 0 {
            side.next = BASE + u64::from(seq);
        }
        let ahead = side.ahead(seq);
        if ahead.abs() > MAX_JUMP {
            // Not of this stream; a capture of two that share addresses, perhaps.
            shared.counts.malformed += 1;
            return;
        }
        let start = side.next.saturating_add_signed(ahead);
        if ahead <= 0 {
            self.hand_on(who, at, start, s.len, s.payload, shared, on);
            return self.drain(who, shared, on);
        }
        let size = s.payload.len();
        let full = side.held_bytes + size > HOLD_BYTES || side.held.len() >= HOLD_SEGMENTS;
        if full || size > shared.hold_left {
            self.skip_holes(who, start, at, shared, on);
            let start = start.min(self.sides[who].next);
            self.hand_on(who, at, start, s.len, s.payload, shared, on);
            return self.drain(who, shared, on);
        }
        shared.counts.held += 1;
        // Of two at one place the longer one stays.
        if side.held.get(&start).is_none_or(|held| held.len < s.len) {
            let held = Held { at, len: s.len, bytes: s.payload.to_vec() };
            side.held_bytes += size;
            shared.hold_left -= size;
            if let Some(old) = side.held.insert(start, held) {
                side.held_bytes -= old.bytes.len();
                shared.hold_left += old.bytes.len();
            }
        }
        let first = side.held.first_key_value().map_or(at, |(_, held)| held.at);
        if at.saturating_sub(first) > HOLD_NS {
            self.skip_holes(who, u64::MAX, at, shared, on);
        }
    }

    /// Hands on bytes that begin at or before the next one.
    #[expect(clippy::too_many_arguments, reason = "a segment's fields, and where they go")]
    fn hand_on(
        &mut self,
        who: usize,
        at: Ns,
        start: u64,
        len: u32,
        bytes: &[u8],
        shared: &mut Shared,
        on: &mut impl FnMut(&Record<'_>),
    ) {
        let side = &mut self.sides[who];
        let seen = (side.next - start).min(len.into());
        shared.counts.duplicate_bytes += seen;
        if seen == u64::from(len) {
            return;
        }
        let len = len - seen as u32;
        let position = Position::Seq32(side.next as u32);
        side.next += u64::from(len);
        let fresh = self.from_birth && !self.used;
        self.used = true;
        on(&Record::Data(Data {
            id: self.id,
            pid: 0,
            tid: 0,
            direction: if self.server == Some(who) { Direction::Write } else { Direction::Read },
            enter: at,
            exit: at,
            position,
            len,
            bytes: bytes.get(seen as usize..).unwrap_or_default(),
            fresh,
            reset: false,
            more: false,
        }));
    }

    /// Hands on what waited and is in order now.
    fn drain(&mut self, who: usize, shared: &mut Shared, on: &mut impl FnMut(&Record<'_>)) {
        while let Some(first) = self.sides[who].held.first_entry()
            && *first.key() <= self.sides[who].next
        {
            let (start, held) = self.sides[who].held.pop_first().expect("it was just seen");
            self.sides[who].held_bytes -= held.bytes.len();
            shared.hold_left += held.bytes.len();
            self.hand_on(who, held.at, start, held.len, &held.bytes, shared, on);
        }
    }

    /// Gives up on the holes before `until`: what is missing there comes out as missing.
    fn skip_holes(
        &mut self,
        who: usize,
        until: u64,
        at: Ns,
        shared: &mut Shared,
        on: &mut impl FnMut(&Record<'_>),
    ) {
        let Self { sides, .. } = self;
        sides[who].unseen = None;
        loop {
            let side = &self.sides[who];
            let first = side.held.first_key_value().map(|(start, held)| (*start, held.at));
            let (end, at) = match first {
                Some((start, at)) if start <= until => (start, at),
                // Behind the last byte that was seen.
                _ if until == u64::MAX => return,
                _ => (until, at),
            };
            if end > side.next {
                shared.counts.holes += 1;
                let (from, len) = (side.next, (end - side.next).min(u32::MAX.into()) as u32);
                self.hand_on(who, at, from, len, &[], shared, on);
                self.sides[who].next = end;
            }
            self.drain(who, shared, on);
            if self.sides[who].next >= until || first.is_none() {
                return;
            }
        }
    }

    /// The peer has everything before `s.ack`: what is missing of that, the capture has lost,
    /// unless it has it a little later.
    fn acknowledged(
        &mut self,
        who: usize,
        ack: u32,
        at: Ns,
        s: &Segment<'_>,
        shared: &mut Shared,
        on: &mut impl FnMut(&Record<'_>),
    ) {
        let side = &mut self.sides[who];
        if side.next == 0 {
            return;
        }
        let ahead = side.ahead(ack);
        let mut until = side.next.saturating_add_signed(ahead);
        if let Some((fin, _)) = side.fin {
            // A FIN counts as one.
            until = until.min(fin);
        }
        if ahead <= 0 || ahead > MAX_JUMP || until <= side.next {
            side.unseen = None;
            return;
        }
        let since = *side.unseen.get_or_insert(at);
        // The peer goes on, or has waited for long enough.
        if s.len > 0 || s.fin || s.rst || at.saturating_sub(since) > LATE_NS {
            self.skip_holes(who, until, at, shared, on);
            self.check_fin(who, on);
        }
    }

    fn check_fin(&mut self, who: usize, on: &mut impl FnMut(&Record<'_>)) {
        let side = &mut self.sides[who];
        if let Some((position, at)) = side.fin
            && !side.over
            && position <= side.next
            && side.held.is_empty()
        {
            side.over = true;
            self.end(who, at, false, on);
        }
    }

    fn end(&mut self, who: usize, at: Ns, reset: bool, on: &mut impl FnMut(&Record<'_>)) {
        let reason = match (self.server == Some(who), reset) {
            (true, false) => EndReason::LocalFin,
            (true, true) => EndReason::LocalReset,
            (false, false) => EndReason::PeerFin,
            (false, true) => EndReason::PeerReset,
        };
        self.report(reason, at, on);
    }

    fn report(&self, reason: EndReason, at: Ns, on: &mut impl FnMut(&Record<'_>)) {
        if self.announced {
            on(&Record::End { id: self.id, pid: 0, at, reason, reached: None });
        }
    }

    /// Hands on everything that waits.
    pub fn flush(&mut self, at: Ns, shared: &mut Shared, on: &mut impl FnMut(&Record<'_>)) {
        for who in 0..2 {
            self.skip_holes(who, u64::MAX, at, shared, on);
            self.check_fin(who, on);
        }
    }

    /// Another connection takes the place of this one.
    pub fn close(&mut self, at: Ns, shared: &mut Shared, on: &mut impl FnMut(&Record<'_>)) {
        self.flush(at, shared, on);
        self.report(EndReason::Closed, at, on);
    }
}

fn is_request(payload: &[u8]) -> bool {
    // The preface of HTTP/2 as well.
    looks_like_request(payload) == Sniff::Yes
        || (payload.len() > 16 && looks_like_request(payload) == Sniff::Partial)
        || payload.starts_with(b"PRI * HTTP/2.0\r\n")
}
