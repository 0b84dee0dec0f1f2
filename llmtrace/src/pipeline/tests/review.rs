//! Ends, gaps and evictions that a review found wrong once.

use crate::llm::{Finished, Outcome, Peer, Phase, Role, Settings};
use crate::pipeline::*;
use crate::record::*;
use std::sync::Arc;

#[derive(Default)]
struct Got(Vec<(Outcome, Option<u64>)>);
impl Sink for Got {
    fn started(&mut self, _: Role, _: &Arc<str>, _: &'static str) {}
    fn finished(&mut self, f: &Finished, _: &Peer) {
        self.0.push((f.outcome, f.usage.output));
    }
}
const ID: SockId = SockId { addr: 0x1000, generation: 1 };
const REQ: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 27\r\n\r\n{\"model\":\"m\",\"stream\":true}";
const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
struct Rig {
    p: Pipeline,
    got: Got,
    pos: [u64; 2],
}
fn chunk(s: &str) -> Vec<u8> {
    format!("{:x}\r\n{s}\r\n", s.len()).into_bytes()
}
fn token() -> Vec<u8> {
    chunk("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n")
}
impl Rig {
    fn new() -> Self {
        let s =
            Settings { itl_bounds: Arc::new([1000]), token_times: false, ..Settings::default() };
        Self { p: Pipeline::new(s), got: Got::default(), pos: [0; 2] }
    }
    fn data(&mut self, d: Direction, enter: u64, exit: u64, b: &[u8]) {
        let pos = self.pos[d as usize];
        self.pos[d as usize] += b.len() as u64;
        self.at(d, enter, exit, pos, b);
    }
    fn at(&mut self, d: Direction, enter: u64, exit: u64, pos: u64, b: &[u8]) {
        let r = Record::Data(Data {
            id: ID,
            pid: 1,
            tid: 1,
            direction: d,
            enter,
            exit,
            position: Position::Count(pos),
            len: b.len() as u32,
            bytes: b,
            fresh: pos == 0 && d == Direction::Read,
            reset: false,
            more: false,
        });
        self.p.push(&r, &mut self.got);
    }
    fn end(&mut self, at: u64, reason: EndReason) {
        self.p.push(&Record::End { id: ID, pid: 1, at, reason, reached: None }, &mut self.got);
    }
}
const MS: u64 = 1_000_000;
#[test]
fn fin_overtakes_the_record_of_the_first_token() {
    let mut r = Rig::new();
    r.data(Direction::Read, MS, MS, REQ);
    r.data(Direction::Write, 2 * MS, 2 * MS + 9, HEAD);
    r.end(3 * MS, EndReason::PeerFin);
    r.data(Direction::Write, 3 * MS - 10_000, 3 * MS + 5_000, &token());
    r.end(4 * MS, EndReason::WriteBroken);
    r.p.tick(1000 * MS, &mut r.got);
    assert_eq!(r.got.0[0].0, Outcome::ClientDisconnect(Phase::MidStream));
}
#[test]
fn reset_overtakes_the_end() {
    let mut r = Rig::new();
    r.data(Direction::Read, MS, MS, REQ);
    r.data(Direction::Write, 2 * MS, 2 * MS + 9, HEAD);
    r.end(3 * MS, EndReason::PeerReset);
    r.data(
        Direction::Write,
        3 * MS - 10_000,
        3 * MS + 5_000,
        &[token(), chunk("data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()].concat(),
    );
    r.end(3 * MS + 6_000, EndReason::Closed);
    r.p.tick(1000 * MS, &mut r.got);
    assert_eq!(r.got.0, [(Outcome::Success, None)]);
}
#[test]
fn closed_then_late_record_leaves_nothing() {
    let mut r = Rig::new();
    r.data(Direction::Read, MS, MS, REQ);
    r.data(
        Direction::Write,
        2 * MS,
        2 * MS + 9,
        &[HEAD.to_vec(), token(), chunk("data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()].concat(),
    );
    r.end(3 * MS, EndReason::Closed);
    r.p.tick(1000 * MS, &mut r.got);
    assert_eq!(r.p.connections(), 0);
    assert_eq!(r.got.0, [(Outcome::Success, None)]);
}
#[test]
fn response_record_before_request_record() {
    for joined in [false, true] {
        let mut r = Rig::new();
        let req = REQ;
        if joined {
            r.pos = [1000, 1000];
            r.data(Direction::Read, 0, 1, b"x");
        }
        r.data(Direction::Read, MS, 2 * MS + 50_000, HEAD);
        r.data(Direction::Read, 2 * MS, 2 * MS + 60_000, &token());
        r.data(Direction::Write, MS, 2 * MS + 40_000, req);
        r.data(
            Direction::Read,
            3 * MS,
            3 * MS,
            &[chunk("data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()].concat(),
        );
        r.p.tick(1000 * MS, &mut r.got);
        assert_eq!(r.got.0, [(Outcome::Success, None)], "joined {joined}");
    }
}
#[test]
fn gap_then_next_request() {
    let mut r = Rig::new();
    r.data(Direction::Read, MS, MS, REQ);
    r.data(Direction::Write, 2 * MS, 2 * MS, HEAD);
    r.data(Direction::Write, 3 * MS, 3 * MS, &token());
    r.pos[1] += 100;
    r.data(Direction::Write, 4 * MS, 4 * MS, &token());
    r.data(
        Direction::Write,
        5 * MS,
        5 * MS,
        &[chunk("data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()].concat(),
    );
    r.data(Direction::Read, 6 * MS, 6 * MS, REQ);
    r.data(
        Direction::Write,
        7 * MS,
        7 * MS,
        &[HEAD.to_vec(), token(), chunk("data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()].concat(),
    );
    r.p.tick(1000 * MS, &mut r.got);
    r.p.tick(2000 * MS, &mut r.got);
    assert_eq!(r.got.0, [(Outcome::Incomplete, None), (Outcome::Success, None)]);
}
#[test]
fn link_size() {
    println!("link {} entry {}", size_of::<Link>(), size_of::<Entry<Link>>());
    assert!(size_of::<Entry<Link>>() <= 1024);
}

#[test]
fn silent_churn_does_not_push_out_live_ones() {
    let mut r = Rig::new();
    r.data(Direction::Read, MS, MS, REQ);
    for n in 0..70_000u64 {
        let id = SockId { addr: 0x100_0000 + n * 64, generation: 1 };
        let t = 2 * MS + n;
        r.p.push(
            &Record::Data(Data {
                id,
                pid: 1,
                tid: 1,
                direction: Direction::Read,
                enter: t,
                exit: t,
                position: Position::Count(0),
                len: 4,
                bytes: b"\x16\x03\x01\x02",
                fresh: true,
                reset: false,
                more: false,
            }),
            &mut r.got,
        );
        if n % 1000 == 0 {
            r.p.take_verdicts();
            r.p.tick(t, &mut r.got);
        }
    }
    println!("connections {}", r.p.connections());
    assert!(r.got.0.is_empty(), "{:?}", r.got.0);
}
#[test]
fn pipelined_pair_survives_split_everywhere() {
    let req = [REQ, REQ].concat();
    let one = [HEAD.to_vec(), token(), chunk("data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()].concat();
    let res = [one.clone(), one].concat();
    for n in [1, 2, 3, 7, 50, 1000] {
        let mut r = Rig::new();
        for (i, c) in req.chunks(n).enumerate() {
            r.data(Direction::Read, i as u64, i as u64, c);
        }
        for (i, c) in res.chunks(n).enumerate() {
            r.data(Direction::Write, MS + i as u64, MS + i as u64, c);
        }
        assert_eq!(r.got.0, [(Outcome::Success, None), (Outcome::Success, None)], "{n}");
    }
}
