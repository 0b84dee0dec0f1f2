//! WebSockets from records to exchanges, and content codings.

use std::io::Write as _;

use super::*;
use crate::llm::Phase;

const ASK: &str = "GET /v1/realtime?model=m HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\n\
    upgrade: websocket\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
const CREATE: &str = r#"{"type":"response.create"}"#;

fn frame(mask: bool, text: &str) -> Vec<u8> {
    let mut bytes = vec![0x81];
    let bit = if mask { 0x80 } else { 0 };
    match text.len() {
        n if n < 126 => bytes.push(bit | n as u8),
        n => {
            bytes.push(bit | 126);
            bytes.extend((n as u16).to_be_bytes());
        }
    }
    let key = if mask { [5, 6, 7, 8] } else { [0; 4] };
    if mask {
        bytes.extend(key);
    }
    bytes.extend(text.bytes().zip(key.iter().cycle()).map(|(b, k)| b ^ k));
    bytes
}

fn said(id: &str, kind: &str, rest: &str) -> Vec<u8> {
    frame(false, &format!(r#"{{"type":"response.{kind}","response_id":"{id}"{rest}}}"#))
}

fn created(id: &str) -> Vec<u8> {
    frame(false, &format!(r#"{{"type":"response.created","response":{{"id":"{id}"}}}}"#))
}

fn finished(id: &str, status: &str) -> Vec<u8> {
    frame(
        false,
        &format!(r#"{{"type":"response.done","response":{{"id":"{id}","status":"{status}"}}}}"#),
    )
}

fn answer(id: &str) -> Vec<u8> {
    let delta = said(id, "output_text.delta", r#","delta":"x""#);
    [created(id), delta.clone(), delta, finished(id, "completed")].concat()
}

#[test]
fn a_session() {
    // The server's first message in the call of its answer, and the client's before that.
    for early in [false, true] {
        let mut b = Bench::new();
        b.read(ASK);
        let hello = frame(false, r#"{"type":"session.created","session":{"model":"real"}}"#);
        if early {
            b.send_bytes(Direction::Read, &frame(true, CREATE));
        }
        b.send_bytes(Direction::Write, &[ANSWER.as_bytes(), &hello].concat());
        if !early {
            b.send_bytes(Direction::Read, &frame(true, CREATE));
        }
        let start = if early { 1002 * MS } else { 1003 * MS };
        b.send_bytes(Direction::Write, &answer("a"));
        b.send_bytes(Direction::Read, &frame(true, CREATE));
        b.send_bytes(Direction::Write, &created("b"));
        b.end(EndReason::PeerFin);
        b.end(EndReason::LocalFin);
        b.wait(2 * HOLD_NS);
        let left = Outcome::ClientDisconnect(Phase::BeforeFirstToken);
        assert_eq!(b.outcomes(), [Outcome::Success, left], "{early}");
        let f = &b.log.finished[0].0;
        assert_eq!((f.start, f.token_events), (start, 2), "{early}");
        assert_eq!((b.log.started, b.count("exchanges", "not_llm")), (2, 1));
        assert!(b.pipeline.take_verdicts().is_empty());
    }
}

#[test]
fn what_began_under_a_name_ends_under_it() {
    let mut b = Bench::new();
    b.read(ASK);
    b.write(ANSWER);
    b.send_bytes(Direction::Read, &frame(true, CREATE));
    b.send_bytes(Direction::Write, &created("a"));
    // Its ends are named again while a response runs: that is still counted where it began.
    b.open("10.0.0.1:9999", "10.0.0.2:999");
    let mut running = Vec::new();
    b.pipeline.running(|_, peer| running.push(peer.server.clone()));
    assert_eq!(running, b.log.servers);
    b.send_bytes(Direction::Read, &frame(true, CREATE));
    b.send_bytes(Direction::Write, &finished("a", "completed"));
    b.send_bytes(Direction::Write, &answer("b"));
    // The next one has the new name.
    b.send_bytes(Direction::Read, &frame(true, CREATE));
    b.send_bytes(Direction::Write, &answer("c"));
    let ended: Vec<_> = b.log.finished.iter().map(|(_, peer)| peer.server.clone()).collect();
    assert_eq!(ended, b.log.servers);
    assert!(ended[0].ends_with(":8000") && ended[2].ends_with(":9999"), "{ended:?}");
}

#[test]
fn split_anyhow() {
    let client = [ASK.as_bytes(), &frame(true, CREATE)].concat();
    let server = [ANSWER.as_bytes(), &answer("a")].concat();
    for size in 1..70 {
        let mut b = Bench::new();
        let asked = ASK.len();
        client[..asked].chunks(size).for_each(|piece| b.send_bytes(Direction::Read, piece));
        let agreed = ANSWER.len();
        server[..agreed].chunks(size).for_each(|piece| b.send_bytes(Direction::Write, piece));
        client[asked..].chunks(size).for_each(|piece| b.send_bytes(Direction::Read, piece));
        server[agreed..].chunks(size).for_each(|piece| b.send_bytes(Direction::Write, piece));
        assert_eq!(b.outcomes(), [Outcome::Success], "{size}");
        assert_eq!(b.log.finished[0].0.token_events, 2, "{size}");
    }
}

#[test]
fn gaps() {
    for (direction, in_frame) in
        [(Direction::Write, true), (Direction::Write, false), (Direction::Read, false)]
    {
        let mut b = Bench::new();
        b.read(ASK);
        b.write(ANSWER);
        b.send_bytes(Direction::Read, &frame(true, CREATE));
        b.send_bytes(Direction::Write, &created("a"));
        let delta = said("a", "output_text.delta", r#","delta":"some words""#);
        if in_frame {
            b.send_bytes(Direction::Write, &delta[..10]);
            b.lose(Direction::Write, 12);
            b.send_bytes(Direction::Write, &delta[22..]);
        } else {
            b.lose(direction, 40);
            b.send_bytes(direction, b"\x81\x00");
        }
        b.wait(2 * HOLD_NS);
        if direction == Direction::Read {
            // The response under way is not touched.
            b.send_bytes(Direction::Write, &finished("a", "completed"));
            assert_eq!(b.outcomes(), [Outcome::Success]);
            b.send_bytes(Direction::Write, &answer("b"));
            assert_eq!(b.outcomes()[1..], [Outcome::Incomplete], "whose start is not known");
        } else {
            assert_eq!(b.outcomes(), [Outcome::Incomplete], "{in_frame}");
            assert_eq!(b.count("incomplete", "response_gap"), 1);
        }
    }
}

#[test]
fn other_websockets_are_left_alone() {
    let mut b = Bench::new();
    b.read(&ASK.replace("/v1/realtime", "/chat"));
    b.send_bytes(Direction::Write, &[ANSWER.as_bytes(), &frame(false, "x")].concat());
    assert_eq!(b.pipeline.take_verdicts(), [b.id]);
    assert_eq!(b.count("silenced", "tunnel"), 1);
}

#[test]
fn codings() {
    let events = token("a") + &token("b");
    let plain: String = events
        .split("\r\n")
        .filter(|line| line.starts_with("data"))
        .map(|l| l.to_owned())
        .collect();
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    gzip.write_all(plain.as_bytes()).unwrap();
    gzip.write_all(b"data: [DONE]\n\n").unwrap();
    let body = gzip.finish().unwrap();
    let head = |coding: &str| {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: {coding}\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        )
    };
    for (coding, expected, tokens) in [
        ("gzip", Outcome::Success, 2),
        ("identity", Outcome::Success, 0),
        ("br", Outcome::Incomplete, 0),
        // Not known: how it ends is, what is in it is not.
        ("compress", Outcome::Success, 0),
    ] {
        let mut b = Bench::new();
        b.read(&request());
        b.write(&head(coding));
        b.send_bytes(Direction::Write, &body);
        assert_eq!(b.outcomes(), [expected], "{coding}");
        assert_eq!(b.log.finished[0].0.token_events, tokens, "{coding}");
        b.exchange();
        assert_eq!(b.outcomes()[1..], [Outcome::Success], "{coding}: the next one");
    }
}
