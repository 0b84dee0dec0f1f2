use super::hpack::Name;
use super::*;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// What a parser reported, content joined.
fn line(log: &mut Vec<String>, event: &Event<'_>) {
    match event {
        Event::Start => {}
        Event::Data { stream, bytes } => {
            let start = format!("{stream} data ");
            let text = String::from_utf8_lossy(bytes);
            match log.last_mut() {
                Some(last) if last.starts_with(&start) => last.push_str(&text),
                _ => log.push(start + &text),
            }
        }
        Event::Headers { stream, fields } => {
            let field = |name| fields.get(name).unwrap_or("-").to_owned();
            let (path, status) = (field(Name::Path), field(Name::Status));
            log.push(format!("{stream} headers {path} {status} {}", fields.unknown));
        }
        other => log.push(format!("{other:?}")),
    }
}

fn parse(new: impl Fn() -> Parser, bytes: &[u8]) -> Vec<String> {
    let run = |size: usize| {
        let (mut parser, mut log) = (new(), Vec::new());
        bytes.chunks(size).for_each(|piece| parser.push(piece, |e| line(&mut log, &e)));
        assert!(parser.buffered() < 4 * MAX_BLOCK);
        log
    };
    let whole = run(bytes.len().max(1));
    for size in 1..bytes.len().min(40) {
        assert_eq!(run(size), whole, "pieces of {size}");
    }
    whole
}

const POST: &[u8] = b"\x83\x86\x04\x02/x";

#[test]
fn a_request_and_its_response() {
    let mut client = PREFACE.to_vec();
    client.extend(frame(4, 0, 0, b"\0\x03\0\0\0\x64"));
    client.extend(frame(8, 0, 0, &[0, 0, 1, 0]));
    // Padded and with a priority, in three parts.
    client.extend(frame(1, 0x28, 1, b"\x02\0\0\0\0\x10\x83\0\0"));
    client.extend(frame(9, 0, 1, b"\x86\x04"));
    client.extend(frame(9, 4, 1, b"\x02/x"));
    client.extend(frame(0, 0x8, 1, b"\x03body\0\0\0"));
    client.extend(frame(0, 1, 1, b"more"));
    client.extend(frame(3, 0, 3, &[0, 0, 0, 8]));
    client.extend(frame(0xfa, 7, 9, b"an extension"));
    client.extend(frame(7, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 0, b'x']));
    assert_eq!(
        parse(Parser::client, &client),
        [
            "1 headers /x - false",
            "1 data bodymore",
            "End { stream: 1 }",
            "Reset { stream: 3, code: 8 }",
            "GoAway { last: 5 }"
        ]
    );
    let server = [frame(1, 4, 1, b"\x88"), frame(0, 1, 1, b""), frame(1, 5, 3, b"\x8d")].concat();
    assert_eq!(
        parse(Parser::server, &server),
        [
            "1 headers - 200 false",
            "End { stream: 1 }",
            "3 headers - 404 false",
            "End { stream: 3 }"
        ]
    );
}

#[test]
fn what_is_no_http2() {
    assert_eq!(parse(Parser::client, b"PRI * HTTP/2.0\r\n\r\nXX"), ["Error(BadPreface)"]);
    for bad in [
        frame(0, 0, 0, b"x"),
        frame(1, 4, 0, POST),
        frame(3, 0, 1, b"x"),
        frame(4, 0, 1, b""),
        frame(6, 0, 0, b"1234567"),
        frame(9, 4, 1, b""),
        [frame(1, 0, 1, POST), frame(0, 0, 1, b"")].concat(),
        [frame(1, 0, 1, POST), frame(9, 4, 3, b"")].concat(),
        frame(1, 0xc, 1, b"\x09abc"),
    ] {
        assert_eq!(parse(Parser::server, &bad), ["Error(BadFrame)"], "{bad:x?}");
    }
}

#[test]
fn a_block_that_cannot_be_read_costs_the_table() {
    let known = frame(1, 4, 1, b"\x44\x02/a");
    let too_long = [frame(1, 1, 3, &[0x82; 40_000]), frame(9, 4, 3, &[0x82; 40_000])].concat();
    let refers = frame(1, 5, 5, &[0xbe]);
    let bytes = [known, too_long, refers].concat();
    assert_eq!(
        parse(Parser::server, &bytes),
        [
            "1 headers /a - false",
            "BadHeaders { stream: 3 }",
            "End { stream: 3 }",
            "5 headers - - true",
            "End { stream: 5 }"
        ]
    );
}

#[test]
fn gaps() {
    let mut parser = Parser::server();
    let mut log = Vec::new();
    let data = frame(0, 1, 1, b"0123456789");
    parser.push(&data[..12], |e| line(&mut log, &e));
    parser.gap(7, |e| line(&mut log, &e));
    // The next frame is whole: so is the table.
    parser.push(&frame(1, 4, 3, b"\x44\x02/a"), |e| line(&mut log, &e));
    let headers = frame(1, 5, 5, b"\x44\x02/b");
    parser.push(&headers[..10], |e| line(&mut log, &e));
    parser.gap(3, |e| line(&mut log, &e));
    parser.push(&frame(1, 5, 7, b"\xbe"), |e| line(&mut log, &e));
    assert!(!parser.is_lost());
    parser.push(&data[..5], |e| line(&mut log, &e));
    parser.gap(100, |e| line(&mut log, &e));
    assert!(parser.is_lost());
    parser.push(&data, |e| line(&mut log, &e));
    assert!(begins_frame(&data));
    parser.resync();
    parser.push(&data, |e| line(&mut log, &e));
    assert_eq!(
        log,
        [
            "1 data 012",
            "Gap { stream: 1, len: 7 }",
            "End { stream: 1 }",
            "3 headers /a - false",
            "BadHeaders { stream: 5 }",
            "End { stream: 5 }",
            "7 headers - - true",
            "End { stream: 7 }",
            "Lost",
            "1 data 0123456789",
            "End { stream: 1 }"
        ]
    );
}

#[test]
fn where_a_frame_begins() {
    let data = frame(0, 0, 1, b"data: {}\n\n");
    let headers = frame(1, 4, 1, b"\x88");
    assert!(begins_frame(&data) && begins_frame(&[data.clone(), headers.clone()].concat()));
    assert!(!begins_frame(&data[1..]) && !begins_frame(&data[..12]));
    assert!(!begins_frame(b"data: {\"choices\":[{\"delta\":{}}]}\n\n"));
    let four = [&data[..], &data, &headers, &data[..11]].concat();
    assert!(begins_frame(&four));
    assert_eq!(speaker(&four), Some(Speaker::Server));
    assert_eq!(speaker(&frame(1, 4, 1, b"\x3f\xe1\x1f\x83")), Some(Speaker::Client));
    assert_eq!(speaker(&frame(1, 4, 1, b"\xbe")), None);
    assert_eq!(speaker(&data), None);
    let settings = frame(4, 0, 0, &[0; 18]);
    for n in 0..settings.len() {
        assert_eq!(begins_with_settings(&settings[..n]), (n >= 9).then_some(true), "{n}");
    }
    assert_eq!(begins_with_settings(&data), Some(false));
    assert_eq!(begins_with_settings(b"HTTP"), Some(false));
}
