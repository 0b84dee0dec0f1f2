//! The only reader of kernel bytes. A record that does not fit its own header is an error that
//! the caller counts; nothing here panics or trusts a length.
#![expect(unsafe_code, reason = "reads repr(C) structures out of byte slices, length checked")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use llmtrace_common::record as raw;
use raw::{Header, end, family, flag, kind, sniff};

use super::{
    Address, Data, Direction, EndReason, Open, Position, Process, Reached, Record, Sniffed, SockId,
};

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("shorter than its header")]
    Short,
    #[error("unknown kind {0}")]
    Kind(u16),
    #[error("unknown value {1} in a record of kind {0}")]
    Value(u16, u32),
}

/// Plain old data that may be read from any bytes.
///
/// # Safety
/// Every bit pattern is a valid value.
unsafe trait Pod: Copy {}
// SAFETY: integers only.
unsafe impl Pod for Header {}
// SAFETY: integers and arrays of integers only.
unsafe impl Pod for raw::Open {}

fn read<T: Pod>(bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.len() < size_of::<T>() {
        return Err(DecodeError::Short);
    }
    // SAFETY: the slice is long enough, the read is unaligned, and T is valid for any bits.
    Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// Reads one ring record.
pub fn decode(bytes: &[u8]) -> Result<Record<'_>, DecodeError> {
    let h: Header = read(bytes)?;
    let rest = &bytes[size_of::<Header>()..];
    let id = SockId { addr: h.sock, generation: h.generation };
    Ok(match h.kind {
        kind::READ | kind::WRITE => {
            // Size classes leave slack after the payload; more than is there is an error.
            let bytes = rest.get(..h.cap_len as usize).ok_or(DecodeError::Short)?;
            Record::Data(Data {
                id,
                pid: h.pid,
                tid: h.tid,
                direction: if h.kind == kind::READ { Direction::Read } else { Direction::Write },
                enter: h.enter_ns,
                exit: h.exit_ns,
                position: if h.flags & flag::SEQ32 != 0 {
                    Position::Seq32(h.pos as u32)
                } else {
                    Position::Count(h.pos)
                },
                len: h.len.max(h.cap_len),
                bytes,
                fresh: h.flags & flag::FRESH != 0,
                reset: h.flags & flag::RESET != 0,
                more: h.flags & flag::MORE != 0,
            })
        }
        kind::OPEN => Record::Open(open(&h, id, &read::<raw::Open>(rest)?)),
        kind::END => {
            let reason = end_reason(h.len).ok_or(DecodeError::Value(h.kind, h.len))?;
            Record::End { id, pid: h.pid, at: h.exit_ns, reason, reached: reached(h.flags, h.pos) }
        }
        kind::SILENCED => {
            let sniffed = match h.len {
                sniff::TLS => Sniffed::Tls,
                sniff::OTHER => Sniffed::Other,
                other => return Err(DecodeError::Value(h.kind, other)),
            };
            Record::Silenced { id, pid: h.pid, at: h.exit_ns, sniffed }
        }
        kind::ARRIVED => Record::Arrived { id, arrived: h.enter_ns, at: h.exit_ns },
        kind::REFUSED => Record::Refused { id, at: h.exit_ns, taken: h.len },
        kind::FORK => process(&h, Process::Fork { parent: h.len, child: h.pid }),
        kind::EXEC => process(&h, Process::Exec { pid: h.pid }),
        kind::EXIT => process(&h, Process::Exit { pid: h.pid }),
        kind::LISTEN => process(&h, Process::Listen { pid: h.pid, port: h.len as u16 }),
        other => return Err(DecodeError::Kind(other)),
    })
}

/// What a code of [`end`] means.
pub fn end_reason(code: u32) -> Option<EndReason> {
    Some(match code {
        end::PEER_FIN => EndReason::PeerFin,
        end::LOCAL_FIN => EndReason::LocalFin,
        end::PEER_RESET => EndReason::PeerReset,
        end::LOCAL_RESET => EndReason::LocalReset,
        end::CLOSED => EndReason::Closed,
        end::READ_EOF => EndReason::ReadEof,
        end::WRITE_BROKEN => EndReason::WriteBroken,
        end::READ_RESET => EndReason::ReadReset,
        _ => return None,
    })
}

/// The positions in an OPEN or END, if it has any.
pub fn reached(flags: u16, pos: u64) -> Option<Reached> {
    (flags & flag::REACHED != 0).then(|| Reached::from_bits(pos))
}

fn process(h: &Header, event: Process) -> Record<'static> {
    Record::Process { at: h.exit_ns, event }
}

fn open(h: &Header, id: SockId, o: &raw::Open) -> Open {
    let (local, remote) = if o.family == family::UNKNOWN {
        (Address::Unknown, Address::Unknown)
    } else if o.family == family::UNIX {
        (
            Address::Unix(unix_name(&o.unix_path[..(o.unix_len as usize).min(o.unix_path.len())])),
            Address::Unix("".into()),
        )
    } else {
        (
            Address::Ip(SocketAddr::new(ip(o.family, &o.local_addr), o.local_port)),
            Address::Ip(SocketAddr::new(ip(o.family, &o.remote_addr), o.remote_port)),
        )
    };
    Open {
        id,
        pid: h.pid,
        ppid: o.ppid,
        at: h.exit_ns,
        local,
        remote,
        comm: text(&o.comm),
        cgroup: o.cgroup,
        netns: o.netns,
        fresh: h.flags & flag::FRESH != 0,
        tls: h.flags & flag::TLS != 0,
        reached: reached(h.flags, h.pos),
    }
}

/// An IPv4-mapped IPv6 address is the IPv4 address that people know.
fn ip(family: u16, bytes: &[u8; 16]) -> IpAddr {
    if family == family::INET {
        return IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]));
    }
    let v6 = Ipv6Addr::from(*bytes);
    v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
}

fn unix_name(path: &[u8]) -> Box<str> {
    match path.split_first() {
        Some((0, name)) => format!("@{}", text(name)).into(),
        _ => text(path),
    }
}

/// Up to the first NUL, with what is not UTF-8 replaced.
fn text(bytes: &[u8]) -> Box<str> {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into()
}
