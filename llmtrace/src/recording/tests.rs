//! Recordings there and back, and captures of any make.

mod captures;
mod recordings;
mod redaction;
mod redaction_h2;

use std::net::SocketAddr;

use etherparse::PacketBuilder;

use super::Found;
use crate::record::{Data, Record};

/// What a file holds, as text that can be compared.
pub(super) fn read(bytes: &[u8]) -> Vec<String> {
    let mut seen = Vec::new();
    let mut reader = super::Reader::new(bytes).expect("a capture");
    while reader.step(|found| seen.push(text(&found))).expect("a capture") {}
    seen
}

pub(super) fn text(found: &Found<'_>) -> String {
    match found {
        Found::Record(Record::Data(data)) => data_text(data),
        other => format!("{other:?}"),
    }
}

pub(super) fn data_text(data: &Data<'_>) -> String {
    format!("{data:?} {}", String::from_utf8_lossy(data.bytes))
}

/// A TCP packet from its IP header on.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub seq: u32,
    pub ack: Option<u32>,
    pub flags: &'static str,
    pub payload: Vec<u8>,
}

impl Packet {
    pub fn bytes(&self) -> Vec<u8> {
        let (a, b) = (self.from, self.to);
        let step = match (a.ip(), b.ip()) {
            (std::net::IpAddr::V4(x), std::net::IpAddr::V4(y)) => {
                PacketBuilder::ipv4(x.octets(), y.octets(), 9).tcp(a.port(), b.port(), self.seq, 99)
            }
            (std::net::IpAddr::V6(x), std::net::IpAddr::V6(y)) => {
                PacketBuilder::ipv6(x.octets(), y.octets(), 9).tcp(a.port(), b.port(), self.seq, 99)
            }
            _ => panic!("two families"),
        };
        let step = match self.ack {
            Some(ack) => step.ack(ack),
            None => step,
        };
        let step = match self.flags {
            "S" => step.syn(),
            "F" => step.fin(),
            "R" => step.rst(),
            _ => step,
        };
        let mut out = Vec::new();
        step.write(&mut out, &self.payload).expect("written");
        out
    }
}
