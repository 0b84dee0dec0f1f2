//! A body that is kept packed and unpacked as the client takes it.
//!
//! The text of a thousand servers is 70 MB, and packed 2.5: a client that reads slowly, or many of
//! them, must not make the agent hold the former.

use std::io::{self, Cursor, Read as _};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::read::GzDecoder;
use http_body::{Body, Frame};

/// Bytes that are unpacked at a time.
const PIECE: usize = 64 * 1024;

pub(super) struct Unpacked(GzDecoder<Cursor<Vec<u8>>>);

impl Unpacked {
    /// `packed` is with gzip.
    pub(super) fn new(packed: Vec<u8>) -> Self {
        Self(GzDecoder::new(Cursor::new(packed)))
    }
}

impl Body for Unpacked {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let mut piece = Vec::with_capacity(PIECE);
        let decoder = &mut self.get_mut().0;
        Poll::Ready(match decoder.take(PIECE as u64).read_to_end(&mut piece) {
            Ok(0) => None,
            Ok(_) => Some(Ok(Frame::data(piece.into()))),
            Err(e) => Some(Err(e)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn piece_by_piece() {
        let text: Vec<u8> = (0..50_000).flat_map(|n: u32| format!("{n}\n").into_bytes()).collect();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&text).unwrap();
        let mut body = Unpacked::new(encoder.finish().unwrap());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut got = Vec::new();
        let mut pieces = 0;
        while let Poll::Ready(Some(frame)) = Pin::new(&mut body).poll_frame(&mut cx) {
            let piece = frame.unwrap().into_data().unwrap();
            assert!(piece.len() <= PIECE);
            got.extend_from_slice(&piece);
            pieces += 1;
        }
        assert_eq!(got, text);
        assert!(pieces >= text.len() / PIECE, "{pieces}");
    }
}
