//! Records that nobody chose.

use proptest::prelude::*;

use super::*;

fn summary(log: &Log) -> String {
    let mut out = String::new();
    for (f, _) in &log.finished {
        let _ =
            writeln!(out, "{:?} {} {} {:?}", f.outcome, f.token_events, f.response_bytes, f.model);
    }
    out
}

fn reason(n: u8) -> EndReason {
    use EndReason::*;
    [PeerFin, LocalFin, PeerReset, LocalReset, Closed, ReadEof, WriteBroken, ReadReset]
        [n as usize % 8]
}

proptest! {
    /// However a conversation is cut into calls, the same exchanges come of it.
    #[test]
    fn split_anyhow(cuts in prop::collection::vec(1usize..200, 1..60), role in any::<bool>()) {
        let answer = HEAD.to_owned() + &token("a") + &token("b") + &done();
        let (to, from) = if role {
            (Direction::Read, Direction::Write)
        } else {
            (Direction::Write, Direction::Read)
        };
        let mut b = Bench::new();
        let mut cuts = cuts.iter().cycle();
        for _ in 0..3 {
            for (direction, text) in [(to, &request()), (from, &answer)] {
                let mut rest = text.as_str();
                while !rest.is_empty() {
                    let n = (*cuts.next().unwrap()).min(rest.len());
                    b.send(direction, &rest[..n]);
                    rest = &rest[n..];
                }
            }
        }
        let mut whole = Bench::new();
        for _ in 0..3 {
            whole.send(to, &request());
            whole.send(from, &answer);
        }
        prop_assert_eq!(summary(&b.log), summary(&whole.log));
        prop_assert_eq!(b.outcomes(), vec![Outcome::Success; 3]);
    }

    /// Nothing panics, nothing finishes twice, and nothing stays held.
    #[test]
    fn anything(steps in prop::collection::vec(
        (0u8..24, any::<u8>(), any::<u32>(), 0u64..100), 1..200,
    )) {
        let mut b = Bench::joined();
        let r = request();
        let texts = [
            r.clone(), r[..40].into(), r[40..].into(), HEAD.into(), token("a"), done(),
            "HTTP/1.1 101 X\r\nupgrade: x\r\n\r\n".into(), "junk".into(), String::new(),
            "HTTP/1.0 200 OK\r\n\r\n".into(), "GET / HTTP/1.1\r\n\r\n".into(), "\0".repeat(70_000),
        ];
        for (what, pick, n, dt) in steps {
            b.id = SockId { addr: u64::from(pick % 3) << 6, generation: n & 1 };
            let text = &texts[pick as usize % texts.len()];
            b.t += dt * MS;
            match what {
                0..8 => b.read(text),
                8..16 => b.write(text),
                16 => b.lose(Direction::Read, n % 64),
                17 => b.lose(Direction::Write, n),
                18 => {
                    b.end(reason(pick));
                }
                19 => b.wait(u64::from(n) * 1000),
                20 => b.data(Direction::Write, n, b.t, text.as_bytes(), n.max(text.len() as u32)),
                21 => {
                    let t = b.t;
                    let data = Data {
                        id: b.id, pid: n, tid: 0, direction: Direction::Read, enter: u64::from(n),
                        exit: t, position: Position::Count(u64::from(n) << pick.min(60)),
                        len: n, bytes: text.as_bytes(), fresh: pick & 1 == 0, reset: pick & 2 == 0,
                        more: false,
                    };
                    b.pipeline.push(&Record::Data(data), &mut b.log);
                }
                22 => b.open("10.0.0.1:1", if pick & 1 == 0 { "10.0.0.2:2" } else { "/x" }),
                _ => {
                    let exit = Record::Process { at: b.t, event: Process::Exit { pid: 7 } };
                    b.pipeline.push(&exit, &mut b.log);
                }
            }
            prop_assert!(b.log.finished.len() <= b.log.started);
        }
        b.pipeline.finish(b.t, &mut b.log);
        let open = b.count("exchanges", "still_open") as usize;
        prop_assert_eq!(b.log.started, b.log.finished.len() + open);
        prop_assert_eq!(b.pipeline.connections(), 0);
    }
}
