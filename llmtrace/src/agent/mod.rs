//! The agent: ring -> pipeline -> metrics, log and whoever else watches. `run`, `record`, `top` and the
//! demo each drive one.

mod log;
mod out;
mod own;

use std::{
    collections::HashSet,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use llmtrace_common::{
    config::{Cgroup, target},
    limits::MAX_CGROUPS,
};

use crate::{
    export::request_log::RequestLog,
    llm::{Settings, Watch},
    metrics::{Metrics, TargetInfo},
    pipeline::Pipeline,
    probe::{
        self, Capture, Choice, Chosen, ProbeError,
        clock::monotonic_ns,
        ring::Ring,
        target::{Listening, Wanted, reading_threads},
    },
    record::{Address, Process, Record, decode::decode},
    usage::Usage,
};

pub use log::{open_lines, open_log, wall_offset};
pub use out::Out;
use own::Before;

/// The ring is looked at this often; records carry kernel times, so lateness costs nothing, and each
/// look takes a processor and its caches from those who serve. A ring that fills faster wakes us.
const TICK: Duration = Duration::from_millis(25);
/// The same while processes start or map what may be a TLS library, whose functions are to be probed
/// before they are called.
const QUICK_TICK: Duration = Duration::from_millis(4);
/// So long after the last of that.
const QUICK_NS: u64 = 1_000_000_000;
/// How often time passes for the pipeline, and counters reach the metrics.
const BEAT_NS: u64 = 200_000_000;
/// How often those who watch are told of what is under way.
const LOOK_NS: u64 = 500_000_000;
/// How often `/proc` is searched for targets that no event told of.
const SCAN_NS: u64 = 2_000_000_000;

/// How long reads that were under way at the start are looked for. A connection that is idle for
/// longer has its first request missed by hooks on functions.
const START_NS: u64 = 60_000_000_000;

/// Sees what the pipeline sees, in the same order: a recording is made of it.
pub trait Tap {
    fn record(&mut self, record: &Record<'_>);
    /// A process got a name, for the record that comes next.
    fn name(&mut self, pid: u32, name: &str);
    /// The pipeline was told that time passed; `lost` records never came out of the kernel.
    fn tick(&mut self, now: u64, lost: u64, last: bool);
}

/// What the kernel side is asked to do, besides whom to trace.
#[derive(Clone, Copy, Debug)]
pub struct KernelOptions {
    pub choice: Choice,
    /// Bytes of the ring, a power of two.
    pub ring_bytes: u32,
    /// Most bytes of one read or write that are copied.
    pub max_copy: u32,
    /// Have the kernel side say what it decides.
    pub log: bool,
}

impl Default for KernelOptions {
    fn default() -> Self {
        let probe::Config { choice, ring_bytes, max_copy, log, .. } = probe::Config::default();
        Self { choice, ring_bytes, max_copy, log }
    }
}

/// Capture and everything that is done with it, on one thread.
pub struct Agent {
    capture: Capture,
    ring: Ring,
    /// What was counted by kernel sides before this one.
    before: Before,
    kernel: KernelOptions,
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
    /// Targets by what they are called in Kubernetes.
    info: Arc<[TargetInfo]>,
    next_info: u64,
    unix_seen: bool,
    ktls_seen: bool,
    quick_until: u64,
    undecodable: u64,
    next_beat: u64,
    next_scan: u64,
    next_running: u64,
    usage: Option<Usage>,
    next_usage: u64,
}

impl Agent {
    /// Loads and attaches. From its return on, every byte of the targets is seen.
    pub fn start(
        mut wanted: Wanted,
        kernel: &KernelOptions,
        metrics: Metrics,
        log: Option<RequestLog<Box<dyn Write>>>,
    ) -> Result<Self, ProbeError> {
        wanted.find_containers()?;
        let Begun { capture, ring, chosen, cgroups } = begin(&wanted, kernel)?;
        let settings = Settings {
            itl_bounds: metrics.gap_bounds(),
            token_times: std::env::var_os("LLMTRACE_TOKEN_TIMES").is_some_and(|v| v == "1"),
            ..Settings::default()
        };
        metrics.set_backend(chosen.hooks.backend());
        let out = Out::new(metrics, log);
        let mut agent = Self {
            capture,
            ring,
            before: Before::default(),
            kernel: *kernel,
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
            info: Arc::default(),
            next_info: 0,
            unix_seen: false,
            ktls_seen: false,
            quick_until: 0,
            undecodable: 0,
            next_beat: 0,
            next_scan: 0,
            next_running: 0,
            usage: None,
            next_usage: 0,
        };
        agent.began()?;
        // Whoever asks before the first step finds every counter too.
        agent.beat(monotonic_ns());
        Ok(agent)
    }

    /// Capture has begun.
    fn began(&mut self) -> Result<(), ProbeError> {
        self.scan()?;
        self.reading_until = monotonic_ns() + START_NS;
        if self.capture.watches_start() {
            self.reading = reading_threads(&self.capture.target_pids());
        }
        Ok(())
    }

    /// Whom it traces, in words.
    pub fn targets(&self) -> String {
        self.wanted.describe()
    }

    /// Traces others from now on. If that fails, everything is as before.
    ///
    /// The new hooks are attached before the old ones go, so what is traced before and after is
    /// seen without a hole; TCP's positions tell what was seen twice.
    pub fn retarget(&mut self, mut wanted: Wanted) -> Result<(), ProbeError> {
        wanted.find_containers()?;
        let Begun { capture, ring, chosen, cgroups } = begin(&wanted, &self.kernel)?;
        self.drain();
        self.before.add(&self.capture);
        (self.capture, self.ring, self.chosen) = (capture, ring, chosen);
        (self.wanted, self.cgroups) = (wanted, cgroups);
        self.out.metrics.set_backend(self.chosen.hooks.backend());
        self.began()?;
        let Self { capture, wanted, pipeline, out, .. } = self;
        let pids: HashSet<u32> = capture.target_pids().into_iter().collect();
        pipeline.let_go(|pid| !pids.contains(&pid) && !wanted.covers(pid), out);
        Ok(())
    }

    /// What is decided about exchanges that begin from here on.
    pub fn settings(&mut self) -> &mut Settings {
        self.pipeline.settings_mut()
    }

    /// Has what the targets use measured, for the metrics.
    pub fn measure_targets(&mut self) -> std::io::Result<()> {
        self.usage = Some(Usage::start(self.out.metrics.clone())?);
        Ok(())
    }

    /// Has `watch` see every exchange from here on.
    pub fn watch(&mut self, watch: Box<dyn Watch>) {
        self.out.watches.push(watch);
    }

    /// Has `tap` see every record from here on.
    pub fn tap(&mut self, tap: Box<dyn Tap>) {
        self.out.keep_names();
        self.tap = Some(tap);
    }

    /// Waits for records at most a tick, and handles what there is.
    pub fn step(&mut self) -> Result<(), ProbeError> {
        let quick = monotonic_ns() < self.quick_until;
        self.ring.wait(if quick { QUICK_TICK } else { TICK });
        // Before the drain: time must not overtake records that still wait in the ring.
        let now = monotonic_ns();
        self.drain();
        if self.follow()? | self.capture.follow_tls(&self.wanted) {
            self.quick_until = now + QUICK_NS;
        }
        if now >= self.next_beat {
            self.next_beat = now + BEAT_NS;
            self.follow_cgroups()?;
            self.capture.follow_ktls();
            self.beat(now);
        }
        if !self.out.watches.is_empty() && now >= self.next_running {
            // At whole half seconds, so that a second always has two.
            self.next_running = (now / LOOK_NS + 1) * LOOK_NS;
            self.look(now);
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
        let Self { ring, pipeline, out, tap, events, undecodable, unix_seen, ktls_seen, .. } = self;
        ring.drain(|bytes| match decode(bytes) {
            Ok(record) => {
                match &record {
                    Record::Process { event, .. } => events.push(*event),
                    Record::Open(open) if matches!(open.local, Address::Unix(_)) => {
                        *unix_seen = true;
                    }
                    Record::Open(open) if open.tls && open.id.is_socket() => *ktls_seen = true,
                    _ => {}
                }
                pipeline.push(&record, out);
                if let Some(tap) = tap {
                    out.new_names().for_each(|(pid, name)| tap.name(pid, &name));
                    tap.record(&record);
                }
            }
            Err(_) => *undecodable += 1,
        });
    }

    /// Processes that came and went. Returns whether targets came.
    fn follow(&mut self) -> Result<bool, ProbeError> {
        let mut new = false;
        if self.unix_seen {
            self.unix_seen = false;
            self.capture.watch_unix()?;
        }
        if std::mem::take(&mut self.ktls_seen) {
            self.capture.watch_ktls();
        }
        for event in std::mem::take(&mut self.events) {
            let (pid, how) = match event {
                Process::Exec { pid } => {
                    self.out.forget(pid);
                    (pid, self.wanted.by_name(pid))
                }
                Process::Listen { pid, port } => (pid, self.wanted.by_port(Some(port))),
                Process::Exit { pid } => {
                    self.out.forget(pid);
                    self.wanted.forget(pid);
                    continue;
                }
                Process::Fork { .. } => continue,
            };
            if how != 0 && pid != std::process::id() {
                self.capture.add_target(pid, how)?;
                self.capture.find_tls(pid);
                new = true;
            }
        }
        Ok(new)
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

    fn tapped_tick(&mut self, now: u64, last: bool) {
        if let Some(tap) = &mut self.tap {
            self.out.new_names().for_each(|(pid, name)| tap.name(pid, &name));
            let lost = self.before.losses(&self.capture).iter().map(|l| l.records).sum();
            tap.tick(now, lost, last);
        }
    }

    /// Tells those who watch of what is under way.
    fn look(&mut self, now: u64) {
        let Self { pipeline, out, .. } = self;
        out.running(now, pipeline);
    }

    /// Takes what is in the ring, closes the log. Capture ends with the value.
    pub fn stop(&mut self) {
        self.drain();
        let now = monotonic_ns();
        self.pipeline.finish(now, &mut self.out);
        self.tapped_tick(now, true);
        self.beat(now);
        self.look(now);
    }
}

/// A kernel side that captures.
struct Begun {
    capture: Capture,
    ring: Ring,
    chosen: Chosen,
    cgroups: Vec<Cgroup>,
}

/// Loads and attaches.
fn begin(wanted: &Wanted, kernel: &KernelOptions) -> Result<Begun, ProbeError> {
    let config = probe::Config {
        all: wanted.all,
        listeners: wanted.auto(),
        watch_processes: wanted.watches(),
        ring_bytes: kernel.ring_bytes,
        max_copy: kernel.max_copy,
        choice: kernel.choice,
        log: kernel.log,
    };
    for pid in &wanted.pids {
        if !Path::new(&format!("/proc/{pid}")).exists() {
            return Err(ProbeError::NoProcess(*pid));
        }
    }
    let cgroups = wanted.cgroup_ids()?;
    let (mut capture, ring) = Capture::load(&config, &cgroups)?;
    capture.add_target(std::process::id(), target::NEVER)?;
    for port in &wanted.ports {
        capture.add_port(*port)?;
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
    Ok(Begun { capture, ring, chosen, cgroups })
}
