//! Signals and the verifier: a signal to the thread that loads a program makes the kernel give up.

/// Leaves SIGTERM, SIGINT and SIGHUP to the process's other threads.
pub fn block() {
    // SAFETY: a set that is made here, and the mask of the calling thread only.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::sigaddset(&raw mut set, libc::SIGHUP);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}
