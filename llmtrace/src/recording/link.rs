//! From a packet of any link type to its TCP segment.

use std::net::{IpAddr, SocketAddr};

use etherparse::{EtherType, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use pcap_parser::Linktype;

/// A segment, as far as it was captured.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub seq: u32,
    /// None without the ACK flag.
    pub ack: Option<u32>,
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    /// True length of the payload.
    pub len: u32,
    pub payload: &'a [u8],
}

/// Why a packet is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// A link type that is not known.
    Link,
    /// No TCP, or no IP.
    NotTcp,
    /// A part of an IP packet.
    Fragment,
    /// Cut short within its headers, or malformed.
    Malformed,
}

/// `original` is the packet's true length, of which `bytes` were captured.
pub fn segment(link: Linktype, bytes: &[u8], original: u32) -> Result<Segment<'_>, Skip> {
    let (kind, rest) = network(link, bytes)?;
    // Of an EtherType the rest may begin with VLAN tags.
    let packet = match kind {
        Some(kind) => LaxSlicedPacket::from_ether_type(EtherType(kind), rest),
        None => LaxSlicedPacket::from_ip(rest).map_err(|_| Skip::Malformed)?,
    };
    let ip = match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let h = ip.header();
            (IpAddr::V4(h.source_addr()), IpAddr::V4(h.destination_addr()))
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let h = ip.header();
            (IpAddr::V6(h.source_addr()), IpAddr::V6(h.destination_addr()))
        }
        _ => return Err(Skip::NotTcp),
    };
    let payload = packet.ip_payload();
    if payload.is_some_and(|p| p.fragmented) {
        return Err(Skip::Fragment);
    }
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else {
        let is_tcp = payload.is_some_and(|p| p.ip_number == etherparse::IpNumber::TCP);
        return Err(if is_tcp { Skip::Malformed } else { Skip::NotTcp });
    };
    let payload = tcp.payload();
    // What the snap length cut off is missing at the end. Padding of a short frame is not payload,
    // but then the packet was captured whole.
    let cut = (original as usize).saturating_sub(bytes.len());
    let len = (payload.len() + cut).min(u32::MAX as usize) as u32;
    Ok(Segment {
        from: SocketAddr::new(ip.0, tcp.source_port()),
        to: SocketAddr::new(ip.1, tcp.destination_port()),
        seq: tcp.sequence_number(),
        ack: tcp.ack().then(|| tcp.acknowledgment_number()),
        syn: tcp.syn(),
        fin: tcp.fin(),
        rst: tcp.rst(),
        len,
        payload,
    })
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86DD;

/// The EtherType (none: an IP header tells) and what follows the link's header.
fn network(link: Linktype, bytes: &[u8]) -> Result<(Option<u16>, &[u8]), Skip> {
    let big = |at: usize| {
        let two = bytes.get(at..at + 2).and_then(|b| b.first_chunk());
        two.map(|b| u16::from_be_bytes(*b)).ok_or(Skip::Malformed)
    };
    let from = |at: usize| bytes.get(at..).ok_or(Skip::Malformed);
    match link {
        Linktype::ETHERNET => Ok((Some(big(12)?), from(14)?)),
        Linktype::LINUX_SLL => Ok((Some(big(14)?), from(16)?)),
        Linktype::LINUX_SLL2 => Ok((Some(big(0)?), from(20)?)),
        Linktype::NULL | Linktype::LOOP => {
            let family = bytes.first_chunk::<4>().ok_or(Skip::Malformed)?;
            // In the byte order of the machine that captured (NULL) or of the network (LOOP); the
            // number of IPv6 differs between systems.
            let family = match u32::from_le_bytes(*family) {
                n if n > 0xFFFF => n.swap_bytes(),
                n => n,
            };
            match family {
                2 => Ok((Some(IPV4), from(4)?)),
                10 | 24 | 28 | 30 => Ok((Some(IPV6), from(4)?)),
                _ => Err(Skip::NotTcp),
            }
        }
        // 12 and 14 are what RAW was called on some systems.
        Linktype::RAW | Linktype::IPV4 | Linktype::IPV6 | Linktype(12 | 14) => Ok((None, bytes)),
        _ => Err(Skip::Link),
    }
}
