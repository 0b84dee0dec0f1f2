//! A connection that has not shown what it speaks, and which way its requests go.

use super::counts::{Resync, Verdict};
use super::cx::Cx;
use super::early::Early;
use super::h1::Http1;
use super::h2::Http2;
use super::link::Protocol;
use super::{JOINED_BYTES, JOINED_ONE_WAY_BYTES, Sink};
use crate::conn::Piece;
use crate::http::h2::{self, Speaker};
use crate::http::{Sniff, looks_like_request, looks_like_response};
use crate::llm::Role;
use crate::record::{Direction, Ns};

#[derive(Debug, Default)]
pub(super) struct Start {
    /// Response bytes whose request has not come yet.
    pub early: Option<Box<Early>>,
    /// First bytes of a direction that are too few to tell what they begin.
    few: Option<Box<Early>>,
    /// Bytes of either direction so far.
    seen: [u64; 2],
    /// Some are missing.
    holed: bool,
}

/// What is known now.
pub(super) struct Found {
    pub protocol: Protocol,
    pub role: Role,
    /// The pieces that came before the one at hand.
    pub pieces: Vec<(Ns, Vec<u8>)>,
}

impl Start {
    /// A piece of either direction; it is to be handed to what is found.
    #[cold]
    pub fn piece<K: Sink>(
        &mut self,
        direction: Direction,
        piece: Piece<'_>,
        cx: &mut Cx<'_, K>,
    ) -> Option<Found> {
        let Piece::Bytes { bytes, .. } = piece else {
            self.seen[direction as usize] += 1;
            self.few = None;
            self.holed = true;
            return None;
        };
        let first = self.seen == [0, 0];
        let waits = self.early.is_some() || self.few.is_some();
        let joined = !(cx.meta.from_birth && (first || waits));
        if first && joined {
            cx.counts.resync(Resync::Joined);
        }
        self.seen[direction as usize] += bytes.len() as u64;
        let few = self.few.take_if(|few| few.direction == direction);
        let pieces = few.map(|few| few.pieces).unwrap_or_default();
        let joint: Vec<u8>;
        let all = if pieces.is_empty() {
            bytes
        } else {
            joint = pieces.iter().flat_map(|p| &p.1).chain(bytes).copied().collect();
            &joint
        };
        let speaks = |client| match (direction, client) {
            (Direction::Read, true) | (Direction::Write, false) => Role::Server,
            _ => Role::Client,
        };
        // Which protocol, as far as the first bytes can tell.
        let settings = if joined { Some(false) } else { h2::begins_with_settings(all) };
        if all.len() < TELLING && h2::PREFACE.starts_with(all) || settings.is_none() {
            let mut few = Early { direction, since: 0, bytes: 0, pieces };
            few.pieces.push((super::link::time(direction, piece), bytes.to_vec()));
            self.few = Some(Box::new(few));
        } else if all.starts_with(&h2::PREFACE[..TELLING]) {
            let early = self.early.take().filter(|e| e.direction != direction);
            let protocol = Protocol::Http2(Box::new(Http2::new(early)));
            return Some(Found { protocol, role: speaks(true), pieces });
        } else if settings == Some(true) {
            // A server need not wait for its client.
            let protocol = Protocol::Http2(Box::new(Http2::new(None)));
            return Some(Found { protocol, role: speaks(false), pieces });
        } else if looks_like_request(all) != Sniff::No {
            let early = self.early.take().filter(|e| e.direction != direction);
            let protocol = Protocol::Http1(Http1::new(joined || self.holed, early));
            return Some(Found { protocol, role: speaks(true), pieces });
        } else if self.early.is_some() || looks_like_response(all) != Sniff::No {
            for (t, bytes) in &pieces {
                let piece = Piece::Bytes { enter: *t, exit: *t, bytes };
                Early::hold(&mut self.early, direction, piece);
            }
            Early::hold(&mut self.early, direction, piece);
        } else if joined
            && h2::begins_frame(bytes)
            && let Some(speaker) = h2::speaker(bytes)
        {
            let protocol = Protocol::Http2(Box::new(Http2::joined()));
            let role = speaks(speaker == Speaker::Client);
            return Some(Found { protocol, role, pieces: Vec::new() });
        } else if cx.meta.from_birth && (first || !pieces.is_empty()) {
            cx.verdict = Some(Verdict::NotHttp);
        } else {
            let [a, b] = self.seen;
            if a.min(b) > JOINED_BYTES || a.max(b) > JOINED_ONE_WAY_BYTES {
                cx.verdict = Some(Verdict::NoRequest);
            }
        }
        None
    }

    /// What did not turn out to be what it was taken for.
    pub fn again() -> Self {
        Self { seen: [1, 1], ..Self::default() }
    }

    /// Gives up waiting for the request of what came early.
    pub fn drop_early<K: Sink>(&mut self, cx: &mut Cx<'_, K>) {
        if let Some(early) = self.early.take() {
            cx.counts.unasked_bytes += early.pieces.iter().map(|p| p.1.len() as u64).sum::<u64>();
            cx.counts.resync(Resync::Unasked);
        }
    }
}

/// So many bytes of HTTP/2's preface are the beginning of nothing else.
const TELLING: usize = 4;
