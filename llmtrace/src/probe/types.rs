//! This kernel's types, from its BTF: offsets, enumerators, functions, tracepoints.

use std::path::{Path, PathBuf};

use btf_rs::{Backend, Btf, BtfType, Type};

use super::ProbeError;

/// Where a kernel shows its types. `LLMTRACE_BTF` points elsewhere (kernels with detached BTF).
pub fn btf_path() -> PathBuf {
    std::env::var_os("LLMTRACE_BTF").map_or_else(|| "/sys/kernel/btf/vmlinux".into(), PathBuf::from)
}

/// The types of one kernel.
pub struct Types {
    btf: Btf,
    path: String,
}

impl Types {
    pub fn read(path: &Path) -> Result<Self, ProbeError> {
        let shown = path.display().to_string();
        if !path.exists() {
            return Err(ProbeError::NoBtf { path: shown });
        }
        // Mapping reads only what is looked up; kernels before 6.16 refuse it for their own BTF.
        let btf = Btf::from_file_with_backend(path, Backend::Mmap)
            .or_else(|_| Btf::from_file(path))
            .map_err(|e| ProbeError::BadBtf { path: shown.clone(), reason: e.to_string() })?;
        Ok(Self { btf, path: shown })
    }

    fn named(&self, name: &str) -> Vec<Type> {
        // An unknown name is an error to this library.
        self.btf.resolve_types_by_name(name).unwrap_or_default()
    }

    /// Whether the kernel has a function of this name that can be hooked.
    pub fn has_function(&self, name: &str) -> bool {
        self.named(name).iter().any(|t| matches!(t, Type::Func(_)))
    }

    /// The id of a function among the types.
    pub fn function(&self, name: &str) -> Option<u32> {
        let ids = self.btf.resolve_ids_by_name(name).ok()?;
        ids.into_iter().find(|&id| matches!(self.btf.resolve_type_by_id(id), Ok(Type::Func(_))))
    }

    /// Whether a structure of this name has a member of that one.
    pub fn has_member(&self, name: &str, member: &str) -> bool {
        self.named(name).iter().any(|ty| self.member(ty, member).is_some())
    }

    /// How many arguments a function takes.
    pub fn arguments(&self, name: &str) -> Option<usize> {
        self.named(name).iter().find_map(|t| {
            let Type::Func(function) = t else { return None };
            match self.btf.resolve_chained_type(function).ok()? {
                Type::FuncProto(proto) => Some(proto.parameters.len()),
                _ => None,
            }
        })
    }

    /// Whether the kernel has a tracepoint of this name.
    pub fn has_tracepoint(&self, name: &str) -> bool {
        self.named(&format!("btf_trace_{name}")).iter().any(|t| matches!(t, Type::Typedef(_)))
    }

    /// The value of an enumerator.
    pub fn enumerator(&self, of: &str, name: &str) -> Option<u32> {
        self.named(of).iter().find_map(|t| {
            let Type::Enum(e) = t else { return None };
            let member =
                e.members.iter().find(|m| self.btf.resolve_name(*m).is_ok_and(|n| n == name))?;
            Some(member.val())
        })
    }

    /// Offset in bytes of `path` (members separated by dots) in structure `name`.
    pub fn offset(&self, name: &str, path: &str) -> Result<u32, ProbeError> {
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
