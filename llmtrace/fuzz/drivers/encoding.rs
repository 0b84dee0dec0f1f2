//! Content codings. An input is a byte for the cuts, one for the coding, and the coded bytes.

use llmtrace::http::encoding::{CodingError, Decoder, MAX_DECODED};

use super::Cuts;

const CODINGS: [&str; 6] = ["gzip", "deflate", "br", "zstd", "zstd, gzip", "br, deflate, gzip"];

fn decode(coding: &str, bytes: &[u8], mut cuts: Cuts) -> Result<Vec<u8>, CodingError> {
    let mut decoder = Decoder::new(coding)?.expect("a coding");
    let (mut out, mut result) = (Vec::new(), Ok(()));
    cuts.each(bytes, |piece| {
        result = decoder.push(piece, |bytes| out.extend_from_slice(bytes));
    });
    assert!(out.len() as u64 <= MAX_DECODED);
    result.map(|()| out)
}

pub fn check(input: &[u8]) {
    let [cuts, coding, bytes @ ..] = input else { return };
    let coding = CODINGS[usize::from(*coding) % CODINGS.len()];
    let whole = decode(coding, bytes, Cuts::Whole);
    let pieces = decode(coding, bytes, Cuts::of(*cuts));
    assert_eq!(whole.is_ok(), pieces.is_ok(), "{coding}");
    if let (Ok(whole), Ok(pieces)) = (whole, pieces) {
        // Of garbage that goes on, brotli's decoder may have more or less in hand; what was flushed
        // by a coder comes out at once (see the tests of the module).
        let n = whole.len().min(pieces.len());
        assert!(whole[..n] == pieces[..n], "{coding}: other bytes in pieces");
        assert!(
            whole.len() == pieces.len() || coding.contains("br"),
            "{coding}: {} bytes, {} in pieces",
            whole.len(),
            pieces.len()
        );
    }
}
