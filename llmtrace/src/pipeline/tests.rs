use std::fmt::Write;
use std::sync::Arc;

use super::*;
use crate::conn::HOLD_NS;
use crate::llm::{Finished, Outcome, Role};
use crate::record::{Address, EndReason, Open, Position, Process, Reached, Sniffed};

mod ends;
mod h2;
mod holes;
mod late;
mod random;
mod review;
mod running;
mod waiting;
mod ws;

const MS: Ns = 1_000_000;
const BODY: &str = r#"{"model":"m","stream":true}"#;

fn settings() -> Settings {
    Settings { itl_bounds: [MS, 10 * MS].into(), token_times: false, ..Settings::default() }
}

fn request() -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    )
}

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
    transfer-encoding: chunked\r\n\r\n";

fn chunk(event: &str) -> String {
    format!("{:x}\r\ndata: {event}\n\n\r\n", event.len() + 8)
}

fn token(text: &str) -> String {
    chunk(&format!(r#"{{"model":"m","choices":[{{"index":0,"delta":{{"content":"{text}"}}}}]}}"#))
}

fn done() -> String {
    chunk("[DONE]") + "0\r\n\r\n"
}

#[derive(Default)]
struct Log {
    started: usize,
    /// Who served what began.
    servers: Vec<Arc<str>>,
    finished: Vec<(Finished, Peer)>,
}

impl Sink for Log {
    fn started(&mut self, _: Role, server: &Arc<str>, endpoint: &'static str) {
        assert!(!server.is_empty() && !endpoint.is_empty());
        self.started += 1;
        self.servers.push(server.clone());
    }

    fn finished(&mut self, f: &Finished, peer: &Peer) {
        self.finished.push((f.clone(), peer.clone()));
    }
}

type Aside = (Direction, u32, Ns, Vec<u8>);

/// One connection, and a pipeline that sees it.
struct Bench {
    pipeline: Pipeline,
    log: Log,
    id: SockId,
    t: Ns,
    /// Next position of either direction.
    at: [u32; 2],
    fresh: bool,
    /// An end says where the streams end.
    tells_end: bool,
    /// Records are put aside instead of being pushed.
    aside: Option<Vec<Aside>>,
}

impl Bench {
    fn joined() -> Self {
        Self {
            pipeline: Pipeline::new(settings()),
            log: Log::default(),
            id: SockId { addr: 0xff00, generation: 1 },
            t: 1000 * MS,
            at: [u32::MAX - 150, 5],
            fresh: false,
            tells_end: false,
            aside: None,
        }
    }

    fn new() -> Self {
        Self::telling(false)
    }

    /// `tells`: records say where the streams begin and end.
    fn telling(tells: bool) -> Self {
        let mut bench = Self::joined();
        bench.tells_end = tells;
        bench.fresh = true;
        bench.open("10.0.0.1:8000", "10.0.0.2:999");
        bench
    }

    fn open(&mut self, local: &str, remote: &str) {
        let address = |a: &str| match a.parse() {
            Ok(a) => Address::Ip(a),
            Err(_) => Address::Unix(a.into()),
        };
        let [read, written] = self.at;
        let reached = (self.fresh && self.tells_end).then_some(Reached { read, written });
        let open = Open {
            id: self.id,
            pid: 7,
            ppid: 1,
            at: self.t,
            local: address(local),
            remote: address(remote),
            comm: "srv".into(),
            cgroup: 0,
            netns: 0,
            fresh: self.fresh,
            tls: false,
            reached,
        };
        self.pipeline.push(&Record::Open(open), &mut self.log);
    }

    fn data(&mut self, direction: Direction, at: u32, exit: Ns, bytes: &[u8], len: u32) {
        let data = Data {
            id: self.id,
            pid: 7,
            tid: 7,
            direction,
            enter: exit - MS / 2,
            exit,
            position: Position::Seq32(at),
            len,
            bytes,
            fresh: std::mem::take(&mut self.fresh),
            reset: false,
            more: false,
        };
        self.pipeline.push(&Record::Data(data), &mut self.log);
    }

    fn send(&mut self, direction: Direction, text: &str) {
        self.send_bytes(direction, text.as_bytes());
    }

    fn send_bytes(&mut self, direction: Direction, bytes: &[u8]) {
        self.t += MS;
        let at = self.at[direction as usize];
        self.at[direction as usize] = at.wrapping_add(bytes.len() as u32);
        match &mut self.aside {
            Some(aside) => aside.push((direction, at, self.t, bytes.to_vec())),
            None => self.data(direction, at, self.t, bytes, bytes.len() as u32),
        }
    }

    fn read(&mut self, text: &str) {
        self.send(Direction::Read, text);
    }

    fn write(&mut self, text: &str) {
        self.send(Direction::Write, text);
    }

    /// Bytes that the kernel side did not copy.
    fn lose(&mut self, direction: Direction, len: u32) {
        let at = &mut self.at[direction as usize];
        *at = at.wrapping_add(len);
    }

    fn end(&mut self, reason: EndReason) -> Ns {
        self.t += MS;
        let [read, written] = self.at;
        let reached = self.tells_end.then_some(Reached { read, written });
        let rec = Record::End { id: self.id, pid: 7, at: self.t, reason, reached };
        self.pipeline.push(&rec, &mut self.log);
        self.t
    }

    fn wait(&mut self, ns: Ns) {
        self.t += ns;
        self.pipeline.tick(self.t, &mut self.log);
    }

    fn exchange(&mut self) {
        self.read(&request());
        self.write(HEAD);
        self.write(&token("a"));
        self.write(&token("b"));
        self.write(&done());
    }

    fn outcomes(&self) -> Vec<Outcome> {
        self.log.finished.iter().map(|f| f.0.outcome).collect()
    }

    fn count(&self, group: &str, reason: &str) -> u64 {
        let all = self.pipeline.counts();
        all.iter().find(|c| c.0 == group && c.1 == reason).expect("a counter of that name").2
    }
}

#[test]
fn in_order() {
    let mut b = Bench::new();
    b.exchange();
    let (f, peer) = &b.log.finished[0];
    assert_eq!(
        (f.outcome, f.token_events, f.endpoint),
        (Outcome::Success, 2, "/v1/chat/completions")
    );
    assert_eq!((f.role, f.status), (Role::Server, Some(200)));
    // Reads count from their end, writes from their beginning.
    let t0 = 1001 * MS;
    assert_eq!((f.start, f.request_end), (t0, Some(t0)));
    assert_eq!((f.first_byte, f.first_token), (Some(t0 + MS / 2), Some(t0 + 3 * MS / 2)));
    assert_eq!(f.end, t0 + 7 * MS / 2);
    assert_eq!((&*peer.server, &*peer.client, peer.pid), ("srv:8000", "10.0.0.2:999", 7));
    b.exchange();
    assert_eq!(b.outcomes(), [Outcome::Success; 2]);
    assert_eq!((b.log.started, b.count("exchanges", "finished")), (2, 2));
    assert_eq!(b.count("resyncs", "joined"), 0);
}

#[test]
fn as_a_client_and_on_unix_sockets() {
    let mut b = Bench::joined();
    b.fresh = true;
    b.open("10.0.0.1:999", "10.0.0.2:8000");
    b.write(&request());
    b.read(HEAD);
    b.read(&(token("a") + &done()));
    let (f, peer) = &b.log.finished[0];
    assert_eq!((f.role, f.outcome, f.start), (Role::Client, Outcome::Success, 1000 * MS + MS / 2));
    assert_eq!((f.first_byte, f.first_token), (Some(1002 * MS), Some(1003 * MS)));
    assert_eq!((&*peer.server, &*peer.client), ("10.0.0.2:8000", "10.0.0.1:999"));

    let mut b = Bench::joined();
    b.fresh = true;
    b.open("/run/x.sock", "");
    b.exchange();
    assert_eq!(&*b.log.finished[0].1.server, "srv:/run/x.sock");
    b.read(&request());
    let exit = Record::Process { at: b.t, event: Process::Exit { pid: 7 } };
    b.pipeline.push(&exit, &mut b.log);
    b.wait(HOLD_NS);
    assert_eq!(b.outcomes(), [Outcome::Success, Outcome::ServerDisconnect]);
    assert_eq!(b.pipeline.connections(), 0);
}

#[test]
fn records_out_of_order() {
    let mut b = Bench::new();
    b.aside = Some(vec![]);
    b.exchange();
    let mut records = b.aside.take().unwrap();
    // The start of a direction is its first record; a response may come before its request.
    records.swap(0, 1);
    records.swap(2, 4);
    records.insert(3, records[2].clone());
    for (direction, at, t, bytes) in records {
        b.data(direction, at, t, &bytes, bytes.len() as u32);
    }
    assert_eq!(b.outcomes(), [Outcome::Success]);
    assert_eq!(b.log.finished[0].0.start, 1001 * MS);
    assert_eq!(b.count("stream", "gap"), 0);
    assert!(b.count("stream", "held") > 0 && b.count("stream", "duplicate") > 0);
}

#[test]
fn a_gap_marks_what_it_touches() {
    for (lost, reason) in [("response", "response_gap"), ("request", "request_gap")] {
        let mut b = Bench::new();
        b.exchange();
        if lost == "response" {
            b.read(&request());
            b.write(HEAD);
            b.lose(Direction::Write, 90);
            b.write(&token("b"));
            b.write(&done());
        } else {
            let r = request();
            b.read(&r[..r.len() - 20]);
            b.lose(Direction::Read, 10);
            b.read(&r[r.len() - 10..]);
            b.wait(2 * HOLD_NS);
            b.write(&(HEAD.to_owned() + &done()));
        }
        b.wait(2 * HOLD_NS);
        b.exchange();
        b.wait(2 * HOLD_NS);
        assert_eq!(b.log.started, b.log.finished.len(), "{lost}");
        b.exchange();
        let o = b.outcomes();
        assert_eq!(
            (o[0], o[1], o.last()),
            (Outcome::Success, Outcome::Incomplete, Some(&Outcome::Success)),
            "{lost}"
        );
        assert_eq!(o.iter().filter(|o| **o == Outcome::Incomplete).count(), 1, "{lost}");
        assert_eq!(b.count("incomplete", reason), 1, "{lost}");
    }
}

#[test]
fn a_short_copy_inside_a_body_loses_one_exchange() {
    let mut b = Bench::new();
    b.exchange();
    let r = request();
    let at = b.at[0];
    b.t += MS;
    let cut = r.len() - 10;
    b.data(Direction::Read, at, b.t, &r.as_bytes()[..cut], r.len() as u32);
    b.lose(Direction::Read, r.len() as u32);
    b.write(&(HEAD.to_owned() + &token("a") + &done()));
    b.exchange();
    assert_eq!(b.outcomes(), [Outcome::Success, Outcome::Incomplete, Outcome::Success]);
}

#[test]
fn joined_in_the_middle() {
    let mut b = Bench::joined();
    b.write(&token("x"));
    b.write(&done());
    b.read("\"rest of some body\"}");
    b.exchange();
    assert_eq!(b.outcomes(), [Outcome::Success]);
    assert_eq!(b.log.finished[0].0.token_events, 2);
    assert_eq!(&*b.log.finished[0].1.server, "unknown");
    assert_eq!(b.count("resyncs", "joined"), 1);
    // Nor does a response without its request matter.
    let mut b = Bench::joined();
    b.write(&(HEAD.to_owned() + &token("x")));
    b.wait(2 * HOLD_NS);
    b.write(&done());
    b.exchange();
    assert_eq!(b.outcomes(), [Outcome::Success]);
    assert_eq!(b.count("resyncs", "response_without_request"), 1);
}

#[test]
fn pipelined() {
    let mut b = Bench::new();
    b.read(&(request() + "GET /health HTTP/1.1\r\n\r\n" + &request()));
    b.write("HTTP/1.1 100 Continue\r\n\r\n");
    b.write(&(HEAD.to_owned() + &token("a")));
    b.write(&(done() + "HTTP/1.1 204 No Content\r\n\r\n" + HEAD + &token("b") + &token("c")));
    b.write(&done());
    assert_eq!(b.outcomes(), [Outcome::Success; 2]);
    let tokens: Vec<_> = b.log.finished.iter().map(|f| f.0.token_events).collect();
    assert_eq!((tokens, b.log.started), (vec![1, 2], 2));
    assert_eq!(b.count("exchanges", "not_llm"), 1);
    // No more than so many wait; the connection recovers when it was quiet.
    let mut b = Bench::new();
    b.read(&request().repeat(80));
    assert_eq!((b.log.started, b.log.finished.len()), (80, 16));
    b.end(EndReason::LocalFin);
    b.wait(HOLD_NS);
    assert_eq!(b.log.finished.len(), 80);
}

#[test]
fn broken_messages() {
    let mut b = Bench::new();
    b.exchange();
    b.read("no request\r\n\r\n");
    b.exchange();
    b.read(&request());
    b.write("HTTP/1.1 nonsense\r\n\r\n");
    b.exchange();
    let o = b.outcomes();
    assert_eq!(o, [Outcome::Success, Outcome::Success, Outcome::Incomplete, Outcome::Success]);
    assert_eq!(b.count("resyncs", "bad_head"), 2);
}

#[test]
fn not_http() {
    let mut b = Bench::new();
    b.read("\x16\x03\x01 hello");
    assert_eq!(b.pipeline.take_verdicts(), [b.id]);
    assert_eq!(b.count("silenced", "not_http"), 1);
    b.exchange();
    assert_eq!((b.log.started, b.count("stream", "ignored")), (0, 5));

    let mut b = Bench::joined();
    for _ in 0..70 {
        b.read(&"x".repeat(1000));
        b.write(&"y".repeat(1000));
    }
    assert_eq!(b.pipeline.take_verdicts(), [b.id]);
    assert_eq!(b.count("silenced", "no_request"), 1);

    let mut b = Bench::new();
    b.read("GET /ws HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    b.write("HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    assert_eq!(b.pipeline.take_verdicts(), [b.id]);
    assert_eq!((b.log.started, b.count("silenced", "tunnel")), (0, 1));

    let mut b = Bench::new();
    b.read(&request());
    let rec = Record::Silenced { id: b.id, pid: 7, at: b.t, sniffed: Sniffed::Tls };
    b.pipeline.push(&rec, &mut b.log);
    assert_eq!((b.outcomes(), b.count("incomplete", "silenced")), (vec![Outcome::Incomplete], 1));
    assert!(b.pipeline.take_verdicts().is_empty());
}
