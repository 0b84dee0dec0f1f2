//! Which BPF programs a process holds, and which the kernel has.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// Ids of the programs that a process holds by a descriptor, itself or through a link.
pub fn programs_of(pid: u32) -> BTreeSet<u32> {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else {
        return BTreeSet::new();
    };
    files
        .flatten()
        .filter_map(|file| fs::read_to_string(file.path()).ok())
        .filter_map(|text| {
            text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())
        })
        .collect()
}

/// Ids of all programs of the kernel that trace: of kprobes, uprobes, tracepoints, functions.
///
/// # Panics
/// If the kernel does not tell, which it does to root.
#[track_caller]
pub fn tracing_programs() -> BTreeSet<u32> {
    const PROG_GET_NEXT_ID: libc::c_long = 11;
    const PROG_GET_FD_BY_ID: libc::c_long = 13;
    const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
    /// KPROBE, TRACEPOINT, PERF_EVENT, RAW_TRACEPOINT, TRACING of `enum bpf_prog_type`.
    const TRACES: [u32; 5] = [2, 5, 7, 17, 26];
    let call = |command: libc::c_long, attr: &mut [u32; 4]| {
        // SAFETY: `attr` is valid for its size; what it points to, for the last command, is `info`.
        unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) }
    };
    let mut found = BTreeSet::new();
    // start_id, next_id, open_flags
    let mut next = [0; 4];
    while call(PROG_GET_NEXT_ID, &mut next) == 0 {
        let id = next[1];
        next = [id, 0, 0, 0];
        let fd = call(PROG_GET_FD_BY_ID, &mut [id, 0, 0, 0]);
        if fd < 0 {
            // It has gone meanwhile.
            continue;
        }
        // SAFETY: a descriptor that the call above has made.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let mut info = [0_u32; 16];
        let at = info.as_mut_ptr() as u64;
        let mut ask =
            [fd.as_raw_fd() as u32, size_of_val(&info) as u32, at as u32, (at >> 32) as u32];
        assert_eq!(call(OBJ_GET_INFO_BY_FD, &mut ask), 0, "{}", std::io::Error::last_os_error());
        if TRACES.contains(&info[0]) {
            found.insert(id);
        }
    }
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::ENOENT), "the last one");
    found
}
