//! Which processes are traced.

use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use llmtrace_common::{config::target, limits::MAX_CGROUPS};

use crate::maps::{CGROUP_COUNT, CGROUPS, TARGETS, TRACE_ALL};

/// How the current process is traced (`config::target`), or 0 if it is not.
#[inline(always)]
pub fn of_current(pid: u32) -> u32 {
    // SAFETY: a value that changes meanwhile is either the old or the new one: four bytes.
    if let Some(how) = unsafe { TARGETS.get(pid) } {
        return if *how & target::NEVER == 0 { *how } else { 0 };
    }
    if TRACE_ALL.load() != 0 || in_target_cgroup() { target::ALL } else { 0 }
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
