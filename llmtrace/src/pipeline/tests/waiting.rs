//! Requests that wait to be read, and responses that wait for a slow reader.

use super::h2::{Ends, done as h2_done, start, token as h2_token};
use super::*;

impl Bench {
    /// A call from `enter` to `exit`; `more` pieces of it follow.
    fn call(&mut self, direction: Direction, (enter, exit): (Ns, Ns), bytes: &[u8], more: bool) {
        let at = self.at[direction as usize];
        self.at[direction as usize] = at.wrapping_add(bytes.len() as u32);
        self.t = self.t.max(exit);
        let data = Data {
            id: self.id,
            pid: 7,
            tid: 7,
            direction,
            enter,
            exit,
            position: Position::Seq32(at),
            len: bytes.len() as u32,
            bytes,
            fresh: std::mem::take(&mut self.fresh),
            reset: false,
            more,
        };
        self.pipeline.push(&Record::Data(data), &mut self.log);
    }

    /// A write that takes a microsecond.
    fn quick(&mut self, enter: Ns, text: &str) {
        self.call(Direction::Write, (enter, enter + 1_000), text.as_bytes(), false);
    }

    fn read_at(&mut self, exit: Ns, text: &str) {
        self.call(Direction::Read, (exit - 500, exit), text.as_bytes(), false);
    }

    fn arrived(&mut self, arrived: Ns, at: Ns) {
        let rec = Record::Arrived { id: self.id, arrived, at };
        self.pipeline.push(&rec, &mut self.log);
    }

    fn refused(&mut self, at: Ns) {
        self.pipeline.push(&Record::Refused { id: self.id, at, taken: 0 }, &mut self.log);
    }

    fn queued(&self) -> Vec<Option<Ns>> {
        self.log.finished.iter().map(|f| f.0.queued).collect()
    }

    fn blocked(&self) -> Vec<Option<Ns>> {
        self.log.finished.iter().map(|f| f.0.blocked).collect()
    }
}

const T: Ns = 2000 * MS;

fn whole() -> String {
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}".into()
}

#[test]
fn a_request_waits_for_its_read() {
    let mut b = Bench::new();
    b.arrived(T - 70 * MS, T);
    b.read_at(T, &request());
    b.quick(T + MS, &whole());
    // The next is not told of, and an arrival that was told of another read is not its own.
    b.arrived(T, T + 2 * MS);
    b.read_at(T + 3 * MS, &request());
    b.quick(T + 4 * MS, &whole());
    assert_eq!(b.queued(), [Some(70 * MS), None]);
    assert_eq!(b.count("records", "arrived"), 2);
}

#[test]
fn only_a_request_that_begins_with_a_read_is_known_to_have_waited() {
    let mut b = Bench::new();
    let text = request();
    // The head in two reads: the first counts. The second request begins within a read.
    b.arrived(T - 5 * MS, T);
    b.read_at(T, &text[..20]);
    b.arrived(T + MS, T + 2 * MS);
    b.read_at(T + 2 * MS, &format!("{}{text}", &text[20..]));
    b.quick(T + 3 * MS, &whole());
    b.quick(T + 4 * MS, &whole());
    assert_eq!(b.queued(), [Some(5 * MS), None]);
}

#[test]
fn what_a_client_reads_is_no_request() {
    let mut b = Bench::joined();
    b.fresh = true;
    b.open("10.0.0.1:999", "10.0.0.2:8000");
    b.quick(T, &request());
    b.arrived(T, T + 9 * MS);
    b.refused(T + MS);
    b.read_at(T + 9 * MS, &whole());
    assert_eq!((b.queued(), b.blocked()), (vec![None], vec![None]));
}

#[test]
fn a_socket_that_takes_no_more() {
    let mut b = Bench::new();
    b.read_at(T, &request());
    b.quick(T + MS, HEAD);
    let (first, rest) = (token("a"), token("b"));
    // Cut short, then refused for 40 ms, then cut short again for 20 ms.
    b.quick(T + 2 * MS, &first[..10]);
    b.refused(T + 2 * MS + 2_000);
    b.refused(T + 9 * MS);
    b.quick(T + 42 * MS + 2_000, &first[10..]);
    b.refused(T + 43 * MS);
    b.quick(T + 63 * MS, &rest);
    b.quick(T + 90 * MS, &done());
    // A good one on the same connection.
    b.read_at(T + 100 * MS, &request());
    b.quick(T + 110 * MS, HEAD);
    b.quick(T + 120 * MS, &(token("a") + &done()));
    assert_eq!(b.blocked(), [Some(60 * MS), Some(0)]);
    assert_eq!(b.outcomes(), [Outcome::Success; 2]);
    assert_eq!(b.count("records", "refused"), 3);
}

#[test]
fn writes_that_wait() {
    let mut b = Bench::new();
    b.read_at(T, &request());
    b.quick(T + MS, HEAD);
    // One call in two pieces, one that is a little too short, one more.
    let (a, c) = (token("a"), token("c"));
    let call = (T + 2 * MS, T + 302 * MS);
    b.call(Direction::Write, call, &a.as_bytes()[..9], true);
    b.call(Direction::Write, call, &a.as_bytes()[9..], false);
    let short = (T + 303 * MS, T + 304 * MS - 1);
    b.call(Direction::Write, short, token("b").as_bytes(), false);
    b.call(Direction::Write, (T + 305 * MS, T + 306 * MS), c.as_bytes(), false);
    b.quick(T + 310 * MS, &done());
    assert_eq!(b.blocked(), [Some(301 * MS)]);
}

#[test]
fn a_client_that_leaves_what_it_does_not_read() {
    let mut b = Bench::new();
    b.read_at(T, &request());
    b.quick(T + MS, &(HEAD.to_owned() + &token("a")));
    b.refused(T + 2 * MS);
    b.t = T + 501 * MS;
    let left = b.end(EndReason::PeerReset);
    b.wait(HOLD_NS + 20 * MS);
    assert_eq!(left, T + 502 * MS);
    assert_eq!(b.blocked(), [Some(500 * MS)]);
}

/// A refusal that is told after the write that ended it, and a write told after the refusal that it
/// led to.
#[test]
fn records_that_come_late() {
    let mut b = Bench::new();
    b.read_at(T, &request());
    b.quick(T + 2 * MS, HEAD);
    b.refused(T + MS);
    b.refused(T + 4 * MS);
    b.quick(T + 3 * MS, &token("a"));
    b.quick(T + 10 * MS, &done());
    assert_eq!(b.blocked(), [Some(6 * MS)]);
}

#[test]
fn of_pipelined_requests_the_first_waits_alone() {
    let mut b = Bench::new();
    b.read_at(T, &(request() + &request()));
    b.quick(T + MS, HEAD);
    b.refused(T + 2 * MS);
    b.quick(T + 12 * MS, &(token("a") + &done()));
    b.quick(T + 20 * MS, &whole());
    assert_eq!(b.blocked(), [Some(10 * MS), Some(0)]);
}

#[test]
fn streams() {
    let (mut b, mut e) = (Bench::new(), Ends::new());
    let call = |b: &mut Bench, direction, exit: Ns, bytes: &[u8]| {
        b.call(direction, (exit - 1_000, exit), bytes, false);
    };
    // In the same read as the preface, a request is not known to have waited.
    b.arrived(T - 5 * MS, T);
    call(&mut b, Direction::Read, T, &[start(), e.request(1)].concat());
    b.arrived(T + MS, T + 9 * MS);
    call(&mut b, Direction::Read, T + 9 * MS, &e.request(3));
    let sse = "text/event-stream";
    call(&mut b, Direction::Write, T + 10 * MS, &[e.head(1, sse), h2_token(1, "a")].concat());
    b.refused(T + 11 * MS);
    // Stream 3 had not begun to answer while stream 1 was held back.
    let next = [h2_token(1, "b"), e.head(3, sse)].concat();
    b.call(Direction::Write, (T + 31 * MS, T + 31 * MS + 50), &next, false);
    b.refused(T + 40 * MS);
    let next = [h2_done(1), h2_done(3)].concat();
    b.call(Direction::Write, (T + 45 * MS, T + 45 * MS + 50), &next, false);
    assert_eq!(b.outcomes(), [Outcome::Success; 2]);
    assert_eq!(b.queued(), [None, Some(8 * MS)]);
    assert_eq!(b.blocked(), [Some(25 * MS), Some(5 * MS)]);
}
