use std::io::Write;

use super::*;

/// A frame, masked if there is a mask.
fn frame(first: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let bit = if mask.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        n if n < 126 => bytes.push(bit | n as u8),
        n if n < 65536 => {
            bytes.push(bit | 126);
            bytes.extend((n as u16).to_be_bytes());
        }
        n => {
            bytes.push(bit | 127);
            bytes.extend((n as u64).to_be_bytes());
        }
    }
    let mask = mask.inspect(|mask| bytes.extend(mask)).unwrap_or_default();
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    bytes
}

fn line(log: &mut Vec<String>, event: &Event<'_>) {
    match event {
        Event::Data(bytes) => match log.last_mut() {
            Some(last) if last.starts_with('"') => last.push_str(&String::from_utf8_lossy(bytes)),
            _ => log.push(format!("\"{}", String::from_utf8_lossy(bytes))),
        },
        other => log.push(format!("{other:?}")),
    }
}

fn parse(new: impl Fn() -> Parser, bytes: &[u8]) -> Vec<String> {
    let run = |size: usize| {
        let (mut parser, mut log) = (new(), Vec::new());
        bytes.chunks(size).for_each(|piece| parser.push(piece, |e| line(&mut log, &e)));
        log
    };
    let whole = run(bytes.len().max(1));
    for size in 1..bytes.len().min(40) {
        assert_eq!(run(size), whole, "pieces of {size}");
    }
    whole
}

/// One message after another from one window.
fn deflated(messages: &[&str]) -> Vec<Vec<u8>> {
    let mut encoder = flate2::write::DeflateEncoder::new(vec![], flate2::Compression::default());
    let each = messages.iter().map(|message| {
        encoder.write_all(message.as_bytes()).unwrap();
        encoder.flush().unwrap();
        let out = std::mem::take(encoder.get_mut());
        out.strip_suffix(&TAIL).expect("a flush").to_vec()
    });
    each.collect()
}

#[test]
fn messages() {
    let long = "x".repeat(70_000);
    let mask = Some([1, 2, 3, 200]);
    let bytes = [
        frame(0x81, mask, b"hello"),
        frame(0x01, mask, b"in "),
        frame(0x89, mask, b"ping"),
        frame(0x00, mask, b"three "),
        frame(0x80, mask, b"parts"),
        frame(0x82, None, &[b'y'; 300]),
        frame(0x81, mask, long.as_bytes()),
        frame(0x81, None, b""),
        frame(0x88, mask, b"\x03\xe8bye"),
    ];
    let y = format!("\"{}", "y".repeat(300));
    assert_eq!(
        parse(|| Parser::new(false, false), &bytes.concat()),
        [
            "Start { text: true }",
            "\"hello",
            "End",
            "Start { text: true }",
            "\"in three parts",
            "End",
            "Start { text: false }",
            &y,
            "End",
            "Start { text: true }",
            &format!("\"{long}"),
            "End",
            "Start { text: true }",
            "End",
            "Close(Some(1000))"
        ]
    );
}

#[test]
fn compressed_messages() {
    let texts = ["{\"type\":\"one\"}", "{\"type\":\"two\"}", "{\"type\":\"two\"}"];
    let coded = deflated(&texts);
    assert!(coded[2].len() < 8, "the window is used");
    let mut bytes = frame(0xc1, Some([9; 4]), &coded[0]);
    // In two frames, and one that is not compressed between.
    let (a, b) = coded[1].split_at(3);
    bytes
        .extend([frame(0x41, None, a), frame(0x80, None, b), frame(0x81, None, b"plain")].concat());
    bytes.extend(frame(0xc1, None, &coded[2]));
    let seen = parse(|| Parser::new(true, false), &bytes);
    let content: Vec<_> = seen.iter().filter_map(|line| line.strip_prefix('"')).collect();
    assert_eq!(content, [texts[0], texts[1], "plain", texts[2]]);
    // Without a window from one message to the next.
    let each = texts.map(|text| frame(0xc1, None, &deflated(&[text])[0]));
    let seen = parse(|| Parser::new(true, true), &each.concat());
    assert_eq!(seen.iter().filter(|line| line.contains("type")).count(), 3);
}

#[test]
fn a_gap_in_a_compressed_message_spoils_the_window() {
    let coded = deflated(&["{\"type\":\"one\"}", "{\"type\":\"two\"}"]);
    for (resets, expected) in [(false, 0), (true, 1)] {
        let second =
            if resets { deflated(&["{\"type\":\"two\"}"]).remove(0) } else { coded[1].clone() };
        let (mut parser, mut log) = (Parser::new(true, resets), Vec::new());
        let first = frame(0xc1, None, &coded[0]);
        parser.push(&first[..6], |e| line(&mut log, &e));
        parser.gap(first.len() as u64 - 6, |e| line(&mut log, &e));
        parser.push(&frame(0xc1, None, &second), |e| line(&mut log, &e));
        assert!(log.contains(&"Gap".to_owned()));
        assert_eq!(log.iter().filter(|line| line.contains("two")).count(), expected, "{log:?}");
        assert!(!parser.is_lost());
    }
    let mut parser = Parser::new(false, false);
    let mut log = Vec::new();
    parser.push(&frame(0x81, None, b"x")[..1], |e| line(&mut log, &e));
    parser.gap(1, |e| line(&mut log, &e));
    assert!(parser.is_lost() && log.last().is_some_and(|last| last == "Lost"));
}

#[test]
fn what_is_no_websocket() {
    let bad = |deflate, bytes: &[u8]| {
        let seen = parse(|| Parser::new(deflate, false), bytes);
        assert!(seen.last().is_some_and(|last| last.starts_with("Error")), "{bytes:x?}: {seen:?}");
    };
    bad(false, &frame(0xc1, None, b"x"));
    bad(false, &frame(0x80, None, b"x"));
    bad(false, &frame(0x83, None, b"x"));
    bad(false, &frame(0x09, None, b"x"));
    bad(false, &frame(0xa1, None, b"x"));
    bad(false, &[frame(0x01, None, b"x"), frame(0x81, None, b"x")].concat());
    bad(false, b"\x89\x7e\x01\x00");
    bad(false, b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff");
    bad(true, &frame(0xc1, None, &[0xff; 20]));
}

#[test]
fn what_both_ends_agree_on() {
    let parse = Extensions::parse;
    assert_eq!(parse(None), Some(Extensions::default()));
    let agreed = parse(Some("permessage-deflate; server_no_context_takeover")).unwrap();
    assert!(agreed.deflate && agreed.server_resets && !agreed.client_resets);
    assert!(parse(Some("permessage-deflate;client_max_window_bits=12")).unwrap().deflate);
    assert_eq!(parse(Some("x-webkit-deflate-frame")), None);
}
