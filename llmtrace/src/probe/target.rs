//! Which processes the user means: matching against `/proc`, and cgroup paths to ids.
//!
//! The kernel side follows children by itself; this finds what is there at the start and what
//! appears under a name, a path or a port.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use llmtrace_common::config::{Cgroup, target};
use wildmatch::WildMatch;

use super::{ProbeError, container};

/// Processes to trace, as the user named them. The kinds are alternatives, not conditions.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub pids: Vec<u32>,
    pub cgroups: Vec<PathBuf>,
    /// Ids of containers, or their beginnings, until [`Wanted::find_containers`].
    pub containers: Vec<String>,
    /// Globs over the process name.
    pub comms: Vec<WildMatch>,
    /// Globs over the path of the executable, or its last part.
    pub exes: Vec<WildMatch>,
    /// Local ports of servers.
    pub ports: Vec<u16>,
    pub all: bool,
    /// Of the `pids`, those that have left.
    pub gone: HashSet<u32>,
}

impl Wanted {
    /// Nothing was named: every process that listens for stream connections.
    pub fn auto(&self) -> bool {
        !self.all
            && self.pids.is_empty()
            && self.cgroups.is_empty()
            && self.containers.is_empty()
            && self.comms.is_empty()
            && self.exes.is_empty()
            && self.ports.is_empty()
    }

    /// Whether processes can become targets later, by what they execute or listen on.
    pub fn watches(&self) -> bool {
        self.auto() || !(self.comms.is_empty() && self.exes.is_empty() && self.ports.is_empty())
    }

    /// For the `ready` line.
    pub fn describe(&self) -> String {
        if self.all {
            return "all".into();
        }
        if self.auto() {
            return "auto".into();
        }
        let mut parts = Vec::new();
        parts.extend(self.pids.iter().map(|p| format!("pid:{p}")));
        parts.extend(self.cgroups.iter().map(|c| format!("cgroup:{}", c.display())));
        parts.extend(self.containers.iter().map(|c| format!("container:{c}")));
        parts.extend(self.comms.iter().map(|c| format!("comm:{c}")));
        parts.extend(self.exes.iter().map(|c| format!("exe:{c}")));
        parts.extend(self.ports.iter().map(|p| format!("port:{p}")));
        parts.join(",")
    }

    /// Makes cgroups of the containers.
    pub fn find_containers(&mut self) -> Result<(), ProbeError> {
        for id in std::mem::take(&mut self.containers) {
            let none = || ProbeError::Cgroup {
                path: format!("of container {id}"),
                reason: "no cgroup v2 hierarchy is mounted".into(),
            };
            let mount = cgroup_mount().ok_or_else(none)?;
            self.cgroups.push(container::find(&mount, &id)?);
        }
        Ok(())
    }

    /// How a process that just executed a program is to be traced; 0 if it is not.
    pub fn by_name(&self, pid: u32) -> u32 {
        let comm = || fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if !self.comms.is_empty() {
            let comm = comm();
            if self.comms.iter().any(|glob| glob.matches(comm.trim_end())) {
                return target::ALL;
            }
        }
        if !self.exes.is_empty()
            && let Ok(exe) = fs::read_link(format!("/proc/{pid}/exe"))
        {
            let path = exe.to_string_lossy();
            let name = exe.file_name().unwrap_or_default().to_string_lossy();
            if self.exes.iter().any(|glob| glob.matches(&path) || glob.matches(&name)) {
                return target::ALL;
            }
        }
        0
    }

    /// How a process that listens on a port is to be traced.
    pub fn by_port(&self, port: Option<u16>) -> u32 {
        match port {
            _ if self.auto() => target::ALL,
            Some(port) if self.ports.contains(&port) => target::PORTS,
            _ => 0,
        }
    }

    /// Every process that matches now, children of named ones included.
    pub fn scan(&self) -> Vec<(u32, u32)> {
        let pids = processes();
        let mut found: HashMap<u32, u32> = HashMap::new();
        let parents: Vec<(u32, u32)> =
            pids.iter().filter_map(|&pid| Some((pid, parent(pid)?))).collect();
        let mut named: HashSet<u32> = self.pids.iter().copied().collect();
        named.retain(|pid| !self.gone.contains(pid));
        let mut listeners = Listeners::default();
        for &pid in &pids {
            if self.by_name(pid) != 0 {
                named.insert(pid);
            }
            if self.auto() || !self.ports.is_empty() {
                for port in listeners.of(pid) {
                    *found.entry(pid).or_default() |= self.by_port(port);
                }
            }
        }
        // Children may precede their parents in the list; depth is small.
        while parents.iter().any(|(pid, ppid)| named.contains(ppid) && named.insert(*pid)) {}
        for pid in named {
            found.insert(pid, target::ALL);
        }
        found.remove(&std::process::id());
        found.into_iter().filter(|(_, how)| *how != 0).collect()
    }

    /// Whether a process is a target for another reason than its id: all are, or its cgroup is.
    pub fn covers(&self, pid: u32) -> bool {
        self.all || !self.cgroups.is_empty() && self.covered().contains(&pid)
    }

    /// All such processes.
    pub fn covered(&self) -> Vec<u32> {
        if self.all {
            let mut pids = processes();
            pids.retain(|&pid| pid != std::process::id());
            return pids;
        }
        let mut pids = Vec::new();
        let mut folders: Vec<PathBuf> = self.cgroups.iter().filter_map(|c| full(c).ok()).collect();
        while let Some(folder) = folders.pop() {
            let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            let below = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
            folders.extend(below.map(|e| e.path()));
        }
        pids.retain(|&pid| pid != std::process::id());
        pids
    }

    /// A process is no more: what gets its id later is not what the user named.
    pub fn forget(&mut self, pid: u32) {
        // It stays named: nothing named at all would mean everything.
        if self.pids.contains(&pid) {
            self.gone.insert(pid);
        }
    }

    /// The cgroups that are at their paths now, each where there is one.
    pub fn cgroups_now(&self) -> impl Iterator<Item = Option<Cgroup>> {
        self.cgroups.iter().map(|path| cgroup(path).ok())
    }

    /// Ids of the cgroups, for the kernel side.
    pub fn cgroup_ids(&self) -> Result<Vec<Cgroup>, ProbeError> {
        self.cgroups.iter().map(|path| cgroup(path)).collect()
    }
}

/// Where processes listen: TCP ports, and whether on unix sockets too.
#[derive(Debug, Default)]
pub struct Listening {
    pub ports: Vec<u16>,
    pub unix: bool,
}

impl Listening {
    pub fn of(pids: &[u32]) -> Self {
        let mut listeners = Listeners::default();
        let all: HashSet<Option<u16>> = pids.iter().flat_map(|&p| listeners.of(p)).collect();
        let unix = all.contains(&None);
        Self { ports: all.into_iter().flatten().collect(), unix }
    }
}

/// A process that listens.
#[derive(Clone, Debug)]
pub struct Listener {
    pub pid: u32,
    pub ports: Vec<u16>,
    pub unix: bool,
}

/// Every process that listens for stream connections, but the agent.
pub fn listeners() -> Vec<Listener> {
    let mut sockets = Listeners::default();
    let mut found = Vec::new();
    for pid in processes() {
        let listens = sockets.of(pid);
        if listens.is_empty() || pid == std::process::id() {
            continue;
        }
        let unix = listens.contains(&None);
        let mut ports: Vec<u16> = listens.into_iter().flatten().collect();
        ports.sort_unstable();
        ports.dedup();
        found.push(Listener { pid, ports, unix });
    }
    found.sort_by_key(|listener| listener.pid);
    found
}

/// Threads of processes that are waiting in a read right now, each with the call as `/proc` shows
/// it: the same text later means the same call.
pub fn reading_threads(pids: &[u32]) -> Vec<(PathBuf, String)> {
    /// read, readv, recvfrom, recvmsg on x86_64.
    const READS: [&str; 4] = ["0 ", "19 ", "45 ", "47 "];
    let mut threads = Vec::new();
    for pid in pids {
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let path = task.path().join("syscall");
            let call = fs::read_to_string(&path).unwrap_or_default();
            if READS.iter().any(|read| call.starts_with(read)) {
                threads.push((path, call));
            }
        }
    }
    threads
}

/// Whether a process has an io_uring.
pub fn uses_io_uring(pid: u32) -> bool {
    let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    fds.flatten()
        .any(|fd| fs::read_link(fd.path()).is_ok_and(|l| l == Path::new("anon_inode:[io_uring]")))
}

/// Processes that have an io_uring, with their names.
pub fn io_uring_users() -> Vec<(u32, String)> {
    let name = |pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    processes()
        .into_iter()
        .filter(|pid| uses_io_uring(*pid))
        .map(|pid| (pid, name(pid).trim_end().to_owned()))
        .collect()
}

/// Processes there are.
fn processes() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, also parentheses: fields follow the last one.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Listening sockets by inode, per network namespace, read once per scan.
#[derive(Default)]
struct Listeners {
    namespaces: HashMap<u64, HashMap<u64, Option<u16>>>,
}

impl Listeners {
    /// Ports that a process listens on; None for a unix stream socket.
    fn of(&mut self, pid: u32) -> Vec<Option<u16>> {
        let Ok(namespace) = fs::metadata(format!("/proc/{pid}/ns/net")) else { return Vec::new() };
        let sockets =
            self.namespaces.entry(namespace.ino()).or_insert_with(|| listening_sockets(pid));
        if sockets.is_empty() {
            return Vec::new();
        }
        let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
        fds.flatten()
            .filter_map(|fd| {
                let link = fs::read_link(fd.path()).ok()?;
                let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
                sockets.get(&inode.parse().ok()?).copied()
            })
            .collect()
    }
}

/// The TCP port that a process listens on, if it is one only.
pub fn only_port(pid: u32) -> Option<u16> {
    let ports: HashSet<u16> = Listeners::default().of(pid).into_iter().flatten().collect();
    ports.iter().next().copied().filter(|_| ports.len() == 1)
}

fn listening_sockets(pid: u32) -> HashMap<u64, Option<u16>> {
    let mut sockets = HashMap::new();
    for table in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, "0A", _, _, _, _, _, inode, ..] = fields[..] else { continue };
            let port = local.rsplit_once(':').and_then(|(_, p)| u16::from_str_radix(p, 16).ok());
            if let (Some(port), Ok(inode)) = (port, inode.parse()) {
                sockets.insert(inode, Some(port));
            }
        }
    }
    let text = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
    for line in text.lines().skip(1) {
        // Num RefCount Protocol Flags Type St Inode Path; the flag is SO_ACCEPTCON.
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, _, _, "00010000", "0001", _, inode, ..] = fields[..] else { continue };
        if let Ok(inode) = inode.parse() {
            sockets.insert(inode, None);
        }
    }
    sockets
}

/// The directory of a cgroup v2 that is given as absolute, or relative to the mount of the
/// hierarchy.
fn full(path: &Path) -> Result<PathBuf, ProbeError> {
    let fail = |reason: &str| ProbeError::Cgroup {
        path: path.display().to_string(),
        reason: reason.into(),
    };
    let mount = cgroup_mount().ok_or_else(|| fail("no cgroup v2 hierarchy is mounted"))?;
    let relative = path.strip_prefix("/").unwrap_or(path);
    let full = if path.starts_with(&mount) { path.to_owned() } else { mount.join(relative) };
    fs::canonicalize(&full).map_err(|e| fail(&format!("{e} ({})", full.display())))
}

fn cgroup(path: &Path) -> Result<Cgroup, ProbeError> {
    let fail = |reason: &str| ProbeError::Cgroup {
        path: path.display().to_string(),
        reason: reason.into(),
    };
    let full = full(path)?;
    let mount = cgroup_mount().ok_or_else(|| fail("no cgroup v2 hierarchy is mounted"))?;
    let below = full.strip_prefix(&mount).map_err(|_| fail("not in the cgroup v2 hierarchy"))?;
    let id = fs::metadata(&full).map_err(|e| fail(&e.to_string()))?.ino();
    Ok(Cgroup { id, level: below.components().count() as u32, pad: 0 })
}

/// Where the cgroup v2 hierarchy is mounted.
pub fn cgroup_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        right.starts_with("cgroup2 ").then(|| left.split_whitespace().nth(4).map(PathBuf::from))?
    })
}
