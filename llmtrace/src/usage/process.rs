//! A process, as `/proc` has it.

use std::fs;

use crate::metrics::TargetUse;
use crate::metrics::process::{USER_HZ, field, ticks};
use crate::probe::process::display_name;

/// Most descriptors of a process that are looked at.
const MAX_FDS: usize = 65_536;

/// None: there is no such process.
pub(super) fn look(pid: u32) -> Option<TargetUse> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, _) = stat.rsplit_once(')')?;
    let (_, comm) = head.split_once('(')?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let cpu = ticks(&stat, 14).zip(ticks(&stat, 15));
    Some(TargetUse {
        pid,
        process: display_name(pid, comm).into(),
        cpu_seconds: cpu.map(|(user, system)| (user + system) / USER_HZ),
        resident_bytes: field(&status, "VmRSS:").map(|kib| kib as u64 * 1024),
        open_sockets: sockets(pid),
        gpus: Vec::new(),
    })
}

/// None: they are not for us to see.
fn sockets(pid: u32) -> Option<u64> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let targets = fds.take(MAX_FDS).flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    let socket =
        |target: &std::path::PathBuf| target.as_os_str().as_encoded_bytes().starts_with(b"socket:");
    Some(targets.filter(socket).count() as u64)
}
