//! Memory of `llmtrace replay` with many streams open at once: each has asked, got its head and some
//! events, and never ends. The bounds are those of the product: 40 MB up to 1,000 streams, 4 KB for
//! each one more.

use std::fs;
use std::io::{BufWriter, Read};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use llmtrace::record::{Address, Data, Direction, Open, Position, Record, SockId};
use llmtrace::recording::{Contents, Writer};

const EVENTS: usize = 6;
const EVENT: &str = r#"data: {"id":"chatcmpl-5f0c8a3de2b14c4f9a8e7d6c5b4a3928","object":"chat.completion.chunk","created":1700000000,"model":"Qwen/Qwen2.5-7B-Instruct","choices":[{"index":0,"delta":{"content":" the"},"logprobs":null,"finish_reason":null,"token_ids":null}]}

"#;
const BODY: &str = r#"{"model":"Qwen/Qwen2.5-7B-Instruct","messages":[{"role":"user","content":"hello"}],"stream":true,"stream_options":{"include_usage":true}}"#;
/// Between two calls: all of them within seconds, so that nothing is idle for too long.
const STEP: u64 = 20_000;
/// Of memory that is held, whether streams are open or not (the product's bound up to 1,000).
const MAX_BASE: u64 = 40_000_000;
/// Of each further stream.
const MAX_STREAM: u64 = 4096;

/// Writes records of calls, one after another.
struct Calls {
    writer: Writer<BufWriter<ChildStdin>>,
    t: u64,
}

/// One connection, and how far its directions have come.
struct Connection {
    n: u64,
    at: [u32; 2],
    fresh: bool,
}

impl Calls {
    fn open(&mut self, n: u64) -> Connection {
        let port = 1024 + n % 60_000;
        let record = Record::Open(Open {
            id: id(n),
            pid: 7,
            ppid: 1,
            at: self.t,
            reached: None,
            local: Address::Ip("10.0.0.1:8000".parse().expect("an address")),
            remote: Address::Ip(format!("10.0.0.2:{port}").parse().expect("an address")),
            comm: "server".into(),
            cgroup: 0,
            netns: 0,
            fresh: true,
            tls: false,
        });
        self.writer.record(&record).expect("written");
        Connection { n, at: [1, 1], fresh: true }
    }

    fn call(&mut self, connection: &mut Connection, direction: Direction, bytes: &[u8]) {
        self.t += STEP;
        let at = &mut connection.at[direction as usize];
        let data = Data {
            id: id(connection.n),
            pid: 7,
            tid: 7,
            direction,
            enter: self.t,
            exit: self.t + 100,
            position: Position::Seq32(*at),
            len: bytes.len() as u32,
            bytes,
            fresh: std::mem::take(&mut connection.fresh),
            reset: false,
            more: false,
        };
        *at += bytes.len() as u32;
        self.writer.record(&Record::Data(data)).expect("written");
    }
}

fn id(n: u64) -> SockId {
    SockId { addr: 0xffff_8880_0000_0000 + n * 0x940, generation: 1 }
}

/// Streams of HTTP/1, each on a connection of its own.
fn http1(calls: &mut Calls, streams: u64) {
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 10.0.0.1:8000\r\nUser-Agent: OpenAI/Python 1.99.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("{:x}\r\n{EVENT}\r\n", EVENT.len());
    let mut all: Vec<Connection> = (0..streams).map(|n| calls.open(n)).collect();
    for connection in &mut all {
        calls.call(connection, Direction::Read, request.as_bytes());
        calls.call(connection, Direction::Write, head.as_bytes());
    }
    for event in 0..EVENTS {
        for connection in &mut all {
            // The last event is cut in its middle, as one that is under way.
            let end = if event + 1 == EVENTS { chunk.len() / 2 } else { chunk.len() };
            calls.call(connection, Direction::Write, &chunk.as_bytes()[..end]);
        }
    }
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// Fields that no table remembers.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            out.push(u8::try_from(text.len()).expect("a short text"));
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

/// The same streams over HTTP/2, a hundred on each connection.
fn http2(calls: &mut Calls, streams: u64) {
    const EACH: u64 = 100;
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let asks = block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/v1/chat/completions"),
        (":authority", "10.0.0.1:8000"),
        ("content-type", "application/json"),
        ("user-agent", "OpenAI/Python 1.99.0"),
    ]);
    let answers = block(&[(":status", "200"), ("content-type", "text/event-stream")]);
    let connections = streams.div_ceil(EACH);
    let mut all: Vec<Connection> = (0..connections).map(|n| calls.open(n)).collect();
    let ids = |n: u64| (0..EACH.min(streams - n * EACH)).map(|i| (1 + 2 * i) as u32);
    for connection in &mut all {
        calls.call(connection, Direction::Read, &[PREFACE, &frame(4, 0, 0, &[])].concat());
        calls.call(connection, Direction::Write, &frame(4, 0, 0, &[]));
        for id in ids(connection.n) {
            let request = [frame(1, 4, id, &asks), frame(0, 1, id, BODY.as_bytes())].concat();
            calls.call(connection, Direction::Read, &request);
            calls.call(connection, Direction::Write, &frame(1, 4, id, &answers));
        }
    }
    for event in 0..EVENTS {
        for connection in &mut all {
            for id in ids(connection.n) {
                let end = if event + 1 == EVENTS { EVENT.len() / 2 } else { EVENT.len() };
                calls.call(
                    connection,
                    Direction::Write,
                    &frame(0, 0, id, &EVENT.as_bytes()[..end]),
                );
            }
        }
    }
}

/// A number of kilobytes in /proc/PID/status, in bytes.
fn status(pid: u32, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = text.lines().find(|line| line.starts_with(field)).expect("a field");
    let kb = line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    kb.expect("a number") * 1024
}

/// Waits until a process has read so many bytes from a pipe, and asks for more.
fn settled(pid: u32, bytes: u64) {
    let start = Instant::now();
    let mut quiet = 0;
    while quiet < 5 {
        assert!(start.elapsed() < Duration::from_secs(300), "the replay does not come to an end");
        std::thread::sleep(Duration::from_millis(20));
        let io = fs::read_to_string(format!("/proc/{pid}/io")).expect("a process");
        let read = io.lines().find_map(|l| l.strip_prefix("rchar: ")?.parse::<u64>().ok());
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
        let sleeps = stat.rsplit(')').next().is_some_and(|rest| rest.trim().starts_with('S'));
        let done = read.is_some_and(|read| read >= bytes) && sleeps;
        quiet = if done { quiet + 1 } else { 0 };
    }
}

/// Ended with the test, whatever becomes of that.
struct Replay(Child);

impl Drop for Replay {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a replay holds at most until so many streams are open at once.
fn memory(streams: u64, write: fn(&mut Calls, u64)) -> u64 {
    let child = Command::new(env!("CARGO_BIN_EXE_llmtrace"))
        .args(["replay", "-", "--summary"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut replay = Replay(child);
    let pid = replay.0.id();
    let input = BufWriter::new(replay.0.stdin.take().expect("a pipe"));
    let writer = Writer::new(input, 0, Contents::Payload).expect("written");
    let mut calls = Calls { writer, t: 1_000_000_000 };
    write(&mut calls, streams);
    let (now, mut writer) = (calls.t + STEP, calls.writer);
    writer.tick(now, 0, false).expect("written");
    writer.flush().expect("written");
    // The end of the file, which ends the streams, does not come before this was looked at.
    settled(pid, writer.written());
    let (rss, peak) = (status(pid, "VmRSS:"), status(pid, "VmHWM:"));
    println!("{streams} streams: {:.1} MB, {:.1} MB at most", rss as f64 / 1e6, peak as f64 / 1e6);
    drop(writer.into_inner());
    let mut said = String::new();
    replay.0.stderr.as_mut().expect("a pipe").read_to_string(&mut said).expect("a text");
    assert!(replay.0.wait().expect("a process").success(), "{said}");
    let open = format!("llmtrace: {streams} requests were still open");
    assert!(streams == 0 || said.contains(&open), "{streams} streams: {said}");
    peak
}

fn check(write: fn(&mut Calls, u64)) {
    let [none, some, many] = [0, 1_000, 10_000].map(|streams| memory(streams, write));
    assert!(some <= MAX_BASE, "{some} bytes with 1,000 streams");
    let each = many.saturating_sub(some) / 9_000;
    println!("{each} bytes for each further stream, {} before", some.saturating_sub(none) / 1_000);
    assert!(each <= MAX_STREAM, "{each} bytes for each further stream");
}

#[test]
fn http1_streams() {
    check(http1);
}

#[test]
fn http2_streams() {
    check(http2);
}
