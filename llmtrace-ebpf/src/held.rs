//! Keeps the processor while a program is at work on a target's call, on kernels that would take it.
//!
//! A kernel that preempts programs (7.0 and later by default) does not run the same program for any
//! other thread of that processor until the preempted one goes on: all of their calls would be lost.
//! What forbids it are kernel functions, which have no numbers of their own: the agent puts them in
//! place of these calls, or nothing where there is no need.
//!
//! Preemption is allowed again while interrupts are off: a switch that has come due meanwhile then
//! waits for the next occasion, which is after the program's end and not inside it.

use llmtrace_common::config::kfunc;

#[inline(always)]
pub fn held<R>(work: impl FnOnce() -> R) -> R {
    call::<{ kfunc::PREEMPT_DISABLE }>(core::ptr::null_mut());
    let result = work();
    let mut flags = 0;
    call::<{ kfunc::IRQ_SAVE }>(&raw mut flags);
    call::<{ kfunc::PREEMPT_ENABLE }>(core::ptr::null_mut());
    call::<{ kfunc::IRQ_RESTORE }>(&raw mut flags);
    result
}

#[inline(always)]
fn call<const NUMBER: usize>(flags: *mut u64) {
    // SAFETY: how helpers are called; the agent replaces each such call before it loads the program.
    unsafe {
        let function: unsafe extern "C" fn(*mut u64) = core::mem::transmute(NUMBER);
        function(flags);
    }
}
