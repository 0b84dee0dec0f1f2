//! Writes a recording.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};

use super::frame::{Frames, MAX_PAYLOAD, Sort};
use super::meta::{self, Meta};
use super::pcapng::{self, Block};
use crate::record::{Direction, EndReason, Ns, Record, SockId};

/// Whether payload is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    Payload,
    Redacted,
}

/// Records in, pcapng out. Whatever was written is a valid file at any time but within a block.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    frames: Frames,
    /// Wall clock less monotonic, at the start: a clock that is set does not bend the times.
    wall_offset: i64,
    /// Socket addresses are the kernel's own: another number, the same for the same, stands in.
    tokens: RandomState,
    block: Block,
    packet: Vec<u8>,
    more: Vec<u8>,
    records: u64,
    written: u64,
}

impl<W: Write> Writer<W> {
    pub fn new(out: W, wall_offset: i64, contents: Contents) -> io::Result<Self> {
        let mut writer = Self {
            out,
            frames: Frames::default(),
            wall_offset,
            tokens: RandomState::new(),
            block: Block::default(),
            packet: Vec::new(),
            more: Vec::new(),
            records: 0,
            written: 0,
        };
        writer.section(contents)?;
        writer.interface(contents)?;
        Ok(writer)
    }

    fn section(&mut self, contents: Contents) -> io::Result<()> {
        let b = &mut self.block;
        b.begin(pcapng::SECTION);
        b.u32(0x1A2B_3C4D);
        b.u16(1);
        b.u16(0);
        // Length unknown.
        b.u32(u32::MAX);
        b.u32(u32::MAX);
        let comment = match contents {
            Contents::Payload => {
                "Recorded above TCP by llmtrace: framing is synthesised. Holds prompts and answers."
            }
            Contents::Redacted => {
                "Recorded above TCP by llmtrace: framing is synthesised. Prompts, answers and \
                 secrets were replaced by filler of the same length."
            }
        };
        b.option(pcapng::COMMENT, comment.as_bytes());
        b.option(3, b"Linux");
        b.option(4, concat!("llmtrace ", env!("CARGO_PKG_VERSION")).as_bytes());
        self.flush_block()
    }

    fn interface(&mut self, contents: Contents) -> io::Result<()> {
        let about = Meta {
            kind: meta::FILE,
            flags: if contents == Contents::Redacted { meta::REDACTED } else { 0 },
            position: self.wall_offset.cast_unsigned(),
            ..Meta::default()
        };
        let b = &mut self.block;
        b.begin(pcapng::INTERFACE);
        b.u16(pcapng::RAW_IP);
        b.u16(0);
        b.u32(0);
        b.option(2, b"llmtrace");
        b.option(3, b"reads and writes of sockets");
        // Nanoseconds.
        b.option(9, &[9]);
        let mut value = pcapng::PEN.to_le_bytes().to_vec();
        value.extend_from_slice(&about.to_bytes());
        b.option(pcapng::CUSTOM, &value);
        self.flush_block()
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    pub fn into_inner(self) -> W {
        self.out
    }

    /// What a process is called from here on.
    pub fn name(&mut self, pid: u32, name: &str) -> io::Result<()> {
        let meta = Meta { kind: meta::NAME, pid, ..Meta::default() };
        self.more.clear();
        self.more.extend_from_slice(name.as_bytes());
        self.custom_block(&meta)
    }

    /// Time passed, for the pipeline of a replay as it did for that of the run.
    pub fn tick(&mut self, now: Ns, lost: u64, last: bool) -> io::Result<()> {
        let wall = self.wall(now);
        let records = self.records;
        let b = &mut self.block;
        b.begin(pcapng::STATISTICS);
        b.u32(0);
        b.time(wall);
        if last {
            let mut time = [0; 8];
            time[..4].copy_from_slice(&((wall >> 32) as u32).to_le_bytes());
            time[4..].copy_from_slice(&(wall as u32).to_le_bytes());
            b.option(pcapng::ISB_END_TIME, &time);
        }
        b.option(pcapng::ISB_RECEIVED, &records.to_le_bytes());
        b.option(pcapng::ISB_OS_DROP, &lost.to_le_bytes());
        self.flush_block()
    }

    /// One record, in ring order.
    pub fn record(&mut self, record: &Record<'_>) -> io::Result<()> {
        self.records += 1;
        let meta = Meta::of(record, |id| self.tokens.hash_one((id.addr, id.generation)));
        match record {
            Record::Data(data) => {
                let at = match data.direction {
                    Direction::Read => data.exit,
                    Direction::Write => data.enter,
                };
                let mut packet = std::mem::take(&mut self.packet);
                let mut before: Vec<Vec<u8>> = Vec::new();
                let comment =
                    self.frames.data(data, &mut packet, |syn| before.push(syn.to_vec()));
                for syn in before {
                    self.packet(at, &syn, None, None)?;
                }
                // What did not fit is a gap, as when the kernel side could not copy it.
                debug_assert!(data.bytes.len() <= MAX_PAYLOAD);
                let result = self.packet(at, &packet, Some(&meta), comment.as_deref());
                self.packet = packet;
                result
            }
            Record::Open(open) => {
                self.frames.open(open);
                self.more.clear();
                meta::put_open(&mut self.more, open);
                self.custom_block(&meta)
            }
            Record::End { id, at, reason, .. } => self.end(*id, *at, *reason, &meta),
            Record::Silenced { .. } | Record::Process { .. } => {
                self.more.clear();
                self.custom_block(&meta)
            }
        }
    }

    fn end(&mut self, id: SockId, at: Ns, reason: EndReason, meta: &Meta) -> io::Result<()> {
        let shown = match reason {
            EndReason::PeerFin => Some((Direction::Read, Sort::Fin)),
            EndReason::LocalFin => Some((Direction::Write, Sort::Fin)),
            EndReason::PeerReset => Some((Direction::Read, Sort::Rst)),
            EndReason::LocalReset => Some((Direction::Write, Sort::Rst)),
            // Seen by a call, or the end of the socket: no packet says so.
            EndReason::Closed
            | EndReason::ReadEof
            | EndReason::WriteBroken
            | EndReason::ReadReset => None,
        };
        let result = match shown {
            Some((who, sort)) => {
                let mut packet = std::mem::take(&mut self.packet);
                self.frames.end(id, who, sort, &mut packet);
                let result = self.packet(at, &packet, Some(meta), None);
                self.packet = packet;
                result
            }
            None => {
                self.more.clear();
                self.custom_block(meta)
            }
        };
        if reason == EndReason::Closed {
            self.frames.closed(id);
        }
        result
    }

    fn wall(&self, at: Ns) -> u64 {
        at.wrapping_add_signed(self.wall_offset)
    }

    fn packet(
        &mut self,
        at: Ns,
        packet: &[u8],
        meta: Option<&Meta>,
        comment: Option<&str>,
    ) -> io::Result<()> {
        let wall = self.wall(at);
        let b = &mut self.block;
        b.begin(pcapng::PACKET);
        b.u32(0);
        b.time(wall);
        b.u32(packet.len() as u32);
        b.u32(packet.len() as u32);
        b.padded(packet);
        if let Some(meta) = meta {
            let mut value = [0; 4 + meta::LEN];
            value[..4].copy_from_slice(&pcapng::PEN.to_le_bytes());
            value[4..].copy_from_slice(&meta.to_bytes());
            b.option(pcapng::CUSTOM, &value);
        }
        if let Some(comment) = comment {
            b.option(pcapng::COMMENT, comment.as_bytes());
        }
        self.flush_block()
    }

    fn custom_block(&mut self, meta: &Meta) -> io::Result<()> {
        let b = &mut self.block;
        b.begin(pcapng::CUSTOM_BLOCK);
        b.u32(pcapng::PEN);
        let mut data = meta.to_bytes().to_vec();
        // The block is padded: how much of it is ours.
        data.extend_from_slice(&(self.more.len() as u32).to_le_bytes());
        data.extend_from_slice(&self.more);
        b.padded(&data);
        self.flush_block()
    }

    fn flush_block(&mut self) -> io::Result<()> {
        let bytes = self.block.end();
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}
