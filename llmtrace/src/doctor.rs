//! `llmtrace doctor`: what this machine allows, what would be used, what it costs, and what to do
//! about what is missing.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use anyhow::Result;
use llmtrace_common::record::Header;
use serde::Serialize;

use crate::{
    cli::DoctorArgs,
    probe::{
        Capture, Choice, Config, Hooks, ProbeError,
        clock::thread_cpu_ns,
        features,
        preemption::Preemption,
        privileges, ring, target,
        types::{self, Types},
    },
};

/// Programs of other kinds load, and of this kind none.
const FORBIDDEN: &str = "kernel lockdown or a seccomp filter forbids it; what follows does without";

/// The kernel has not what these hooks hang on.
const LACKING: &str = "this kernel lacks what it needs; what follows does without";

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// Works, but not as well as it could.
    Degraded,
    Missing,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Missing => "missing",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Check {
    what: String,
    state: State,
    found: String,
    /// What to do, if there is something to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    advice: String,
}

impl Check {
    fn new(what: &str, state: State, found: impl Into<String>, advice: &str) -> Self {
        Self { what: what.into(), state, found: found.into(), advice: advice.into() }
    }

    fn ok(what: &str, found: impl Into<String>) -> Self {
        Self::new(what, State::Ok, found, "")
    }
}

/// Runs every check.
pub fn run(args: &DoctorArgs) -> Result<()> {
    let mut checks = vec![kernel(), kernel_types(), privileges(), clock(), namespace(), cgroups()];
    checks.extend(preemption());
    let chosen = backends(&mut checks);
    checks.push(ring_size(args.ring_mib));
    checks.push(uprobes());
    checks.extend(chosen.as_ref().ok().map(|sees_ktls| ktls(*sees_ktls)));
    checks.extend(io_uring());
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &checks)?;
        writeln!(out)?;
    } else {
        for check in &checks {
            writeln!(out, "{:<9} {:<22} {}", check.state.name(), check.what, check.found)?;
            if !check.advice.is_empty() {
                writeln!(out, "{:<32} -> {}", "", check.advice)?;
            }
        }
    }
    match chosen {
        Ok(_) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn kernel() -> Check {
    let arch = std::env::consts::ARCH;
    Check::ok("kernel", format!("Linux {}, {arch}", features::release()))
}

fn kernel_types() -> Check {
    let path = types::btf_path();
    let shown = path.display().to_string();
    if path.exists() {
        Check::ok("types (BTF)", shown)
    } else {
        let advice =
            "use a kernel built with CONFIG_DEBUG_INFO_BTF, or name a file by LLMTRACE_BTF";
        Check::new("types (BTF)", State::Missing, shown, advice)
    }
}

fn privileges() -> Check {
    let missing = privileges::missing();
    if missing.is_empty() {
        let all = privileges::NEEDED.map(|(capability, _)| capability.to_string());
        return Check::ok("privileges", all.join(", "));
    }
    let what = privileges::NEEDED
        .iter()
        .filter(|(capability, _)| missing.contains(&&*capability.to_string()))
        .map(|(capability, what)| format!("{capability} {what}"));
    let advice = format!("run as root, or give it {}", what.collect::<Vec<_>>().join(", "));
    Check::new("privileges", State::Missing, format!("no {}", missing.join(", ")), &advice)
}

fn clock() -> Check {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    match source.as_str() {
        "hpet" | "acpi_pm" | "jiffies" => {
            let advice = "each timestamp is slow or coarse: see why the kernel gave up the tsc";
            Check::new("clock", State::Degraded, source, advice)
        }
        "" => Check::ok("clock", "CLOCK_MONOTONIC"),
        _ => Check::ok("clock", format!("CLOCK_MONOTONIC, by {source}")),
    }
}

/// The kernel side knows processes by their ids in the first pid namespace.
fn namespace() -> Check {
    /// `PROC_PID_INIT_INO` of the kernel.
    const FIRST: &str = "pid:[4026531836]";
    let own = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    if own == Path::new(FIRST) {
        return Check::ok("pid namespace", "the host's");
    }
    let advice = "run it in the host's pid namespace (hostPID: true, --pid=host): process ids mean \
                  something else here";
    Check::new("pid namespace", State::Degraded, "a container's", advice)
}

fn cgroups() -> Check {
    match target::cgroup_mount() {
        Some(mount) => Check::ok("cgroup v2", mount.display().to_string()),
        None => {
            let advice = "mount it, or choose targets otherwise than by --cgroup";
            Check::new("cgroup v2", State::Degraded, "not mounted", advice)
        }
    }
}

/// Whether programs can lose the processor while they are at work. Nothing, without types.
fn preemption() -> Option<Check> {
    const ADVICE: &str = "with more busy threads than processors calls are missed, and counted \
                          (missed_run): --backend kprobe misses none, or start the kernel with \
                          preempt=voluntary";
    let types = Types::read(&types::btf_path()).ok()?;
    Some(match Preemption::of(&types) {
        Preemption::None => Check::ok("preemption", "this kernel does not preempt programs"),
        Preemption::Held(_) => Check::ok("preemption", "programs at work keep the processor"),
        Preemption::Suffered => {
            let found =
                "this kernel may preempt programs, and has nothing against it (before 6.15)";
            Check::new("preemption", State::Degraded, found, ADVICE)
        }
    })
}

/// Tries every set of hooks; the best that works is what `run` would take. Returns whether that one
/// sees plaintext that the kernel encrypts.
fn backends(checks: &mut Vec<Check>) -> Result<bool, ProbeError> {
    let mut sees_ktls = None;
    let mut refusal = None;
    let bare = Costs::measure();
    for hooks in Hooks::ALL {
        let what = format!("{} ({})", hooks.backend(), hooks.name());
        match Costs::with(hooks) {
            Ok((with, missing, ktls)) => {
                let role = if sees_ktls.is_none() { "would be used" } else { "works" };
                sees_ktls.get_or_insert(ktls);
                let mut found = format!(
                    "{role}: {}; {}",
                    match (with, bare) {
                        (Some(with), Some(bare)) => with.less(bare),
                        _ => "its cost could not be measured".into(),
                    },
                    hooks.limits(),
                );
                if !missing.is_empty() {
                    found = format!("{found}; without {}", missing.join(", "));
                }
                checks.push(Check::ok(&what, found));
            }
            Err(e) => {
                let (state, advice) = match e.is_forbidden() {
                    _ if sees_ktls.is_some() => (State::Ok, "not needed: a better one works"),
                    true => (State::Degraded, FORBIDDEN),
                    false => (State::Degraded, LACKING),
                };
                checks.push(Check::new(&what, state, format!("refused: {}", reason(&e)), advice));
                refusal = Some(e);
            }
        }
    }
    match (sees_ktls, refusal) {
        (None, Some(e)) => Err(e),
        (sees_ktls, _) => Ok(sees_ktls.unwrap_or(false)),
    }
}

/// Why a set of hooks was refused, without the words around it.
fn reason(e: &ProbeError) -> String {
    match e {
        ProbeError::NoBackend { refused, .. } => refused.clone(),
        other => other.to_string(),
    }
}

/// What calls of a process that is not traced take, in nanoseconds of CPU time.
#[derive(Clone, Copy, Debug)]
struct Costs {
    /// A system call that does nothing.
    call: f64,
    /// A write of 256 bytes to a TCP socket.
    write: f64,
}

impl Costs {
    /// With hooks attached, the programs that they go without, and whether they see plaintext that
    /// the kernel encrypts.
    fn with(hooks: Hooks) -> Result<(Option<Self>, Vec<&'static str>, bool), ProbeError> {
        let choice = match hooks {
            Hooks::Fentry => Choice::Fentry,
            Hooks::Kprobe => Choice::Kprobe,
            Hooks::Sockets => Choice::Tracepoint,
            Hooks::Syscalls => Choice::Syscall,
        };
        let config = Config { choice, ring_bytes: 1 << 20, ..Config::default() };
        let (mut capture, _ring) = Capture::load(&config, &[])?;
        let chosen = capture.attach()?;
        if chosen.hooks != hooks {
            // What was asked for is one of two, and this is the other.
            let refused = chosen.refused.into_iter().map(|r| r.reason).collect::<Vec<_>>();
            return Err(ProbeError::NoBackend {
                release: features::release(),
                refused: refused.join("; "),
            });
        }
        capture.start_is_over();
        let missing = chosen.missing.iter().map(|m| m.program).collect();
        Ok((Self::measure(), missing, capture.sees_ktls()))
    }

    fn measure() -> Option<Self> {
        let least = |measure: &dyn Fn() -> io::Result<f64>| {
            (0..5).filter_map(|_| measure().ok()).min_by(f64::total_cmp)
        };
        Some(Self { call: least(&empty_call)?, write: least(&socket_write)? })
    }

    fn less(self, bare: Self) -> String {
        let added = |with: f64, bare: f64| (with - bare).max(0.0).round();
        format!(
            "+{} ns to any system call and +{} ns to a socket write ({:.0} ns) of a process that \
             is not traced",
            added(self.call, bare.call),
            added(self.write, bare.write),
            bare.write,
        )
    }
}

fn empty_call() -> io::Result<f64> {
    const CALLS: u32 = 20_000;
    let begin = thread_cpu_ns();
    for _ in 0..CALLS {
        std::hint::black_box(std::os::unix::process::parent_id());
    }
    Ok((thread_cpu_ns() - begin) as f64 / f64::from(CALLS))
}

fn socket_write() -> io::Result<f64> {
    const WRITES: usize = 2000;
    const BATCH: usize = 32;
    const BYTES: usize = 256;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut writer = TcpStream::connect(listener.local_addr()?)?;
    let (mut reader, _) = listener.accept()?;
    reader.set_read_timeout(Some(Duration::from_secs(2)))?;
    let bytes = [b'x'; BYTES];
    let mut sink = [0; BATCH * BYTES];
    let mut spent = 0;
    for _ in 0..WRITES / BATCH {
        let begin = thread_cpu_ns();
        for _ in 0..BATCH {
            writer.write_all(&bytes)?;
        }
        spent += thread_cpu_ns() - begin;
        reader.read_exact(&mut sink)?;
    }
    Ok(spent as f64 / (WRITES / BATCH * BATCH) as f64)
}

/// Whether the kernel gives the ring its memory, and how long it takes to fill.
fn ring_size(mib: u32) -> Check {
    const WHAT: &str = "ring";
    /// Ring bytes of one streamed event of some 250 bytes: header of the ring and of the record,
    /// payload.
    const EVENT: u64 = 8 + size_of::<Header>() as u64 + 256;
    /// A server at its maximum, on the machine of the benchmark.
    const FLOOD: u64 = 1_000_000;
    /// The agent looks every 4 ms, if it gets a processor at once.
    const ENOUGH_MS: u64 = 8;
    let bytes = u64::from(mib) << 20;
    features::lift_memory_limit();
    if let Err(e) = ring::try_size(mib << 20) {
        let advice = match e.raw_os_error() {
            Some(libc::EPERM) => {
                "privileges, or before Linux 5.11 the limit of locked memory: LimitMEMLOCK=infinity"
            }
            _ => "choose a smaller one by --ring-mib",
        };
        return Check::new(WHAT, State::Missing, format!("{mib} MiB: refused: {e}"), advice);
    }
    let lasts = bytes / EVENT * 1000 / FLOOD;
    let found = format!("{mib} MiB: {lasts} ms of a million streamed events a second");
    match memory_at_hand() {
        Some(free) if bytes > free / 4 => {
            let found = format!("{found}; {} MiB of memory are at hand", free >> 20);
            Check::new(WHAT, State::Degraded, found, "choose a smaller one by --ring-mib")
        }
        _ if lasts < ENOUGH_MS => {
            let advice = "a flood would fill it before the agent looks: --ring-mib 8";
            Check::new(WHAT, State::Degraded, found, advice)
        }
        _ => Check::ok(WHAT, found),
    }
}

/// Bytes of memory that a program can have before others have to go, as the kernel guesses.
fn memory_at_hand() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

fn uprobes() -> Check {
    if Path::new("/sys/bus/event_source/devices/uprobe/type").exists() {
        if !privileges::may_probe_users() {
            let found = "TLS is not traced: this kernel wants CAP_SYS_ADMIN for uprobes";
            let advice = "give it CAP_SYS_ADMIN: systemd, a drop-in (examples/tls.conf of the \
                          package); Helm, tls: true; kustomize, the component tls; see \
                          docs/security.md";
            return Check::new("TLS (uprobes)", State::Degraded, found, advice);
        }
        Check::ok("TLS (uprobes)", "libraries are probed as targets map them")
    } else {
        let advice = "TLS traffic stays unseen: use a kernel with CONFIG_UPROBE_EVENTS";
        Check::new("TLS (uprobes)", State::Missing, "no uprobes", advice)
    }
}

/// TLS by the kernel, for programs that hand it their keys.
fn ktls(seen: bool) -> Check {
    const WHAT: &str = "TLS (kTLS)";
    let used = features::has_ktls_module();
    match (seen, used) {
        (true, true) => Check::ok(WHAT, "the kernel does it for some: seen by kprobes"),
        (true, false) => Check::ok(WHAT, "seen by kprobes if the kernel's module is loaded"),
        (false, false) => Check::ok(WHAT, "not seen by these hooks, and the module is not loaded"),
        (false, true) => {
            let advice = "what a program sends after it gave the kernel its keys is seen by the \
                          back ends fentry and kprobe only, where there are kprobes, or if a TLS \
                          library that is probed sends it";
            Check::new(
                WHAT,
                State::Degraded,
                "the module is loaded, and these hooks do not see it",
                advice,
            )
        }
    }
}

/// Processes with an io_uring, which some hooks do not see.
fn io_uring() -> Option<Check> {
    let with = target::io_uring_users();
    if with.is_empty() {
        return None;
    }
    let shown = with.iter().take(8).map(|(pid, name)| format!("{name} ({pid})"));
    let found = format!("used by {}", shown.collect::<Vec<_>>().join(", "));
    let advice = "what they read by it is seen by the back ends fentry and kprobe only";
    Some(Check::new("io_uring", State::Degraded, found, advice))
}
