//! The command line. Every flag of `run` can also be set by the variable that its help names.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, error::ErrorKind};
use wildmatch::WildMatch;

use crate::{
    agent::KernelOptions,
    kubernetes,
    probe::{Choice, target::Wanted},
};

pub mod pages;
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

/// Parses a command line, and the configuration file that it names.
pub fn parse_from(argv: Vec<OsString>) -> Result<Cli, clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(&argv)?;
    let all = crate::config::arguments(argv, &command, &matches)
        .map_err(|e| command.error(ErrorKind::InvalidValue, e))?;
    Cli::from_arg_matches(&command.try_get_matches_from_mut(all)?)
}

/// What is wrong with a command line, in one line.
pub fn short(error: &clap::Error) -> anyhow::Error {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    anyhow::anyhow!("{}", first.trim_start_matches("error: "))
}

/// Every command and flag.
pub fn command() -> clap::Command {
    Cli::command()
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Trace servers on this machine and serve Prometheus metrics.
    Run(RunArgs),
    /// Watch servers, models and running streams in the terminal.
    Top(TopArgs),
    /// Find the LLM servers of this machine: engine, process, ports, model, TLS.
    Discover(DiscoverArgs),
    /// Say what this machine allows, what would be used, what it costs, and what to do about the
    /// rest.
    Doctor(DoctorArgs),
    /// Write the traffic of LLM servers to a pcapng file, by default without prompts and answers.
    Record(RecordArgs),
    /// Find the LLM requests in a recording, or in any capture of tcpdump or Wireshark.
    Replay(ReplayArgs),
    /// Write the completions of a shell.
    Completions(pages::CompletionsArgs),
    /// Write manual pages.
    Man(pages::ManArgs),
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
    /// Trace the processes of the container with this id, or whose id begins like this.
    #[arg(long, value_name = "ID", env = "LLMTRACE_CONTAINER", value_delimiter = ',')]
    pub container: Vec<String>,
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
    /// Print what the kernel programs decide about processes: for finding mistakes in llmtrace.
    #[arg(long, env = "LLMTRACE_KERNEL_LOG")]
    pub kernel_log: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmtrace run                               every process that listens, as it comes
  llmtrace run --pid 1234                    one server and its children
  llmtrace run --port 8000 --request-log -   the server on port 8000, a line per request
  llmtrace run --config /etc/llmtrace/llmtrace.toml
  curl http://127.0.0.1:9466/metrics         what Prometheus scrapes

Needs root, or CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH (and, for TLS, CAP_SYS_ADMIN
where the kernel wants it: docs/security.md). What root has beyond that it gives up at the start.

SIGTERM and SIGINT end it when what was captured is accounted for, a second one at once. SIGHUP has
it read the configuration file again.")]
pub struct RunArgs {
    #[command(flatten)]
    pub targets: TargetArgs,
    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9466", env = "LLMTRACE_LISTEN")]
    pub listen: SocketAddr,
    /// TLS and basic authentication of what is served, in the format of the Prometheus exporters.
    #[arg(
        long = "web.config.file",
        visible_alias = "web-config-file",
        value_name = "FILE",
        env = "LLMTRACE_WEB_CONFIG_FILE"
    )]
    pub web_config_file: Option<PathBuf>,
    /// Write a JSON line per finished request to this file, or to standard output with "-". No
    /// prompt and no completion text is in it, unless --log-payload says so.
    #[arg(long, value_name = "FILE", env = "LLMTRACE_REQUEST_LOG")]
    pub request_log: Option<PathBuf>,
    /// Write the text of prompts and answers to the request log, too: the body of each request and
    /// the answer, up to 64 KiB of each. Whoever can read the log can then read what users wrote
    /// and were told, passwords and personal data included.
    #[arg(long, env = "LLMTRACE_LOG_PAYLOAD", requires = "request_log")]
    pub log_payload: bool,
    /// Find out how much streamed answers repeat themselves. No text is kept; costs 1 KiB a stream
    /// and some nanoseconds a token.
    #[arg(long, env = "LLMTRACE_QUALITY")]
    pub quality: bool,
    /// How long series of metrics are kept after their last request, such as 30m or 12h. A series
    /// that comes back counts from 0.
    #[arg(long, value_name = "TIME", default_value = "1h", env = "LLMTRACE_SERIES_TTL",
          value_parser = series_ttl)]
    pub series_ttl: Duration,
    /// Write a JSON line per anomaly that begins or ends, with the requests behind it, to this file,
    /// or to standard output with "-".
    #[arg(long, value_name = "FILE", env = "LLMTRACE_ANOMALY_LOG")]
    pub anomaly_log: Option<PathBuf>,
    /// Send spans and metrics to this OpenTelemetry collector (OTLP over HTTP), such as
    /// http://127.0.0.1:4318.
    #[arg(long, value_name = "URL", env = "LLMTRACE_OTLP_ENDPOINT", value_parser = url)]
    pub otlp_endpoint: Option<String>,
    /// Form of the agent's own log on standard error.
    #[arg(long, value_enum, default_value_t, env = "LLMTRACE_LOG_FORMAT")]
    pub log_format: LogFormat,
    #[command(flatten)]
    pub kubernetes: KubernetesArgs,
    #[command(flatten)]
    pub kernel: KernelArgs,
    /// Read what is not said here from this TOML file; SIGHUP has it read again.
    #[arg(long, value_name = "FILE", env = "LLMTRACE_CONFIG")]
    pub config: Option<PathBuf>,
}

/// Names from the kubelet.
#[derive(Debug, Args)]
pub struct KubernetesArgs {
    /// Name processes by pod and container, as the kubelet at this URL knows them, such as
    /// https://10.0.0.4:10250.
    #[arg(long, value_name = "URL", env = "LLMTRACE_KUBELET")]
    pub kubelet: Option<String>,
    /// The token to show to the kubelet.
    #[arg(
        long,
        value_name = "FILE",
        env = "LLMTRACE_KUBELET_TOKEN_FILE",
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    )]
    pub kubelet_token_file: PathBuf,
    /// Whom the kubelet's certificate has to be from.
    #[arg(
        long,
        value_name = "FILE",
        env = "LLMTRACE_KUBELET_CA_FILE",
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
    )]
    pub kubelet_ca_file: PathBuf,
    /// Show the token to whoever answers there: for kubelets with a certificate of their own making.
    #[arg(long, env = "LLMTRACE_KUBELET_INSECURE")]
    pub kubelet_insecure: bool,
}

impl KubernetesArgs {
    /// How to ask the kubelet, if it is to be asked.
    pub fn options(&self) -> Option<kubernetes::Options> {
        Some(kubernetes::Options {
            url: self.kubelet.clone()?,
            token: self.kubelet_token_file.clone(),
            ca: self.kubelet_ca_file.clone(),
            insecure: self.kubelet_insecure,
        })
    }
}

fn series_ttl(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(ttl) if !ttl.is_zero() => Ok(ttl),
        Ok(_) => Err("must be more than 0".into()),
        Err(e) => Err(e.to_string()),
    }
}

fn url(text: &str) -> Result<String, String> {
    crate::config::check_url("it", text).map(|()| text.to_owned())
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
        KernelOptions { choice, ring_bytes, max_copy, log: self.kernel_log }
    }
}

impl TargetArgs {
    /// The processes that the flags name.
    pub fn wanted(&self) -> Wanted {
        let globs = |list: &[String]| list.iter().map(|g| WildMatch::new(g)).collect();
        Wanted {
            pids: self.pid.clone(),
            cgroups: self.cgroup.clone(),
            containers: self.container.clone(),
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
  sudo llmtrace top                                  every process that listens
  sudo llmtrace top --pid 1234
  llmtrace top --connect http://127.0.0.1:9466       what an agent that runs sees; needs no root

Keys are at the bottom of the screen, all of them behind `?`.")]
pub struct TopArgs {
    #[command(flatten)]
    pub targets: TargetArgs,
    /// Show what a running agent sees, instead of tracing. User and password may stand before the
    /// host.
    #[arg(long, value_name = "URL", env = "LLMTRACE_CONNECT")]
    pub connect: Option<String>,
    #[command(flatten)]
    pub kernel: KernelArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sudo llmtrace discover
  sudo llmtrace discover --seconds 10 --json
  llmtrace discover --seconds 0              no traffic: as far as /proc may be read

A server is known by its command line, by the libraries it has loaded, or by LLM traffic within the
seconds it is watched. Models are those of its traffic, else of its command line.")]
pub struct DiscoverArgs {
    /// How long traffic is watched; 0 needs no eBPF.
    #[arg(long, value_name = "N", default_value_t = 3, env = "LLMTRACE_SECONDS")]
    pub seconds: u64,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sudo llmtrace doctor
  sudo llmtrace doctor --json

Attaches every back end that this kernel takes, for a moment each, to measure its cost. Exits with 3
if there is none.")]
pub struct DoctorArgs {
    /// MiB of the ring that a run is to have: whether there is memory for it.
    #[arg(long, value_name = "MIB", default_value_t = 8, env = "LLMTRACE_RING_MIB",
          value_parser = ring_mib)]
    pub ring_mib: u32,
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
