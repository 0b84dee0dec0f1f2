//! Processes that come and go: children of targets become targets before they run, a target that
//! exits is let go.
//!
//! Rare enough to be logged; the verifier drops the logging unless it is asked for.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid, macros::raw_tracepoint, programs::RawTracePointContext,
};
use aya_log_ebpf::debug;
use llmtrace_common::record::{Header, kind};

use crate::{
    emit, kernel,
    maps::{SIGNAL_LIVE, TARGETS, TASK_SIGNAL, TASK_TGID, WATCH_PROCESSES},
    target, tls,
};

/// `(parent, child)`; also for new threads, whose group is the parent's.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn sched_process_fork(ctx: RawTracePointContext) -> i32 {
    let Some(parent) = kernel::field::<u32>(ctx.arg(0), &TASK_TGID) else { return 0 };
    let Some(child) = kernel::field::<u32>(ctx.arg(1), &TASK_TGID) else { return 0 };
    if parent == child {
        return 0;
    }
    // SAFETY: four bytes, either the old or the new value.
    let Some(how) = (unsafe { TARGETS.get(parent) }) else { return 0 };
    let how = *how;
    if how & llmtrace_common::config::target::NEVER != 0 {
        return 0;
    }
    target::add(child, how);
    debug!(&ctx, "process {} forked {}: a target", parent, child);
    emit::process(&Header { kind: kind::FORK, pid: child, len: parent, ..Header::default() });
    0
}

/// Runs in the process that executes.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn sched_process_exec(ctx: RawTracePointContext) -> i32 {
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if WATCH_PROCESSES.load() != 0 || target::of_current(pid) != 0 {
        debug!(&ctx, "process {} executes a program", pid);
        emit::process(&Header { kind: kind::EXEC, pid, ..Header::default() });
    }
    0
}

/// Runs in each thread that exits; `signal->live` has been decremented before.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn sched_process_exit(ctx: RawTracePointContext) -> i32 {
    tls::thread_ended(bpf_get_current_pid_tgid() as u32);
    let task: u64 = ctx.arg(0);
    let Some(signal) = kernel::field::<u64>(task, &TASK_SIGNAL) else { return 0 };
    if kernel::field::<i32>(signal, &SIGNAL_LIVE) != Some(0) {
        return 0;
    }
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if target::of_current(pid) == 0 {
        return 0;
    }
    target::remove(pid);
    debug!(&ctx, "process {} exits: a target no more", pid);
    emit::process(&Header { kind: kind::EXIT, pid, ..Header::default() });
    0
}
