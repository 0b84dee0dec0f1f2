//! What a recording keeps of a record beside the packet made of it: everything but the payload.
//!
//! It is the value of a custom option of pcapng, little-endian whatever the section is:
//!
//! | bytes | |
//! |---|---|
//! | 2 | [`MAGIC`] |
//! | 1 | [`VERSION`] |
//! | 1 | kind: `llmtrace_common::record::kind`, or one of those below |
//! | 2 | flags: `llmtrace_common::record::flag` |
//! | 2 | zero |
//! | 8, 4 | the socket: a token for its address, its generation |
//! | 4 | true length of the payload; for an end, a sniff, a listener: what; for a refusal: bytes taken |
//! | 8, 8 | entry and exit of the call, `CLOCK_MONOTONIC` nanoseconds; of an arrival: since when, told when |
//! | 4, 4 | process, thread |
//! | 8 | position in the stream; of an open or an end, if flag REACHED is set, of both streams |

use std::net::{IpAddr, SocketAddr};

use llmtrace_common::record::{end, flag, kind, sniff};

use crate::record::{
    Address, Data, Direction, EndReason, Open, Position, Process, Reached, Record, Sniffed, SockId,
    decode::{end_reason, reached},
};

pub const MAGIC: [u8; 2] = *b"LT";
pub const VERSION: u8 = 1;
/// Bytes of [`Meta`] as written.
pub const LEN: usize = 56;
/// The name of a process follows.
pub const NAME: u8 = 200;
/// About the file: `position` is wall clock less monotonic, in two's complement.
pub const FILE: u8 = 201;
/// In the flags of [`FILE`]: prompts and answers were replaced.
pub const REDACTED: u16 = 1;
/// Time passed, to `exit`.
pub const TICK: u8 = 202;
/// The run ended, at `exit`.
pub const STOP: u8 = 203;
/// Longest text here (a path of a unix socket, a process name).
const MAX_TEXT: usize = 255;

/// A record without what varies in length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    pub kind: u8,
    pub flags: u16,
    pub sock: u64,
    pub generation: u32,
    pub len: u32,
    pub enter: u64,
    pub exit: u64,
    pub pid: u32,
    pub tid: u32,
    pub position: u64,
}

impl Meta {
    pub fn to_bytes(self) -> [u8; LEN] {
        let mut out = [0; LEN];
        out[0..2].copy_from_slice(&MAGIC);
        out[2] = VERSION;
        out[3] = self.kind;
        out[4..6].copy_from_slice(&self.flags.to_le_bytes());
        out[8..16].copy_from_slice(&self.sock.to_le_bytes());
        out[16..20].copy_from_slice(&self.generation.to_le_bytes());
        out[20..24].copy_from_slice(&self.len.to_le_bytes());
        out[24..32].copy_from_slice(&self.enter.to_le_bytes());
        out[32..40].copy_from_slice(&self.exit.to_le_bytes());
        out[40..44].copy_from_slice(&self.pid.to_le_bytes());
        out[44..48].copy_from_slice(&self.tid.to_le_bytes());
        out[48..56].copy_from_slice(&self.position.to_le_bytes());
        out
    }

    /// What the bytes say, and what follows. None if they are not ours.
    #[inline]
    pub fn from_bytes(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = bytes.split_first_chunk::<LEN>()?;
        if head[0..2] != MAGIC || head[2] != VERSION {
            return None;
        }
        let u32_at = |at: usize| head[at..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
        let u64_at = |at: usize| head[at..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        let meta = Self {
            kind: head[3],
            flags: u16::from_le_bytes([head[4], head[5]]),
            sock: u64_at(8),
            generation: u32_at(16),
            len: u32_at(20),
            enter: u64_at(24),
            exit: u64_at(32),
            pid: u32_at(40),
            tid: u32_at(44),
            position: u64_at(48),
        };
        Some((meta, rest))
    }

    /// Of a record; `token` stands for the socket's address, which is the kernel's business.
    pub fn of(record: &Record<'_>, token: impl Fn(SockId) -> u64) -> Self {
        let end = |id: SockId, pid, at, kind: u16, len| Self {
            kind: kind as u8,
            sock: token(id),
            generation: id.generation,
            len,
            enter: at,
            exit: at,
            pid,
            ..Self::default()
        };
        match *record {
            Record::Data(ref data) => Self {
                kind: match data.direction {
                    Direction::Read => kind::READ as u8,
                    Direction::Write => kind::WRITE as u8,
                },
                flags: flags(data),
                sock: token(data.id),
                generation: data.id.generation,
                len: data.len,
                enter: data.enter,
                exit: data.exit,
                pid: data.pid,
                tid: data.tid,
                position: match data.position {
                    Position::Seq32(n) => n.into(),
                    Position::Count(n) => n,
                },
            },
            Record::Open(ref open) => Self {
                flags: if open.fresh { flag::FRESH } else { 0 }
                    | if open.tls { flag::TLS } else { 0 }
                    | if open.reached.is_some() { flag::REACHED } else { 0 },
                position: open.reached.map_or(0, Reached::to_bits),
                ..end(open.id, open.pid, open.at, kind::OPEN, 0)
            },
            Record::End { id, pid, at, reason, reached } => Self {
                flags: if reached.is_some() { flag::REACHED } else { 0 },
                position: reached.map_or(0, Reached::to_bits),
                ..end(id, pid, at, kind::END, reason_code(reason))
            },
            Record::Silenced { id, pid, at, sniffed } => {
                let what = match sniffed {
                    Sniffed::Tls => sniff::TLS,
                    Sniffed::Other => sniff::OTHER,
                };
                end(id, pid, at, kind::SILENCED, what)
            }
            Record::Arrived { id, arrived, at } => {
                Self { enter: arrived, ..end(id, 0, at, kind::ARRIVED, 0) }
            }
            Record::Refused { id, at, taken } => end(id, 0, at, kind::REFUSED, taken),
            Record::Process { at, event } => {
                let (kind, pid, len) = match event {
                    Process::Fork { parent, child } => (kind::FORK, child, parent),
                    Process::Exec { pid } => (kind::EXEC, pid, 0),
                    Process::Exit { pid } => (kind::EXIT, pid, 0),
                    Process::Listen { pid, port } => (kind::LISTEN, pid, port.into()),
                };
                Self { kind: kind as u8, len, enter: at, exit: at, pid, ..Self::default() }
            }
        }
    }

    fn id(&self) -> SockId {
        SockId { addr: self.sock, generation: self.generation }
    }

    /// The record again; `bytes` is its payload, or what followed.
    #[inline]
    pub fn record<'a>(&self, bytes: &'a [u8]) -> Option<Record<'a>> {
        let direction = match u16::from(self.kind) {
            kind::READ => Direction::Read,
            kind::WRITE => Direction::Write,
            _ => return self.other(bytes),
        };
        Some(Record::Data(Data {
            id: self.id(),
            pid: self.pid,
            tid: self.tid,
            direction,
            enter: self.enter,
            exit: self.exit,
            position: if self.flags & flag::SEQ32 != 0 {
                Position::Seq32(self.position as u32)
            } else {
                Position::Count(self.position)
            },
            len: self.len.max(bytes.len() as u32),
            bytes,
            fresh: self.flags & flag::FRESH != 0,
            reset: self.flags & flag::RESET != 0,
            more: self.flags & flag::MORE != 0,
        }))
    }

    fn other<'a>(&self, rest: &'a [u8]) -> Option<Record<'a>> {
        let (id, pid, at) = (self.id(), self.pid, self.exit);
        Some(match u16::from(self.kind) {
            kind::OPEN => Record::Open(self.open(rest)?),
            kind::END => Record::End {
                id,
                pid,
                at,
                reason: end_reason(self.len)?,
                reached: reached(self.flags, self.position),
            },
            kind::SILENCED => {
                let sniffed = match self.len {
                    sniff::TLS => Sniffed::Tls,
                    sniff::OTHER => Sniffed::Other,
                    _ => return None,
                };
                Record::Silenced { id, pid, at, sniffed }
            }
            kind::ARRIVED => Record::Arrived { id, arrived: self.enter, at },
            kind::REFUSED => Record::Refused { id, at, taken: self.len },
            kind::FORK => {
                Record::Process { at, event: Process::Fork { parent: self.len, child: pid } }
            }
            kind::EXEC => Record::Process { at, event: Process::Exec { pid } },
            kind::EXIT => Record::Process { at, event: Process::Exit { pid } },
            kind::LISTEN => {
                let port = self.len as u16;
                Record::Process { at, event: Process::Listen { pid, port } }
            }
            _ => return None,
        })
    }

    fn open(&self, rest: &[u8]) -> Option<Open> {
        let (ppid, rest) = rest.split_first_chunk()?;
        let (netns, rest) = rest.split_first_chunk()?;
        let (cgroup, rest) = rest.split_first_chunk()?;
        let (comm, rest) = text(rest)?;
        let (local, rest) = address(rest)?;
        let (remote, _) = address(rest)?;
        Some(Open {
            id: self.id(),
            pid: self.pid,
            ppid: u32::from_le_bytes(*ppid),
            at: self.exit,
            local,
            remote,
            comm,
            cgroup: u64::from_le_bytes(*cgroup),
            netns: u32::from_le_bytes(*netns),
            fresh: self.flags & flag::FRESH != 0,
            tls: self.flags & flag::TLS != 0,
            reached: reached(self.flags, self.position),
        })
    }
}

/// The flags of a piece of payload. A new flag of `Data` has its bit here and in `record`.
fn flags(data: &Data<'_>) -> u16 {
    let bit = |on: bool, bit: u16| if on { bit } else { 0 };
    bit(matches!(data.position, Position::Seq32(_)), flag::SEQ32)
        | bit(data.fresh, flag::FRESH)
        | bit(data.reset, flag::RESET)
        | bit(data.more, flag::MORE)
}

/// What follows the [`Meta`] of an open.
pub fn put_open(out: &mut Vec<u8>, open: &Open) {
    out.extend_from_slice(&open.ppid.to_le_bytes());
    out.extend_from_slice(&open.netns.to_le_bytes());
    out.extend_from_slice(&open.cgroup.to_le_bytes());
    put_text(out, &open.comm);
    put_address(out, &open.local);
    put_address(out, &open.remote);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut len = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    out.push(len as u8);
    out.extend_from_slice(&text.as_bytes()[..len]);
}

fn text(bytes: &[u8]) -> Option<(Box<str>, &[u8])> {
    let (&len, rest) = bytes.split_first()?;
    let (text, rest) = rest.split_at_checked(len.into())?;
    Some((String::from_utf8_lossy(text).into(), rest))
}

fn put_address(out: &mut Vec<u8>, address: &Address) {
    match address {
        Address::Unknown => out.push(0),
        Address::Unix(path) => {
            out.push(1);
            put_text(out, path);
        }
        Address::Ip(a) => {
            match a.ip() {
                IpAddr::V4(ip) => {
                    out.push(4);
                    out.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    out.push(6);
                    out.extend_from_slice(&ip.octets());
                }
            }
            out.extend_from_slice(&a.port().to_le_bytes());
        }
    }
}

fn address(bytes: &[u8]) -> Option<(Address, &[u8])> {
    let (&family, rest) = bytes.split_first()?;
    let (ip, rest): (IpAddr, _) = match family {
        0 => return Some((Address::Unknown, rest)),
        1 => return text(rest).map(|(path, rest)| (Address::Unix(path), rest)),
        4 => rest.split_first_chunk::<4>().map(|(ip, rest)| ((*ip).into(), rest))?,
        6 => rest.split_first_chunk::<16>().map(|(ip, rest)| ((*ip).into(), rest))?,
        _ => return None,
    };
    let (port, rest) = rest.split_first_chunk()?;
    Some((Address::Ip(SocketAddr::new(ip, u16::from_le_bytes(*port))), rest))
}

fn reason_code(reason: EndReason) -> u32 {
    match reason {
        EndReason::PeerFin => end::PEER_FIN,
        EndReason::LocalFin => end::LOCAL_FIN,
        EndReason::PeerReset => end::PEER_RESET,
        EndReason::LocalReset => end::LOCAL_RESET,
        EndReason::Closed => end::CLOSED,
        EndReason::ReadEof => end::READ_EOF,
        EndReason::WriteBroken => end::WRITE_BROKEN,
        EndReason::ReadReset => end::READ_RESET,
    }
}
