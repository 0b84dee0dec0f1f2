//! What an end of a connection, or of one of its directions, means for its exchanges.

use super::link::Shared;
use crate::llm::Role;
use crate::record::{EndReason, Ns};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nothing yet.
    Noted,
    /// The client sends no more. It may still get its answer.
    ClientShut(Ns),
    ClientLeft(Ns),
    /// `eof`: in an orderly way, so that a body may have lasted until here.
    ServerLeft {
        at: Ns,
        eof: bool,
    },
}

/// Whether an end decides nothing yet: who closed its side may still get, or have sent, a whole
/// response.
pub(super) fn only_notes(reason: EndReason, role: Option<Role>) -> bool {
    matches!(
        (reason, role),
        (EndReason::PeerFin, _)
            | (EndReason::ReadEof, Some(Role::Server))
            | (EndReason::WriteBroken, Some(Role::Client))
    )
}

pub(super) fn ending(reason: EndReason, at: Ns, shared: &mut Shared) -> Ending {
    use EndReason::*;
    let Shared { role, peer_left, .. } = shared;
    match (*role, reason) {
        (role, reason) if only_notes(reason, Some(role)) => {
            let left = *peer_left.get_or_insert(at);
            if role == Role::Server { Ending::ClientShut(left) } else { Ending::Noted }
        }
        (Role::Server, LocalFin | Closed) => Ending::ServerLeft { at, eof: true },
        (Role::Server, LocalReset) => Ending::ServerLeft { at, eof: false },
        (Role::Server, _) => Ending::ClientLeft(at),
        (Role::Client, PeerReset | ReadReset) => {
            Ending::ServerLeft { at: peer_left.unwrap_or(at), eof: false }
        }
        (Role::Client, ReadEof) => Ending::ServerLeft { at: peer_left.unwrap_or(at), eof: true },
        (Role::Client, _) => match *peer_left {
            Some(left) => Ending::ServerLeft { at: left, eof: true },
            None => Ending::ClientLeft(at),
        },
    }
}
