use super::*;
use crate::http::MAX_PIPELINE;

/// What a parser reported, bodies joined.
fn line<H>(log: &mut Vec<String>, event: &Event<'_, H>, head: impl FnOnce(&H) -> String) {
    match event {
        Event::Start => {}
        Event::Head(h) => log.push(head(h)),
        Event::Body(bytes) | Event::Other(bytes) => match log.last_mut() {
            Some(last) if last.starts_with('"') => {
                last.push_str(&String::from_utf8_lossy(bytes));
            }
            _ => log.push(format!("\"{}", String::from_utf8_lossy(bytes))),
        },
        Event::Interim(status) => log.push(format!("interim {status}")),
        Event::Gap(len) => log.push(format!("gap {len}")),
        Event::End => log.push("end".into()),
        Event::Tunnel => log.push("tunnel".into()),
        Event::Error(e) => log.push(format!("error: {e}")),
        Event::Lost => log.push("lost".into()),
        Event::Truncated => log.push("truncated".into()),
    }
}

/// The same for every size of pieces, or it panics.
fn requests(bytes: &[u8]) -> Vec<String> {
    every_size(bytes, |size| {
        let (mut parser, mut log) = (RequestParser::new(), Vec::new());
        let head = |h: &RequestHead<'_>| format!("{} {}", h.method, h.target);
        for piece in bytes.chunks(size) {
            parser.push(piece, |e| line(&mut log, &e, head));
        }
        parser.eof(|e| line(&mut log, &e, head));
        log
    })
}

fn responses(asked: &[Asked], bytes: &[u8]) -> Vec<String> {
    every_size(bytes, |size| {
        let (mut parser, mut log) = (ResponseParser::new(), Vec::new());
        asked.iter().for_each(|&a| assert!(parser.expect(a)));
        let head = |h: &ResponseHead<'_>| h.status.to_string();
        for piece in bytes.chunks(size) {
            parser.push(piece, |e| line(&mut log, &e, head));
        }
        parser.eof(|e| line(&mut log, &e, head));
        log
    })
}

fn every_size(bytes: &[u8], run: impl Fn(usize) -> Vec<String>) -> Vec<String> {
    let whole = run(bytes.len().max(1));
    for size in 1..bytes.len().min(40) {
        assert_eq!(run(size), whole, "pieces of {size}");
    }
    whole
}

#[test]
fn pipelined_requests() {
    let log = requests(
        b"POST /a?b=c HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc\
          \r\nGET / HTTP/1.0\nhost: x\n\n\
          PUT /c HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n\
          A;name=\"v\"\r\n0123456789\r\n1 \r\nx\n0\r\nTrailer: 1\r\n\r\nHEAD * HTTP/1.1\r\n\r\n",
    );
    assert_eq!(
        log,
        [
            "POST /a?b=c",
            "\"abc",
            "end",
            "GET /",
            "end",
            "PUT /c",
            "\"0123456789x",
            "end",
            "HEAD *",
            "end"
        ]
    );
}

#[test]
fn responses_follow_their_requests() {
    use Asked::{Head, Other};
    let log = responses(
        &[Other, Head, Other, Other, Other],
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n\
          HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok\
          HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n\
          HTTP/1.1 204 No Content\r\n\r\n\
          HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n\
          HTTP/1.1 200\r\n\r\nuntil the end",
    );
    assert_eq!(
        log,
        [
            "interim 100",
            "interim 103",
            "200",
            "\"ok",
            "end",
            "200",
            "end",
            "204",
            "end",
            "304",
            "end",
            "200",
            "\"until the end",
            "end"
        ]
    );
}

#[test]
fn tunnels() {
    let upgrade = responses(&[Asked::Other], b"HTTP/1.1 101 Switching\r\n\r\nhello");
    assert_eq!(upgrade, ["101", "tunnel", "\"hello"]);
    let connect = responses(&[Asked::Connect], b"HTTP/1.1 200 OK\r\n\r\n\x16\x03\x01");
    assert_eq!(connect, ["200", "tunnel", "\"\u{16}\u{3}\u{1}"]);
    let refused = responses(&[Asked::Connect], b"HTTP/1.1 403 No\r\ncontent-length: 1\r\n\r\nx");
    assert_eq!(refused, ["403", "\"x", "end"]);
}

#[test]
fn ambiguous_lengths_are_errors() {
    for fields in [
        "content-length: 3\r\ncontent-length: 4",
        "content-length: 3\r\ntransfer-encoding: chunked",
        "content-length: 3, 4",
        "content-length: -1",
        "content-length: 18446744073709551616",
        "content-length:",
        "transfer-encoding: chunked, gzip",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
    ] {
        let head = format!("POST / HTTP/1.1\r\n{fields}\r\n\r\nabcd");
        let log = requests(head.as_bytes());
        assert_eq!(log, ["error: contradictory or unusable body length"], "{fields}");
    }
    let same = requests(b"POST / HTTP/1.1\r\ncontent-length: 1, 1\r\ncontent-length: 1\r\n\r\na");
    assert_eq!(same, ["POST /", "\"a", "end"]);
}

#[test]
fn bad_chunks() {
    for (body, error) in [
        (&b"10000000000000000\r\n"[..], "malformed chunk"),
        (b"g\r\n", "malformed chunk"),
        (b"\r\n", "malformed chunk"),
        (b"1\r\nab", "malformed chunk"),
        (b"-1\r\n", "malformed chunk"),
    ] {
        let mut bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        bytes.extend_from_slice(body);
        assert_eq!(responses(&[], &bytes).last().expect("an event"), &format!("error: {error}"));
    }
    let mut long = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;".to_vec();
    long.resize(long.len() + 20_000, b'x');
    assert_eq!(
        responses(&[], &long).last().expect("an event"),
        "error: chunk line or trailers too long"
    );
    let mut huge =
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n".to_vec();
    huge.extend_from_slice(b"abc");
    assert_eq!(responses(&[], &huge), ["200", "\"abc", "truncated"]);
}

#[test]
fn not_http() {
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 tls hello"[..],
        b"\0\0\0\0",
        b"POST / HTTP/3.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
    ] {
        assert_eq!(requests(bytes), ["error: not an HTTP/1 message head"], "{bytes:?}");
    }
    assert_eq!(requests(b"POST / HTTP/1.1\r\nconte"), ["truncated"]);
}

#[test]
fn long_heads_do_not_grow_memory() {
    let mut head = b"GET / HTTP/1.1\r\nx: ".to_vec();
    head.resize(1 << 20, b'a');
    for size in [1000, MAX_HEAD - 1, MAX_HEAD, 1 << 20] {
        let (mut parser, mut log) = (RequestParser::new(), Vec::new());
        for piece in head.chunks(size) {
            parser.push(piece, |e| line(&mut log, &e, |_| "head".into()));
            assert!(parser.buffered() <= MAX_HEAD);
        }
        assert_eq!(log, ["error: message head too long"]);
        assert_eq!(parser.buffered(), 0);
        assert!(parser.is_lost());
        parser.resync();
        parser.push(b"GET / HTTP/1.1\r\n\r\n", |e| line(&mut log, &e, |_| "head".into()));
        assert_eq!(log[1..], ["head", "end"]);
    }
}

#[test]
fn gaps() {
    let gap = |head: &str, body: &[u8], len| {
        let (mut parser, mut log) = (ResponseParser::new(), Vec::new());
        let status = |h: &ResponseHead<'_>| h.status.to_string();
        parser
            .push(format!("HTTP/1.1 200 OK\r\n{head}").as_bytes(), |e| line(&mut log, &e, status));
        parser.push(body, |e| line(&mut log, &e, status));
        parser.gap(len, |e| line(&mut log, &e, status));
        log
    };
    assert_eq!(gap("content-length: 5\r\n\r\n", b"ab", 3), ["200", "\"ab", "gap 3", "end"]);
    assert_eq!(gap("content-length: 5\r\n\r\n", b"ab", 2), ["200", "\"ab", "gap 2"]);
    assert_eq!(gap("content-length: 5\r\n\r\n", b"ab", 4), ["200", "\"ab", "lost"]);
    assert_eq!(gap("\r\n", b"ab", u64::MAX), ["200", "\"ab", "gap 18446744073709551615"]);
    let chunked = "transfer-encoding: chunked\r\n\r\n";
    assert_eq!(gap(chunked, b"5\r\nab", 3), ["200", "\"ab", "gap 3"]);
    assert_eq!(gap(chunked, b"5\r\nab", 4), ["200", "\"ab", "lost"]);
    assert_eq!(gap(chunked, b"5\r\nabcde\r\n", 1), ["200", "\"abcde", "lost"]);
    assert_eq!(gap("content-le", b"", 1), ["lost"]);
}

#[test]
fn the_pipeline_is_bounded() {
    let mut parser = ResponseParser::new();
    for i in 0..MAX_PIPELINE {
        assert!(parser.expect(if i % 3 == 0 { Asked::Head } else { Asked::Other }));
    }
    assert!(!parser.expect(Asked::Other));
    let mut log = Vec::new();
    for i in 0..MAX_PIPELINE {
        let body = if i % 3 == 0 { "" } else { "x" };
        let bytes = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{body}");
        parser.push(bytes.as_bytes(), |e| line(&mut log, &e, |_| "head".into()));
        assert!(parser.is_idle());
    }
    assert!(parser.expect(Asked::Other));
}

#[test]
fn head_fields() {
    let mut parser = RequestParser::new();
    let mut seen = false;
    let bytes = b"POST http://host/v1/x?y#z HTTP/1.1\r\nHOST: a\r\nuser-agent: b\r\nExpect: 100-Continue\r\n\
        Connection: x, close\r\ntraceparent: 00-1-2-3\r\nContent-Encoding: gzip\r\n\r\n";
    parser.push(bytes, |event| {
        if let Event::Head(head) = event {
            seen = true;
            assert_eq!((head.path(), head.host, head.user_agent), ("/v1/x", Some("a"), Some("b")));
            assert_eq!((head.traceparent, head.content_encoding), (Some("00-1-2-3"), Some("gzip")));
            assert!(head.expect_continue && !head.keep_alive && !head.upgrade);
        }
    });
    assert!(seen);
}

/// What two readers could read in two ways is not read at all.
#[test]
fn folded_fields_and_loose_colons_are_errors() {
    for field in ["x: a\r\n b", "content-length : 5", "content-length\t: 5", "x:\0"] {
        let request = format!("POST / HTTP/1.1\r\n{field}\r\ncontent-length: 5\r\n\r\nhello");
        assert_eq!(
            requests(request.as_bytes()),
            ["error: not an HTTP/1 message head"],
            "{field:?}"
        );
        let response = format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\nhello");
        assert_eq!(
            responses(&[Asked::Other], response.as_bytes()),
            ["error: not an HTTP/1 message head"],
            "{field:?}"
        );
    }
}

/// What real servers send: bare line feeds, lower-case names, no reason, extensions, trailers.
#[test]
fn loose_but_clear() {
    let bytes = b"HTTP/1.1 200\ntransfer-encoding: Chunked\n\n5 ; a=\"b\"\nhello\n0\nx: y\n\n";
    assert_eq!(responses(&[Asked::Other], bytes), ["200", "\"hello", "end"]);
}

#[test]
fn transfer_codings_beside_chunked_are_content_codings() {
    for (fields, expected) in [
        ("transfer-encoding: gzip, chunked", Some("gzip")),
        ("Transfer-Encoding: gzip\r\ntransfer-encoding: chunked", Some("gzip")),
        ("transfer-encoding: br , gzip,chunked", Some("br , gzip")),
        ("transfer-encoding: gzip, chunked\r\ncontent-encoding: br", Some("unreadable")),
        ("transfer-encoding: chunked\r\ncontent-encoding: br", Some("br")),
        ("transfer-encoding: chunked", None),
    ] {
        let bytes = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
        let (head, _) = crate::http::head::response(bytes.as_bytes()).unwrap().unwrap();
        assert_eq!((head.framing, head.content_encoding), (Framing::Chunked, expected), "{fields}");
    }
}
