//! Loads the kernel programs, attaches them and talks to their maps. Everything that is attached
//! hangs on descriptors of this process: when it ends, however it ends, nothing stays behind.

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, MapData, PerCpuArray},
    programs::RawTracePoint,
};
use llmtrace_common::{
    config::{self, loss},
    limits::MAX_CGROUPS,
};

use super::{ProbeError, object, offsets, ring::Ring, tls::Tls};

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
}

impl Default for Config {
    fn default() -> Self {
        Self { all: false, listeners: false, watch_processes: false, ring_bytes: 8 << 20 }
    }
}

/// `(program, tracepoint, whether capture is worth anything without it)`.
const PROGRAMS: &[(&str, &str, bool)] = &[
    ("sched_process_fork", "sched_process_fork", true),
    ("sched_process_exec", "sched_process_exec", true),
    ("sched_process_exit", "sched_process_exit", true),
    ("inet_sock_set_state", "inet_sock_set_state", true),
    ("tcp_receive_reset", "tcp_receive_reset", false),
    ("tcp_send_reset", "tcp_send_reset", false),
    // Last, so that no call is seen before everything about it can be.
    ("sys_exit", "sys_exit", true),
    ("sys_enter", "sys_enter", true),
];

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

/// Attached kernel programs.
pub struct Capture {
    targets: HashMap<MapData, u32, u32>,
    ports: HashMap<MapData, u32, u8>,
    sockets: HashMap<MapData, u64, SocketValue>,
    losses: PerCpuArray<MapData, LossValue>,
    tls: Tls,
    /// Holds programs and links.
    ebpf: Ebpf,
    attached: bool,
}

impl Capture {
    /// Loads the programs; [`Capture::attach`] starts them. The ring is the caller's to drain.
    pub fn load(config: &Config, cgroups: &[config::Cgroup]) -> Result<(Self, Ring), ProbeError> {
        let offsets = offsets::resolve(&offsets::btf_path())?;
        super::features::check()?;
        // The verifier sees these as constants and drops what they switch off.
        let all = u32::from(config.all);
        let listeners = u32::from(config.listeners);
        let watch = u32::from(config.watch_processes);
        let cgroup_count = cgroups.len().min(MAX_CGROUPS) as u32;
        let wake_mark = u64::from(config.ring_bytes / 4);
        let mut loader = EbpfLoader::new();
        loader
            .override_global("TRACE_ALL", &all, true)
            .override_global("TRACE_LISTENERS", &listeners, true)
            .override_global("WATCH_PROCESSES", &watch, true)
            .override_global("CGROUP_COUNT", &cgroup_count, true)
            .override_global("WAKE_MARK", &wake_mark, true)
            // Not every field is read by every set of programs: absent ones are no error.
            .override_global("FILE_COUNT_ONE", &offsets.file_count_one, false)
            .map_max_entries("RING", config.ring_bytes);
        for (name, offset) in &offsets.fields {
            loader.override_global(name, offset, false);
        }
        let mut ebpf = loader.load(object::bytes()).map_err(|e| ProbeError::Load(chain(&e)))?;
        for (program, _, needed) in PROGRAMS {
            let loaded = raw_tracepoint(&mut ebpf, program)
                .and_then(|p| p.load().map_err(|e| ProbeError::Load(chain(&e))));
            match loaded {
                Err(e) if *needed => return Err(e),
                _ => {}
            }
        }
        let ring = ring(&ebpf, config.ring_bytes)?;
        if !cgroups.is_empty() {
            let absent = || ProbeError::Map { map: "CGROUPS", reason: "absent".into() };
            // Not taken, for the same reason as the ring.
            let map = ebpf.map_mut("CGROUPS").ok_or_else(absent)?;
            let mut map: Array<_, CgroupValue> =
                Array::try_from(map).map_err(|e| map_error("CGROUPS", &e))?;
            for (i, cgroup) in cgroups.iter().take(MAX_CGROUPS).enumerate() {
                map.set(i as u32, CgroupValue(*cgroup), 0).map_err(|e| map_error("CGROUPS", &e))?;
            }
        }
        let capture = Self {
            targets: typed(&mut ebpf, "TARGETS")?,
            ports: typed(&mut ebpf, "PORTS")?,
            sockets: typed(&mut ebpf, "SOCKETS")?,
            losses: typed(&mut ebpf, "LOSSES")?,
            tls: Tls::new(&mut ebpf)?,
            ebpf,
            attached: false,
        };
        Ok((capture, ring))
    }

    /// Attaches every program. Returns the tracepoints that this kernel does not have and that
    /// capture can do without.
    pub fn attach(&mut self) -> Result<Vec<&'static str>, ProbeError> {
        let mut missing = Vec::new();
        for (program, tracepoint, needed) in PROGRAMS {
            let attached = raw_tracepoint(&mut self.ebpf, program)?.attach(tracepoint);
            match attached {
                Ok(_) => {}
                Err(_) if !needed => missing.push(*tracepoint),
                Err(e) => return Err(ProbeError::Attach { program, reason: chain(&e) }),
            }
        }
        self.attached = true;
        Ok(missing)
    }

    /// Starts to trace a process (`config::target` says how). False if it was a target already.
    pub fn add_target(&mut self, pid: u32, how: u32) -> Result<bool, ProbeError> {
        if self.targets.get(&pid, 0).is_ok_and(|old| old | how == old) {
            return Ok(false);
        }
        self.targets.insert(pid, how, 0).map_err(|e| map_error("TARGETS", &e))?;
        Ok(true)
    }

    /// Stops tracing a process. One that is no target is no error.
    pub fn remove_target(&mut self, pid: u32) {
        let _ = self.targets.remove(&pid);
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

    /// Follows what targets map. `other` are targets by something else than their id.
    pub fn follow_tls(&mut self, other: &super::target::Wanted) {
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
        );
    }

    pub fn tls(&mut self) -> &mut Tls {
        &mut self.tls
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
            .filter_map(|(_, program)| super::features::missed_runs(program.fd().ok()?))
            .sum()
    }
}

const EXIST: u64 = 2;

fn pids_of(targets: &HashMap<MapData, u32, u32>) -> Vec<u32> {
    let targets = targets.iter().filter_map(Result::ok);
    targets.filter(|(_, how)| how & config::target::NEVER == 0).map(|(pid, _)| pid).collect()
}

fn raw_tracepoint<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut RawTracePoint, ProbeError> {
    let missing = || ProbeError::Load(format!("the object has no program {name}"));
    ebpf.program_mut(name)
        .ok_or_else(missing)?
        .try_into()
        .map_err(|e: aya::programs::ProgramError| ProbeError::Load(e.to_string()))
}

fn typed<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, ProbeError>
where
    T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name).ok_or(ProbeError::Map { map: name, reason: "absent".into() })?;
    T::try_from(map).map_err(|e| map_error(name, &e))
}

fn ring(ebpf: &Ebpf, size: u32) -> Result<Ring, ProbeError> {
    use std::os::fd::AsFd;
    let missing = || ProbeError::Map { map: "RING", reason: "absent".into() };
    // Not taken: programs that are loaded later refer to it by this very descriptor.
    let aya::maps::Map::RingBuf(map) = ebpf.map("RING").ok_or_else(missing)? else {
        return Err(missing());
    };
    let fd = map.fd().as_fd().try_clone_to_owned().map_err(ProbeError::Ring)?;
    Ring::new(fd, size).map_err(ProbeError::Ring)
}

fn map_error(map: &'static str, e: &dyn std::error::Error) -> ProbeError {
    ProbeError::Map { map, reason: chain(e) }
}

/// An error with what caused it, in one line.
pub(super) fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
