//! The command line. Every flag of `run` can also be set by the variable that its help names.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use wildmatch::WildMatch;

use crate::{
    probe::{Choice, target::Wanted},
    run::KernelOptions,
};

mod recordings;

pub use recordings::{Form, RecordArgs, ReplayArgs};

/// Trace LLM servers with eBPF: time to first token, inter-token latency, throughput, tokens and
/// errors of every request, without touching the server.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Trace servers on this machine and serve Prometheus metrics.
    Run(RunArgs),
    /// Say what this machine allows, what would be used, what it costs, and what to do about the
    /// rest.
    Doctor(DoctorArgs),
    /// Write the traffic of LLM servers to a pcapng file, by default without prompts and answers.
    Record(RecordArgs),
    /// Find the LLM requests in a recording, or in any capture of tcpdump or Wireshark.
    Replay(ReplayArgs),
    /// Start a small LLM server and clients, trace them with real eBPF and compare.
    Demo(DemoArgs),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// What this kernel allows.
    #[default]
    Auto,
    Fentry,
    Kprobe,
    /// Tracepoints, on sockets if the kernel has them.
    Tracepoint,
    /// Tracepoints on system calls.
    Syscall,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Which processes are traced; without any, whatever listens.
#[derive(Debug, Args)]
pub struct TargetArgs {
    /// Trace this process and its children. May be given several times.
    #[arg(long, value_name = "N", env = "LLMTRACE_PID", value_delimiter = ',')]
    pub pid: Vec<u32>,
    /// Trace the processes of this cgroup (v2) and of those below it.
    #[arg(long, value_name = "PATH", env = "LLMTRACE_CGROUP", value_delimiter = ',')]
    pub cgroup: Vec<PathBuf>,
    /// Trace processes by name; * and ? match.
    #[arg(long, value_name = "GLOB", env = "LLMTRACE_COMM", value_delimiter = ',')]
    pub comm: Vec<String>,
    /// Trace processes by the path or file name of their executable; * and ? match.
    #[arg(long, value_name = "GLOB", env = "LLMTRACE_EXE", value_delimiter = ',')]
    pub exe: Vec<String>,
    /// Trace what is served on this local TCP port.
    #[arg(long, value_name = "N", env = "LLMTRACE_PORT", value_delimiter = ',')]
    pub port: Vec<u16>,
    /// Trace every process, clients too.
    #[arg(long, env = "LLMTRACE_ALL")]
    pub all: bool,
}

/// How the kernel side captures.
#[derive(Debug, Args)]
pub struct KernelArgs {
    /// How to capture.
    #[arg(long, value_enum, default_value_t, env = "LLMTRACE_BACKEND")]
    pub backend: Backend,
    /// MiB of the ring between kernel and agent, a power of two.
    #[arg(long, value_name = "MIB", default_value_t = 8, env = "LLMTRACE_RING_MIB",
          value_parser = ring_mib)]
    pub ring_mib: u32,
    /// KiB of one read or write that are copied at most; of what is longer, its head and its tail.
    #[arg(long, value_name = "KIB", default_value_t = 1024, env = "LLMTRACE_MAX_COPY_KIB",
          value_parser = max_copy)]
    pub max_copy_kib: u32,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmtrace run                               every process that listens, as it comes
  llmtrace run --pid 1234                    one server and its children
  llmtrace run --port 8000 --request-log -   the server on port 8000, a line per request
  curl http://127.0.0.1:9466/metrics         what Prometheus scrapes

Needs root, or CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.")]
pub struct RunArgs {
    #[command(flatten)]
    pub targets: TargetArgs,
    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9466", env = "LLMTRACE_LISTEN")]
    pub listen: SocketAddr,
    /// Write a JSON line per finished request to this file, or to standard output with "-". No
    /// prompt and no completion text is in it.
    #[arg(long, value_name = "FILE", env = "LLMTRACE_REQUEST_LOG")]
    pub request_log: Option<PathBuf>,
    /// Form of the agent's own log on standard error.
    #[arg(long, value_enum, default_value_t, env = "LLMTRACE_LOG_FORMAT")]
    pub log_format: LogFormat,
    #[command(flatten)]
    pub kernel: KernelArgs,
}

fn max_copy(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(n) if (32..=1024).contains(&n) => Ok(n),
        _ => Err("must be from 32 to 1024".into()),
    }
}

fn ring_mib(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(n) if n.is_power_of_two() && n <= 1024 => Ok(n),
        _ => Err("must be a power of two from 1 to 1024".into()),
    }
}

impl KernelArgs {
    /// What the kernel side is asked to do.
    pub fn options(&self) -> KernelOptions {
        let choice = match self.backend {
            Backend::Auto => Choice::Auto,
            Backend::Fentry => Choice::Fentry,
            Backend::Kprobe => Choice::Kprobe,
            Backend::Tracepoint => Choice::Tracepoint,
            Backend::Syscall => Choice::Syscall,
        };
        let (ring_bytes, max_copy) = (self.ring_mib << 20, self.max_copy_kib << 10);
        KernelOptions { choice, ring_bytes, max_copy }
    }
}

impl TargetArgs {
    /// The processes that the flags name.
    pub fn wanted(&self) -> Wanted {
        let globs = |list: &[String]| list.iter().map(|g| WildMatch::new(g)).collect();
        Wanted {
            pids: self.pid.clone(),
            cgroups: self.cgroup.clone(),
            comms: globs(&self.comm),
            exes: globs(&self.exe),
            ports: self.port.clone(),
            all: self.all,
            ..Wanted::default()
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sudo llmtrace doctor
  sudo llmtrace doctor --json

Attaches every back end that this kernel takes, for a moment each, to measure its cost. Exits with 3
if there is none.")]
pub struct DoctorArgs {
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  llmtrace demo --seconds 5

Exits 0 only if every request that the server logged was traced with the right outcome and token
count.")]
pub struct DemoArgs {
    /// How long the clients send requests.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub seconds: u64,
    /// Clients at a time.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub clients: usize,
    /// Be the demo's server, which writes its log to this file. The demo starts it by itself.
    #[arg(long, value_name = "FILE", hide = true)]
    pub serve: Option<PathBuf>,
}
