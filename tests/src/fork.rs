//! Fork, for the test of servers that do.

use std::io;

/// Runs `serve` in a child, which exits afterwards. The parent goes on at once.
///
/// The caller must have one thread only.
pub fn in_child(serve: impl FnOnce()) -> io::Result<()> {
    // SAFETY: no other thread exists that could hold a lock across the fork.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            serve();
            // SAFETY: _exit has no preconditions; the parent's buffers are not flushed twice.
            unsafe { libc::_exit(0) }
        }
        _ => Ok(()),
    }
}

/// Forks; whether this is the child, which the parent's end takes with it by the process group.
///
/// The caller must have one thread only.
pub fn is_child() -> io::Result<bool> {
    // SAFETY: no other thread exists that could hold a lock across the fork.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid == 0),
    }
}

/// Lets the kernel reap the children.
pub fn ignore_children() {
    // SAFETY: SIG_IGN is a valid disposition of SIGCHLD.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
    }
}
