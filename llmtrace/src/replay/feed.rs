//! From what a file holds to the pipeline.

use crate::{
    llm::Settings,
    pipeline::{Pipeline, Sink},
    record::Ns,
    recording::{
        Found,
        tcp::{Counts, Flows},
    },
};

/// How often time passes for the pipeline, as in `run`.
const BEAT_NS: Ns = 200_000_000;
/// Ticks for one long pause: each looks at a share of the connections.
const MAX_TICKS: usize = 64;

/// Is told what a file says besides its traffic.
pub trait Hear {
    /// What a process is called from here on.
    fn process(&mut self, pid: u32, name: String);
    /// Wall clock less the clock of the times to come.
    fn wall_offset(&mut self, offset: i64);
}

/// Drives a pipeline by the time of the capture.
#[derive(Debug)]
pub struct Feed {
    pipeline: Pipeline,
    flows: Flows,
    next_beat: Ns,
    last: Ns,
    records: u64,
}

impl Feed {
    pub fn new(settings: Settings) -> Self {
        Self {
            pipeline: Pipeline::new(settings),
            flows: Flows::default(),
            next_beat: 0,
            last: 0,
            records: 0,
        }
    }

    /// Takes what the file has next.
    #[inline]
    pub fn found<S: Sink + Hear>(&mut self, found: Found<'_>, sink: &mut S) {
        match found {
            Found::Record(record) => {
                self.records += 1;
                self.pipeline.push(&record, sink);
            }
            Found::Packet { link, at, bytes, original } => {
                self.last = self.last.max(at);
                if at >= self.next_beat {
                    self.beat(at, sink);
                }
                let Self { pipeline, flows, records, .. } = self;
                flows.packet(at, link, bytes, original, |record| {
                    *records += 1;
                    pipeline.push(record, sink);
                });
            }
            Found::Tick(now) => {
                self.last = now;
                self.pipeline.tick(now, sink);
                self.pipeline.take_verdicts();
            }
            Found::Stop(now) => {
                self.last = now;
                self.pipeline.finish(now, sink);
            }
            Found::Name(pid, name) => sink.process(pid, name),
            Found::Offset(offset) => {
                // Another recording in the same file: its clock may be another one.
                self.pipeline.finish(self.last, sink);
                sink.wall_offset(offset);
            }
        }
    }

    fn beat(&mut self, at: Ns, sink: &mut impl Sink) {
        let pause = at.saturating_sub(self.next_beat) > BEAT_NS;
        self.next_beat = at.saturating_add(BEAT_NS);
        for _ in 0..if pause { MAX_TICKS } else { 1 } {
            self.pipeline.tick(at, sink);
        }
        self.pipeline.take_verdicts();
    }

    /// The file is over.
    pub fn finish(&mut self, sink: &mut impl Sink) {
        let Self { pipeline, flows, records, .. } = self;
        flows.finish(|record| {
            *records += 1;
            pipeline.push(record, sink);
        });
        self.pipeline.finish(self.last, sink);
    }

    pub fn tcp(&self) -> Counts {
        self.flows.counts()
    }

    /// Records that went into the pipeline.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Everything that the pipeline counted, as (group, reason, count).
    pub fn counts(&self) -> Vec<(&'static str, &'static str, u64)> {
        self.pipeline.counts()
    }

    /// Requests that had no end when the capture had its.
    pub fn still_open(&self) -> u64 {
        let mut counts = self.pipeline.counts().into_iter();
        counts.find(|(_, reason, _)| *reason == "still_open").map_or(0, |(.., n)| n)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pcap_parser::Linktype;

    use super::*;
    use crate::llm::{Finished, Peer, Role};

    struct Deaf;

    impl Sink for Deaf {
        fn started(&mut self, _: Role, _: &Arc<str>, _: &'static str) {}
        fn finished(&mut self, _: &Finished, _: &Peer) {}
    }

    impl Hear for Deaf {
        fn process(&mut self, _: u32, _: String) {}
        fn wall_offset(&mut self, _: i64) {}
    }

    #[test]
    fn at_the_end_of_time() {
        let mut feed = Feed::new(Settings {
            itl_bounds: [1].into(),
            token_times: false,
            ..Settings::default()
        });
        for at in [1, Ns::MAX, 0, Ns::MAX] {
            let found = Found::Packet { link: Linktype(101), at, bytes: &[0; 4], original: 4 };
            feed.found(found, &mut Deaf);
        }
        feed.finish(&mut Deaf);
        assert_eq!(feed.records(), 0);
    }
}
