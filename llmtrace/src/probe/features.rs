//! What this kernel and these privileges allow.

use std::os::fd::{AsFd, AsRawFd};

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported, is_map_supported},
};

use super::ProbeError;

/// Capabilities and their bits in `/proc/self/status`.
const WANTED: &[(&str, u32)] = &[("CAP_BPF", 39), ("CAP_PERFMON", 38)];
const CAP_SYS_ADMIN: u32 = 21;

/// Fails with what is missing before the kernel would say EPERM.
pub fn check() -> Result<(), ProbeError> {
    let effective = effective_capabilities().unwrap_or(u64::MAX);
    let has = |bit: u32| effective & (1 << bit) != 0;
    if !has(CAP_SYS_ADMIN) {
        let missing: Vec<&str> =
            WANTED.iter().filter(|(_, bit)| !has(*bit)).map(|(name, _)| *name).collect();
        if !missing.is_empty() {
            return Err(ProbeError::Privileges { missing: missing.join(", ") });
        }
    }
    let needed = [(has_ring(), "BPF ring buffer"), (has_loop(), "bpf_loop helper")];
    for (supported, what) in needed {
        // An error while probing says nothing: then loading says it.
        if supported == Some(false) {
            return Err(ProbeError::Kernel { release: release(), what, backend: "tracepoint" });
        }
    }
    Ok(())
}

fn has_ring() -> Option<bool> {
    is_map_supported(MapType::RingBuf).ok()
}

fn has_loop() -> Option<bool> {
    is_helper_supported(ProgramType::RawTracePoint, BpfHelper::BPF_FUNC_loop).ok()
}

fn effective_capabilities() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
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
