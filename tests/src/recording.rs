//! `llmtrace record` and `replay`, tcpdump and tshark, as processes.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::agent::{Entry, require_bpf};
use crate::clock::wait_for;
use crate::paths::{self, TempDir};
use crate::process::Process;

const LIMIT: Duration = Duration::from_secs(60);

/// A running `llmtrace record` with a request log beside the file.
#[derive(Debug)]
pub struct Recorder {
    process: Process,
    dir: TempDir,
}

/// What it left.
#[derive(Debug)]
pub struct Recording {
    dir: TempDir,
    /// The request log, line by line.
    pub log: Vec<String>,
}

impl Recorder {
    /// Starts it and waits until it captures.
    #[track_caller]
    pub fn start(args: &[&str]) -> Self {
        require_bpf();
        let dir = TempDir::new();
        let mut command = Command::new(paths::agent());
        command.arg("record").args(args).env("LLMTRACE_TOKEN_TIMES", "1");
        command.arg("--output").arg(dir.join("out.pcapng"));
        command.arg("--request-log").arg(dir.join("requests.jsonl"));
        let mut process = Process::spawn(&mut command);
        wait_for("the recorder's ready line", LIMIT, || {
            if let Some(status) = process.try_wait() {
                panic!("it left with {status}; it printed:\n{}", process.finish_output());
            }
            process.output().find(|line| line.starts_with("ready "))
        });
        Self { process, dir }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits until its request log has `count` lines, then stops it.
    #[track_caller]
    pub fn stop_after(mut self, count: usize) -> Recording {
        let log = self.dir.join("requests.jsonl");
        let lines = || fs::read_to_string(&log).map_or(0, |text| text.lines().count());
        wait_for("the recorder's request log", LIMIT, || (lines() >= count).then_some(()));
        self.process.signal(Signal::TERM);
        let status = self.process.wait(LIMIT);
        let printed = self.process.finish_output();
        assert!(status.success(), "the recorder left with {status}:\n{printed}");
        assert!(!printed.contains("panicked"), "{printed}");
        let log = fs::read_to_string(log).expect("the request log");
        Recording { dir: self.dir, log: log.lines().map(str::to_owned).collect() }
    }
}

impl Recording {
    pub fn file(&self) -> PathBuf {
        self.dir.join("out.pcapng")
    }

    pub fn entries(&self) -> Vec<Entry> {
        parse(&self.log)
    }
}

fn parse(lines: &[String]) -> Vec<Entry> {
    let entry = |line: &String| serde_json::from_str(line).expect("a line of the request log");
    lines.iter().map(entry).collect()
}

/// Runs to its end: standard output; what it said on standard error goes to the test's.
///
/// # Panics
/// If it fails.
#[track_caller]
pub fn output(program: impl AsRef<OsStr>, args: &[&OsStr]) -> String {
    let program = program.as_ref();
    let result = Command::new(program)
        .args(args)
        .env("LLMTRACE_TOKEN_TIMES", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    let errors = String::from_utf8_lossy(&result.stderr);
    eprint!("{errors}");
    assert!(result.status.success(), "{} left with {}: {errors}", program.display(), result.status);
    String::from_utf8(result.stdout).expect("text")
}

/// `llmtrace replay --format json`, line by line.
#[track_caller]
pub fn replay(file: &Path) -> Vec<String> {
    let args = ["replay".as_ref(), file.as_os_str(), "--format".as_ref(), "json".as_ref()];
    output(paths::agent(), &args).lines().map(str::to_owned).collect()
}

#[track_caller]
pub fn replay_entries(file: &Path) -> Vec<Entry> {
    parse(&replay(file))
}

/// The fields that tshark finds in every packet that `filter` lets through, a line each.
#[track_caller]
pub fn tshark(file: &Path, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
    let mut args: Vec<&OsStr> = vec!["-r".as_ref(), file.as_os_str(), "-n".as_ref()];
    args.extend(["-Y", filter, "-T", "fields"].map(OsStr::new));
    for field in fields {
        args.extend(["-e", field].map(OsStr::new));
    }
    let text = output("tshark", &args);
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// A running tcpdump on the loopback device.
#[derive(Debug)]
pub struct Tcpdump {
    process: Process,
    dir: TempDir,
}

impl Tcpdump {
    #[track_caller]
    pub fn start(args: &[&str], filter: &str) -> Self {
        let dir = TempDir::new();
        let mut command = Command::new("tcpdump");
        // As root: else it gives up the right to write there.
        command.args(["-U", "-B", "16384", "-Z", "root"]).args(args);
        command.arg("-w").arg(dir.join("out.pcap")).arg(filter);
        let mut process = Process::spawn(&mut command);
        wait_for("tcpdump to listen", LIMIT, || {
            if let Some(status) = process.try_wait() {
                panic!("it left with {status}; it printed:\n{}", process.finish_output());
            }
            process.output().find(|line| line.contains("listening on"))
        });
        Self { process, dir }
    }

    /// Stops it: the file, and the folder that holds it.
    #[track_caller]
    pub fn stop(mut self) -> (PathBuf, TempDir) {
        // What the kernel holds comes a block at a time.
        std::thread::sleep(Duration::from_millis(1200));
        self.process.signal(Signal::INT);
        self.process.wait(LIMIT);
        let printed = self.process.finish_output();
        assert!(printed.contains("0 packets dropped by kernel"), "{printed}");
        (self.dir.join("out.pcap"), self.dir)
    }
}
