//! `llmtrace demo`: a small OpenAI-compatible server in a child process and clients with a mix of
//! good and bad requests; real eBPF traces the child; in the end what the server logged is
//! compared with what was traced, request by request.
//!
//! A development aid: the server stands in for an LLM server, nothing stands in for the capture.

pub mod client;
mod compare;
pub mod server;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, IsTerminal},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    agent::{Agent, KernelOptions},
    cli::DemoArgs,
    llm::{Finished, Peer, Watch},
    metrics::Metrics,
    probe::target::Wanted,
};
use compare::{Comparison, Traced};
use server::ServerRecord;

const TABLE_EVERY: Duration = Duration::from_secs(1);

/// Runs the demo, or its server.
pub fn run(args: &DemoArgs) -> Result<()> {
    if let Some(log) = &args.serve {
        return serve(log);
    }
    let dir = std::env::temp_dir().join(format!("llmtrace-demo-{}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let result = trace(args, &dir.join("server.jsonl"));
    let _ = fs::remove_dir_all(&dir);
    result
}

/// The child: says its address on standard output, then serves until it is killed.
fn serve(log: &Path) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    server::serve(listener, File::create(log)?)?;
    Ok(())
}

/// A child that does not outlive the demo.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(log: &Path) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["demo", "--serve"])
            .arg(log)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the demo's server")?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let address = line.trim().parse().context("the demo's server did not start")?;
        Ok(Self { child, address })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps what was traced, for the comparison.
struct Seen(Arc<Mutex<Vec<Traced>>>);

impl Watch for Seen {
    fn finished(&mut self, f: &Finished, _: &Peer) {
        if let Ok(mut seen) = self.0.lock() {
            seen.push(Traced::new(f));
        }
    }
}

fn trace(args: &DemoArgs, log: &Path) -> Result<()> {
    let server = Server::start(log)?;
    let pid = server.child.id();
    println!("server  an OpenAI-compatible streaming server, pid {pid}, {}", server.address);
    let wanted = Wanted { pids: vec![pid], ..Wanted::default() };
    let metrics = Metrics::default();
    let mut agent = Agent::start(wanted, &KernelOptions::default(), metrics.clone(), None)?;
    let hooks = agent.chosen.hooks;
    let (backend, where_to) = (hooks.backend(), hooks.name());
    println!("agent   eBPF attached (back end: {backend}, on {where_to}), tracing pid {pid}");
    println!("clients {} at a time for {} s\n", args.clients, args.seconds);
    let traced: Arc<Mutex<Vec<Traced>>> = Arc::default();
    let seen = traced.clone();
    agent.watch(Box::new(Seen(seen)));
    let address = server.address;
    let (seconds, clients) = (args.seconds, args.clients.clamp(1, 256));
    let clients = thread::spawn(move || client::run(address, seconds, clients));
    let mut shown = Instant::now();
    let mut table = Table::default();
    while !clients.is_finished() {
        agent.step()?;
        if shown.elapsed() >= TABLE_EVERY {
            shown = Instant::now();
            table.show(&traced);
        }
    }
    let summary = match clients.join() {
        Ok(summary) => summary.context("the demo's clients failed")?,
        Err(_) => bail!("the demo's clients panicked"),
    };
    // The server notices the last aborts a little later; it has logged all when each is there.
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut logged = read_log(log)?;
    while logged.len() < summary.requests.len() && Instant::now() < deadline {
        agent.step()?;
        logged = read_log(log)?;
    }
    drop(server);
    let settled = Instant::now() + Duration::from_millis(300);
    while Instant::now() < settled {
        agent.step()?;
    }
    agent.stop();
    table.show(&traced);
    let traced = traced.lock().map(|t| t.clone()).unwrap_or_default();
    let comparison = Comparison::new(&logged, &traced);
    println!("\n{comparison}");
    if logged.len() != summary.requests.len() {
        bail!("{} requests sent, {} in the server's log", summary.requests.len(), logged.len());
    }
    if !comparison.is_equal() {
        bail!("the trace differs from the server's log");
    }
    Ok(())
}

fn read_log(path: &Path) -> Result<Vec<ServerRecord>> {
    let text = fs::read_to_string(path).unwrap_or_default();
    // The last line may be half written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).context("the server's log")).collect()
}

/// The live table: redrawn in place on a terminal, a line a second otherwise.
#[derive(Default)]
struct Table {
    lines: usize,
    headed: bool,
}

impl Table {
    fn show(&mut self, traced: &Mutex<Vec<Traced>>) {
        let Ok(traced) = traced.lock() else { return };
        let count = |outcome: &str| traced.iter().filter(|t| t.outcome == outcome).count();
        let ttft = quantiles(traced.iter().filter_map(|t| t.ttft_ns).collect());
        let tpot = quantiles(traced.iter().filter_map(|t| t.tpot_ns).collect());
        let tokens: u64 = traced.iter().map(|t| t.output_tokens).sum();
        if !self.headed {
            self.headed = true;
            println!(
                "{:>8} {:>8} {:>8} {:>8} {:>8} {:>8}  {:>15} {:>15}",
                "requests",
                "success",
                "http_err",
                "str_err",
                "aborted",
                "tokens",
                "TTFT p50/p99 ms",
                "TPOT p50/p99 ms"
            );
        }
        if self.lines > 0 && std::io::stdout().is_terminal() {
            print!("\x1b[1A\x1b[2K");
        }
        self.lines += 1;
        println!(
            "{:>8} {:>8} {:>8} {:>8} {:>8} {:>8}  {:>15} {:>15}",
            traced.len(),
            count("success"),
            count("http_error"),
            count("stream_error"),
            count("client_disconnect"),
            tokens,
            ttft,
            tpot
        );
    }
}

fn quantiles(mut values: Vec<u64>) -> String {
    values.sort_unstable();
    let at = |q: f64| {
        let index = ((values.len().saturating_sub(1)) as f64 * q).round() as usize;
        values.get(index).map(|ns| *ns as f64 / 1e6)
    };
    match (at(0.5), at(0.99)) {
        (Some(p50), Some(p99)) => format!("{p50:.2}/{p99:.2}"),
        _ => "-".into(),
    }
}
