//! Why capture cannot start, in words that say what would help.

/// An error of the kernel side. [`ProbeError::is_unsupported`] separates "this machine or these
/// privileges cannot do it" (exit code 3) from failures.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error(
        "not enough privileges: {missing} missing; run as root, or as any user with CAP_BPF, \
         CAP_PERFMON, CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
    )]
    Privileges { missing: String },
    #[error(
        "this kernel has no type information at {path}: llmtrace needs a kernel built with \
         CONFIG_DEBUG_INFO_BTF (every distribution kernel since 5.8 or so has it)"
    )]
    NoBtf { path: String },
    #[error("the kernel's type information (BTF) at {path} cannot be read: {reason}")]
    BadBtf { path: String, reason: String },
    #[error("this kernel (Linux {release}) has no {what}: Linux 5.8 or later has it")]
    Kernel { release: String, what: &'static str },
    #[error(
        "no way to hook this kernel's sockets (Linux {release}): {refused}; \
         `llmtrace doctor` says more"
    )]
    NoBackend { release: String, refused: String },
    #[error("kernel structure {what} is not as expected: this kernel is not supported yet")]
    Layout { what: String },
    #[error("cannot load the kernel programs: {0}")]
    Load(String),
    #[error("cannot attach {program}: {reason}")]
    Attach { program: &'static str, reason: String },
    #[error("kernel map {map}: {reason}")]
    Map { map: &'static str, reason: String },
    #[error("cgroup {path}: {reason}")]
    Cgroup { path: String, reason: String },
    #[error("no process {0}: it has exited, or the number is wrong")]
    NoProcess(u32),
    #[error("ring buffer: {0}")]
    Ring(#[source] std::io::Error),
}

impl ProbeError {
    /// Whether the kernel refused a kind of program to somebody who may load others.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::NoBackend { refused, .. } if refused.contains("not permitted"))
    }

    /// Whether no other argument would help: the kernel or the privileges have to change.
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self,
            Self::Privileges { .. }
                | Self::NoBtf { .. }
                | Self::BadBtf { .. }
                | Self::Kernel { .. }
                | Self::NoBackend { .. }
                | Self::Layout { .. }
        )
    }
}
