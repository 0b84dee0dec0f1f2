//! The few pcapng blocks that a recording has, written into a buffer that is used again.
//!
//! Written by hand because it is little: pcap-file 2.0 takes every time for nanoseconds, whatever the
//! interface says; pcap-parser, which reads here, is made for reading.

/// The number for examples and experiments of RFC 5612: llmtrace has none of its own. What it
/// marks begins with [`MAGIC`](super::meta::MAGIC), so nobody else's example is taken for ours.
pub const PEN: u32 = 32473;

pub const COMMENT: u16 = 1;
/// Custom data that is not text and stays valid if the block is copied.
pub const CUSTOM: u16 = 2989;
const END: u16 = 0;
pub const ISB_RECEIVED: u16 = 4;
pub const ISB_OS_DROP: u16 = 7;

pub const SECTION: u32 = 0x0A0D_0D0A;
pub const INTERFACE: u32 = 1;
pub const STATISTICS: u32 = 5;
pub const PACKET: u32 = 6;

/// LINKTYPE_RAW: a packet begins with its IP header.
pub const RAW_IP: u16 = 101;

/// A block under construction: its length goes in at the end.
#[derive(Debug, Default)]
pub struct Block {
    bytes: Vec<u8>,
    options: bool,
}

impl Block {
    pub fn begin(&mut self, kind: u32) {
        self.bytes.clear();
        self.options = false;
        self.u32(kind);
        self.u32(0);
    }

    pub fn u16(&mut self, n: u16) {
        self.bytes.extend_from_slice(&n.to_le_bytes());
    }

    pub fn u32(&mut self, n: u32) {
        self.bytes.extend_from_slice(&n.to_le_bytes());
    }

    /// A time as all blocks have it: the high half first.
    pub fn time(&mut self, ns: u64) {
        self.u32((ns >> 32) as u32);
        self.u32(ns as u32);
    }

    /// Bytes and what fills them up to a multiple of four.
    pub fn padded(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub fn option(&mut self, code: u16, value: &[u8]) {
        let value = &value[..value.len().min(usize::from(u16::MAX))];
        self.options = true;
        self.u16(code);
        self.u16(value.len() as u16);
        self.padded(value);
    }

    /// The end of the block; its bytes.
    pub fn end(&mut self) -> &[u8] {
        if self.options {
            self.u16(END);
            self.u16(0);
        }
        let len = self.bytes.len() as u32 + 4;
        self.bytes[4..8].copy_from_slice(&len.to_le_bytes());
        self.u32(len);
        &self.bytes
    }
}
