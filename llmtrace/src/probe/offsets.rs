//! Offsets of fields in this kernel's structures, from its BTF.
//!
//! rustc emits no CO-RE relocations, so the kernel side takes offsets as globals; the verifier
//! sees them as constants, since their map is frozen before the programs load.

use std::path::{Path, PathBuf};

use btf_rs::{Backend, Btf, BtfType, Type};

use super::ProbeError;

/// Where a kernel shows its types. `LLMTRACE_BTF` points elsewhere (kernels with detached BTF).
pub fn btf_path() -> PathBuf {
    std::env::var_os("LLMTRACE_BTF").map_or_else(|| "/sys/kernel/btf/vmlinux".into(), PathBuf::from)
}

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
    ("SOCKET_TYPE", "socket", "type"),
    ("SOCKET_FILE", "socket", "file"),
    ("SOCKET_SK", "socket", "sk"),
    ("SOCKET_INO", "socket_alloc", "vfs_inode.i_ino"),
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
    ("UNIX_ADDR", "unix_sock", "addr"),
    ("UNIX_ADDRESS_LEN", "unix_address", "len"),
    ("UNIX_ADDRESS_NAME", "unix_address", "name"),
];

/// Reads the offsets that the kernel side needs.
pub fn resolve(path: &Path) -> Result<Offsets, ProbeError> {
    let shown = path.display().to_string();
    if !path.exists() {
        return Err(ProbeError::NoBtf { path: shown });
    }
    // Mapping reads only what is looked up; kernels before 6.16 refuse it for their own BTF.
    let btf = Btf::from_file_with_backend(path, Backend::Mmap)
        .or_else(|_| Btf::from_file(path))
        .map_err(|e| ProbeError::BadBtf { path: shown.clone(), reason: e.to_string() })?;
    let types = Types { btf, path: shown };
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
    neighbours(&offsets, "FDTABLE_MAX_FDS", "FDTABLE_FD")?;
    neighbours(&offsets, "SOCKET_FILE", "SOCKET_SK")?;
    Ok(offsets)
}

/// Two fields that the kernel side reads at once must be eight bytes apart.
fn neighbours(offsets: &Offsets, a: &str, b: &str) -> Result<(), ProbeError> {
    let of = |name| offsets.fields.iter().find(|(n, _)| *n == name).map(|(_, at)| *at);
    match (of(a), of(b)) {
        (Some(a), Some(b)) if b == a + 8 => Ok(()),
        _ => Err(ProbeError::Layout { what: format!("{a}/{b}") }),
    }
}

struct Types {
    btf: Btf,
    path: String,
}

impl Types {
    /// Offset in bytes of `path` (members separated by dots) in structure `name`.
    fn offset(&self, name: &str, path: &str) -> Result<u32, ProbeError> {
        let missing = || ProbeError::Layout { what: format!("{name}.{path}") };
        let candidates = self.btf.resolve_types_by_name(name).map_err(|e| ProbeError::BadBtf {
            path: self.path.clone(),
            reason: format!("{name}: {e}"),
        })?;
        let mut current =
            candidates.into_iter().find(|t| matches!(t, Type::Struct(_))).ok_or_else(missing)?;
        let mut bits = 0;
        let mut parts = path.split('.').peekable();
        while let Some(part) = parts.next() {
            let (at, member) = self.member(&current, part).ok_or_else(missing)?;
            bits += at;
            if parts.peek().is_some() {
                current = self.structure(member).ok_or_else(missing)?;
            }
        }
        if bits % 8 == 0 { Ok(bits / 8) } else { Err(missing()) }
    }

    /// Bit offset and type of a member, also inside anonymous structures and unions.
    fn member(&self, within: &Type, name: &str) -> Option<(u32, Type)> {
        let (Type::Struct(s) | Type::Union(s)) = within else { return None };
        for member in &s.members {
            let found = self.btf.resolve_name(member).unwrap_or_default();
            if found == name {
                return Some((member.bit_offset(), self.btf.resolve_chained_type(member).ok()?));
            }
            if found.is_empty() {
                let inner = self.structure(self.btf.resolve_chained_type(member).ok()?);
                if let Some((at, ty)) = inner.and_then(|t| self.member(&t, name)) {
                    return Some((member.bit_offset() + at, ty));
                }
            }
        }
        None
    }

    /// Through typedefs and qualifiers to a structure or union.
    fn structure(&self, mut ty: Type) -> Option<Type> {
        for _ in 0..16 {
            if matches!(ty, Type::Struct(_) | Type::Union(_)) {
                return Some(ty);
            }
            let next: &dyn BtfType = ty.as_btf_type()?;
            ty = self.btf.resolve_chained_type(next).ok()?;
        }
        None
    }
}
