//! Reads of kernel structures by the offsets that the agent found in this kernel's BTF.
//!
//! Every read may fail (the pointer chain is walked without locks); a failure ends the walk and
//! the call is not traced.

use aya_ebpf::{
    Global,
    helpers::{bpf_get_current_task, bpf_probe_read_kernel, bpf_probe_read_kernel_buf},
};

use crate::maps::{FDTABLE_MAX_FDS, FILE_PRIVATE, FILES_FDT, SOCKET_FILE, SOCKET_INO, TASK_FILES};

/// Reads the field at `offset` of the structure at `base`.
#[inline(always)]
pub fn field<T: Copy>(base: u64, offset: &Global<u32>) -> Option<T> {
    at(base.wrapping_add(u64::from(offset.load())))
}

/// Reads a value at a kernel address.
#[inline(always)]
pub fn at<T: Copy>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails on one that cannot be read.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}

/// Fills `out` from the field at `offset` of the structure at `base`.
#[inline(always)]
pub fn bytes<const N: usize>(base: u64, offset: &Global<u32>, out: &mut [u8; N]) -> Option<()> {
    let address = base.wrapping_add(u64::from(offset.load()));
    // SAFETY: the helper checks the address and fails on one that cannot be read.
    unsafe { bpf_probe_read_kernel_buf(address as *const u8, out) }.ok()
}

/// An open socket, found by its descriptor.
#[derive(Clone, Copy)]
pub struct OpenSocket {
    pub file: u64,
    pub sock: u64,
    pub socket: u64,
    /// Unique among living sockets, and not reused before 2^32 others were made.
    pub inode: u64,
}

/// From a descriptor of the current task to its socket; None if it is not one.
///
/// Mirrors `sockfd_lookup_light` without its locks. A socket is told from any other file by its
/// back-pointer: `file->private_data->file == file`.
#[inline(always)]
pub fn socket_of(fd: u32) -> Option<OpenSocket> {
    // SAFETY: takes no argument and always succeeds.
    let task = unsafe { bpf_get_current_task() };
    let files: u64 = field(task, &TASK_FILES)?;
    let fdt: u64 = field(files, &FILES_FDT)?;
    // `max_fds` and `fd` are neighbours on every kernel; the agent checks that.
    let [max_fds, table]: [u64; 2] = field(fdt, &FDTABLE_MAX_FDS)?;
    if fd >= max_fds as u32 {
        return None;
    }
    let file: u64 = at(table.wrapping_add(u64::from(fd) * 8))?;
    if file == 0 {
        return None;
    }
    let socket: u64 = field(file, &FILE_PRIVATE)?;
    if socket == 0 {
        return None;
    }
    // So are `file` and `sk`.
    let [back, sock]: [u64; 2] = field(socket, &SOCKET_FILE)?;
    if back != file || sock == 0 {
        return None;
    }
    let inode: u64 = field(socket, &SOCKET_INO)?;
    Some(OpenSocket { file, sock, socket, inode })
}
