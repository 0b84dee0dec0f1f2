//! Bytes that were missed: exactly the exchanges that they were of are incomplete.

use super::*;
use EndReason::*;

fn ends(role: Role) -> (Direction, Direction) {
    match role {
        Role::Server => (Direction::Read, Direction::Write),
        Role::Client => (Direction::Write, Direction::Read),
    }
}

fn bench(role: Role) -> Bench {
    let mut b = Bench::telling(true);
    if role == Role::Client {
        b.open("10.0.0.1:999", "10.0.0.2:8000");
    }
    b
}

/// An exchange of which either direction is seen up to a byte, and nothing after it.
fn cut(b: &mut Bench, role: Role, request_bytes: usize, response_bytes: usize) {
    let (to, from) = ends(role);
    let response = HEAD.to_owned() + &token("a") + &token("b") + &done();
    for (direction, text, seen) in
        [(to, request(), request_bytes), (from, response, response_bytes)]
    {
        let seen = seen.min(text.len());
        if seen > 0 {
            b.send(direction, &text[..seen]);
        }
        b.lose(direction, (text.len() - seen) as u32);
    }
}

fn whole(b: &mut Bench, role: Role) {
    cut(b, role, usize::MAX, usize::MAX);
}

const ALL: usize = usize::MAX;

#[test]
fn a_lost_tail_is_a_gap() {
    let head = HEAD.len();
    for role in [Role::Server, Role::Client] {
        let reasons: &[&[EndReason]] = match role {
            Role::Server => &[
                &[LocalFin],
                &[Closed],
                &[PeerReset],
                &[WriteBroken],
                &[PeerFin, LocalFin, Closed],
                &[ReadEof, Closed],
            ],
            Role::Client => {
                &[&[PeerFin, ReadEof], &[LocalFin], &[Closed], &[PeerReset], &[PeerFin, Closed]]
            }
        };
        for reasons in reasons {
            for seen in [0, head - 3, head, head + 20, head + 120] {
                let mut b = bench(role);
                whole(&mut b, role);
                cut(&mut b, role, ALL, seen);
                for &reason in *reasons {
                    b.end(reason);
                }
                b.wait(2 * HOLD_NS);
                let expected = [Outcome::Success, Outcome::Incomplete];
                assert_eq!(b.outcomes(), expected, "{role:?} {reasons:?} {seen}");
                assert_eq!(b.count("incomplete", "response_gap"), 1);
                assert!(b.count("bytes", "gap") > 0);
            }
        }
    }
}

/// Nor has a connection of which only the request was seen an answer of no bytes.
#[test]
fn a_lost_only_answer_is_a_gap() {
    for role in [Role::Server, Role::Client] {
        let mut b = bench(role);
        cut(&mut b, role, ALL, 0);
        b.end(if role == Role::Server { LocalFin } else { ReadEof });
        b.end(Closed);
        b.wait(2 * HOLD_NS);
        assert_eq!(b.outcomes(), [Outcome::Incomplete], "{role:?}");
        assert_eq!(b.pipeline.connections(), 0);
    }
}

/// Where nothing is missing, an end is what it was.
#[test]
fn an_end_without_a_gap_is_an_end() {
    let mut b = bench(Role::Server);
    b.read(&request());
    b.write(&(HEAD.to_owned() + &token("a")));
    b.end(LocalFin);
    b.wait(2 * HOLD_NS);
    assert_eq!(b.outcomes(), [Outcome::ServerDisconnect]);
    assert_eq!(b.count("stream", "gap"), 0);
}

/// Records that come after the record of the end are waited for, as always.
#[test]
fn a_late_tail_is_no_gap() {
    for role in [Role::Server, Role::Client] {
        let (to, from) = ends(role);
        let mut b = bench(role);
        b.send(to, &request());
        let late = HEAD.to_owned() + &token("a") + &done();
        let at = b.at[from as usize];
        b.lose(from, late.len() as u32);
        b.end(Closed);
        b.data(from, at, b.t, late.as_bytes(), late.len() as u32);
        b.wait(2 * HOLD_NS);
        assert_eq!(b.outcomes(), [Outcome::Success], "{role:?}");
        assert_eq!((b.count("stream", "gap"), b.pipeline.connections()), (0, 0));
    }
}

/// The first bytes of all, by what the opening says.
#[test]
fn a_lost_beginning_is_a_gap() {
    let mut b = bench(Role::Server);
    b.fresh = false;
    cut(&mut b, Role::Server, 0, 0);
    whole(&mut b, Role::Server);
    b.wait(2 * HOLD_NS);
    b.end(Closed);
    assert_eq!(b.outcomes(), [Outcome::Success]);
    assert_eq!(b.count("stream", "gap"), 2);
}

/// So many bytes of an exchange are missed in either direction, and whole ones after it; what
/// follows is whole.
#[test]
fn after_a_hole_the_next_exchange_is_whole() {
    let (request_len, head) = (request().len(), HEAD.len());
    for role in [Role::Server, Role::Client] {
        for request_seen in [0, 30, request_len - 5, ALL] {
            for response_seen in [0, 10, head, head + 20, head + 120, ALL] {
                if request_seen != ALL && response_seen > 0 {
                    continue;
                }
                for missed in 0..2 {
                    for pause in [MS, 3 * HOLD_NS] {
                        let case =
                            format!("{role:?} {request_seen} {response_seen} {missed} {pause}");
                        let mut b = bench(role);
                        whole(&mut b, role);
                        cut(&mut b, role, request_seen, response_seen);
                        for _ in 0..missed {
                            cut(&mut b, role, 0, 0);
                        }
                        b.wait(pause);
                        whole(&mut b, role);
                        b.wait(2 * HOLD_NS);
                        whole(&mut b, role);
                        b.wait(2 * HOLD_NS);
                        let mut expected = vec![Outcome::Success];
                        if response_seen != ALL && request_seen > request_len - BODY.len() {
                            expected.push(Outcome::Incomplete);
                        } else if response_seen == ALL {
                            expected.push(Outcome::Success);
                        }
                        expected.extend([Outcome::Success; 2]);
                        assert_eq!(b.outcomes(), expected, "{case}");
                        assert_eq!(b.log.started, b.log.finished.len(), "{case}");
                    }
                }
            }
        }
    }
}

/// What is missing after a hole of both directions may be of the new exchange as well.
#[test]
fn a_hole_that_reaches_into_the_next_response() {
    for role in [Role::Server, Role::Client] {
        for seen in [0, 30] {
            let (to, from) = ends(role);
            let mut b = bench(role);
            whole(&mut b, role);
            cut(&mut b, role, seen, 0);
            // The request is seen, the beginning of its answer is not.
            b.send(to, &request());
            b.lose(from, HEAD.len() as u32);
            b.send(from, &token("a"));
            b.send(from, &done());
            b.wait(2 * HOLD_NS);
            whole(&mut b, role);
            b.wait(2 * HOLD_NS);
            let expected = [Outcome::Success, Outcome::Incomplete, Outcome::Success];
            assert_eq!(b.outcomes(), expected, "{role:?} {seen}");
        }
        // Or nothing at all is.
        for end in [Some(Closed), None] {
            let (to, from) = ends(role);
            let mut b = bench(role);
            whole(&mut b, role);
            cut(&mut b, role, 0, 0);
            b.send(to, &request());
            b.lose(from, 400);
            match end {
                Some(reason) => _ = b.end(reason),
                None => whole(&mut b, role),
            }
            b.wait(2 * HOLD_NS);
            let mut expected = vec![Outcome::Success, Outcome::Incomplete];
            expected.extend(end.is_none().then_some(Outcome::Success));
            assert_eq!(b.outcomes(), expected, "{role:?} {end:?}");
        }
    }
}
