//! Offsets of fields in this kernel's structures, from its BTF.
//!
//! rustc emits no CO-RE relocations, so the kernel side takes offsets as globals; the verifier
//! sees them as constants, since their map is frozen before the programs load.

use super::{ProbeError, types::Types};

/// Values for the kernel side's globals.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Offsets {
    pub fields: Vec<(&'static str, u32)>,
    /// What the count of a file holds when one reference is left.
    pub file_count_one: u64,
}

/// `(global, structure, path of members)`.
const WANTED: &[(&str, &str, &str)] = &[
    ("TASK_FILES", "task_struct", "files"),
    ("TASK_TGID", "task_struct", "tgid"),
    ("TASK_LEADER", "task_struct", "group_leader"),
    ("TASK_COMM", "task_struct", "comm"),
    ("TASK_PARENT", "task_struct", "real_parent"),
    ("TASK_SIGNAL", "task_struct", "signal"),
    ("SIGNAL_LIVE", "signal_struct", "live"),
    ("FILES_FDT", "files_struct", "fdt"),
    ("FDTABLE_MAX_FDS", "fdtable", "max_fds"),
    ("FDTABLE_FD", "fdtable", "fd"),
    ("FILE_PRIVATE", "file", "private_data"),
    ("FILE_INODE", "file", "f_inode"),
    ("INODE_INO", "inode", "i_ino"),
    ("SOCKET_FILE", "socket", "file"),
    ("SOCKET_SK", "socket", "sk"),
    ("SOCKET_INO", "socket_alloc", "vfs_inode.i_ino"),
    ("SOCK_TYPE", "sock", "sk_type"),
    ("SOCK_SOCKET", "sock", "sk_socket"),
    ("SOCK_SHUTDOWN", "sock", "sk_shutdown"),
    ("SOCK_STATE", "sock", "__sk_common.skc_state"),
    ("SOCK_FLAGS", "sock", "__sk_common.skc_flags"),
    ("SOCK_FAMILY", "sock", "__sk_common.skc_family"),
    ("SOCK_DADDR", "sock", "__sk_common.skc_daddr"),
    ("SOCK_RCV_SADDR", "sock", "__sk_common.skc_rcv_saddr"),
    ("SOCK_DPORT", "sock", "__sk_common.skc_dport"),
    ("SOCK_NUM", "sock", "__sk_common.skc_num"),
    ("SOCK_V6_DADDR", "sock", "__sk_common.skc_v6_daddr"),
    ("SOCK_V6_RCV_SADDR", "sock", "__sk_common.skc_v6_rcv_saddr"),
    ("SOCK_NET", "sock", "__sk_common.skc_net.net"),
    ("SOCK_PROTOCOL", "sock", "sk_protocol"),
    ("NET_INUM", "net", "ns.inum"),
    ("TCP_WRITE_SEQ", "tcp_sock", "write_seq"),
    ("TCP_COPIED_SEQ", "tcp_sock", "copied_seq"),
    ("TCP_RCV_NXT", "tcp_sock", "rcv_nxt"),
    ("TCP_SND_UNA", "tcp_sock", "snd_una"),
    ("TCP_BYTES_RECEIVED", "tcp_sock", "bytes_received"),
    ("TCP_BYTES_ACKED", "tcp_sock", "bytes_acked"),
    ("ICSK_ULP_OPS", "inet_connection_sock", "icsk_ulp_ops"),
    ("ULP_NAME", "tcp_ulp_ops", "name"),
    ("MSG_CONTROL", "msghdr", "msg_control"),
    ("MSG_CONTROLLEN", "msghdr", "msg_controllen"),
    ("UNIX_ADDR", "unix_sock", "addr"),
    ("UNIX_ADDRESS_LEN", "unix_address", "len"),
    ("UNIX_ADDRESS_NAME", "unix_address", "name"),
    ("UNIX_PEER", "unix_sock", "peer"),
    ("ITER_OFFSET", "msghdr", "msg_iter.iov_offset"),
    ("ITER_COUNT", "msghdr", "msg_iter.count"),
    ("ITER_NR_SEGS", "msghdr", "msg_iter.nr_segs"),
];

/// Finds what the kernel side needs.
pub fn resolve(types: &Types) -> Result<Offsets, ProbeError> {
    let mut offsets = Offsets::default();
    for (global, structure, members) in WANTED {
        offsets.fields.push((global, types.offset(structure, members)?));
    }
    // `f_count` became `f_ref` in 6.13, whose value for one reference is 0.
    let (count, one) = match types.offset("file", "f_ref") {
        Ok(at) => (at, 0),
        Err(_) => (types.offset("file", "f_count")?, 1),
    };
    offsets.fields.push(("FILE_COUNT", count));
    offsets.file_count_one = one;
    iterator(types, &mut offsets)?;
    neighbours(&offsets, "FDTABLE_MAX_FDS", "FDTABLE_FD")?;
    neighbours(&offsets, "SOCKET_FILE", "SOCKET_SK")?;
    Ok(offsets)
}

/// `struct iov_iter` over the versions: see the kernel side's memory.rs.
fn iterator(types: &Types, offsets: &mut Offsets) -> Result<(), ProbeError> {
    let (at, wide) = match types.offset("msghdr", "msg_iter.iter_type") {
        Ok(at) => (at, 0),
        Err(_) => (types.offset("msghdr", "msg_iter.type")?, 1),
    };
    let iov = types
        .offset("msghdr", "msg_iter.__iov")
        .or_else(|_| types.offset("msghdr", "msg_iter.iov"))?;
    let missing = || ProbeError::Layout { what: "enum iter_type".into() };
    let iovec = types.enumerator("iter_type", "ITER_IOVEC").ok_or_else(missing)?;
    let ubuf = types.enumerator("iter_type", "ITER_UBUF").unwrap_or(u32::MAX);
    let ubuf_at = types.offset("msghdr", "msg_iter.ubuf").unwrap_or(iov);
    offsets.fields.extend([
        ("ITER_TYPE", at),
        ("ITER_TYPE_WIDE", wide),
        ("ITER_IOV", iov),
        ("ITER_IOVEC", iovec),
        ("ITER_UBUF", ubuf_at),
        ("ITER_UBUF_KIND", ubuf),
    ]);
    // `nonblock` went from `tcp_recvmsg` in 5.19.
    let nonblock = types.arguments("tcp_recvmsg") == Some(6);
    offsets.fields.push(("RECVMSG_NONBLOCK", u32::from(nonblock)));
    Ok(())
}

/// Two fields that the kernel side reads at once must be eight bytes apart.
fn neighbours(offsets: &Offsets, a: &str, b: &str) -> Result<(), ProbeError> {
    let of = |name| offsets.fields.iter().find(|(n, _)| *n == name).map(|(_, at)| *at);
    match (of(a), of(b)) {
        (Some(a), Some(b)) if b == a + 8 => Ok(()),
        _ => Err(ProbeError::Layout { what: format!("{a}/{b}") }),
    }
}
