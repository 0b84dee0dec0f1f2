//! The flags of `record` and `replay`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, ValueEnum};

use super::{KernelArgs, TargetArgs};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmtrace record -o day.pcapng                     whatever LLM traffic there is, redacted
  llmtrace record --pid 1234 -o run.pcapng          one server and its children
  llmtrace record --port 8000 --seconds 60 -o a.pcapng
  llmtrace record --payload -o - | wireshark -k -i -
  llmtrace replay day.pcapng                        what was recorded
  wireshark day.pcapng

The file holds what processes read and wrote, in TCP/IP framing that is made up: Wireshark and
tshark read it, and `llmtrace replay` finds the very exchanges of the run.

What --redact leaves: sizes, times, addresses, process names, paths, names of header fields and of
JSON keys, model, usage, finish reasons, ids, user agent. What it replaces by filler of the same
length: prompts, answers, tool calls, embeddings, values of other headers (Authorization, Cookie,
API keys) and query parameters, and whole bodies that are compressed, no JSON, or no call of an LLM.
Compressed WebSockets become filler from end to end, so a replay has no request of them; of a
compressed answer it has status, size and end, but no tokens. If you need those, use --payload,
and keep the file as safe as what is in it. HTTP/2 and gRPC replay as they were.

Needs root, or CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.")]
pub struct RecordArgs {
    #[command(flatten)]
    pub targets: TargetArgs,
    /// The file to write, or "-" for standard output. Only its owner may read it.
    #[arg(short, long, value_name = "FILE", env = "LLMTRACE_OUTPUT")]
    pub output: PathBuf,
    /// Replace prompts, answers and secrets by filler of the same length. This is the default.
    #[arg(long, conflicts_with = "payload")]
    pub redact: bool,
    /// Keep prompts, answers and secrets as they are.
    #[arg(long, env = "LLMTRACE_PAYLOAD")]
    pub payload: bool,
    /// Stop after so long.
    #[arg(long, value_name = "N", env = "LLMTRACE_SECONDS")]
    pub seconds: Option<u64>,
    /// Stop when the file has so many MiB.
    #[arg(long, value_name = "MIB", env = "LLMTRACE_MAX_MIB")]
    pub max_mib: Option<u64>,
    /// Write a JSON line per finished request to this file as well.
    #[arg(long, value_name = "FILE", env = "LLMTRACE_REQUEST_LOG")]
    pub request_log: Option<PathBuf>,
    #[command(flatten)]
    pub kernel: KernelArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// A line per request, for people.
    #[default]
    Table,
    /// A JSON line per request, as in the request log of `run`.
    Json,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmtrace replay day.pcapng                        a line per request
  llmtrace replay day.pcapng --summary              quantiles by server and model
  llmtrace replay day.pcapng --format json | jq .   the request log
  llmtrace replay day.pcapng --listen 127.0.0.1:9466   and its metrics, until Ctrl-C
  tcpdump -i any -s 0 -w - port 8000 | llmtrace replay -

Reads recordings of `llmtrace record` and any pcap or pcapng file: Ethernet, VLAN, loopback, Linux
cooked (v1, v2) and raw IP, micro- and nanoseconds, either byte order. Capture whole packets (-s 0):
what is cut off or missing makes a request incomplete. Encrypted traffic shows nothing.")]
pub struct ReplayArgs {
    /// The file, or "-" for standard input.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How requests are printed.
    #[arg(long, value_enum, default_value_t)]
    pub format: Form,
    /// Print counts and quantiles by server and model instead of a line per request.
    #[arg(long)]
    pub summary: bool,
    /// Serve /metrics of the replay here, until SIGINT or SIGTERM.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
}
