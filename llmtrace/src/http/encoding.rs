//! Content codings, undone as the bytes come: whatever the coder has flushed is handed on with the
//! piece that completed it, so an event keeps the time of its own write.
//!
//! A body may claim anything, so what comes out is bounded twice: by a total, and by a ratio to
//! what went in. Windows are bounded too (zstd's as RFC 9659 has it).

use std::io::Write;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::write::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder as Zstd, InBuffer, Operation, OutBuffer};

/// Most codings on top of each other.
pub const MAX_CODINGS: usize = 3;
/// Most bytes that one body may become.
pub const MAX_DECODED: u64 = 128 * 1024 * 1024;
/// Up to here the ratio does not matter: the first kilobytes of an event stream are nearly alike.
pub const MAX_UNMEASURED: u64 = 1024 * 1024;
/// Past it, most bytes that may come of one.
pub const MAX_RATIO: u64 = 200;
/// log2 of the largest window that a zstd body may ask for (RFC 9659).
const ZSTD_WINDOW_LOG: u32 = 23;
/// What is decoded at a time.
const OUT: usize = 8 * 1024;
/// The ratio is looked at each time that so many bytes have gone in, wherever the pieces end, so
/// that how a body was cut changes nothing.
const GRID: u64 = 1024;

/// Why a body cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum CodingError {
    #[error("unknown content coding")]
    Unknown,
    #[error("malformed coded body")]
    Malformed,
    #[error("coded body grows past every bound")]
    Bomb,
}

/// Undoes the codings of one body.
pub struct Decoder {
    /// The outermost first.
    stages: Vec<Stage>,
    /// Bytes put in.
    seen: u64,
    failed: Option<CodingError>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("seen", &self.seen).finish_non_exhaustive()
    }
}

struct Stage {
    codec: Codec,
    /// Bytes that came out.
    out: u64,
    /// The coded data is over; what follows it is ignored.
    over: bool,
}

enum Codec {
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    /// zlib or, as some servers have it, raw deflate: the first two bytes tell.
    Deflate(Vec<u8>),
    Inflate(Box<Inflate>),
    Brotli(Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>),
    Zstd(Box<Zstd<'static>>),
}

impl Decoder {
    /// Of a `Content-Encoding` value; None if it asks for nothing.
    pub fn new(value: &str) -> Result<Option<Self>, CodingError> {
        let mut stages = Vec::new();
        // Listed in the order in which they were applied.
        for name in value.rsplit(',').map(str::trim) {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            let codec = match () {
                () if name.is_empty() || is("identity") => continue,
                () if is("gzip") || is("x-gzip") => {
                    Codec::Gzip(Box::new(MultiGzDecoder::new(Vec::new())))
                }
                () if is("deflate") => Codec::Deflate(Vec::new()),
                () if is("br") => {
                    let alloc = StandardAlloc::default;
                    Codec::Brotli(Box::new(BrotliState::new_strict(alloc(), alloc(), alloc())))
                }
                () if is("zstd") => {
                    let mut zstd = Zstd::new().map_err(|_| CodingError::Unknown)?;
                    zstd.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG))
                        .map_err(|_| CodingError::Unknown)?;
                    Codec::Zstd(Box::new(zstd))
                }
                () => return Err(CodingError::Unknown),
            };
            if stages.len() == MAX_CODINGS {
                return Err(CodingError::Unknown);
            }
            stages.push(Stage { codec, out: 0, over: false });
        }
        Ok((!stages.is_empty()).then_some(Self { stages, seen: 0, failed: None }))
    }

    /// The next bytes of the coded body. After an error everything is ignored.
    pub fn push(&mut self, mut bytes: &[u8], mut on: impl FnMut(&[u8])) -> Result<(), CodingError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        while !bytes.is_empty() {
            let room = (GRID - self.seen % GRID) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            bytes = later;
            self.seen += now.len() as u64;
            let mut result = push(&mut self.stages, now, &mut on);
            if self.seen.is_multiple_of(GRID) {
                let most = MAX_UNMEASURED.max(self.seen.saturating_mul(MAX_RATIO));
                if self.stages.iter().any(|stage| stage.out > most) {
                    result = result.and(Err(CodingError::Bomb));
                }
            }
            if let Err(error) = result {
                self.failed = Some(error);
                self.stages = Vec::new();
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Runs bytes through the first stage and what comes out through the rest.
fn push(stages: &mut [Stage], bytes: &[u8], on: &mut dyn FnMut(&[u8])) -> Result<(), CodingError> {
    let Some((stage, rest)) = stages.split_first_mut() else {
        on(bytes);
        return Ok(());
    };
    if stage.over {
        return Ok(());
    }
    let Stage { codec, out, over } = stage;
    let mut sink = |decoded: &[u8]| {
        *out += decoded.len() as u64;
        if *out > MAX_DECODED {
            return Err(CodingError::Bomb);
        }
        push(rest, decoded, on)
    };
    match codec {
        Codec::Gzip(gzip) => gunzip(gzip, bytes, &mut sink)?,
        Codec::Deflate(start) => {
            let had = start.len();
            start.extend_from_slice(&bytes[..bytes.len().min(2 - had)]);
            let &[first, second] = start.as_slice() else { return Ok(()) };
            let zlib = first & 0x0f == 8 && u16::from_be_bytes([first, second]).is_multiple_of(31);
            let mut inflate = Inflate::new(zlib);
            let mut done = inflate.push(&[first, second][..had], &mut sink)?;
            done |= inflate.push(bytes, &mut sink)?;
            *over = done;
            *codec = Codec::Inflate(Box::new(inflate));
        }
        Codec::Inflate(inflate) => *over = inflate.push(bytes, &mut sink)?,
        Codec::Brotli(state) => *over = unbrotli(state, bytes, &mut sink)?,
        Codec::Zstd(zstd) => unzstd(zstd, bytes, &mut sink)?,
    }
    Ok(())
}

type Sink<'s> = &'s mut dyn FnMut(&[u8]) -> Result<(), CodingError>;

fn gunzip(
    gzip: &mut MultiGzDecoder<Vec<u8>>,
    mut bytes: &[u8],
    sink: Sink<'_>,
) -> Result<(), CodingError> {
    while !bytes.is_empty() {
        let n = gzip.write(bytes).map_err(|_| CodingError::Malformed)?;
        bytes = &bytes[n..];
        // One call decodes into a buffer of its own, of constant size; emptied after each.
        gzip.flush().map_err(|_| CodingError::Malformed)?;
        let out = gzip.get_mut();
        sink(out)?;
        out.clear();
        if n == 0 {
            return Err(CodingError::Malformed);
        }
    }
    Ok(())
}

/// Deflate without a container, or in zlib's; also that of a WebSocket.
pub(super) struct Inflate(Decompress);

impl Inflate {
    pub(super) fn new(zlib: bool) -> Self {
        Self(Decompress::new(zlib))
    }

    /// Forgets what was decoded.
    pub(super) fn reset(&mut self) {
        self.0.reset(false);
    }

    /// Whether the data came to its end.
    pub(super) fn push(&mut self, mut bytes: &[u8], sink: Sink<'_>) -> Result<bool, CodingError> {
        let mut out = [0; OUT];
        loop {
            let (had_in, had_out) = (self.0.total_in(), self.0.total_out());
            let status = self
                .0
                .decompress(bytes, &mut out, FlushDecompress::None)
                .map_err(|_| CodingError::Malformed)?;
            let n = (self.0.total_out() - had_out) as usize;
            bytes = &bytes[(self.0.total_in() - had_in) as usize..];
            if n > 0 {
                sink(&out[..n])?;
            }
            if status == Status::StreamEnd {
                return Ok(true);
            }
            // A full buffer may have left something behind.
            if n < OUT && (bytes.is_empty() || status == Status::BufError) {
                return Ok(false);
            }
        }
    }
}

fn unbrotli(
    state: &mut BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    bytes: &[u8],
    sink: Sink<'_>,
) -> Result<bool, CodingError> {
    let mut out = [0; OUT];
    let (mut left, mut at, mut total) = (bytes.len(), 0, 0);
    loop {
        let (mut room, mut n) = (OUT, 0);
        let result = BrotliDecompressStream(
            &mut left, &mut at, bytes, &mut room, &mut n, &mut out, &mut total, state,
        );
        if n > 0 {
            sink(&out[..n])?;
        }
        match result {
            BrotliResult::NeedsMoreOutput => {}
            BrotliResult::NeedsMoreInput => return Ok(false),
            BrotliResult::ResultSuccess => return Ok(true),
            BrotliResult::ResultFailure => return Err(CodingError::Malformed),
        }
    }
}

fn unzstd(zstd: &mut Zstd<'_>, bytes: &[u8], sink: Sink<'_>) -> Result<(), CodingError> {
    let mut out = [0; OUT];
    let mut input = InBuffer::around(bytes);
    loop {
        let mut output = OutBuffer::around(&mut out[..]);
        zstd.run(&mut input, &mut output).map_err(|_| CodingError::Malformed)?;
        let n = output.pos();
        if n > 0 {
            sink(&out[..n])?;
        }
        if n < OUT && input.pos == bytes.len() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;
