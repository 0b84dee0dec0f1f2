//! The agent under test, as a process.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use seccompiler::BpfProgram;
use serde::Deserialize;

use crate::clock::{self, wait_for};
use crate::http;
use crate::metrics::Metrics;
use crate::net::free_port;
use crate::paths::{self, TempDir};
use crate::process::Process;

/// Long enough for an emulated machine, where the verifier alone takes half a minute.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// A line of the agent's request log.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Entry {
    pub start_ns: Option<u64>,
    pub request_end_ns: Option<u64>,
    pub first_byte_ns: Option<u64>,
    pub first_token_ns: Option<u64>,
    pub last_token_ns: Option<u64>,
    pub end_ns: Option<u64>,
    pub role: String,
    pub server: String,
    pub method: String,
    pub endpoint: String,
    pub path: String,
    pub status: Option<u16>,
    pub stream: bool,
    pub outcome: String,
    pub phase: Option<String>,
    pub model: Option<String>,
    pub finish_reason: Option<String>,
    pub prompt_tokens: Option<u64>,
    pub output_tokens: Option<u64>,
    pub cached_tokens: Option<u64>,
    pub output_source: Option<String>,
    pub events: u64,
    pub token_events: u64,
    pub queue_ns: Option<u64>,
    pub backpressure_ns: Option<u64>,
    pub user_agent: Option<String>,
    pub client: Option<String>,
    pub pid: Option<u32>,
    pub tls: bool,
    pub token_times_ns: Option<Vec<u64>>,
}

impl Entry {
    /// Nanoseconds from the request to its first token.
    pub fn ttft(&self) -> Option<u64> {
        self.first_token_ns?.checked_sub(self.start_ns?)
    }

    /// Whether the serving end listens on `port`.
    pub fn serves(&self, port: u16) -> bool {
        self.server.rsplit_once(':').is_some_and(|(_, p)| p == port.to_string())
    }
}

/// The tests run real eBPF; a run that cannot is a failed run, not a skipped one.
#[track_caller]
pub fn require_bpf() {
    assert!(
        rustix::process::geteuid().is_root(),
        "these tests load eBPF programs and need root: run them by `cargo xtask test`"
    );
}

/// Tests that measure or count hold this, so that those of one binary run one after the other.
pub fn serial() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How to start an agent.
#[derive(Debug, Default)]
pub struct Options {
    /// Another build than the one under test.
    program: Option<PathBuf>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    /// Capabilities of an agent that is not root's.
    caps: Option<Vec<String>>,
    /// Allows system calls and refuses others.
    filter: Option<BpfProgram>,
}

/// Who an agent is that is not root.
pub const NOBODY: u32 = 65534;

/// `program` as [`NOBODY`], with these capabilities and no way to others.
pub fn as_nobody(program: &Path, caps: &[impl AsRef<str>]) -> Command {
    let names = caps.iter().map(|c| c.as_ref().trim_start_matches("CAP_").to_lowercase());
    let list = names.fold("-all".to_owned(), |list, name| format!("{list},+{name}"));
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"]);
    for set in ["--inh-caps", "--ambient-caps", "--bounding-set"] {
        command.args([set, &list]);
    }
    command.arg(program).current_dir("/");
    command
}

impl Options {
    /// Another build of the agent than the one under test.
    #[must_use]
    pub fn program(mut self, program: &Path) -> Self {
        self.program = Some(program.to_path_buf());
        self
    }

    #[must_use]
    pub fn arg(mut self, flag: &str, value: impl AsRef<OsStr>) -> Self {
        self.args.push(flag.into());
        self.args.push(value.as_ref().to_os_string());
        self
    }

    /// A flag without a value.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.args.push(flag.into());
        self
    }

    #[must_use]
    pub fn pid(self, pid: u32) -> Self {
        self.arg("--pid", pid.to_string())
    }

    #[must_use]
    pub fn port(self, port: u16) -> Self {
        self.arg("--port", port.to_string())
    }

    #[must_use]
    pub fn comm(self, glob: &str) -> Self {
        self.arg("--comm", glob)
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Run it as [`NOBODY`] with these capabilities only.
    #[must_use]
    pub fn caps(mut self, caps: &[impl AsRef<str>]) -> Self {
        self.caps = Some(caps.iter().map(|c| c.as_ref().to_owned()).collect());
        self
    }

    /// Refuse it every system call that `filter` does not allow.
    #[must_use]
    pub fn filter(mut self, filter: BpfProgram) -> Self {
        self.filter = Some(filter);
        self
    }

    /// Log the time of every token-bearing event.
    #[must_use]
    pub fn token_times(self) -> Self {
        self.env("LLMTRACE_TOKEN_TIMES", "1")
    }

    /// Starts the agent and waits until it captures.
    #[track_caller]
    pub fn start(self) -> Agent {
        match self.try_start() {
            Ok(agent) => agent,
            Err(Left { status, printed }) => {
                panic!("the agent left with {status}; it printed:\n{printed}")
            }
        }
    }

    /// The same where it may leave instead of capturing.
    #[track_caller]
    pub fn try_start(self) -> Result<Agent, Left> {
        require_bpf();
        let dir = TempDir::new();
        let port = free_port();
        let program = self.program.unwrap_or_else(paths::agent);
        let mut command = match &self.caps {
            None => Command::new(program),
            Some(caps) => {
                // The build's folder may be closed to others.
                let exe = dir.join("llmtrace");
                fs::copy(program, &exe).expect("a copy of the agent");
                std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).expect("root");
                as_nobody(&exe, caps)
            }
        };
        command
            .arg("run")
            .args(&self.args)
            .arg("--listen")
            .arg(format!("127.0.0.1:{port}"))
            .arg("--request-log")
            .arg(dir.join("requests.jsonl"))
            .envs(self.env);
        if let Some(filter) = self.filter {
            let apply = move || seccompiler::apply_filter(&filter).map_err(std::io::Error::other);
            // SAFETY: makes two system calls and allocates nothing unless they fail.
            unsafe { command.pre_exec(apply) };
        }
        let mut process = Process::spawn(&mut command);
        let begin = clock::now();
        wait_for("the agent's ready line", START_LIMIT, || {
            if let Some(status) = process.try_wait() {
                return Some(Err(Left { status, printed: process.finish_output() }));
            }
            process.output().find(|line| line.starts_with("ready ")).map(Ok)
        })?;
        let start_time = Duration::from_nanos(clock::now() - begin);
        Ok(Agent { process, port, dir, start_time })
    }
}

/// An agent that left before it captured.
#[derive(Debug)]
pub struct Left {
    pub status: ExitStatus,
    pub printed: String,
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    port: u16,
    dir: TempDir,
    /// From exec to the ready line.
    pub start_time: Duration,
}

impl Agent {
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn is_alive(&mut self) -> bool {
        self.process.try_wait().is_none()
    }

    /// Everything printed so far.
    pub fn printed(&self) -> String {
        self.process.output().text()
    }

    /// Status and body of a path of the agent's own endpoint.
    #[track_caller]
    pub fn get(&self, path: &str) -> (u16, String) {
        http::get(self.port, path).expect("the agent answers")
    }

    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        let (status, text) = self.get("/metrics");
        assert_eq!(status, 200, "{text}");
        Metrics::parse(&text)
    }

    /// Waits until `llm_requests_total` of a role reaches `count`; returns that scrape.
    #[track_caller]
    pub fn wait_for_requests(&self, role: &str, count: usize) -> Metrics {
        wait_for(
            &format!("{count} requests of role {role} in /metrics"),
            Duration::from_secs(10),
            || {
                let metrics = self.metrics();
                let seen = metrics.sum("llm_requests_total", &[("role", role)]);
                (seen >= count as f64).then_some(metrics)
            },
        )
    }

    /// Waits until the agent says that it has found a TLS library, before anybody uses it.
    #[track_caller]
    pub fn wait_for_library(&self, library: &str) {
        wait_for(&format!("probes of {library}"), Duration::from_secs(20), || {
            let labels = [("library", library), ("state", "attached")];
            (self.metrics().sum("llmtrace_tls_libraries", &labels) >= 1.0).then_some(())
        });
    }

    /// The request log as far as it is written.
    #[track_caller]
    pub fn log(&self) -> Vec<Entry> {
        let Ok(text) = fs::read_to_string(self.dir.join("requests.jsonl")) else {
            return Vec::new();
        };
        text.lines()
            .map(|line| match serde_json::from_str(line) {
                Ok(entry) => entry,
                Err(error) => panic!("request log: {error}: {line}"),
            })
            .collect()
    }

    /// Lines of the request log so far.
    pub fn log_lines(&self) -> usize {
        let bytes = fs::read(self.dir.join("requests.jsonl")).unwrap_or_default();
        memchr::memchr_iter(b'\n', &bytes).count()
    }

    /// SIGTERM, which must drain and exit with 0; the request log.
    #[track_caller]
    pub fn stop(self) -> Vec<Entry> {
        self.stop_by(Signal::TERM)
    }

    #[track_caller]
    pub fn stop_by(mut self, signal: Signal) -> Vec<Entry> {
        self.process.signal(signal);
        let status = self.process.wait(STOP_LIMIT);
        let printed = self.process.finish_output();
        assert!(status.success(), "the agent left with {status}:\n{printed}");
        assert!(!printed.contains("panicked"), "{printed}");
        self.log()
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits until it has ended of itself: its exit code, and everything it printed.
    #[track_caller]
    pub fn left(mut self, limit: Duration) -> (Option<i32>, String) {
        let status = self.process.wait(limit);
        (status.code(), self.process.finish_output())
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait(STOP_LIMIT);
    }
}
