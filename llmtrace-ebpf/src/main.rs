//! The kernel side of llmtrace: filter, timestamp, copy, count. Nothing here parses a body.
//!
//! Entry points are in `sock/{fentry,kprobe,ktls,tracepoint,syscall,arrival}.rs`, `tls/`,
//! `lifecycle.rs` and `process.rs`; everything else is shared by them.
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "aya's entry points take contexts by value")]

mod emit;
mod held;
mod kernel;
mod lifecycle;
mod maps;
mod memory;
mod process;
mod sock;
mod stash;
mod target;
mod tls;

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that no path gets here.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
