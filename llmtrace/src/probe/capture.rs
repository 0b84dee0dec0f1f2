//! Loads the kernel programs, attaches them and talks to their maps. Everything that is attached
//! hangs on descriptors of this process: when it ends, however it ends, nothing stays behind.

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, MapData, PerCpuArray},
};
use llmtrace_common::{
    config::{self, loss},
    limits::{MAX_CGROUPS, MAX_PIECES, PIECE},
};

use super::{
    ProbeError,
    attach::{self, KernelTypes, Missing, chain},
    features::{self, Features},
    filter::{self, Filter},
    heap,
    ktls::Ktls,
    log::KernelLog,
    object::Object,
    offsets,
    plan::{self, Attachment, Choice, Hooks, Refusal},
    preemption::Preemption,
    ring::Ring,
    tls::Tls,
    types::{self, Types},
};

/// What [`Config::max_copy`] is by default, and at most: what the kernel side's loops can do.
pub const MAX_COPY: u32 = PIECE as u32 * MAX_PIECES;

/// Bytes of a ring that is not used: a page.
const SMALLEST_RING: u32 = 4096;

/// What the kernel side has to know at load.
#[derive(Clone, Debug)]
pub struct Config {
    /// Trace every process.
    pub all: bool,
    /// Trace every process from when it listens on a TCP port.
    pub listeners: bool,
    /// Report every exec and listen, for targets that are found by name or port.
    pub watch_processes: bool,
    /// Bytes, a power of two.
    pub ring_bytes: u32,
    /// Most bytes of one read or write that are copied.
    pub max_copy: u32,
    /// Which hooks.
    pub choice: Choice,
    /// Have the kernel side say what it decides.
    pub log: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            all: false,
            listeners: false,
            watch_processes: false,
            ring_bytes: 8 << 20,
            max_copy: MAX_COPY,
            choice: Choice::Auto,
            log: false,
        }
    }
}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct SocketValue(config::Socket);
// SAFETY: integers only, no padding.
unsafe impl Pod for SocketValue {}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct LossValue(config::Loss);
// SAFETY: integers only, no padding.
unsafe impl Pod for LossValue {}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct CgroupValue(config::Cgroup);
// SAFETY: integers only, no padding.
unsafe impl Pod for CgroupValue {}

/// What is attached, what is not, and why.
#[derive(Clone, Debug)]
pub struct Chosen {
    pub hooks: Hooks,
    /// Better hooks that this kernel or these privileges do not allow.
    pub refused: Vec<Refusal>,
    /// What capture has to do without.
    pub missing: Vec<Missing>,
}

/// Kernel programs and their maps.
pub struct Capture {
    targets: HashMap<MapData, u32, u32>,
    filter: Filter,
    ports: HashMap<MapData, u32, u8>,
    listening: Array<MapData, u32>,
    sockets: HashMap<MapData, u64, SocketValue>,
    losses: PerCpuArray<MapData, LossValue>,
    tls: Tls,
    log: Option<KernelLog>,
    /// Holds programs and links.
    ebpf: Ebpf,
    features: Features,
    choice: Choice,
    on_unix: Option<Attachment>,
    at_start: Option<Attachment>,
    ktls: Ktls,
}

impl Capture {
    /// Makes the maps; [`Capture::attach`] starts to fill them. The ring is the caller's to drain.
    pub fn load(config: &Config, cgroups: &[config::Cgroup]) -> Result<(Self, Ring), ProbeError> {
        heap::keep_little();
        let types = Types::read(&types::btf_path())?;
        let offsets = offsets::resolve(&types)?;
        features::check()?;
        features::lift_memory_limit();
        let features = Features::of(&types);
        // The verifier sees these as constants and drops what they switch off.
        let all = u32::from(config.all);
        let listeners = u32::from(config.listeners);
        let watch = u32::from(config.watch_processes);
        let cgroup_count = cgroups.len().min(MAX_CGROUPS) as u32;
        let wake_mark = u64::from(config.ring_bytes / 8);
        let max_copy = config.max_copy.clamp(2 * PIECE as u32, MAX_COPY);
        let pid_limit = filter::pid_limit();
        let log_level = if config.log { aya_log::Level::Debug as u8 } else { 0 };
        let mut loader = EbpfLoader::new();
        loader
            .override_global("TRACE_ALL", &all, true)
            .override_global("TRACE_LISTENERS", &listeners, true)
            .override_global("WATCH_PROCESSES", &watch, true)
            .override_global("CGROUP_COUNT", &cgroup_count, true)
            .override_global("WAKE_MARK", &wake_mark, true)
            .override_global("MAX_COPY", &max_copy, true)
            // Not every field is read by every set of programs: absent ones are no error.
            .override_global("FILE_COUNT_ONE", &offsets.file_count_one, false)
            .map_max_entries("FILTER", pid_limit.div_ceil(8))
            .override_global(aya_log::LEVEL, &log_level, true)
            .map_max_entries("RING", config.ring_bytes);
        if !config.log {
            // It cannot be left out, but need not hold anything.
            loader.map_max_entries("AYA_LOGS", SMALLEST_RING);
        }
        for (name, offset) in &offsets.fields {
            loader.override_global(name, offset, false);
        }
        let object = Object::new(Preemption::of(&types).functions());
        let mut ebpf = loader.load(object.bytes()).map_err(|e| ProbeError::Load(chain(&e)))?;
        let ring = ring(&ebpf, config.ring_bytes)?;
        let filter = filter(&ebpf, pid_limit)?;
        for (i, cgroup) in cgroups.iter().take(MAX_CGROUPS).enumerate() {
            set_cgroup(&mut ebpf, i, *cgroup)?;
        }
        let log = config.log.then(|| KernelLog::new(&mut ebpf)).transpose()?;
        let capture = Self {
            targets: typed(&mut ebpf, "TARGETS")?,
            filter,
            ports: typed(&mut ebpf, "PORTS")?,
            listening: typed(&mut ebpf, "LISTENING")?,
            sockets: typed(&mut ebpf, "SOCKETS")?,
            losses: typed(&mut ebpf, "LOSSES")?,
            tls: Tls::new(&mut ebpf)?,
            log,
            ebpf,
            features,
            choice: config.choice,
            on_unix: None,
            at_start: None,
            ktls: Ktls::default(),
        };
        Ok((capture, ring))
    }

    /// Attaches the best hooks that the kernel takes.
    pub fn attach(&mut self) -> Result<Chosen, ProbeError> {
        let mut types = KernelTypes::default();
        let lifecycle = plan::lifecycle(&self.features);
        let mut missing = Vec::new();
        attach::lifecycle(&mut self.ebpf, &mut types, &lifecycle, &mut missing)?;
        let (plans, mut refused) = plan::plan(&self.features, self.choice);
        let ebpf = &mut self.ebpf;
        let first = attach::first_of(ebpf, &mut types, &plans, &mut refused, &mut missing);
        let Some(plan) = first else {
            let reasons: Vec<String> = refused
                .iter()
                .map(|r| format!("{} ({}): {}", r.hooks.backend(), r.hooks.name(), r.reason))
                .collect();
            return Err(ProbeError::NoBackend {
                release: features::release(),
                refused: reasons.join("; "),
            });
        };
        self.on_unix = plan.on_unix;
        // After the hooks: a read that begins now is theirs.
        self.at_start = plan
            .at_start
            .filter(|attachment| attach::one(&mut self.ebpf, &mut types, attachment).is_ok());
        self.ktls = Ktls::new(plan, &self.features);
        self.follow_ktls();
        Ok(Chosen { hooks: plan.hooks, refused, missing })
    }

    /// The first unix socket is traced: its closing may need a hook of its own.
    pub fn watch_unix(&mut self) -> Result<(), ProbeError> {
        let Some(attachment) = self.on_unix.take() else { return Ok(()) };
        let program = attachment.program;
        attach::one(&mut self.ebpf, &mut KernelTypes::default(), &attachment)
            .map_err(|reason| ProbeError::Attach { program, reason })
    }

    /// Follows whether the kernel does TLS, which it does from when the first process wants it.
    pub fn follow_ktls(&mut self) {
        if let Some(note) = self.ktls.follow(&mut self.ebpf) {
            self.tls.note(note);
        }
    }

    /// Whether plaintext is seen that the kernel encrypts.
    pub fn sees_ktls(&self) -> bool {
        self.ktls.is_seen()
    }

    /// The first socket is traced whose TLS the kernel does.
    pub fn watch_ktls(&mut self) {
        if let Some(note) = self.ktls.watch(&mut self.ebpf) {
            self.tls.note(note);
        }
        if self.ktls.watches_returns() {
            // It looks after the reads of the start as well: each once.
            self.start_is_over();
        }
    }

    /// Whether reads that were under way at the start are still looked for.
    pub fn watches_start(&self) -> bool {
        self.at_start.is_some()
    }

    /// Reads that were under way at the start are over, or no longer waited for.
    pub fn start_is_over(&mut self) {
        if let Some(attachment) = self.at_start.take() {
            attach::unload(&mut self.ebpf, &attachment);
        }
    }

    /// Notes that a target listens on a TCP port: when bytes arrive there is of interest.
    pub fn add_listening(&mut self, port: u16) -> Result<(), ProbeError> {
        self.listening.set(u32::from(port), 1, 0).map_err(|e| map_error("LISTENING", &e))
    }

    /// Starts to trace a process (`config::target` says how). False if it was a target already.
    pub fn add_target(&mut self, pid: u32, how: u32) -> Result<bool, ProbeError> {
        if self.targets.get(&pid, 0).is_ok_and(|old| old | how == old) {
            return Ok(false);
        }
        self.targets.insert(pid, how, 0).map_err(|e| map_error("TARGETS", &e))?;
        self.filter.set(pid, how);
        Ok(true)
    }

    /// Stops tracing a process. One that is no target is no error.
    pub fn remove_target(&mut self, pid: u32) {
        self.filter.set(pid, 0);
        let _ = self.targets.remove(&pid);
    }

    /// Gives a target cgroup another id: its path is that of another one now.
    pub fn set_cgroup(&mut self, index: usize, cgroup: config::Cgroup) -> Result<(), ProbeError> {
        set_cgroup(&mut self.ebpf, index, cgroup)
    }

    /// Processes that are targets by their id.
    pub fn target_pids(&self) -> Vec<u32> {
        pids_of(&self.targets)
    }

    /// Allows a local port to `target::PORTS` processes.
    pub fn add_port(&mut self, port: u16) -> Result<(), ProbeError> {
        self.ports.insert(u32::from(port), 1, 0).map_err(|e| map_error("PORTS", &e))
    }

    /// Silences a connection: from now on the kernel side drops its bytes in a few instructions.
    /// A connection that has gone meanwhile is left alone.
    pub fn silence(&mut self, addr: u64, generation: u32) {
        if addr & config::KERNEL_ADDRESS == 0 {
            return self.tls.silence(addr, generation);
        }
        let Ok(SocketValue(mut socket)) = self.sockets.get(&addr, 0) else { return };
        if socket.inode as u32 != generation {
            return;
        }
        socket.state |= config::state::SILENT;
        // EXIST: if the kernel has removed it meanwhile, do not bring it back. If it has replaced
        // it, the inode written here does not match and the kernel announces it anew.
        let _ = self.sockets.insert(addr, SocketValue(socket), EXIST);
    }

    /// Looks for TLS libraries in a process that has become a target.
    pub fn find_tls(&mut self, pid: u32) {
        self.tls.process(pid);
    }

    /// Waits until the libraries found so far are probed.
    pub fn settle_tls(&mut self) {
        self.tls.settle(&mut self.ebpf);
    }

    /// Follows what targets map; returns whether that was anything new. `other` are targets by
    /// something else than their id.
    pub fn follow_tls(&mut self, other: &super::target::Wanted) -> bool {
        let targets = &self.targets;
        let how = |pid: u32| targets.get(&pid, 0).ok();
        self.tls.poll(
            &mut self.ebpf,
            |pid| match how(pid) {
                Some(how) => how & config::target::NEVER == 0,
                None => other.covers(pid),
            },
            || {
                let mut pids = pids_of(targets);
                pids.extend(other.covered());
                pids
            },
        )
    }

    pub fn tls(&mut self) -> &mut Tls {
        &mut self.tls
    }

    /// Prints what the kernel side had to say.
    pub fn print_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.print();
        }
    }

    /// What the kernel side lost so far, by `loss` reason, summed over processors.
    pub fn losses(&self) -> [config::Loss; loss::COUNT as usize] {
        std::array::from_fn(|reason| {
            let mut sum = config::Loss::default();
            if let Ok(values) = self.losses.get(&(reason as u32), 0) {
                for LossValue(value) in values.iter() {
                    sum.records += value.records;
                    sum.bytes += value.bytes;
                }
            }
            sum
        })
    }

    /// Runs that the kernel skipped because the same program was already running on that
    /// processor: calls that nobody saw.
    pub fn missed_runs(&self) -> u64 {
        self.ebpf
            .programs()
            .filter_map(|(_, program)| features::missed_runs(program.fd().ok()?))
            .sum()
    }
}

const EXIST: u64 = 2;

fn pids_of(targets: &HashMap<MapData, u32, u32>) -> Vec<u32> {
    let targets = targets.iter().filter_map(Result::ok);
    targets.filter(|(_, how)| how & config::target::NEVER == 0).map(|(pid, _)| pid).collect()
}

fn set_cgroup(ebpf: &mut Ebpf, index: usize, cgroup: config::Cgroup) -> Result<(), ProbeError> {
    // Borrowed and not taken: programs that are not loaded yet may name it.
    let map = ebpf.map_mut("CGROUPS").ok_or_else(|| absent("CGROUPS"))?;
    let mut map: Array<_, CgroupValue> = map.try_into().map_err(|e| map_error("CGROUPS", &e))?;
    map.set(index as u32, CgroupValue(cgroup), 0).map_err(|e| map_error("CGROUPS", &e))
}

fn typed<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, ProbeError>
where
    T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name).ok_or_else(|| absent(name))?;
    T::try_from(map).map_err(|e| map_error(name, &e))
}

fn ring(ebpf: &Ebpf, size: u32) -> Result<Ring, ProbeError> {
    use std::os::fd::AsFd;
    let Some(aya::maps::Map::RingBuf(map)) = ebpf.map("RING") else { return Err(absent("RING")) };
    let fd = map.fd().as_fd().try_clone_to_owned().map_err(ProbeError::Ring)?;
    Ring::new(fd, size).map_err(ProbeError::Ring)
}

fn filter(ebpf: &Ebpf, pid_limit: u32) -> Result<Filter, ProbeError> {
    use std::os::fd::AsFd;
    let Some(aya::maps::Map::Array(map)) = ebpf.map("FILTER") else {
        return Err(absent("FILTER"));
    };
    let len = pid_limit.div_ceil(8) as usize * 8;
    Filter::new(map.fd().as_fd(), len).map_err(|e| map_error("FILTER", &e))
}

fn absent(map: &'static str) -> ProbeError {
    ProbeError::Map { map, reason: "not in the object".into() }
}

fn map_error(map: &'static str, e: &dyn std::error::Error) -> ProbeError {
    ProbeError::Map { map, reason: chain(e) }
}
