//! `llmtrace replay`: a capture through the same pipeline as live traffic.

mod feed;
mod summary;
mod table;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufWriter, IsTerminal, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

pub use feed::{Feed, Hear};

use self::summary::Summary;
use self::table::Table;
use crate::{
    agent::wall_offset,
    alerts::Board,
    cli::{Form, ReplayArgs},
    export::RequestLog,
    live::Live,
    llm::{Finished, Ns, Peer, Role, Settings},
    metrics::Metrics,
    pipeline::Sink,
    probe::clock::monotonic_ns,
    recording::{Reader, read::ReadError},
    serve,
    signals::{HangUp, Signals},
};

type Stdout = BufWriter<io::Stdout>;

/// Most names of processes that are remembered; a file may have one for every number there is.
const MAX_NAMES: usize = 65_536;

/// Where exchanges go.
enum Print {
    Table(Table<Stdout>),
    Json(RequestLog<Stdout>),
    Summary(Box<Summary>),
}

struct Out {
    print: Print,
    metrics: Metrics,
    names: HashMap<u32, Arc<str>>,
    exchanges: u64,
    failed: Option<io::Error>,
}

impl Sink for Out {
    fn started(&mut self, role: Role, server: &Arc<str>, endpoint: &'static str) {
        self.started_at(0, role, server, endpoint);
    }

    fn started_at(&mut self, t: Ns, role: Role, server: &Arc<str>, endpoint: &'static str) {
        self.metrics.started(t, role, server, endpoint);
    }

    fn finished(&mut self, f: &Finished, peer: &Peer) {
        self.exchanges += 1;
        let assessed = self.metrics.finished(f, peer);
        let result = match &mut self.print {
            Print::Table(table) => table.row(f, peer),
            Print::Json(log) => log.write(f, peer, &assessed),
            Print::Summary(summary) => {
                summary.add(f, peer);
                Ok(())
            }
        };
        if let Err(e) = result {
            self.failed.get_or_insert(e);
        }
    }

    fn name(&mut self, pid: u32, comm: &str) -> Arc<str> {
        // A capture without processes has none by this number.
        self.names.get(&pid).cloned().unwrap_or_else(|| comm.into())
    }
}

impl Hear for Out {
    fn process(&mut self, pid: u32, name: String) {
        if self.names.len() >= MAX_NAMES && !self.names.contains_key(&pid) {
            // As after a loss: processes have the names that connections come with.
            self.names.clear();
        }
        self.names.insert(pid, name.into());
    }

    fn wall_offset(&mut self, offset: i64) {
        match &mut self.print {
            Print::Table(table) => table.set_wall_offset(offset),
            Print::Json(log) => log.set_wall_offset(offset),
            Print::Summary(_) => {}
        }
    }
}

/// `llmtrace replay`.
pub fn run(args: &ReplayArgs) -> Result<()> {
    let metrics = Metrics::default();
    metrics.set_backend("replay");
    let endpoint = args.listen.map(|addr| Endpoint::start(addr, &metrics)).transpose()?;
    let stdout = BufWriter::new(io::stdout());
    let print = match (args.summary, args.format) {
        (true, _) => Print::Summary(Box::default()),
        (false, Form::Table) => Print::Table(Table::new(stdout)),
        (false, Form::Json) => Print::Json(RequestLog::new(stdout, 0)),
    };
    let mut out = Out { print, metrics, names: HashMap::new(), exchanges: 0, failed: None };
    let settings = Settings {
        itl_bounds: Metrics::itl_bounds(),
        token_times: std::env::var_os("LLMTRACE_TOKEN_TIMES").is_some_and(|v| v == "1"),
        ..Settings::default()
    };
    let mut feed = Feed::new(settings);
    let (input, size) = open(&args.file)?;
    let bar = progress(size, args.summary);
    let mut reader = Reader::new(input).map_err(|e| explain(e, &args.file))?;
    while reader.step(|found| feed.found(found, &mut out)).map_err(|e| explain(e, &args.file))? {
        bar.set_position(reader.position());
        if out.failed.is_some() || endpoint.as_ref().is_some_and(|e| e.signals.stopped()) {
            break;
        }
    }
    feed.finish(&mut out);
    bar.finish_and_clear();
    let result = match &mut out.print {
        Print::Table(table) => table.flush(),
        Print::Json(log) => log.flush(),
        Print::Summary(summary) => summary.print(&mut io::stdout().lock(), &feed),
    };
    match out.failed.take().or(result.err()) {
        // `| head` is no failure.
        Some(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
        Some(e) => return Err(e).context("cannot write to standard output"),
        None => {}
    }
    notes(&feed, &reader, out.exchanges);
    if let Some(endpoint) = endpoint {
        endpoint.wait();
    }
    Ok(())
}

/// What a reader of the output should know.
fn notes(feed: &Feed, reader: &Reader<'_>, exchanges: u64) {
    let skipped = reader.skipped();
    if skipped.truncated {
        log::warn!("the file ends in the middle of a block; all before it was read");
    }
    for (n, what) in [
        (skipped.malformed, "malformed blocks"),
        (skipped.unknown_records, "records of a newer llmtrace"),
        (skipped.no_interface, "packets without interface or time"),
        (feed.tcp().unknown_link, "packets of an unknown link type"),
        (feed.tcp().fragments, "IP fragments"),
    ] {
        if n > 0 {
            log::warn!("passed over {n} {what}");
        }
    }
    let open = feed.still_open();
    if open > 0 {
        log::warn!("{open} requests were still open at the end of the capture");
    }
    if exchanges == 0 && open == 0 {
        log::warn!(
            "no LLM request in {} packets ({} of them not TCP) and {} records. Is it \
             encrypted, or was it captured without payload (tcpdump -s 0)?",
            feed.tcp().packets,
            feed.tcp().not_tcp,
            feed.records(),
        );
    }
}

fn explain(e: ReadError, path: &Path) -> anyhow::Error {
    anyhow::Error::new(e).context(format!("{}", path.display()))
}

/// The input, and its size if that is known.
fn open(path: &Path) -> Result<(Box<dyn Read + Send>, Option<u64>)> {
    if path == Path::new("-") {
        if io::stdin().is_terminal() {
            bail!("standard input is a terminal: name a file, or pipe a capture in");
        }
        return Ok((Box::new(io::stdin()), None));
    }
    let file = File::open(path).with_context(|| {
        format!("cannot read {}: name a file of `llmtrace record` or tcpdump", path.display())
    })?;
    let meta = file.metadata()?;
    if meta.is_dir() {
        bail!("{} is a folder: name a file in it", path.display());
    }
    let size = meta.is_file().then_some(meta.len());
    Ok((Box::new(file), size))
}

/// A bar on a terminal, if nothing else is printed there meanwhile.
fn progress(size: Option<u64>, summary: bool) -> ProgressBar {
    let quiet = summary || !io::stdout().is_terminal();
    match size {
        Some(size) if io::stderr().is_terminal() && quiet => {
            let style = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
            let style = ProgressStyle::with_template(style);
            ProgressBar::new(size)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        }
        _ => ProgressBar::hidden(),
    }
}

/// Serves the metrics until a signal.
struct Endpoint {
    signals: Signals,
}

impl Endpoint {
    fn start(listen: std::net::SocketAddr, metrics: &Metrics) -> Result<Self> {
        let signals = Signals::watch(HangUp::Ends)?;
        let state = serve::State {
            anomalies: Board::default(),
            metrics: metrics.clone(),
            web: serve::web::Source::new(None)?,
            // Stays empty: what is replayed is of another time.
            live: Live::new(wall_offset()),
            ready: Arc::new(AtomicBool::new(true)),
            // Nothing that could stop ticking.
            last_tick: Arc::new(AtomicU64::new(u64::MAX)),
            now: monotonic_ns,
        };
        let address = serve::start(listen, state)?;
        eprintln!("ready listen={address}");
        Ok(Self { signals })
    }

    fn wait(&self) {
        while !self.signals.stopped() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded() {
        let print = Print::Summary(Box::default());
        let metrics = Metrics::default();
        let mut out = Out { print, metrics, names: HashMap::new(), exchanges: 0, failed: None };
        for pid in 0..3 * MAX_NAMES as u32 {
            out.process(pid, format!("p{pid}"));
            assert!(out.names.len() <= MAX_NAMES);
            assert_eq!(*out.name(pid, "comm"), *format!("p{pid}"));
        }
    }
}
