//! Speed of a replay on one core: a recording of 64 streams, one event a packet as servers write
//! them, from a file to finished exchanges. And the same as tcpdump would have captured it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use llmtrace::llm::{Finished, Peer, Role, Settings};
use llmtrace::pipeline::Sink;
use llmtrace::record::{Address, Data, Direction, Open, Position, Record, SockId};
use llmtrace::recording::redact::{Item, Redactor};
use llmtrace::recording::{Contents, Reader, Writer};
use llmtrace::replay::{Feed, Hear};

const CONNECTIONS: u64 = 64;
const EVENTS: usize = 500;
const REPEATS: u64 = 10;
const ROUNDS: usize = 7;
const EVENT: &str = r#"{"id":"chatcmpl-5f0c8a3de2b14c4f9a8e7d6c5b4a3928","object":"chat.completion.chunk","created":1700000000,"model":"Qwen/Qwen2.5-7B-Instruct","choices":[{"index":0,"delta":{"content":" the"},"logprobs":null,"finish_reason":null,"token_ids":null}]}"#;

#[derive(Default)]
struct Count(u64, u64);

impl Sink for Count {
    fn started(&mut self, _: Role, _: &Arc<str>, _: &'static str) {}

    fn finished(&mut self, f: &Finished, _: &Peer) {
        self.0 += 1;
        self.1 += f.token_events;
    }
}

impl Hear for Count {
    fn process(&mut self, _: u32, _: String) {}
    fn wall_offset(&mut self, _: i64) {}
}

fn chunk(data: &str) -> Vec<u8> {
    format!("{:x}\r\ndata: {data}\n\n\r\n", data.len() + 8).into_bytes()
}

/// The calls of one exchange.
fn calls() -> Vec<(Direction, Vec<u8>)> {
    let body = r#"{"model":"m","stream":true}"#;
    let n = body.len();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: {n}\r\n\r\n{body}"
    );
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut calls = vec![(Direction::Read, request.into_bytes()), (Direction::Write, head.into())];
    calls.extend((0..EVENTS).map(|_| (Direction::Write, chunk(EVENT))));
    calls.push((Direction::Write, b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n".to_vec()));
    calls
}

/// Every record of all streams, in order of time; how many, and bytes of payload.
fn records(mut on: impl FnMut(&Record<'_>)) -> (u64, u64) {
    let calls = calls();
    let id = |c: u64| SockId { addr: 0xffff_8880_0000_0000 + c * 0x940, generation: 1 };
    for c in 0..CONNECTIONS {
        on(&Record::Open(Open {
            id: id(c),
            pid: 7,
            ppid: 1,
            at: 1,
            local: Address::Ip("10.0.0.1:8000".parse().expect("an address")),
            remote: Address::Ip(format!("10.0.0.2:{}", 2000 + c).parse().expect("an address")),
            comm: "server".into(),
            cgroup: 0,
            netns: 0,
            fresh: true,
            tls: false,
            reached: None,
        }));
    }
    let (mut at, mut t, mut n, mut bytes) = ([0u32; 2], 1_000_000, 0, 0);
    for repeat in 0..REPEATS {
        for (i, (direction, call)) in calls.iter().enumerate() {
            for c in 0..CONNECTIONS {
                t += 1000;
                on(&Record::Data(Data {
                    id: id(c),
                    pid: 7,
                    tid: 7,
                    direction: *direction,
                    enter: t,
                    exit: t + 500,
                    position: Position::Seq32(at[*direction as usize].wrapping_sub(9000)),
                    len: call.len() as u32,
                    bytes: call,
                    fresh: repeat == 0 && i == 0,
                    reset: false,
                    more: false,
                }));
                n += 1;
                bytes += call.len() as u64;
            }
            at[*direction as usize] += call.len() as u32;
        }
    }
    (n, bytes)
}

fn write(path: &Path) -> (u64, u64) {
    let file = BufWriter::new(File::create(path).expect("a file"));
    let mut writer = Writer::new(file, 0, Contents::Payload).expect("a file");
    let counts = records(|record| writer.record(record).expect("written"));
    writer.into_inner().flush().expect("written");
    counts
}

/// The same without what is ours: framing alone, as pcap with nanoseconds.
fn strip(from: &Path, to: &Path) {
    let mut out = BufWriter::new(File::create(to).expect("a file"));
    let head: [u32; 6] = [0xa1b2_3c4d, 0x0004_0002, 0, 0, 262_144, 101];
    head.iter().for_each(|n| out.write_all(&n.to_le_bytes()).expect("written"));
    let bytes = std::fs::read(from).expect("the recording");
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().expect("four"));
        if word(0) == 6 {
            let (t, len) = (u64::from(word(12)) << 32 | u64::from(word(16)), word(20));
            for n in [(t / 1_000_000_000) as u32, (t % 1_000_000_000) as u32, len, len] {
                out.write_all(&n.to_le_bytes()).expect("written");
            }
            out.write_all(&rest[28..28 + len as usize]).expect("written");
        }
        rest = &rest[word(4) as usize..];
    }
    out.flush().expect("written");
}

/// Seconds of processor time of this thread: other work on the machine does not count.
fn processor_time() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let ns = text.split(' ').next().and_then(|n| n.parse::<u64>().ok());
    ns.expect("nanoseconds") as f64 / 1e9
}

fn replay(path: &Path) -> (f64, Count) {
    let settings = Settings {
        itl_bounds: [1_000_000, 10_000_000, 100_000_000].into(),
        token_times: false,
        ..Settings::default()
    };
    let (mut feed, mut count) = (Feed::new(settings), Count::default());
    let start = processor_time();
    let mut reader = Reader::new(File::open(path).expect("the file")).expect("a capture");
    while reader.step(|found| feed.found(found, &mut count)).expect("a capture") {}
    feed.finish(&mut count);
    (processor_time() - start, count)
}

fn main() {
    let dir = std::env::temp_dir().join(format!("llmtrace-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let (ours, theirs) = (dir.join("ours.pcapng"), dir.join("theirs.pcap"));
    let start = processor_time();
    let (n, bytes) = write(&ours);
    let written = processor_time() - start;
    strip(&ours, &theirs);
    println!("record: {:.0} ns/event to a file", written / n as f64 * 1e9);
    let mut redactor = Redactor::default();
    let (start, mut out) = (processor_time(), 0_u64);
    records(|r| redactor.push(Item::Record(r.clone()), |_| out += 1));
    assert_eq!(out, n + CONNECTIONS);
    println!("redact: {:.0} ns/event", (processor_time() - start) / n as f64 * 1e9);
    for (name, path) in [("recording", &ours), ("pcap", &theirs)] {
        let mut best = f64::MAX;
        for _ in 0..ROUNDS {
            let (seconds, count) = replay(path);
            assert_eq!(count.0, CONNECTIONS * REPEATS);
            assert_eq!(count.1, CONNECTIONS * REPEATS * EVENTS as u64);
            best = best.min(seconds);
        }
        let size = std::fs::metadata(path).expect("the file").len() as f64;
        println!(
            "{name}: {:.2} M events/s, {:.2} GB/s of payload, {:.2} GB/s of file, {:.0} ns/event",
            n as f64 / best / 1e6,
            bytes as f64 / best / 1e9,
            size / best / 1e9,
            best / n as f64 * 1e9
        );
    }
    std::fs::remove_dir_all(&dir).expect("removed");
}
