//! What a test server itself knows of a request: one JSON line each.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// One request, as its server saw it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerRecord {
    pub user_agent: String,
    pub status: u16,
    pub outcome: String,
    pub phase: Option<String>,
    /// Token events written.
    pub tokens: u64,
    /// Right after the read that gave the request's first byte (Rust server only).
    pub start_ns: u64,
    /// Right before the write that carries each token event.
    pub token_times_ns: Vec<u64>,
    /// Right before the last write, or when the client was found gone.
    pub end_ns: u64,
    /// From when the request could be read to its read (`slow.py` only).
    pub waited_ns: u64,
    /// Sum of the writes that lasted 1 ms or more (`slow.py` only).
    pub held_ns: u64,
    /// The longest of them.
    pub longest_ns: u64,
}

impl ServerRecord {
    pub fn ttft(&self) -> Option<u64> {
        self.token_times_ns.first()?.checked_sub(self.start_ns)
    }
}

/// A file that processes and threads append whole lines to.
#[derive(Debug)]
pub struct Log(File);

impl Log {
    pub fn open(path: &Path) -> std::io::Result<Self> {
        OpenOptions::new().create(true).append(true).open(path).map(Self)
    }

    /// One `write`, so that lines do not mix.
    pub fn add(&self, record: &ServerRecord) {
        let mut line = serde_json::to_vec(record).expect("plain data");
        line.push(b'\n');
        (&self.0).write_all(&line).expect("the log can be written");
    }
}

/// Reads a log.
#[track_caller]
pub fn read(path: &Path) -> Vec<ServerRecord> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| match serde_json::from_str(line) {
            Ok(record) => record,
            Err(error) => panic!("{}: {error}: {line}", path.display()),
        })
        .collect()
}
