//! The reader of captures, redaction and the writer. An input is a file.

use std::sync::Arc;

use llmtrace::llm::{Finished, Peer, Role, Settings};
use llmtrace::pipeline::Sink;
use llmtrace::record::Record;
use llmtrace::recording::redact::{Item, Redactor};
use llmtrace::recording::{Contents, Found, Reader, Writer};
use llmtrace::replay::{Feed, Hear};

/// What a replay found.
#[derive(Default)]
pub struct Log(pub Vec<String>);

impl Sink for Log {
    fn started(&mut self, _: Role, _: &Arc<str>, _: &'static str) {}

    fn finished(&mut self, f: &Finished, _: &Peer) {
        self.0.push(format!("{f:?}"));
    }
}

impl Hear for Log {
    fn process(&mut self, _: u32, _: String) {}
    fn wall_offset(&mut self, _: i64) {}
}

/// A replay, and every record of a recording among what it found.
fn replay(input: &[u8], mut on: impl FnMut(&Record<'_>)) -> Log {
    let settings =
        Settings { itl_bounds: Arc::new([1, 10, 100]), token_times: true, ..Settings::default() };
    let (mut feed, mut log) = (Feed::new(settings), Log::default());
    let Ok(mut reader) = Reader::new(input) else { return log };
    let mut step = |found: Found<'_>| {
        if let Found::Record(record) = &found {
            on(record);
        }
        feed.found(found, &mut log);
    };
    while reader.step(&mut step).is_ok_and(|more| more) {}
    feed.finish(&mut log);
    log
}

/// Replays an input; what it holds of records is redacted, written and read again. No panic, and
/// a recording of a recording holds as many records.
pub fn run(input: &[u8]) -> Log {
    let (mut redactor, mut plain) = (Redactor::default(), Vec::new());
    let mut writer = Writer::new(&mut plain, 0, Contents::Redacted).expect("memory");
    let mut records = 0_u64;
    let log = replay(input, |record| {
        records += 1;
        redactor.push(Item::Record(record.clone()), |item| {
            if let Item::Record(record) = item {
                writer.record(record).expect("memory");
            }
        });
    });
    redactor.finish(|item| {
        if let Item::Record(record) = item {
            writer.record(record).expect("memory");
        }
    });
    writer.tick(u64::MAX / 2, 0, true).expect("memory");
    let mut again = 0;
    replay(&plain, |_| again += 1);
    assert!(again <= records, "{again} of {records}");
    log
}

pub fn check(input: &[u8]) {
    run(input);
}
