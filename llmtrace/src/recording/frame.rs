//! TCP/IP framing for bytes that were captured above it: addresses, ports, sequence numbers.
//!
//! Sequence numbers follow the positions of the records, each direction from 1, so what is missing
//! shows as missing. A unix socket gets addresses of the range for benchmarks (RFC 2544).

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use etherparse::{PacketBuilder, PacketBuilderStep, TcpHeader};
use rustc_hash::FxHashMap;

use crate::record::{Address, Data, Direction, Open, Position, SockId};

/// Connections whose framing is remembered: as many as the kernel side holds.
const MAX_FRAMED: usize = llmtrace_common::limits::MAX_SOCKETS as usize;
/// Payload of one packet: what an IPv6 packet with a TCP header has room for.
pub const MAX_PAYLOAD: usize = u16::MAX as usize - 20;
const WINDOW: u16 = 65535;
const HOPS: u8 = 64;
/// Where the serving end of a unix socket is said to be.
const UNIX_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)), 80);

/// What a packet is besides its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Data,
    Fin,
    Rst,
    Syn,
    SynAck,
    Ack,
}

/// One connection's framing.
#[derive(Debug)]
struct Framed {
    local: SocketAddr,
    remote: SocketAddr,
    /// The next sequence number of what this side sends, and of what the peer sends.
    next: [u32; 2],
    /// What to add to a position for its sequence number; None before the first.
    shift: [Option<u32>; 2],
    fresh: bool,
    first: Option<First>,
}

/// What goes with the first packet of a connection.
#[derive(Debug)]
pub struct First {
    pub comment: String,
    /// The record that announced it, as the value of an option.
    pub announcement: Option<Vec<u8>>,
}

/// All connections' framing.
#[derive(Debug, Default)]
pub struct Frames {
    map: FxHashMap<SockId, Box<Framed>>,
    made: u32,
}

/// Who sends, as an index of `next`.
fn sender(direction: Direction) -> usize {
    match direction {
        Direction::Write => 0,
        Direction::Read => 1,
    }
}

impl Frames {
    pub fn open(&mut self, open: &Open, announcement: Vec<u8>) {
        let (local, remote) = match (&open.local, &open.remote) {
            (Address::Ip(local), Address::Ip(remote)) => (*local, *remote),
            _ => self.unix(),
        };
        let mut comment = format!("{} (pid {})", open.comm, open.pid);
        for (what, address) in [("unix socket", &open.local), ("peer", &open.remote)] {
            if let Address::Unix(path) = address
                && !path.is_empty()
            {
                let _ = write!(comment, ", {what} {path}");
            }
        }
        if !open.fresh {
            comment.push_str(", already open when the recording began");
        }
        let first = First { comment, announcement: Some(announcement) };
        self.insert(open.id, Framed::new(local, remote, open.fresh, first));
    }

    /// Addresses for what has none.
    fn unix(&mut self) -> (SocketAddr, SocketAddr) {
        let n = self.made;
        self.made = n.wrapping_add(1);
        let [_, high, low, port] = n.to_be_bytes();
        let port = 1024 + u16::from(port) * 251;
        let client = SocketAddr::new(Ipv4Addr::new(198, 19, high, low).into(), port);
        (UNIX_SERVER, client)
    }

    fn insert(&mut self, id: SockId, framed: Framed) {
        if self.map.len() >= MAX_FRAMED && !self.map.contains_key(&id) {
            // The kernel side forgets sockets at the same number, and announces them again.
            self.map.retain(|_, framed| framed.first.is_some());
            if self.map.len() >= MAX_FRAMED {
                self.map.clear();
            }
        }
        self.map.insert(id, Box::new(framed));
    }

    pub fn closed(&mut self, id: SockId) {
        self.map.remove(&id);
    }

    fn framed(&mut self, id: SockId) -> &mut Framed {
        if !self.map.contains_key(&id) {
            let (local, remote) = self.unix();
            let comment = "end points unknown: the record that announced them was lost".into();
            let first = First { comment, announcement: None };
            self.insert(id, Framed::new(local, remote, false, first));
        }
        self.map.get_mut(&id).expect("inserted above if it was not there")
    }

    /// The packet of a piece, and those of the handshake that go before a first one. Returns what
    /// goes with the first of them.
    pub fn data(
        &mut self,
        data: &Data<'_>,
        packet: &mut Vec<u8>,
        handshake: &mut Vec<Vec<u8>>,
    ) -> Option<First> {
        handshake.clear();
        let framed = self.framed(data.id);
        let who = sender(data.direction);
        let at = match data.position {
            Position::Seq32(n) => n,
            Position::Count(n) => n as u32,
        };
        if data.reset {
            framed.shift[who] = None;
        }
        let next = framed.next[who];
        let at = at.wrapping_add(*framed.shift[who].get_or_insert(next.wrapping_sub(at)));
        let first = framed.first.take();
        if first.is_some() && framed.fresh {
            framed.begin(who, handshake);
        }
        framed.write(who, Sort::Data, at, &data.bytes[..data.bytes.len().min(MAX_PAYLOAD)], packet);
        let end = at.wrapping_add(data.len.max(data.bytes.len() as u32));
        if end.wrapping_sub(framed.next[who]).cast_signed() > 0 {
            framed.next[who] = end;
        }
        first
    }

    /// The announcement of a connection, if no packet has carried it.
    pub fn announcement(&mut self, id: SockId) -> Option<Vec<u8>> {
        self.map.get_mut(&id)?.first.as_mut()?.announcement.take()
    }

    /// A FIN or RST of one side.
    pub fn end(&mut self, id: SockId, who: Direction, sort: Sort, packet: &mut Vec<u8>) {
        let framed = self.framed(id);
        let who = sender(who);
        let at = framed.next[who];
        framed.write(who, sort, at, &[], packet);
        if sort == Sort::Fin {
            framed.next[who] = at.wrapping_add(1);
        }
    }
}

impl Framed {
    fn new(local: SocketAddr, remote: SocketAddr, fresh: bool, first: First) -> Self {
        Self { local, remote, next: [1; 2], shift: [None; 2], fresh, first: Some(first) }
    }

    fn begin(&self, who: usize, handshake: &mut Vec<Vec<u8>>) {
        for (who, sort) in [(who, Sort::Syn), (1 - who, Sort::SynAck), (who, Sort::Ack)] {
            let at = self.next[who].wrapping_sub(u32::from(sort != Sort::Ack));
            let mut packet = Vec::new();
            self.write(who, sort, at, &[], &mut packet);
            handshake.push(packet);
        }
    }

    fn write(&self, who: usize, sort: Sort, seq: u32, payload: &[u8], packet: &mut Vec<u8>) {
        let (from, to) = match who {
            0 => (self.local, self.remote),
            _ => (self.remote, self.local),
        };
        let step = match (from.ip(), to.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => PacketBuilder::ipv4(a.octets(), b.octets(), HOPS)
                .tcp(from.port(), to.port(), seq, WINDOW),
            (a, b) => {
                let v6 = |ip: IpAddr| match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                    IpAddr::V6(ip) => ip.octets(),
                };
                PacketBuilder::ipv6(v6(a), v6(b), HOPS).tcp(from.port(), to.port(), seq, WINDOW)
            }
        };
        let ack = self.next[1 - who];
        let step: PacketBuilderStep<TcpHeader> = match sort {
            Sort::Data => step.ack(ack).psh(),
            Sort::Fin => step.ack(ack).fin(),
            Sort::Rst => step.ack(ack).rst(),
            Sort::Syn => step.syn(),
            Sort::SynAck => step.ack(ack).syn(),
            Sort::Ack => step.ack(ack),
        };
        packet.clear();
        // Fails only on a payload of more than MAX_PAYLOAD, which was cut.
        let written = step.write_to_vec(packet, payload);
        debug_assert!(written.is_ok(), "{written:?}");
    }
}
