//! What this kernel and these privileges allow.

use std::{
    os::fd::{AsFd, AsRawFd},
    path::Path,
};

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported, is_map_supported},
};

use super::{ProbeError, privileges, types::Types};

/// What this kernel has, as far as a choice depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Functions of [`FUNCTIONS`] that its BTF names.
    pub functions: Vec<&'static str>,
    /// Tracepoints of [`TRACEPOINTS`] that its BTF names.
    pub tracepoints: Vec<&'static str>,
    /// Kprobes can be made.
    pub kprobes: bool,
    /// The `bpf_task_pt_regs` helper.
    pub task_regs: bool,
    /// How many arguments `tcp_recvmsg` has.
    pub recvmsg_arguments: usize,
    /// TLS is part of the kernel itself; else it may be a module.
    pub ktls_built_in: bool,
}

/// Functions that back ends hook.
pub const FUNCTIONS: &[&str] = &[
    "tcp_sendmsg",
    "tcp_recvmsg",
    "tcp_cleanup_rbuf",
    "unix_stream_sendmsg",
    "unix_stream_recvmsg",
    "unix_release",
    "sock_def_readable",
];

/// Tracepoints that they hook.
pub const TRACEPOINTS: &[&str] = &[
    "sys_enter",
    "sys_exit",
    "tcp_sendmsg_locked",
    "sock_send_length",
    "sock_recv_length",
    "sk_data_ready",
    "tcp_receive_reset",
    "tcp_send_reset",
];

impl Features {
    /// Asks the kernel and its types.
    pub fn of(types: &Types) -> Self {
        let helper = |program, helper| is_helper_supported(program, helper).unwrap_or(false);
        let has = |list: &[&'static str], test: &dyn Fn(&str) -> bool| {
            list.iter().copied().filter(|name| test(name)).collect()
        };
        Self {
            functions: has(FUNCTIONS, &|name| types.has_function(name)),
            tracepoints: has(TRACEPOINTS, &|name| types.has_tracepoint(name)),
            kprobes: Path::new("/sys/bus/event_source/devices/kprobe/type").exists(),
            task_regs: helper(ProgramType::RawTracePoint, BpfHelper::BPF_FUNC_task_pt_regs),
            recvmsg_arguments: types.arguments("tcp_recvmsg").unwrap_or(0),
            ktls_built_in: types.has_function("tls_sw_sendmsg"),
        }
    }

    pub fn has_function(&self, name: &str) -> bool {
        self.functions.contains(&name)
    }

    pub fn has_tracepoint(&self, name: &str) -> bool {
        self.tracepoints.contains(&name)
    }
}

/// Whether the module that does TLS in the kernel is loaded: it is when the first process hands it
/// its keys.
pub fn has_ktls_module() -> bool {
    Path::new("/sys/module/tls").exists()
}

/// Fails with what is missing for any back end, before the kernel would say EPERM.
pub fn check() -> Result<(), ProbeError> {
    let missing = privileges::missing();
    if !missing.is_empty() {
        return Err(ProbeError::Privileges { missing: missing.join(", ") });
    }
    // An error while probing says nothing: then loading says it.
    if is_map_supported(MapType::RingBuf).is_ok_and(|has| !has) {
        return Err(ProbeError::Kernel { release: release(), what: "BPF ring buffer" });
    }
    Ok(())
}

/// Before 5.11 the memory of maps counts against this limit.
pub fn lift_memory_limit() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` is valid for reading. A refusal only matters where loading then fails.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
}

/// The kernel's release, such as `6.12.1-amd64`.
pub fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".into(), |s| s.trim().to_owned())
}

/// `recursion_misses` of a loaded program, which aya does not read.
pub fn missed_runs(fd: &impl AsFd) -> Option<u64> {
    /// `struct bpf_prog_info` up to `recursion_misses`, as the kernel's ABI has it.
    const RECURSION_MISSES: usize = 208;
    const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
    #[repr(C)]
    struct Attr {
        fd: u32,
        len: u32,
        info: u64,
    }
    let mut info = [0u8; 256];
    let mut attr = Attr {
        fd: fd.as_fd().as_raw_fd() as u32,
        len: info.len() as u32,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: `attr` and `info` are valid for the lengths given; the kernel writes at most `len`.
    let failed = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw mut attr, size_of::<Attr>())
    };
    let end = RECURSION_MISSES + 8;
    if failed != 0 || (attr.len as usize) < end {
        return None;
    }
    let bytes = info.get(RECURSION_MISSES..end)?;
    Some(u64::from_ne_bytes(bytes.try_into().ok()?))
}
