//! Writes a recording.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};

use super::frame::{First, Frames, MAX_PAYLOAD, Sort};
use super::meta::{self, Meta};
use super::pcapng::{self, Block};
use crate::record::{Direction, EndReason, Ns, Record, SockId};

/// Records that may wait for a block: those of a connection that comes and goes are a few.
const MAX_PENDING: usize = 64;

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
    handshake: Vec<Vec<u8>>,
    /// Records that no packet shows: options of the next block.
    pending: Vec<Vec<u8>>,
    last: Ns,
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
            handshake: Vec::new(),
            pending: Vec::new(),
            last: 0,
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
        b.option(pcapng::CUSTOM, &value(&about));
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
        let mut value = value(&Meta { kind: meta::NAME, pid, ..Meta::default() });
        value.extend_from_slice(name.as_bytes());
        self.pend(value)
    }

    /// Time passed, for the pipeline of a replay as it did for that of the run. `lost` records
    /// never came out of the kernel.
    pub fn tick(&mut self, now: Ns, lost: u64, last: bool) -> io::Result<()> {
        let kind = if last { meta::STOP } else { meta::TICK };
        let tick = Meta { kind, enter: now, exit: now, ..Meta::default() };
        self.pending.push(value(&tick));
        self.statistics(now, Some(lost))
    }

    /// A block that Wireshark takes notice of without showing a packet.
    fn statistics(&mut self, now: Ns, lost: Option<u64>) -> io::Result<()> {
        let wall = self.wall(now);
        let b = &mut self.block;
        b.begin(pcapng::STATISTICS);
        b.u32(0);
        b.time(wall);
        b.option(pcapng::ISB_RECEIVED, &self.records.to_le_bytes());
        if let Some(lost) = lost {
            b.option(pcapng::ISB_OS_DROP, &lost.to_le_bytes());
        }
        for value in self.pending.drain(..) {
            b.option(pcapng::CUSTOM, &value);
        }
        self.flush_block()
    }

    fn pend(&mut self, value: Vec<u8>) -> io::Result<()> {
        self.pending.push(value);
        if self.pending.len() < MAX_PENDING {
            return Ok(());
        }
        self.statistics(self.last, None)
    }

    /// One record, in ring order.
    pub fn record(&mut self, record: &Record<'_>) -> io::Result<()> {
        self.records += 1;
        let meta = Meta::of(record, |id| self.tokens.hash_one((id.addr, id.generation)));
        self.last = self.last.max(meta.exit);
        match record {
            Record::Data(data) => {
                let at = match data.direction {
                    Direction::Read => data.exit,
                    Direction::Write => data.enter,
                };
                // The kernel side cuts at a quarter of it.
                debug_assert!(data.bytes.len() <= MAX_PAYLOAD);
                let mut packet = std::mem::take(&mut self.packet);
                let mut handshake = std::mem::take(&mut self.handshake);
                let mut first = self.frames.data(data, &mut packet, &mut handshake);
                for syn in handshake.drain(..) {
                    self.packet(at, &syn, first.take(), None)?;
                }
                let result = self.packet(at, &packet, first, Some(&meta));
                (self.packet, self.handshake) = (packet, handshake);
                result
            }
            Record::Open(open) => {
                // Carried by the connection's first packet.
                let mut value = value(&meta);
                meta::put_open(&mut value, open);
                self.frames.open(open, value);
                Ok(())
            }
            Record::End { id, at, reason, .. } => self.end(*id, *at, *reason, &meta),
            Record::Arrived { id, .. } | Record::Refused { id, .. } => {
                self.announce(*id)?;
                self.pend(value(&meta))
            }
            Record::Silenced { .. } | Record::Process { .. } => self.pend(value(&meta)),
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
        self.announce(id)?;
        let result = match shown {
            Some((who, sort)) => {
                let mut packet = std::mem::take(&mut self.packet);
                self.frames.end(id, who, sort, &mut packet);
                let result = self.packet(at, &packet, None, Some(meta));
                self.packet = packet;
                result
            }
            None => self.pend(value(meta)),
        };
        if reason == EndReason::Closed {
            self.frames.closed(id);
        }
        result
    }

    /// That a connection was opened comes before anything else of it.
    fn announce(&mut self, id: SockId) -> io::Result<()> {
        match self.frames.announcement(id) {
            Some(announcement) => self.pend(announcement),
            None => Ok(()),
        }
    }

    fn wall(&self, at: Ns) -> u64 {
        at.wrapping_add_signed(self.wall_offset)
    }

    fn packet(
        &mut self,
        at: Ns,
        packet: &[u8],
        first: Option<First>,
        meta: Option<&Meta>,
    ) -> io::Result<()> {
        let wall = self.wall(at);
        let b = &mut self.block;
        b.begin(pcapng::PACKET);
        b.u32(0);
        b.time(wall);
        b.u32(packet.len() as u32);
        b.u32(packet.len() as u32);
        b.padded(packet);
        for value in self.pending.drain(..) {
            b.option(pcapng::CUSTOM, &value);
        }
        if let Some(First { comment, announcement }) = first {
            if let Some(value) = announcement {
                b.option(pcapng::CUSTOM, &value);
            }
            b.option(pcapng::COMMENT, comment.as_bytes());
        }
        if let Some(meta) = meta {
            let mut value = [0; 4 + meta::LEN];
            value[..4].copy_from_slice(&pcapng::PEN.to_le_bytes());
            value[4..].copy_from_slice(&meta.to_bytes());
            b.option(pcapng::CUSTOM, &value);
        }
        self.flush_block()
    }

    fn flush_block(&mut self) -> io::Result<()> {
        let bytes = self.block.end();
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

/// The value of an option; more may follow.
fn value(meta: &Meta) -> Vec<u8> {
    let mut value = pcapng::PEN.to_le_bytes().to_vec();
    value.extend_from_slice(&meta.to_bytes());
    value
}
