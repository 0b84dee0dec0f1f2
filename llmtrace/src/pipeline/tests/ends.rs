//! How exchanges end when their connection does.

use super::*;
use crate::llm::Phase;
use EndReason::*;

const CLIENT: Outcome = Outcome::ClientDisconnect(Phase::MidStream);
const SERVER: Outcome = Outcome::ServerDisconnect;

/// A response that is under way when the ends come; the outcome, and which end it is dated by.
fn ended(role: Role, reasons: &[EndReason]) -> (Vec<Outcome>, Option<usize>) {
    let mut b = Bench::new();
    let (to, from) = match role {
        Role::Server => (Direction::Read, Direction::Write),
        Role::Client => (Direction::Write, Direction::Read),
    };
    b.send(to, &request());
    b.send(from, HEAD);
    b.send(from, &token("a"));
    let times: Vec<Ns> = reasons.iter().map(|&r| b.end(r)).collect();
    b.wait(2 * HOLD_NS);
    let end = b.log.finished.first().map(|f| f.0.end);
    let at = times.iter().position(|t| Some(*t) == end);
    b.pipeline.finish(b.t, &mut b.log);
    let open = b.count("exchanges", "still_open") as usize;
    assert_eq!(b.log.started, b.log.finished.len() + open);
    (b.outcomes(), at)
}

#[test]
fn table() {
    for (role, reasons, outcome, at) in [
        (Role::Server, &[PeerReset][..], CLIENT, 0),
        (Role::Server, &[WriteBroken], CLIENT, 0),
        (Role::Server, &[ReadReset, Closed], CLIENT, 0),
        (Role::Server, &[LocalFin, Closed], SERVER, 0),
        (Role::Server, &[LocalReset], SERVER, 0),
        (Role::Server, &[Closed], SERVER, 0),
        (Role::Server, &[PeerFin, Closed], CLIENT, 0),
        (Role::Server, &[ReadEof, LocalFin], CLIENT, 0),
        (Role::Server, &[PeerFin, ReadEof, PeerReset], CLIENT, 0),
        (Role::Server, &[PeerFin, LocalReset], CLIENT, 0),
        // A client that answers the server's end with its own.
        (Role::Server, &[LocalFin, PeerFin, Closed], SERVER, 0),
        (Role::Server, &[LocalFin, ReadEof], SERVER, 0),
        (Role::Client, &[LocalFin, PeerFin], CLIENT, 0),
        (Role::Client, &[LocalFin], CLIENT, 0),
        (Role::Client, &[LocalReset], CLIENT, 0),
        (Role::Client, &[Closed], CLIENT, 0),
        (Role::Client, &[PeerFin, ReadEof], SERVER, 0),
        (Role::Client, &[PeerFin, Closed], SERVER, 0),
        (Role::Client, &[ReadEof, LocalFin], SERVER, 0),
        (Role::Client, &[PeerReset], SERVER, 0),
        (Role::Client, &[ReadReset], SERVER, 0),
    ] {
        assert_eq!(ended(role, reasons), (vec![outcome], Some(at)), "{role:?} {reasons:?}");
    }
    // A side that is closed may still get its answer.
    for (role, reason) in
        [(Role::Server, PeerFin), (Role::Server, ReadEof), (Role::Client, PeerFin)]
    {
        assert_eq!(ended(role, &[reason]), (vec![], None), "{role:?} {reason:?}");
    }
}

#[test]
fn half_closed() {
    let mut b = Bench::new();
    b.read(&request());
    b.end(PeerFin);
    b.end(ReadEof);
    b.write(&(HEAD.to_owned() + &token("a")));
    b.write(&done());
    b.end(LocalFin);
    b.end(Closed);
    assert_eq!((b.outcomes(), b.pipeline.connections()), (vec![Outcome::Success], 0));
    // Before any answer it left before the first token.
    let mut b = Bench::new();
    b.read(&request());
    let left = b.end(PeerFin);
    b.write(&(HEAD.to_owned() + &token("a")));
    b.end(PeerReset);
    b.wait(HOLD_NS);
    assert_eq!(b.outcomes(), [Outcome::ClientDisconnect(Phase::BeforeFirstToken)]);
    assert_eq!(b.log.finished[0].0.end, left);
}

#[test]
fn an_end_waits_for_late_records() {
    let mut b = Bench::new();
    b.read(&request());
    b.write(&(HEAD.to_owned() + &token("a")));
    b.end(PeerReset);
    b.write(&done());
    b.end(Closed);
    assert_eq!((b.outcomes(), b.pipeline.connections()), (vec![Outcome::Success], 0));
}

#[test]
fn until_close() {
    const HEAD: &str = "HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n";
    const BODY: &str = r#"{"object":"chat.completion","model":"m","choices":[{"index":0,"message":{"content":"a"},"finish_reason":"stop"}]}"#;
    for (from, to, ends) in [
        (Direction::Read, Direction::Write, &[LocalFin][..]),
        (Direction::Read, Direction::Write, &[PeerFin, Closed]),
        (Direction::Write, Direction::Read, &[PeerFin, ReadEof]),
        (Direction::Write, Direction::Read, &[PeerFin, LocalFin]),
    ] {
        let mut b = Bench::new();
        b.send(from, &request());
        b.send(to, HEAD);
        b.send(to, BODY);
        for &end in ends {
            b.end(end);
        }
        b.wait(HOLD_NS);
        assert_eq!(b.outcomes(), [Outcome::Success], "{from:?} {ends:?}");
    }
}

#[test]
fn idle_and_still_open() {
    let mut b = Bench::new();
    b.read(&request());
    b.wait(IDLE_NS / 2);
    assert!(b.log.finished.is_empty());
    b.wait(IDLE_NS / 2 + MS);
    assert_eq!((b.outcomes(), b.pipeline.connections()), (vec![Outcome::Timeout], 0));
    // A head that never became complete is no exchange.
    let mut b = Bench::new();
    b.read("POST /v1/chat/completions HTTP/1.1\r\nhost:");
    b.end(Closed);
    assert_eq!((b.log.started, b.log.finished.len(), b.pipeline.connections()), (0, 0, 0));
    let mut b = Bench::new();
    b.read(&request());
    b.pipeline.finish(b.t, &mut b.log);
    assert_eq!((b.log.finished.len(), b.count("exchanges", "still_open")), (0, 1));
}
