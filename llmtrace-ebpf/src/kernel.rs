//! Reads of kernel structures by the offsets that the agent found in this kernel's BTF.
//!
//! A program that is handed typed pointers (fentry, BTF tracepoints) reads them with plain loads,
//! which the verifier checks against the type; the others call a helper for each field, which
//! costs ten times as much. [`Access`] is the choice between the two.

use aya_ebpf::{
    Global,
    helpers::{
        bpf_get_current_task, bpf_probe_read_kernel, bpf_probe_read_kernel_buf,
        generated::bpf_skc_to_tcp_sock,
    },
};

use crate::maps::{
    FDTABLE_MAX_FDS, FILE_INODE, FILE_PRIVATE, FILES_FDT, INODE_INO, SOCK_SOCKET, SOCKET_FILE,
    SOCKET_INO, TASK_FILES,
};

/// How a program reads kernel structures.
pub trait Access {
    /// The field at `offset` of the structure at `base`.
    fn get<T: Copy>(base: u64, offset: &Global<u32>) -> Option<T>;

    /// A `sock` as a `tcp_sock`; 0 if it is none.
    fn tcp(sock: u64) -> u64;

    /// The inode number of a socket: unique among living sockets, and not reused before 2^32
    /// others were made. None for a socket that no descriptor refers to.
    fn inode(sock: u64) -> Option<u64>;
}

/// Plain loads, for pointers that the verifier knows the type of.
pub struct Typed;

/// Helper calls, for any address.
pub struct Probed;

impl Access for Typed {
    #[inline(always)]
    fn get<T: Copy>(base: u64, offset: &Global<u32>) -> Option<T> {
        let address = base.wrapping_add(u64::from(offset.load()));
        // SAFETY: the verifier proves that `base` points to a structure with such a field; a page
        // that is not there reads as zero.
        Some(unsafe { core::ptr::read_volatile(address as *const T) })
    }

    #[inline(always)]
    fn tcp(sock: u64) -> u64 {
        // SAFETY: takes a typed socket, which the verifier proves, and checks its protocol.
        (unsafe { bpf_skc_to_tcp_sock(sock as *mut _) }) as u64
    }

    #[inline(always)]
    fn inode(sock: u64) -> Option<u64> {
        let socket: u64 = Self::get(sock, &SOCK_SOCKET)?;
        if socket == 0 {
            return None;
        }
        let file: u64 = Self::get(socket, &SOCKET_FILE)?;
        if file == 0 {
            return None;
        }
        let inode: u64 = Self::get(file, &FILE_INODE)?;
        if inode == 0 {
            return None;
        }
        Self::get(inode, &INODE_INO)
    }
}

impl Access for Probed {
    #[inline(always)]
    fn get<T: Copy>(base: u64, offset: &Global<u32>) -> Option<T> {
        field(base, offset)
    }

    #[inline(always)]
    fn tcp(sock: u64) -> u64 {
        sock
    }

    #[inline(always)]
    fn inode(sock: u64) -> Option<u64> {
        let socket: u64 = field(sock, &SOCK_SOCKET)?;
        if socket == 0 {
            return None;
        }
        field(socket, &SOCKET_INO)
    }
}

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
    bytes_at(base.wrapping_add(u64::from(offset.load())), out)
}

/// Fills `out` from a kernel address.
#[inline(always)]
pub fn bytes_at<const N: usize>(address: u64, out: &mut [u8; N]) -> Option<()> {
    // SAFETY: the helper checks the address and fails on one that cannot be read.
    unsafe { bpf_probe_read_kernel_buf(address as *const u8, out) }.ok()
}

/// An open socket, found by its descriptor.
#[derive(Clone, Copy)]
pub struct OpenSocket {
    pub file: u64,
    pub sock: u64,
    /// As [`Access::inode`] says.
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
    Some(OpenSocket { file, sock, inode })
}
