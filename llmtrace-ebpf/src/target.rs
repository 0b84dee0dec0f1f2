//! Which processes are traced.

use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use llmtrace_common::{config::target, limits::MAX_CGROUPS};

use crate::maps::{CGROUP_COUNT, CGROUPS, FILTER, TARGETS, TRACE_ALL};

/// How the current process is traced (`config::target`), or 0 if it is not.
#[inline(always)]
pub fn of_current(pid: u32) -> u32 {
    let how = filter(pid);
    if how != 0 {
        return if how & target::NEVER == 0 { how } else { 0 };
    }
    if TRACE_ALL.load() != 0 || in_target_cgroup() { target::ALL } else { 0 }
}

/// Whether the current process may be a target: what hooks ask that run for everybody, and that costs
/// the same however many cgroups are targets.
#[inline(always)]
pub fn may_be(pid: u32) -> bool {
    match filter(pid) {
        0 => TRACE_ALL.load() != 0 || CGROUP_COUNT.load() != 0,
        how => how & target::NEVER == 0,
    }
}

/// What the filter says of a process: `TARGETS` without its hash.
#[inline(always)]
fn filter(pid: u32) -> u32 {
    match FILTER.get_ptr(pid / 8) {
        // SAFETY: a byte of the map's value, which is eight of them.
        Some(bytes) => unsafe { *bytes.cast::<u8>().add((pid % 8) as usize) }.into(),
        None => 0,
    }
}

#[inline(always)]
fn set_filter(pid: u32, how: u32) {
    if let Some(bytes) = FILTER.get_ptr_mut(pid / 8) {
        // SAFETY: as above; one byte, so that neighbours are not touched.
        unsafe { *bytes.cast::<u8>().add((pid % 8) as usize) = how as u8 };
    }
}

/// Makes a process a target.
#[inline(always)]
pub fn add(pid: u32, how: u32) {
    if TARGETS.insert(pid, how, 0).is_ok() {
        set_filter(pid, how);
    }
}

/// A process is no target any more.
#[inline(always)]
pub fn remove(pid: u32) {
    set_filter(pid, 0);
    let _ = TARGETS.remove(pid);
}

/// Whether the current task's cgroup is a target or below one.
#[inline(always)]
fn in_target_cgroup() -> bool {
    let count = CGROUP_COUNT.load();
    for i in 0..MAX_CGROUPS as u32 {
        if i >= count {
            break;
        }
        if let Some(cgroup) = CGROUPS.get(i) {
            // SAFETY: the helper takes any level and returns 0 for one that does not exist.
            let id = unsafe { bpf_get_current_ancestor_cgroup_id(cgroup.level as i32) };
            if id != 0 && id == cgroup.id {
                return true;
            }
        }
    }
    false
}
