use std::io::Write;

use super::*;

const EVENTS: usize = 40;

fn event(n: usize) -> Vec<u8> {
    format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\" word{n}\"}}}}]}}\n\n").into_bytes()
}

/// The same events, flushed one by one: the coded bytes of each.
fn coded(coding: &str) -> Vec<Vec<u8>> {
    let take = |out: &mut Vec<u8>| std::mem::take(out);
    let level = flate2::Compression::default();
    let mut pieces = Vec::new();
    macro_rules! run {
        ($encoder:expr, $out:ident => $get:expr) => {{
            let mut encoder = $encoder;
            for n in 0..EVENTS {
                encoder.write_all(&event(n)).unwrap();
                encoder.flush().unwrap();
                let $out = &mut encoder;
                pieces.push(take($get));
            }
            pieces.push(encoder.finish().unwrap());
        }};
    }
    match coding {
        "gzip" => run!(flate2::write::GzEncoder::new(vec![], level), e => e.get_mut()),
        "deflate" => run!(flate2::write::ZlibEncoder::new(vec![], level), e => e.get_mut()),
        "raw" => run!(flate2::write::DeflateEncoder::new(vec![], level), e => e.get_mut()),
        "zstd" => run!(zstd::Encoder::new(vec![], 3).unwrap(), e => e.get_mut()),
        _ => unreachable!(),
    }
    pieces
}

fn decode(header: &str, pieces: &[&[u8]]) -> Result<Vec<u8>, CodingError> {
    let mut decoder = Decoder::new(header)?.expect("a coding");
    let mut out = Vec::new();
    pieces
        .iter()
        .try_for_each(|piece| decoder.push(piece, |bytes| out.extend_from_slice(bytes)))?;
    Ok(out)
}

#[test]
fn what_was_flushed_comes_out_at_once() {
    for coding in ["gzip", "deflate", "raw", "zstd"] {
        let header = if coding == "raw" { "deflate" } else { coding };
        let mut decoder = Decoder::new(header).unwrap().unwrap();
        for (n, piece) in coded(coding).iter().enumerate() {
            let mut out = Vec::new();
            decoder.push(piece, |bytes| out.extend_from_slice(bytes)).unwrap();
            let expected = if n < EVENTS { event(n) } else { Vec::new() };
            assert_eq!(out, expected, "{coding}: event {n}");
        }
    }
}

#[test]
fn pieces_change_nothing() {
    for coding in ["gzip", "deflate", "raw", "zstd"] {
        let header = if coding == "raw" { "deflate" } else { coding };
        let all = coded(coding).concat();
        let whole: Vec<u8> = (0..EVENTS).flat_map(event).collect();
        for size in [1, 2, 3, 7, 64, all.len()] {
            let pieces: Vec<_> = all.chunks(size).collect();
            assert_eq!(decode(header, &pieces), Ok(whole.clone()), "{coding} by {size}");
        }
    }
}

/// Made by Python's `brotli` with a flush after each of the two events.
#[test]
fn brotli() {
    let pieces: [&[u8]; 3] = include!("brotli.in");
    let mut decoder = Decoder::new("br").unwrap().unwrap();
    for (n, piece) in pieces.iter().enumerate() {
        let mut out = Vec::new();
        decoder.push(piece, |bytes| out.extend_from_slice(bytes)).unwrap();
        assert_eq!(out, if n < 2 { event(n) } else { Vec::new() }, "event {n}");
    }
    let all = pieces.concat();
    let bytes: Vec<_> = all.chunks(1).collect();
    assert_eq!(decode("br", &bytes), Ok([event(0), event(1)].concat()));
}

#[test]
fn one_on_top_of_another() {
    let inner = coded("zstd").concat();
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    gzip.write_all(&inner).unwrap();
    let outer = gzip.finish().unwrap();
    let whole: Vec<u8> = (0..EVENTS).flat_map(event).collect();
    assert_eq!(decode("zstd, gzip", &[&outer]), Ok(whole));
    assert!(Decoder::new(" identity ,").unwrap().is_none());
    assert_eq!(Decoder::new("gzip, compress").unwrap_err(), CodingError::Unknown);
    assert_eq!(Decoder::new("gzip,gzip,gzip,gzip").unwrap_err(), CodingError::Unknown);
}

#[test]
fn a_bomb_is_not_let_off() {
    let zeros = vec![0; 1 << 20];
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    (0..8).for_each(|_| gzip.write_all(&zeros).unwrap());
    let bomb = gzip.finish().unwrap();
    let mut decoder = Decoder::new("gzip").unwrap().unwrap();
    let mut out = 0_u64;
    let result = decoder.push(&bomb, |bytes| out += bytes.len() as u64);
    assert_eq!(result, Err(CodingError::Bomb));
    // A grid's worth of input may pass before the ratio is looked at: 1032 for one at the most.
    assert!(out <= MAX_UNMEASURED + 2 * GRID * 1032, "{out}");
    assert_eq!(decoder.push(b"more", |_| panic!("nothing comes")), Err(CodingError::Bomb));
}

#[test]
fn garbage() {
    for coding in ["gzip", "deflate", "br", "zstd"] {
        assert_eq!(decode(coding, &[&[0xee; 40]]), Err(CodingError::Malformed), "{coding}");
        let mut all = if coding == "br" { return } else { coded(coding).concat() };
        let middle = all.len() / 2;
        all.drain(middle..middle + 9);
        assert!(decode(coding, &[&all]).is_err(), "{coding}");
    }
}
