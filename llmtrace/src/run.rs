//! `llmtrace run`, and the agent that it and the demo share: ring -> pipeline -> metrics and log.

use std::{
    collections::{HashMap, HashSet},
    fs::OpenOptions,
    io::{BufWriter, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use llmtrace_common::config::{Cgroup, loss, target};
use llmtrace_common::limits::MAX_CGROUPS;

use crate::{
    cli::{LogFormat, RunArgs},
    conn,
    export::request_log::RequestLog,
    llm::{Finished, Role, Settings},
    metrics::{Metrics, Own, Peer},
    pipeline::{Pipeline, Sink},
    probe::{
        self, Capture, Choice, Chosen, ProbeError,
        clock::monotonic_ns,
        ring::Ring,
        signals,
        target::{Listening, Wanted, reading_threads},
    },
    record::{Address, Process, Record, decode::decode},
    serve,
};

/// The ring is looked at this often; records carry kernel times, so lateness costs nothing.
const TICK: Duration = Duration::from_millis(4);
/// How often time passes for the pipeline, and counters reach the metrics.
const BEAT_NS: u64 = 200_000_000;
/// How often `/proc` is searched for targets that no event told of.
const SCAN_NS: u64 = 2_000_000_000;

/// How often targets are searched for an io_uring.
const URING_NS: u64 = 2_000_000_000;

/// How long reads that were under way at the start are looked for. A connection that is idle for
/// longer has its first request missed by hooks on functions.
const START_NS: u64 = 60_000_000_000;

/// Is told of each finished exchange.
pub type Observer = Box<dyn FnMut(&Finished)>;

/// Sees what the pipeline sees, in the same order: a recording is made of it.
pub trait Tap {
    fn record(&mut self, record: &Record<'_>);
    /// A process got a name, for the record that comes next.
    fn name(&mut self, pid: u32, name: &str);
    /// The pipeline was told that time passed; `lost` records never came out of the kernel.
    fn tick(&mut self, now: u64, lost: u64, last: bool);
}

/// Where finished exchanges go.
pub struct Out {
    pub metrics: Metrics,
    log: Option<RequestLog<Box<dyn Write>>>,
    names: HashMap<u32, Arc<str>>,
    /// Names given since the last record, if somebody wants to know.
    new_names: Option<Vec<(u32, Arc<str>)>>,
    log_failed: bool,
    /// Also told of each exchange (the demo's comparison).
    pub observer: Option<Observer>,
}

impl Sink for Out {
    fn started(&mut self, role: Role, server: &Arc<str>, endpoint: &'static str) {
        self.metrics.started(role, server, endpoint);
    }

    fn finished(&mut self, f: &Finished, peer: &conn::Peer) {
        let conn::Peer { server, client, pid, tls } = peer.clone();
        let peer = Peer { server, client, pid, tls };
        self.metrics.finished(f, &peer);
        if let Some(log) = &mut self.log
            && let Err(e) = log.write(f, &peer)
            && !self.log_failed
        {
            self.log_failed = true;
            eprintln!("llmtrace: request log: {e}; further failures are not reported");
        }
        if let Some(observer) = &mut self.observer {
            observer(f);
        }
    }

    fn name(&mut self, pid: u32, comm: &str) -> Arc<str> {
        if let Some(name) = self.names.get(&pid) {
            return name.clone();
        }
        let name: Arc<str> = probe::target::display_name(pid, comm).into();
        self.names.insert(pid, name.clone());
        if let Some(new) = &mut self.new_names {
            new.push((pid, name.clone()));
        }
        name
    }

    fn port(&mut self, pid: u32) -> Option<u16> {
        probe::target::only_port(pid)
    }
}

/// What the kernel side is asked to do, besides whom to trace.
#[derive(Clone, Copy, Debug)]
pub struct KernelOptions {
    pub choice: Choice,
    /// Bytes of the ring, a power of two.
    pub ring_bytes: u32,
    /// Most bytes of one read or write that are copied.
    pub max_copy: u32,
}

impl Default for KernelOptions {
    fn default() -> Self {
        let probe::Config { choice, ring_bytes, max_copy, .. } = probe::Config::default();
        Self { choice, ring_bytes, max_copy }
    }
}

/// Capture and everything that is done with it, on one thread.
pub struct Agent {
    capture: Capture,
    ring: Ring,
    pipeline: Pipeline,
    wanted: Wanted,
    /// Of its cgroups, as the kernel side knows them.
    cgroups: Vec<Cgroup>,
    /// The hooks that are attached, and why no better ones.
    pub chosen: Chosen,
    pub out: Out,
    tap: Option<Box<dyn Tap>>,
    events: Vec<Process>,
    /// Threads that were waiting in a read when capture began, and until when they matter.
    reading: Vec<(PathBuf, String)>,
    reading_until: u64,
    next_look: u64,
    /// Targets that have an io_uring, as far as the hooks do not see it.
    io_uring: HashSet<u32>,
    next_uring: u64,
    unix_seen: bool,
    undecodable: u64,
    next_beat: u64,
    next_scan: u64,
}

impl Agent {
    /// Loads and attaches. From its return on, every byte of the targets is seen.
    pub fn start(
        wanted: Wanted,
        kernel: &KernelOptions,
        metrics: Metrics,
        log: Option<RequestLog<Box<dyn Write>>>,
    ) -> Result<Self, ProbeError> {
        let config = probe::Config {
            all: wanted.all,
            listeners: wanted.auto(),
            watch_processes: wanted.watches(),
            ring_bytes: kernel.ring_bytes,
            max_copy: kernel.max_copy,
            choice: kernel.choice,
        };
        let cgroups = wanted.cgroup_ids()?;
        let (mut capture, ring) = Capture::load(&config, &cgroups)?;
        capture.add_target(std::process::id(), target::NEVER)?;
        for port in &wanted.ports {
            capture.add_port(*port)?;
        }
        for pid in &wanted.pids {
            if !Path::new(&format!("/proc/{pid}")).exists() {
                return Err(ProbeError::NoProcess(*pid));
            }
        }
        // Before and after: what starts in between is found by one or the other.
        for (pid, how) in wanted.scan() {
            capture.add_target(pid, how)?;
            capture.find_tls(pid);
        }
        for pid in wanted.covered() {
            capture.find_tls(pid);
        }
        let chosen = capture.attach()?;
        capture.settle_tls();
        let settings = Settings {
            itl_bounds: Metrics::itl_bounds(),
            token_times: std::env::var_os("LLMTRACE_TOKEN_TIMES").is_some_and(|v| v == "1"),
        };
        metrics.set_backend(chosen.hooks.backend());
        let out = Out {
            metrics,
            log,
            names: HashMap::new(),
            new_names: None,
            log_failed: false,
            observer: None,
        };
        let mut agent = Self {
            capture,
            ring,
            pipeline: Pipeline::new(settings),
            wanted,
            cgroups,
            chosen,
            out,
            tap: None,
            events: Vec::new(),
            reading: Vec::new(),
            reading_until: monotonic_ns() + START_NS,
            next_look: 0,
            io_uring: HashSet::new(),
            next_uring: 0,
            unix_seen: false,
            undecodable: 0,
            next_beat: 0,
            next_scan: 0,
        };
        agent.scan()?;
        if agent.capture.watches_start() {
            agent.reading = reading_threads(&agent.capture.target_pids());
        }
        Ok(agent)
    }

    /// Has `tap` see every record from here on.
    pub fn tap(&mut self, tap: Box<dyn Tap>) {
        self.out.new_names = Some(Vec::new());
        self.tap = Some(tap);
    }

    /// Waits for records at most a tick, and handles what there is.
    pub fn step(&mut self) -> Result<(), ProbeError> {
        self.ring.wait(TICK);
        // Before the drain: time must not overtake records that still wait in the ring.
        let now = monotonic_ns();
        self.drain();
        self.follow()?;
        self.capture.follow_tls(&self.wanted);
        if now >= self.next_beat {
            self.next_beat = now + BEAT_NS;
            self.follow_cgroups()?;
            self.beat(now);
        }
        if self.capture.watches_start() && now >= self.next_look {
            self.next_look = now + SCAN_NS;
            self.reading
                .retain(|(path, call)| std::fs::read_to_string(path).is_ok_and(|now| now == *call));
            if self.reading.is_empty() || now >= self.reading_until {
                self.capture.start_is_over();
            }
        }
        if self.wanted.watches() && now >= self.next_scan {
            self.next_scan = now + SCAN_NS;
            self.scan()?;
        }
        Ok(())
    }

    fn drain(&mut self) {
        let Self { ring, pipeline, out, tap, events, undecodable, unix_seen, .. } = self;
        ring.drain(|bytes| match decode(bytes) {
            Ok(record) => {
                match &record {
                    Record::Process { event, .. } => events.push(*event),
                    Record::Open(open) if matches!(open.local, Address::Unix(_)) => {
                        *unix_seen = true;
                    }
                    _ => {}
                }
                pipeline.push(&record, out);
                if let Some(tap) = tap {
                    for (pid, name) in out.new_names.iter_mut().flat_map(|new| new.drain(..)) {
                        tap.name(pid, &name);
                    }
                    tap.record(&record);
                }
            }
            Err(_) => *undecodable += 1,
        });
    }

    /// Processes that came and went.
    fn follow(&mut self) -> Result<(), ProbeError> {
        if self.unix_seen {
            self.unix_seen = false;
            self.capture.watch_unix()?;
        }
        for event in std::mem::take(&mut self.events) {
            let (pid, how) = match event {
                Process::Exec { pid } => {
                    self.out.names.remove(&pid);
                    (pid, self.wanted.by_name(pid))
                }
                Process::Listen { pid, port } => (pid, self.wanted.by_port(Some(port))),
                Process::Exit { pid } => {
                    self.out.names.remove(&pid);
                    self.wanted.forget(pid);
                    continue;
                }
                Process::Fork { .. } => continue,
            };
            if how != 0 && pid != std::process::id() {
                self.capture.add_target(pid, how)?;
                self.capture.find_tls(pid);
            }
        }
        Ok(())
    }

    /// A container that starts again is another cgroup at the same path.
    fn follow_cgroups(&mut self) -> Result<(), ProbeError> {
        let now = self.wanted.cgroups_now().take(MAX_CGROUPS).enumerate();
        let other = |(n, cgroup): (usize, Option<Cgroup>)| {
            cgroup.filter(|cgroup| self.cgroups[n] != *cgroup).map(|cgroup| (n, cgroup))
        };
        let changed: Vec<_> = now.filter_map(other).collect();
        for &(n, cgroup) in &changed {
            self.capture.set_cgroup(n, cgroup)?;
            self.cgroups[n] = cgroup;
        }
        if !changed.is_empty() {
            for pid in self.wanted.covered() {
                self.capture.find_tls(pid);
            }
        }
        Ok(())
    }

    fn scan(&mut self) -> Result<(), ProbeError> {
        for (pid, how) in self.wanted.scan() {
            if self.capture.add_target(pid, how)? {
                self.capture.find_tls(pid);
            }
        }
        // Exits that were missed: the map must not fill with the dead.
        let mut pids = self.capture.target_pids();
        pids.retain(|pid| {
            let lives = Path::new(&format!("/proc/{pid}")).exists();
            if !lives {
                self.wanted.forget(*pid);
                self.capture.remove_target(*pid);
            }
            lives
        });
        let listening = Listening::of(&pids);
        for port in listening.ports {
            self.capture.add_listening(port)?;
        }
        if listening.unix {
            self.capture.watch_unix()?;
        }
        Ok(())
    }

    fn beat(&mut self, now: u64) {
        self.pipeline.tick(now, &mut self.out);
        self.tapped_tick(now, false);
        for id in self.pipeline.take_verdicts() {
            self.capture.silence(id.addr, id.generation);
        }
        let mut own = Own {
            targets: (self.capture.target_pids().len() + self.wanted.cgroups.len()) as u64,
            ..Own::default()
        };
        for (group, reason, n) in self.pipeline.counts() {
            match group {
                "records" => own.records.push(("ring", reason, n)),
                "resyncs" => own.resyncs.push((reason, n)),
                "incomplete" => own.incomplete.push((reason, n)),
                "silenced" => own.records.push(("verdict", reason, n)),
                "stream" => own.records.push(("connection", reason, n)),
                "bytes" if reason == "gap" => own.lost_bytes.push(("connection", reason, n)),
                _ => {}
            }
        }
        own.connections = self.pipeline.connections() as u64;
        if self.undecodable > 0 {
            own.lost_records.push(("record", "undecodable", self.undecodable));
        }
        let losses = self.capture.losses();
        for (name, lost) in loss::NAMES.into_iter().zip(losses) {
            own.lost_records.push(("kernel", name, lost.records));
            own.lost_bytes.push(("kernel", name, lost.bytes));
        }
        own.lost_records.push(("kernel", "missed_run", self.capture.missed_runs()));
        own.tls_libraries = self.capture.tls().libraries();
        if !self.chosen.hooks.sees_io_uring() {
            if now >= self.next_uring {
                self.next_uring = now + URING_NS;
                self.look_for_io_uring();
            }
            own.io_uring_targets = Some(self.io_uring.len() as u64);
        }
        for note in self.capture.tls().take_notes() {
            eprintln!("llmtrace: TLS: {note}");
        }
        self.out.metrics.set_own(own);
        if let Some(log) = &mut self.out.log {
            let _ = log.flush();
        }
    }

    /// Says so once of each target that has an io_uring, which the hooks in use do not see.
    fn look_for_io_uring(&mut self) {
        let pids = self.capture.target_pids();
        self.io_uring.retain(|pid| pids.contains(pid));
        for pid in pids {
            if probe::target::uses_io_uring(pid) && self.io_uring.insert(pid) {
                eprintln!(
                    "llmtrace: process {pid} has an io_uring: what it reads by it is not seen by \
                     the {} back end (fentry and kprobe see it, where the kernel allows them)",
                    self.chosen.hooks.backend()
                );
            }
        }
    }

    fn tapped_tick(&mut self, now: u64, last: bool) {
        if let Some(tap) = &mut self.tap {
            for (pid, name) in self.out.new_names.iter_mut().flat_map(|new| new.drain(..)) {
                tap.name(pid, &name);
            }
            let lost = self.capture.losses().iter().map(|l| l.records).sum();
            tap.tick(now, lost, last);
        }
    }

    /// Takes what is in the ring, closes the log. Capture ends with the value.
    pub fn stop(&mut self) {
        self.drain();
        let now = monotonic_ns();
        self.pipeline.finish(now, &mut self.out);
        self.tapped_tick(now, true);
        self.beat(now);
    }
}

/// `llmtrace run`.
pub fn run(args: &RunArgs) -> Result<()> {
    let wanted = args.targets.wanted();
    let described = wanted.describe();
    let log = args.request_log.as_deref().map(open_log).transpose()?;
    let metrics = Metrics::new(Metrics::itl_bounds());
    let ready = Arc::new(AtomicBool::new(false));
    let last_tick = Arc::new(AtomicU64::new(monotonic_ns()));
    let stop = Arc::new(AtomicBool::new(false));
    let state = serve::State {
        metrics: metrics.clone(),
        ready: ready.clone(),
        last_tick: last_tick.clone(),
        now: monotonic_ns,
    };
    // The address first: a port that is taken is a mistake to report before anything is attached.
    let listen = start_endpoint(args.listen, state, stop.clone())?;
    // The endpoint's thread takes the signals: one that came to this thread would interrupt the
    // verifier.
    signals::block();
    let mut agent = Agent::start(wanted, &args.kernel.options(), metrics, log)?;
    ready.store(true, Ordering::Release);
    for missing in &agent.chosen.missing {
        eprintln!("llmtrace: without {}: {}", missing.program, missing.reason);
    }
    let hooks = agent.chosen.hooks;
    let backend = hooks.backend();
    match args.log_format {
        LogFormat::Text => eprintln!(
            "ready backend={backend} targets={described} listen={listen} hooks={}",
            hooks.name()
        ),
        LogFormat::Json => eprintln!(
            "{}",
            serde_json::json!({ "msg": "ready", "backend": backend, "targets": described,
                                "listen": listen.to_string(), "hooks": hooks.name() })
        ),
    }
    while !stop.load(Ordering::Acquire) {
        agent.step()?;
        last_tick.store(monotonic_ns(), Ordering::Release);
    }
    ready.store(false, Ordering::Release);
    agent.stop();
    let text = agent.out.metrics.encode_text();
    let sum = |name: &str| sum_of(&text, name);
    eprintln!(
        "stopped requests={} events={} lost_records={} incomplete={}",
        sum("llm_requests_total"),
        sum("llm_stream_events_total"),
        sum("llmtrace_lost_records_total"),
        sum("llmtrace_incomplete_exchanges_total"),
    );
    Ok(())
}

/// Sum of all series of a metric in an exposition.
fn sum_of(text: &str, name: &str) -> f64 {
    text.lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|r| r.starts_with(['{', ' '])))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        // Not `sum`, whose start is -0.
        .fold(0.0, |sum, value| sum + value)
}

pub(crate) fn open_log(path: &Path) -> Result<RequestLog<Box<dyn Write>>> {
    let out: Box<dyn Write> = if path == Path::new("-") {
        Box::new(std::io::stdout())
    } else {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("request log {}", path.display()))?;
        Box::new(BufWriter::new(file))
    };
    Ok(RequestLog::new(out, wall_offset()))
}

/// Nanoseconds since the Unix epoch, less those of `CLOCK_MONOTONIC`.
pub(crate) fn wall_offset() -> i64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    wall.as_nanos() as i64 - monotonic_ns() as i64
}

/// Serves HTTP on a thread of its own, which also waits for the signals that end the agent.
pub(crate) fn start_endpoint(
    listen: SocketAddr,
    state: serve::State,
    stop: Arc<AtomicBool>,
) -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(listen).with_context(|| {
        format!("cannot listen on {listen}: choose another address with --listen")
    })?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut terminate = {
        let _in = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?
    };
    std::thread::Builder::new().name("http".into()).spawn(move || {
        runtime.block_on(async move {
            let serving = async {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => serve::serve(listener, state).await,
                    Err(e) => Err(e),
                }
            };
            tokio::select! {
                result = serving => {
                    if let Err(e) = result {
                        eprintln!("llmtrace: HTTP endpoint: {e}");
                    }
                }
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            stop.store(true, Ordering::Release);
        });
    })?;
    Ok(address)
}
