//! Calls that only their bodies show, plain and compressed, over HTTP/1 and HTTP/2.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::h2::{END_STREAM, Ends, frame, start};
use super::*;

const MESSAGES: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
const OTHER: &str = r#"{"model":"m","sender":"me"}"#;
const ANSWER: &str = r#"{"model":"m","usage":{"input_tokens":3,"output_tokens":4}}"#;

fn gzip(text: &str) -> Vec<u8> {
    let mut coder = GzEncoder::new(Vec::new(), Compression::fast());
    coder.write_all(text.as_bytes()).unwrap();
    coder.finish().unwrap()
}

fn post(coding: &str, body: &[u8]) -> (String, Vec<u8>) {
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: a\r\n{coding}content-length: {}\r\n\r\n",
        body.len()
    );
    (head, body.to_vec())
}

fn answer(b: &mut Bench, coding: &str, body: &[u8]) {
    b.write(&format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{coding}content-length: {}\r\n\r\n",
        body.len()
    ));
    b.send_bytes(Direction::Write, body);
}

const GZIP: &str = "content-encoding: gzip\r\n";

#[test]
fn with_its_body_a_call_begins() {
    for (coding, body) in [("", MESSAGES.as_bytes().to_vec()), (GZIP, gzip(MESSAGES))] {
        let mut b = Bench::new();
        let (head, body) = post(coding, &body);
        b.read(&head);
        assert_eq!(b.log.started, 0, "nothing shows it yet");
        b.send_bytes(Direction::Read, &body);
        assert_eq!(b.log.started, 1);
        answer(&mut b, GZIP, &gzip(ANSWER));
        let f = &b.log.finished[0].0;
        assert_eq!((f.outcome, f.endpoint), (Outcome::Success, "/v1/messages"));
        assert_eq!((f.usage.prompt, f.usage.output), (Some(3), Some(4)));
    }
}

#[test]
fn with_another_body_it_is_none() {
    let unknown = "content-encoding: x-unknown\r\n";
    let cases = [
        ("", OTHER.as_bytes().to_vec()),
        (GZIP, gzip(OTHER)),
        // What cannot be read shows nothing.
        (GZIP, b"no gzip at all".to_vec()),
        (unknown, MESSAGES.as_bytes().to_vec()),
    ];
    for (coding, body) in cases {
        let mut b = Bench::new();
        let (head, body) = post(coding, &body);
        b.read(&head);
        b.send_bytes(Direction::Read, &body);
        answer(&mut b, "", ANSWER.as_bytes());
        assert_eq!((b.log.started, b.log.finished.len()), (0, 0));
        assert_eq!(b.count("exchanges", "not_llm"), 1);
    }
}

/// The answer may begin before the request is over.
#[test]
fn an_answer_before_the_proof() {
    let mut b = Bench::new();
    let (head, body) = post("", MESSAGES.as_bytes());
    b.read(&head);
    let said = gzip(ANSWER);
    b.write(&format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{GZIP}content-length: {}\r\n\r\n",
        said.len()
    ));
    b.send_bytes(Direction::Read, &body);
    b.send_bytes(Direction::Write, &said);
    assert_eq!(b.outcomes(), [Outcome::Success]);
    assert_eq!(b.log.finished[0].0.usage.output, Some(4));
}

#[test]
fn on_a_stream() {
    for (coding, body) in [("identity", MESSAGES.as_bytes().to_vec()), ("gzip", gzip(MESSAGES))] {
        let (mut b, mut e) = (Bench::new(), Ends::new());
        b.send_bytes(Direction::Read, &start());
        let head = e.post_head(1, "/v1/messages", &[("content-encoding", coding)]);
        b.send_bytes(Direction::Read, &head);
        assert_eq!(b.log.started, 0);
        b.send_bytes(Direction::Read, &frame(0, END_STREAM, 1, &body));
        assert_eq!(b.log.started, 1);
        let said = [e.head(1, "application/json"), frame(0, END_STREAM, 1, ANSWER.as_bytes())];
        b.send_bytes(Direction::Write, &said.concat());
        assert_eq!(b.outcomes(), [Outcome::Success]);
        assert_eq!(b.log.finished[0].0.usage.output, Some(4));
        // And one that is none.
        let head = e.post_head(3, "/v1/messages", &[("content-encoding", coding)]);
        let other = if coding == "gzip" { gzip(OTHER) } else { OTHER.as_bytes().to_vec() };
        b.send_bytes(Direction::Read, &[head, frame(0, END_STREAM, 3, &other)].concat());
        let said = [e.head(3, "application/json"), frame(0, END_STREAM, 3, ANSWER.as_bytes())];
        b.send_bytes(Direction::Write, &said.concat());
        assert_eq!((b.log.started, b.log.finished.len()), (1, 1));
    }
}
