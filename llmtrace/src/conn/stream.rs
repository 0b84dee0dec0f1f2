//! One direction of a connection, put into order.

use super::{HOLD_BYTES, HOLD_NS, HOLD_PIECES, MAX_JUMP, Shared};
use crate::record::{Data, Ns, Position};

/// Where a 32-bit position starts in 64 bits: far enough from zero that a record a little before
/// the first one has a place too.
const BASE: u64 = 1 << 40;

/// What a stream hands on, in stream order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    Bytes {
        enter: Ns,
        exit: Ns,
        bytes: &'a [u8],
    },
    /// Bytes that will not come. `None`: nobody knows how many.
    Gap {
        enter: Ns,
        exit: Ns,
        len: Option<u64>,
    },
}

/// The state of one direction. Small: a live server has two for each of its connections.
#[derive(Debug, Default)]
pub struct Stream {
    /// Position of the next byte; zero before the first record.
    next: u64,
    held: Option<Box<Held>>,
}

/// Records that came before their turn, by position.
#[derive(Debug)]
struct Held {
    pieces: Vec<HeldPiece>,
    bytes: usize,
    /// When the first of them came.
    since: Ns,
}

#[derive(Debug)]
struct HeldPiece {
    at: u64,
    len: u64,
    enter: Ns,
    exit: Ns,
    bytes: Vec<u8>,
}

impl Stream {
    /// Takes a record and hands on what is in order now.
    #[inline]
    pub fn push(
        &mut self,
        data: &Data<'_>,
        from_birth: bool,
        shared: &mut Shared,
        mut f: impl FnMut(Piece<'_>),
    ) {
        let len = u64::from(data.len).max(data.bytes.len() as u64);
        if self.ahead(data.position) == 0 && self.next != 0 && self.held.is_none() && !data.reset {
            self.next += len;
            hand_on(data.enter, data.exit, data.bytes, len, shared, &mut f);
        } else {
            self.out_of_order(data, len, from_birth, shared, &mut f);
        }
    }

    /// It begins at `position` (modulo 2^32), if no byte of it has come.
    pub fn begins(&mut self, position: u32) {
        if self.next == 0 {
            self.next = BASE + u64::from(position);
        }
    }

    /// How many bytes are missing of what comes before `position` (modulo 2^32), where it ends;
    /// those in between that wait for others are missing too. None of a stream that was never seen.
    pub fn lacks(&self, position: u32) -> u64 {
        let ahead = self.ahead(Position::Seq32(position));
        if self.next == 0 || ahead > MAX_JUMP { 0 } else { ahead.max(0) as u64 }
    }

    /// It ends at `position` (modulo 2^32): gives up on what is missing before that.
    pub fn ends(
        &mut self,
        position: u32,
        now: Ns,
        shared: &mut Shared,
        f: &mut dyn FnMut(Piece<'_>),
    ) {
        self.flush(shared, f);
        let end = self.next + self.lacks(position);
        self.next_at(end, now, now, shared, f);
    }

    /// Whether records wait for one before them.
    pub fn waits(&self) -> bool {
        self.held.is_some()
    }

    /// Gives up on what is missing if it has been missing for too long.
    pub fn tick(&mut self, now: Ns, shared: &mut Shared, f: &mut dyn FnMut(Piece<'_>)) {
        while self.held.as_ref().is_some_and(|h| now.saturating_sub(h.since) > HOLD_NS) {
            self.skip_hole(shared, f);
        }
    }

    /// Gives up on everything that is missing: nothing more will come, or nothing may wait.
    pub fn flush(&mut self, shared: &mut Shared, f: &mut dyn FnMut(Piece<'_>)) {
        while self.held.is_some() {
            self.skip_hole(shared, f);
        }
    }

    /// Lets what waits go unseen, and its room with it.
    pub fn discard(&mut self, shared: &mut Shared) {
        if let Some(held) = self.held.take() {
            shared.hold_left += held.bytes;
        }
    }

    /// How far a position lies ahead of the next byte.
    #[inline]
    fn ahead(&self, position: Position) -> i64 {
        match position {
            Position::Seq32(seq) => i64::from(seq.wrapping_sub(self.next as u32) as i32),
            // Counts are kept one BASE up, so that zero is "before the first record" for both.
            Position::Count(n) => n.wrapping_add(BASE).wrapping_sub(self.next) as i64,
        }
    }

    fn start(position: Position) -> u64 {
        match position {
            Position::Seq32(seq) => BASE + u64::from(seq),
            Position::Count(n) => BASE.saturating_add(n).min(u64::MAX / 2),
        }
    }

    fn out_of_order(
        &mut self,
        data: &Data<'_>,
        len: u64,
        from_birth: bool,
        shared: &mut Shared,
        f: &mut dyn FnMut(Piece<'_>),
    ) {
        if len == 0 {
            return;
        }
        let (enter, exit) = (data.enter, data.exit);
        if self.next == 0 {
            // A count says how much went before; a sequence number does not.
            let counted = from_birth && matches!(data.position, Position::Count(_));
            self.next = if counted { BASE } else { Self::start(data.position) };
        } else if data.reset || self.ahead(data.position).unsigned_abs() > MAX_JUMP as u64 {
            self.flush(shared, f);
            shared.counts.restarts += 1;
            shared.counts.gaps += 1;
            self.next = Self::start(data.position);
            f(Piece::Gap { enter, exit, len: None });
        }
        let ahead = self.ahead(data.position);
        if ahead.unsigned_abs() > MAX_JUMP as u64 {
            // Only a fresh count that does not begin near zero: what went before is lost.
            shared.counts.gaps += 1;
            self.next = Self::start(data.position);
            f(Piece::Gap { enter, exit, len: None });
            self.next += len;
            hand_on(enter, exit, data.bytes, len, shared, f);
        } else if ahead > 0 {
            self.hold(ahead as u64, len, data, shared, f);
        } else {
            self.in_order(
                self.next.wrapping_add_signed(ahead),
                len,
                enter,
                exit,
                data.bytes,
                shared,
                f,
            );
            self.drain(shared, f);
        }
        self.tick(exit, shared, f);
    }

    /// Hands on a record that begins at or before the next byte, without what was seen before.
    #[expect(clippy::too_many_arguments, reason = "a record's fields, and where they go")]
    fn in_order(
        &mut self,
        at: u64,
        len: u64,
        enter: Ns,
        exit: Ns,
        bytes: &[u8],
        shared: &mut Shared,
        f: &mut dyn FnMut(Piece<'_>),
    ) {
        let seen = (self.next - at).min(len);
        if seen > 0 {
            shared.counts.duplicates += 1;
            shared.counts.duplicate_bytes += seen;
        }
        if seen == len {
            return;
        }
        self.next += len - seen;
        let bytes = bytes.get(seen as usize..).unwrap_or_default();
        hand_on(enter, exit, bytes, len - seen, shared, f);
    }

    fn hold(
        &mut self,
        ahead: u64,
        len: u64,
        data: &Data<'_>,
        shared: &mut Shared,
        f: &mut dyn FnMut(Piece<'_>),
    ) {
        let want = data.bytes.len();
        let full = |h: &Held| h.bytes + want > HOLD_BYTES || h.pieces.len() >= HOLD_PIECES;
        if self.held.as_deref().is_some_and(full) || want > shared.hold_left {
            shared.counts.hold_overflows += 1;
            let at = self.next + ahead;
            self.flush(shared, f);
            self.next_at(at, data.enter, data.exit, shared, f);
            if self.next >= at {
                self.in_order(at, len, data.enter, data.exit, data.bytes, shared, f);
            }
            return;
        }
        shared.counts.held += 1;
        shared.hold_left -= want;
        let at = self.next + ahead;
        let held = self.held.get_or_insert_with(|| {
            Box::new(Held { pieces: Vec::new(), bytes: 0, since: data.exit })
        });
        held.bytes += want;
        let i = held.pieces.partition_point(|p| p.at <= at);
        let bytes = data.bytes.to_vec();
        held.pieces.insert(i, HeldPiece { at, len, enter: data.enter, exit: data.exit, bytes });
    }

    /// Declares lost what lies between the next byte and `at`.
    fn next_at(
        &mut self,
        at: u64,
        enter: Ns,
        exit: Ns,
        shared: &mut Shared,
        f: &mut dyn FnMut(Piece<'_>),
    ) {
        if at > self.next {
            let len = at - self.next;
            shared.counts.gaps += 1;
            shared.counts.gap_bytes += len;
            self.next = at;
            f(Piece::Gap { enter, exit, len: Some(len) });
        }
    }

    /// Gives up on the first hole and hands on what follows it.
    fn skip_hole(&mut self, shared: &mut Shared, f: &mut dyn FnMut(Piece<'_>)) {
        let Some(first) = self.held.as_ref().and_then(|h| h.pieces.first()) else {
            self.held = None;
            return;
        };
        let (at, enter, exit) = (first.at, first.enter, first.exit);
        self.next_at(at, enter, exit, shared, f);
        self.drain(shared, f);
    }

    /// Hands on what waited and is in order now.
    fn drain(&mut self, shared: &mut Shared, f: &mut dyn FnMut(Piece<'_>)) {
        let Some(mut held) = self.held.take() else { return };
        let ready = held.pieces.iter().scan(self.next, |next, p| {
            let fits = p.at <= *next;
            *next = (*next).max(p.at + p.len);
            fits.then_some(())
        });
        let ready = ready.count();
        for p in held.pieces.drain(..ready) {
            held.bytes -= p.bytes.len();
            shared.hold_left += p.bytes.len();
            self.in_order(p.at, p.len, p.enter, p.exit, &p.bytes, shared, f);
        }
        if let Some(since) = held.pieces.iter().map(|p| p.exit).min() {
            held.since = since;
            self.held = Some(held);
        }
    }
}

/// Hands on bytes, and what of them the kernel side could not copy as a gap.
#[inline]
fn hand_on(
    enter: Ns,
    exit: Ns,
    bytes: &[u8],
    len: u64,
    shared: &mut Shared,
    f: &mut (impl FnMut(Piece<'_>) + ?Sized),
) {
    if !bytes.is_empty() {
        f(Piece::Bytes { enter, exit, bytes });
    }
    let missing = len - bytes.len() as u64;
    if missing > 0 {
        shared.counts.gaps += 1;
        shared.counts.gap_bytes += missing;
        f(Piece::Gap { enter, exit, len: Some(missing) });
    }
}
