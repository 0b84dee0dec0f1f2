//! What the agent may do: asks for what it needs, and gives up the rest before it starts a thread.
//!
//! Landlock is not used: a process in a Landlock domain may look into no process outside of it,
//! whatever its capabilities are, and looking into other processes is how targets are found.

use std::{ffi::CStr, io};

use caps::{CapSet, Capability, CapsHashSet};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use super::{features, perf::Attr};

/// What every run needs, and what for.
pub const NEEDED: [(Capability, &str); 4] = [
    (Capability::CAP_BPF, "to load kernel programs and make their maps"),
    (Capability::CAP_PERFMON, "for kernel programs that trace, and events of mapped files"),
    (Capability::CAP_SYS_PTRACE, "to look at other users' processes in /proc"),
    (Capability::CAP_DAC_READ_SEARCH, "to read other users' descriptors, programs and libraries"),
];

/// What this process has, as far as it counts here.
fn effective() -> CapsHashSet {
    caps::read(None, CapSet::Effective).unwrap_or_default()
}

/// Capabilities of [`NEEDED`] that this process does not have.
pub fn missing() -> Vec<&'static str> {
    missing_from(&effective())
}

fn missing_from(has: &CapsHashSet) -> Vec<&'static str> {
    let instead = |capability| match capability {
        Capability::CAP_BPF | Capability::CAP_PERFMON => Some(Capability::CAP_SYS_ADMIN),
        Capability::CAP_DAC_READ_SEARCH => Some(Capability::CAP_DAC_OVERRIDE),
        _ => None,
    };
    NEEDED
        .iter()
        .filter(|(c, _)| !has.contains(c) && instead(*c).is_none_or(|other| !has.contains(&other)))
        .map(|(c, _)| name(*c))
        .collect()
}

/// The kernel's name of a capability of [`NEEDED`].
fn name(capability: Capability) -> &'static str {
    match capability {
        Capability::CAP_BPF => "CAP_BPF",
        Capability::CAP_PERFMON => "CAP_PERFMON",
        Capability::CAP_SYS_PTRACE => "CAP_SYS_PTRACE",
        _ => "CAP_DAC_READ_SEARCH",
    }
}

/// Whether the kernel lets this process make uprobes: CAP_PERFMON is enough for some kernels,
/// others want CAP_SYS_ADMIN (6.16, and stable ones from then on).
pub fn may_probe_users() -> bool {
    /// No such file: the kernel asks for privileges before it looks.
    const NOWHERE: &CStr = c"/proc/self/llmtrace-nowhere";
    let kind = std::fs::read_to_string("/sys/bus/event_source/devices/uprobe/type");
    let Some(kind) = kind.ok().and_then(|text| text.trim().parse().ok()) else { return false };
    match Attr::uprobe(kind, NOWHERE, 0).open(0) {
        // There is no such file, so this cannot be.
        Ok(_) => true,
        Err(e) => e.raw_os_error() == Some(libc::ENOENT),
    }
}

/// [`confine`] for a command that captures, before it has a second thread: each has privileges of
/// its own. A machine that refuses it has others to worry about.
pub fn keep_needed(also: &[Capability]) {
    // Before 5.11 a limit counts for maps, which takes a capability to lift.
    features::lift_memory_limit();
    if let Err(e) = confine(also) {
        log::warn!("cannot give up privileges: {e}");
    }
}

/// Gives up, for this thread and those that it starts, every capability that a run does not need,
/// the way to get any by executing a program, and system calls that it never makes. `also` is kept
/// if it is there.
fn confine(also: &[Capability]) -> io::Result<()> {
    let failed = |e: caps::errors::CapsError| io::Error::other(e.to_string());
    let mut keep: CapsHashSet =
        NEEDED.iter().map(|(c, _)| *c).chain(also.iter().copied()).collect();
    let has = caps::read(None, CapSet::Permitted).map_err(failed)?;
    if has.contains(&Capability::CAP_SYS_ADMIN) {
        // Only if this kernel asks for it, which is tried without.
        caps::drop(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).map_err(failed)?;
        if !may_probe_users() {
            keep.insert(Capability::CAP_SYS_ADMIN);
        }
    }
    if has.contains(&Capability::CAP_DAC_OVERRIDE)
        && !has.contains(&Capability::CAP_DAC_READ_SEARCH)
    {
        keep.insert(Capability::CAP_DAC_OVERRIDE);
    }
    // The bounding set first: it takes a capability that goes then.
    if has.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::runtime::thread_all_supported().difference(&keep) {
            caps::drop(None, CapSet::Bounding, *capability).map_err(failed)?;
        }
    }
    let kept: CapsHashSet = has.intersection(&keep).copied().collect();
    // Kernels from before ambient capabilities are older than what is supported.
    caps::clear(None, CapSet::Ambient).map_err(failed)?;
    caps::set(None, CapSet::Effective, &kept).map_err(failed)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(failed)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).map_err(failed)?;
    // SAFETY: takes integers only.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    seccompiler::apply_filter(&filter()?).map_err(io::Error::other)
}

/// What the agent never calls, and what whoever took it over would: above all, where it has to
/// have CAP_SYS_ADMIN.
const NEVER: &[libc::c_long] = &[
    // Another program, or inside another process.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    // The machine.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    // Much kernel for little use.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    // Files by handle, which CAP_DAC_READ_SEARCH opens past every mount.
    libc::SYS_open_by_handle_at,
];

fn filter() -> io::Result<BpfProgram> {
    let arch: TargetArch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let rules = NEVER.iter().map(|call| (*call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)
        .and_then(TryInto::try_into)
        .map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(of: &[Capability]) -> CapsHashSet {
        of.iter().copied().collect()
    }

    #[test]
    fn what_is_missing_is_named() {
        let all: Vec<Capability> = NEEDED.iter().map(|(c, _)| *c).collect();
        assert!(missing_from(&set(&all)).is_empty());
        for without in &all {
            let has = all.iter().copied().filter(|c| c != without).collect();
            assert_eq!(missing_from(&has), [without.to_string()]);
        }
        let older =
            [Capability::CAP_SYS_ADMIN, Capability::CAP_SYS_PTRACE, Capability::CAP_DAC_OVERRIDE];
        assert!(missing_from(&set(&older)).is_empty());
        assert_eq!(missing_from(&set(&older[..1])), ["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"]);
    }

    #[test]
    fn the_filter_compiles() {
        assert!(filter().unwrap().len() > NEVER.len());
    }

    /// In a thread of its own, as all of this is per thread.
    #[test]
    fn a_confined_thread_starts_no_program_and_no_mount() {
        let thread = std::thread::spawn(|| {
            confine(&[]).unwrap();
            let program = std::process::Command::new("/bin/true").status().unwrap_err();
            assert_eq!(program.raw_os_error(), Some(libc::EPERM));
            // SAFETY: takes integers only.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, -1);
            let has = caps::read(None, CapSet::Permitted).unwrap();
            assert!(!has.contains(&Capability::CAP_NET_ADMIN), "{has:?}");
            let inheritable = caps::read(None, CapSet::Inheritable).unwrap();
            assert!(inheritable.is_empty(), "{inheritable:?}");
        });
        thread.join().unwrap();
    }
}
