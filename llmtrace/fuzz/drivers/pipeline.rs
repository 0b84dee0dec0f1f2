//! A whole connection, from records to exchanges. An input is a byte for the cuts, one that says
//! whether the connection was seen from its birth, and segments: a byte (1: written, else read; 2:
//! bytes are missing before it; 4: the connection ends after it), a length of two bytes, and as many
//! bytes.

use std::sync::Arc;

use llmtrace::llm::{Finished, Outcome, Peer, Role, Settings};
use llmtrace::pipeline::{Pipeline, Sink};
use llmtrace::record::{Data, Direction, EndReason, Position, Record, SockId};

use super::Cuts;

const ID: SockId = SockId { addr: 0xff00, generation: 1 };
const MS: u64 = 1_000_000;

#[derive(Default)]
struct Results {
    started: usize,
    finished: Vec<Finished>,
}

impl Sink for Results {
    fn started(&mut self, _: Role, _: &Arc<str>, _: &'static str) {
        self.started += 1;
    }

    fn finished(&mut self, f: &Finished, _: &Peer) {
        self.finished.push(f.clone());
    }
}

struct Run {
    pipeline: Pipeline,
    results: Results,
    t: u64,
    at: [u32; 2],
    fresh: bool,
}

impl Run {
    fn data(&mut self, direction: Direction, bytes: &[u8]) {
        let at = &mut self.at[direction as usize];
        let data = Data {
            id: ID,
            pid: 7,
            tid: 7,
            direction,
            enter: self.t,
            exit: self.t,
            position: Position::Seq32(*at),
            len: bytes.len() as u32,
            bytes,
            fresh: std::mem::take(&mut self.fresh),
            reset: false,
            more: false,
        };
        *at = at.wrapping_add(bytes.len() as u32);
        self.pipeline.push(&Record::Data(data), &mut self.results);
    }
}

/// The results, and how often something was not understood.
fn drive(fresh: bool, mut segments: &[u8], mut cuts: Cuts) -> (Vec<String>, u64) {
    let settings =
        Settings { itl_bounds: Arc::new([MS]), token_times: false, ..Settings::default() };
    let mut run = Run {
        pipeline: Pipeline::new(settings),
        results: Results::default(),
        t: MS,
        at: [1, 1],
        fresh,
    };
    while let [what, high, low, rest @ ..] = segments {
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (bytes, rest) = rest.split_at(len);
        segments = rest;
        let direction = if what & 1 == 0 { Direction::Read } else { Direction::Write };
        run.t += MS;
        if what & 2 != 0 {
            run.at[direction as usize] = run.at[direction as usize].wrapping_add(5);
        }
        cuts.each(bytes, |piece| run.data(direction, piece));
        if what & 4 != 0 {
            let reason = if what & 1 == 0 { EndReason::PeerFin } else { EndReason::LocalFin };
            let end = Record::End { id: ID, pid: 7, at: run.t, reason, reached: None };
            run.pipeline.push(&end, &mut run.results);
        }
    }
    run.t += 200 * MS;
    run.pipeline.tick(run.t, &mut run.results);
    let reason = EndReason::Closed;
    let end = Record::End { id: ID, pid: 7, at: run.t, reason, reached: None };
    run.pipeline.push(&end, &mut run.results);
    run.pipeline.finish(run.t, &mut run.results);
    let counts = run.pipeline.counts();
    let sum = |group: &str| counts.iter().filter(|c| c.0 == group).map(|c| c.2).sum::<u64>();
    let open = counts.iter().find(|c| c.1 == "still_open").map_or(0, |c| c.2);
    assert_eq!(run.results.started as u64, run.results.finished.len() as u64 + open);
    assert_eq!(run.pipeline.connections(), 0);
    let told = run.results.finished.iter().map(|f| match f.outcome {
        // How far it was read before it was given up may depend on the pieces.
        Outcome::Incomplete => "incomplete".to_owned(),
        _ => format!("{f:?}"),
    });
    (told.collect(), sum("resyncs") + sum("silenced"))
}

pub fn check(input: &[u8]) {
    let [cuts, fresh, segments @ ..] = input else { return };
    let (whole, resyncs) = drive(*fresh != 0, segments, Cuts::Whole);
    let (pieces, _) = drive(*fresh != 0, segments, Cuts::of(*cuts));
    // Where nothing is lost, pieces change nothing. Where something is, they are where it goes on.
    if resyncs == 0 && *fresh != 0 {
        assert_eq!(whole, pieces);
    }
}
