//! Reads recordings and any other capture, block by block, in constant memory.

use std::io::Read;

use pcap_parser::pcapng::Block;
use pcap_parser::traits::{PcapNGPacketBlock, PcapReaderIterator};
use pcap_parser::{Linktype, PcapBlockOwned, PcapError, PcapNGOption, create_reader};

use llmtrace_common::record::kind;

use super::meta::{self, Meta};
use super::pcapng;
use crate::record::{Ns, Record};

/// Longest block that is read: four times the longest packet of tcpdump and Wireshark. A fuzzer's files
/// are short, and a buffer of this size for each of them is what it would spend its time on.
pub const MAX_BLOCK: usize = if cfg!(fuzzing) { 32 << 10 } else { 1 << 20 };
/// Interfaces of a section whose link type and clock are remembered.
const MAX_INTERFACES: usize = 1024;

/// What a file holds, in its order.
#[derive(Debug)]
pub enum Found<'a> {
    /// Of a recording: a record as it was.
    Record(Record<'a>),
    /// Of a recording: time passed.
    Tick(Ns),
    /// Of a recording: its run ended.
    Stop(Ns),
    /// Of a recording: what a process is called.
    Name(u32, String),
    /// Of a recording: wall clock less monotonic.
    Offset(i64),
    /// Of any other capture; `at` is nanoseconds of the wall clock.
    Packet { link: Linktype, at: Ns, bytes: &'a [u8], original: u32 },
}

/// Why a file cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("not a pcap or pcapng file (compressed? then decompress it first)")]
    NotACapture,
    #[error("cannot read on")]
    Io,
    #[error("a block of more than {MAX_BLOCK} bytes at byte {0}: what follows cannot be found")]
    TooLong(u64),
}

/// What was passed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Blocks that are not what they say they are.
    pub malformed: u64,
    /// Packets of an interface that was not described.
    pub no_interface: u64,
    /// Packets whose record is of another version than this one reads.
    pub unknown_records: u64,
    /// The file ends inside a block.
    pub truncated: bool,
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: Linktype,
    clock: Clock,
    /// Records lie beside the packets.
    ours: bool,
}

/// How a file counts time.
#[derive(Clone, Copy, Debug)]
enum Clock {
    Nanos,
    /// Units of 10^-n or 2^-n seconds, and seconds to add.
    Decimal {
        per_second: u64,
        offset: i64,
    },
    Binary {
        shift: u32,
        offset: i64,
    },
}

impl Clock {
    fn of(resolution: u8, offset: i64) -> Self {
        let power = u32::from(resolution & 0x7F);
        match (resolution, offset) {
            (9, 0) => Self::Nanos,
            (0x80.., _) => Self::Binary { shift: power.min(63), offset },
            _ => Self::Decimal { per_second: 10_u64.saturating_pow(power), offset },
        }
    }

    #[inline]
    fn ns(self, high: u32, low: u32) -> Ns {
        const SECOND: i128 = 1_000_000_000;
        let t = u64::from(high) << 32 | u64::from(low);
        let (ns, offset) = match self {
            Self::Nanos => return t,
            Self::Decimal { per_second, offset } => {
                (i128::from(t) * SECOND / i128::from(per_second), offset)
            }
            Self::Binary { shift, offset } => ((i128::from(t) * SECOND) >> shift, offset),
        };
        let ns = ns + i128::from(offset) * SECOND;
        ns.clamp(0, i128::from(u64::MAX)) as u64
    }
}

/// Reads one file.
pub struct Reader<'r> {
    blocks: Box<dyn PcapReaderIterator + Send + 'r>,
    state: State,
}

#[derive(Debug)]
struct State {
    interfaces: Vec<Interface>,
    little_endian: bool,
    skipped: Skipped,
    consumed: u64,
    /// pcap: the one clock and link type; nanoseconds in its fraction.
    legacy: (Linktype, bool),
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("state", &self.state).finish_non_exhaustive()
    }
}

impl<'r> Reader<'r> {
    pub fn new(from: impl Read + Send + 'r) -> Result<Self, ReadError> {
        let blocks =
            create_reader(2 * MAX_BLOCK, Pieces { from, begun: false }).map_err(|e| match e {
                PcapError::ReadError => ReadError::Io,
                _ => ReadError::NotACapture,
            })?;
        let state = State {
            interfaces: Vec::new(),
            little_endian: false,
            skipped: Skipped::default(),
            consumed: 0,
            legacy: (Linktype(-1), false),
        };
        Ok(Self { blocks, state })
    }

    pub fn skipped(&self) -> Skipped {
        self.state.skipped
    }

    /// Bytes read and handed out so far.
    pub fn position(&self) -> u64 {
        self.state.consumed
    }

    /// Hands out what is in the buffer and fills it again. False: that was all.
    pub fn step(&mut self, mut on: impl FnMut(Found<'_>)) -> Result<bool, ReadError> {
        let Self { blocks, state } = self;
        loop {
            if let Some(used) = state.quick(blocks.data(), &mut on) {
                state.consumed += used as u64;
                blocks.consume(used);
                continue;
            }
            let (used, refill) = match blocks.next() {
                Ok((len, block)) => {
                    state.block(&block, &mut on);
                    (len, false)
                }
                Err(PcapError::Eof) => return Ok(false),
                Err(PcapError::UnexpectedEof) => {
                    state.skipped.truncated = true;
                    return Ok(false);
                }
                Err(PcapError::Incomplete(_)) => (0, true),
                Err(PcapError::ReadError) => return Err(ReadError::Io),
                Err(PcapError::BufferTooSmall) => {
                    return Err(ReadError::TooLong(state.consumed));
                }
                Err(_) => (0, false),
            };
            if refill {
                return match blocks.refill() {
                    Ok(()) => Ok(true),
                    Err(_) => Err(ReadError::Io),
                };
            }
            // A block that cannot be read still says how long it is.
            let used = if used == 0 { bad_block(blocks.data()) } else { Some(used) };
            let Some(used) = used else {
                state.skipped.malformed += 1;
                state.skipped.truncated = true;
                return Ok(false);
            };
            state.consumed += used as u64;
            blocks.consume(used);
        }
    }
}

/// How many bytes to pass over for a block that is not what it should be.
fn bad_block(data: &[u8]) -> Option<usize> {
    let len = data.get(4..8)?.first_chunk()?;
    let len = [u32::from_le_bytes(*len), u32::from_be_bytes(*len)].into_iter().min()? as usize;
    (len >= 12 && len <= data.len() && len.is_multiple_of(4)).then_some(len)
}

/// Hands out a piece at a time that stays in a processor's cache until it is parsed, and at first
/// enough to tell what the file is, however a pipe cuts it.
struct Pieces<R> {
    from: R,
    begun: bool,
}

const PIECE: usize = 128 * 1024;
/// The head of a pcap file, and of a section of pcapng without options.
const HEAD: usize = 24;

impl<R: Read> Read for Pieces<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let most = buf.len().min(PIECE);
        let least = if self.begun { 1 } else { HEAD.min(most) };
        let mut done = 0;
        while done < least {
            match self.from.read(&mut buf[done..most]) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.begun = true;
        Ok(done)
    }
}

impl State {
    /// The usual packet of a recording, with one record beside it: most of the cost of a block is
    /// a list of its options. Everything else is for the general way; None if this is not it.
    #[inline]
    fn quick(&self, data: &[u8], on: &mut impl FnMut(Found<'_>)) -> Option<usize> {
        const OPTION: usize = 4 + meta::LEN;
        const FIXED: usize = 28;
        /// An option's head and value, the end of options, the block's length again.
        const TAIL: usize = 4 + OPTION + 4 + 4;
        let word = |at: usize| {
            let bytes = data.get(at..)?.first_chunk()?;
            Some(u32::from_le_bytes(*bytes))
        };
        if word(0)? != pcapng::PACKET || !self.little_endian {
            return None;
        }
        let len = word(4)? as usize;
        let captured = word(20)? as usize;
        let block = data.get(..len).filter(|_| len <= MAX_BLOCK)?;
        let tail = FIXED + captured.checked_next_multiple_of(4)?;
        let beside = block.get(tail..).filter(|beside| beside.len() == TAIL)?;
        let head = [pcapng::CUSTOM.to_le_bytes(), (OPTION as u16).to_le_bytes()];
        let (option, end) = beside.split_at(4 + OPTION);
        let ours = self.interfaces.get(word(8)? as usize).is_some_and(|i| i.ours)
            && option[..4] == *head.as_flattened()
            && option[4..8] == pcapng::PEN.to_le_bytes()
            && end[..4] == [0; 4]
            && end[4..] == block[4..8];
        let (meta, _) = Meta::from_bytes(&option[8..]).filter(|_| ours)?;
        if !matches!(meta.kind, READ | WRITE) {
            return None;
        }
        let packet = &block[FIXED..FIXED + captured];
        on(Found::Record(meta.record(payload(packet).unwrap_or_default())?));
        Some(len)
    }

    #[inline]
    fn block(&mut self, block: &PcapBlockOwned<'_>, on: &mut impl FnMut(Found<'_>)) {
        match block {
            PcapBlockOwned::NG(Block::EnhancedPacket(b)) => {
                let Some(&interface) = self.interfaces.get(b.if_id as usize) else {
                    self.skipped.no_interface += 1;
                    return;
                };
                if interface.ours {
                    // A packet without a record is framing that was made up.
                    return self.ours(&b.options, b.packet_data(), on);
                }
                let at = interface.clock.ns(b.ts_high, b.ts_low);
                self.packet(interface.link, at, b.packet_data(), b.origlen, on);
            }
            PcapBlockOwned::Legacy(b) => {
                let (link, nanos) = self.legacy;
                let fraction = u64::from(b.ts_usec) * if nanos { 1 } else { 1000 };
                let at = u64::from(b.ts_sec) * 1_000_000_000 + fraction;
                let len = b.data.len().min(b.caplen as usize);
                self.packet(link, at, &b.data[..len], b.origlen, on);
            }
            PcapBlockOwned::LegacyHeader(h) => {
                self.legacy = (h.network, h.is_nanosecond_precision());
            }
            PcapBlockOwned::NG(other) => self.rare(other, on),
        }
    }

    fn packet(
        &self,
        link: Linktype,
        at: Ns,
        bytes: &[u8],
        original: u32,
        on: &mut impl FnMut(Found<'_>),
    ) {
        on(Found::Packet { link, at, bytes, original: original.max(bytes.len() as u32) });
    }

    #[cold]
    fn rare(&mut self, block: &Block<'_>, on: &mut impl FnMut(Found<'_>)) {
        match block {
            Block::SectionHeader(b) => {
                self.little_endian = !b.big_endian();
                self.interfaces.clear();
            }
            Block::InterfaceDescription(b) => {
                if self.interfaces.len() == MAX_INTERFACES {
                    return;
                }
                let mut about =
                    b.options.iter().filter_map(ours).filter(|m| m.0.kind == meta::FILE);
                let offset = about.next().map(|m| m.0.position.cast_signed());
                self.interfaces.push(Interface {
                    link: b.linktype,
                    clock: Clock::of(b.if_tsresol, b.if_tsoffset),
                    ours: offset.is_some(),
                });
                if let Some(offset) = offset {
                    on(Found::Offset(offset));
                }
            }
            Block::InterfaceStatistics(b)
                if self.interfaces.get(b.if_id as usize).is_some_and(|i| i.ours) =>
            {
                self.ours(&b.options, &[], on);
            }
            // No time: of no use for what is measured here.
            Block::SimplePacket(_) => self.skipped.no_interface += 1,
            _ => {}
        }
    }

    /// The records beside a packet, in their order.
    #[inline]
    fn ours(
        &mut self,
        options: &[PcapNGOption<'_>],
        packet: &[u8],
        on: &mut impl FnMut(Found<'_>),
    ) {
        for (meta, more) in options.iter().filter_map(ours) {
            let found = match meta.kind {
                READ | WRITE => meta.record(payload(packet).unwrap_or_default()).map(Found::Record),
                meta::TICK => Some(Found::Tick(meta.exit)),
                meta::STOP => Some(Found::Stop(meta.exit)),
                meta::NAME => {
                    Some(Found::Name(meta.pid, String::from_utf8_lossy(more).into_owned()))
                }
                _ => meta.record(more).map(Found::Record),
            };
            match found {
                Some(found) => on(found),
                None => self.skipped.unknown_records += 1,
            }
        }
    }
}

const READ: u8 = kind::READ as u8;
const WRITE: u8 = kind::WRITE as u8;

/// What an option of ours says, and what follows.
#[inline]
fn ours<'a>(option: &'a PcapNGOption<'_>) -> Option<(Meta, &'a [u8])> {
    if option.code.0 != pcapng::CUSTOM {
        return None;
    }
    // The number is in the section's byte order; ours are little-endian.
    let value = option.as_bytes().ok()?.strip_prefix(&pcapng::PEN.to_le_bytes())?;
    Meta::from_bytes(value)
}

/// What follows the TCP header of a packet that begins with IP, ours.
#[inline]
fn payload(packet: &[u8]) -> Option<&[u8]> {
    let ip = match packet.first()? >> 4 {
        4 => usize::from(packet[0] & 0xF) * 4,
        _ => 40,
    };
    let tcp = usize::from(*packet.get(ip + 12)? >> 4) * 4;
    packet.get(ip + tcp..)
}
