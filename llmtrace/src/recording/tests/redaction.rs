//! Redaction in any pieces and any order, and what is left of an exchange.

use std::sync::Arc;

use proptest::prelude::*;

use crate::llm::Peer;
use crate::llm::{Finished, Role, Settings};
use crate::pipeline::{Pipeline, Sink};
use crate::record::{Data, Direction, Position, Record, SockId};
use crate::recording::redact::{Item, Redactor};

const ID: SockId = SockId { addr: 64, generation: 1 };

#[derive(Default)]
struct Log(Vec<String>);

impl Sink for Log {
    fn started(&mut self, _: Role, _: &Arc<str>, _: &'static str) {}
    fn finished(&mut self, f: &Finished, _: &Peer) {
        // Bytes of a coded body are counted decoded, and those of filler as they are.
        self.0.push(format!("{:?}", Finished { response_bytes: 0, ..f.clone() }));
    }
}

fn chunked(texts: &[&str]) -> String {
    let mut body: String =
        texts.iter().map(|t| format!("{:x}\r\ndata: {t}\n\n\r\n", t.len() + 8)).collect();
    body.push_str("e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
    body
}

/// What a client and a server said, call by call. Every word of people contains "zq".
fn conversation() -> Vec<(Direction, Vec<u8>)> {
    let body = r#"{"messages":[{"role":"user","content":"zqprompt \"zq\" \u00e9"}],"stream":true,"stream_options":{"include_usage":true},"tools":[{"function":{"name":"zqtool","parameters":{"zqkey":1}}}],"model":"m-1"}"#;
    let request = format!(
        "POST /v1/chat/completions?key=zqkey HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer zqsecret\r\nUser-Agent: ua/1\r\nCookie: a=zqcookie\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let event = |delta: &str, finish: &str| {
        format!(
            r#"{{"id":"c-1","object":"chat.completion.chunk","model":"m-1","choices":[{{"index":0,"delta":{delta},"logprobs":{{"content":[{{"token":"zqtoken","bytes":[122,113]}}]}},"finish_reason":{finish}}}]}}"#
        )
    };
    let events = [
        event(r#"{"role":"assistant","content":""}"#, "null"),
        event(r#"{"content":"zqanswer"}"#, "null"),
        event(r#"{"reasoning_content":"zqthought"}"#, "null"),
        event(r#"{"tool_calls":[{"index":0,"function":{"name":"zqf","arguments":"{\"zqa\":"}}]}"#, "null"),
        event("{}", "\"stop\""),
        r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":2}}}"#.into(),
    ];
    let texts: Vec<&str> = events.iter().map(String::as_str).collect();
    let stream = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nSet-Cookie: zqcookie\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        chunked(&texts)
    );
    let answer = r#"{"id":"c","object":"chat.completion","model":"m-2","choices":[{"message":{"role":"assistant","content":"zqanswer"},"finish_reason":"length"}],"usage":{"prompt_tokens":4,"completion_tokens":5}}"#;
    let whole = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
    let error = r#"{"error":{"message":"zqprompt is too long","type":"invalid","code":400}}"#;
    let failed =
        format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n{error}", error.len());
    let text = "POST /form HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 14\r\n\r\nzq plain words";
    let other = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nzqzq";
    // No call of an LLM: even what looks as if it measured one goes.
    let account = r#"{"id":"zkid","data":{"zkkey":1}}"#;
    let query =
        format!("POST /account HTTP/1.1\r\nContent-Length: {}\r\n\r\n{account}", account.len());
    let found = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{account}", account.len());
    let mut all = Vec::new();
    for (asked, said) in [
        (query, found),
        (request.clone(), stream),
        (request.clone(), whole),
        (request, failed),
        (text.to_owned(), other.to_owned()),
    ] {
        all.push((Direction::Read, asked.into_bytes()));
        all.push((Direction::Write, said.into_bytes()));
    }
    all
}

/// The calls as records of at most `size` bytes.
pub(super) fn records(
    calls: &[(Direction, Vec<u8>)],
    size: usize,
) -> Vec<(Direction, u32, u64, Vec<u8>)> {
    let (mut at, mut t, mut all) = ([7u32, u32::MAX - 50], 1000, Vec::new());
    for (direction, bytes) in calls {
        for piece in bytes.chunks(size) {
            t += 10;
            all.push((*direction, at[*direction as usize], t, piece.to_vec()));
            let at = &mut at[*direction as usize];
            *at = at.wrapping_add(piece.len() as u32);
        }
    }
    all
}

fn record<'a>(of: &'a (Direction, u32, u64, Vec<u8>), first: u64) -> Record<'a> {
    let (direction, at, t, bytes) = of;
    Record::Data(Data {
        id: ID,
        pid: 1,
        tid: 1,
        direction: *direction,
        enter: *t,
        exit: *t + 5,
        position: Position::Seq32(*at),
        len: bytes.len() as u32,
        bytes,
        fresh: *t == first,
        reset: false,
        more: false,
    })
}

/// Redacted, what came out of it, and what a pipeline finds before and after.
pub(super) fn redact(
    records: &[(Direction, u32, u64, Vec<u8>)],
) -> (Vec<u8>, Vec<String>, Vec<String>) {
    redact_with(records, true)
}

/// The same of a connection that was not seen from its first byte.
pub(super) fn redact_with(
    records: &[(Direction, u32, u64, Vec<u8>)],
    fresh: bool,
) -> (Vec<u8>, Vec<String>, Vec<String>) {
    let first = records.iter().map(|r| r.2).min().filter(|_| fresh).unwrap_or(0);
    let settings =
        Settings { itl_bounds: Arc::new([1, 10, 100]), token_times: true, ..Settings::default() };
    let (mut before, mut after) = (Pipeline::new(settings.clone()), Pipeline::new(settings));
    let (mut log_before, mut log_after) = (Log::default(), Log::default());
    let (mut redactor, mut out, mut order) = (Redactor::default(), Vec::new(), Vec::new());
    let mut take = |item: &Item<'_>| match item {
        Item::Record(record) => {
            if let Record::Data(data) = record {
                out.extend_from_slice(data.bytes);
                order.push((data.exit, data.bytes.len()));
            }
            after.push(record, &mut log_after);
        }
        Item::Name(..) => {}
        Item::Tick { now, .. } => after.tick(*now, &mut log_after),
    };
    for r in records {
        let record = record(r, first);
        before.push(&record, &mut log_before);
        redactor.push(Item::Record(record), &mut take);
    }
    let late = 1_000_000_000;
    before.tick(late, &mut log_before);
    redactor.push(Item::Tick { now: late, lost: 0, last: true }, &mut take);
    redactor.finish(&mut take);
    let expected: Vec<_> = records.iter().map(|r| (r.2 + 5, r.3.len())).collect();
    assert_eq!(order, expected, "the same records in the same order");
    (out, log_before.0, log_after.0)
}

#[test]
fn no_word_stays_and_the_exchanges_do() {
    for size in [1, 2, 3, 7, 64, 1000, usize::MAX] {
        let (out, before, after) = redact(&records(&conversation(), size));
        let text = String::from_utf8_lossy(&out);
        assert!(!text.contains("zq") && !text.contains("zk"), "{size}: {text}");
        assert_eq!(before.len(), 3);
        assert!(
            before[0].contains("prompt: Some(9)")
                && before[0].contains("finish_reason: Some(\"stop\")")
        );
        assert_eq!(before, after, "{size}");
    }
}

/// A frame of a WebSocket; a client masks it.
fn frame(first: u8, mask: bool, payload: &[u8]) -> Vec<u8> {
    let (mut bytes, bit) = (vec![first], if mask { 0x80 } else { 0 });
    match payload.len() {
        n if n < 126 => bytes.push(bit | n as u8),
        n => {
            bytes.push(bit | 126);
            bytes.extend((n as u16).to_be_bytes());
        }
    }
    let key = if mask { [5, 6, 7, 250] } else { [0; 4] };
    if mask {
        bytes.extend(key);
    }
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(b, k)| b ^ k));
    bytes
}

/// A Realtime session, with a message in two frames, a ping within it, and a close at the end.
fn session(extensions: &str) -> Vec<(Direction, Vec<u8>)> {
    let ask = "GET /v1/realtime?model=m-1 HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer zqsecret\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: zqkey\r\n\r\n";
    let agree = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{extensions}\r\n"
    );
    let text = |text: &str| frame(0x81, false, text.as_bytes());
    let created = r#"{"type":"session.created","session":{"id":"s","model":"gpt-realtime","instructions":"zqrules","tools":[{"zqkey":1}]}}"#;
    let item = r#"{"type":"conversation.item.create","item":{"role":"user","content":[{"type":"input_text","text":"zqprompt"}]}}"#;
    let (head, tail) = item.split_at(90);
    let asked = [
        frame(0x01, true, head.as_bytes()),
        frame(0x89, true, b"zqping"),
        frame(0x80, true, tail.as_bytes()),
        frame(0x82, true, b"zqaudio zqaudio"),
        frame(0x81, true, br#"{"type":"response.create","response":{"instructions":"zqmore"}}"#),
    ];
    let said = [
        text(r#"{"type":"response.created","response":{"id":"r-1","status":"in_progress"}}"#),
        text(r#"{"type":"response.output_audio.delta","response_id":"r-1","delta":"zqaudio"}"#),
        text(r#"{"type":"response.output_text.delta","response_id":"r-1","delta":"zqanswer"}"#),
        text(
            r#"{"type":"response.done","response":{"id":"r-1","status":"incomplete","status_details":{"type":"incomplete","reason":"max_output_tokens"},"output":[{"content":[{"transcript":"zqanswer"}]}],"usage":{"input_tokens":31,"output_tokens":9,"input_token_details":{"cached_tokens":5}}}}"#,
        ),
        frame(0x88, false, b"\x03\xe8zqbye"),
    ];
    vec![
        (Direction::Read, ask.into()),
        (Direction::Write, [agree.as_bytes(), &text(created)].concat()),
        (Direction::Read, asked.concat()),
        (Direction::Write, said.concat()),
    ]
}

#[test]
fn a_websocket_session() {
    let plain = session("");
    // No word may show behind its mask either.
    let unmask = |out: &[u8]| -> Vec<u8> {
        let key = [5, 6, 7, 250u8];
        (0..4)
            .flat_map(|n| out.iter().enumerate().map(move |(i, b)| b ^ key[(i + n) % 4]))
            .collect()
    };
    for size in [1, 2, 3, 7, 64, 1000, usize::MAX] {
        let (out, before, after) = redact(&records(&plain, size));
        for text in [&out, &unmask(&out)] {
            let text = String::from_utf8_lossy(text);
            assert!(!text.contains("zq"), "{size}: {text}");
        }
        assert_eq!(before.len(), 1);
        for said in ["prompt: Some(31)", "gpt-realtime", "max_output_tokens", "token_events: 2"] {
            assert!(before[0].contains(said), "{said}: {before:?}");
        }
        assert_eq!(before, after, "{size}");
    }
    // A record that is missing hides what it touches.
    let all = records(&plain, 40);
    for lost in 0..all.len() {
        let mut some = all.clone();
        some.remove(lost);
        let (out, before, after) = redact(&some);
        for text in [&out, &unmask(&out)] {
            assert!(!String::from_utf8_lossy(text).contains("zq"), "{lost}");
        }
        assert_eq!(before, after, "{lost}");
    }
    // With an extension everything is filled, and nothing is taken for what it is not.
    let (out, _, after) =
        redact(&records(&session("Sec-WebSocket-Extensions: permessage-deflate\r\n"), 64));
    assert!(!String::from_utf8_lossy(&out).contains("realtime\""));
    assert_eq!(after, [""; 0]);
}

#[test]
fn a_gap_hides_the_rest_of_its_body() {
    let all = records(&conversation(), 50);
    for lost in 0..all.len() {
        let mut some = all.clone();
        some.remove(lost);
        let (out, before, after) = redact(&some);
        let text = String::from_utf8_lossy(&out);
        assert!(!text.contains("zq"), "{lost}: {text}");
        assert_eq!(before, after, "{lost}");
    }
}

#[test]
fn joined_in_the_middle() {
    let all = records(&conversation(), 50);
    for from in 1..all.len() {
        let (out, ..) = redact(&all[from..]);
        assert!(!String::from_utf8_lossy(&out).contains("zq"), "{from}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn in_any_order(
        size in 20usize..200,
        swaps in prop::collection::vec((any::<prop::sample::Index>(), 1usize..4), 0..20),
        doubles in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let mut all = records(&conversation(), size);
        for (at, by) in swaps {
            let at = at.index(all.len());
            let other = (at + by).min(all.len() - 1);
            // The first of each direction says where it begins.
            if all[at].0 == all[other].0 && at > 20 {
                all.swap(at, other);
            }
        }
        for at in doubles {
            let at = at.index(all.len());
            let again = all[at].clone();
            all.insert(at + 1, again);
        }
        let (out, before, after) = redact(&all);
        prop_assert!(!String::from_utf8_lossy(&out).contains("zq"));
        prop_assert_eq!(before, after);
    }
}
