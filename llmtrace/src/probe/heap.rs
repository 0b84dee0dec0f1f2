//! What the allocator keeps of memory that was freed.

/// Has it give back to the system what is worth it. Types and symbols take megabytes for a moment;
/// once it has seen such, it would by itself keep as much for good, in each thread's part.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    {
        const MMAP_THRESHOLD: libc::c_int = 256 << 10;
        const TRIM_THRESHOLD: libc::c_int = 512 << 10;
        // SAFETY: sets two numbers of the allocator, which may be set at any time.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD);
            libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD);
        }
    }
}

/// Has it give back what is free between things that are in use, which is work.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number of bytes to keep, and may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
