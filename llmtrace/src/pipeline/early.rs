//! Bytes that wait for those of the other direction: two threads' records may have changed places.

use super::link::time;
use crate::conn::Piece;
use crate::record::{Direction, Ns};

#[derive(Debug)]
pub(super) struct Early {
    pub direction: Direction,
    pub since: Ns,
    pub bytes: usize,
    pub pieces: Vec<(Ns, Vec<u8>)>,
}

impl Early {
    /// Adds a piece of the direction that waits; one of the other is not kept.
    pub fn hold(slot: &mut Option<Box<Self>>, direction: Direction, piece: Piece<'_>) {
        let Piece::Bytes { bytes, exit, .. } = piece else { return };
        let early = slot.get_or_insert_with(|| {
            Box::new(Self { direction, since: exit, bytes: 0, pieces: Vec::new() })
        });
        if early.direction == direction {
            // The caller looks at the room left before the next record, and a record is small.
            early.bytes += bytes.len().max(64);
            early.pieces.push((time(direction, piece), bytes.to_vec()));
        }
    }
}
