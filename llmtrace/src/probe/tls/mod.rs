//! TLS libraries in target processes: found as they are mapped, probed once per file, let go when
//! no target has them any more.
//!
//! The probes hang on the file (device and inode), so one attachment serves every process, in
//! whatever container; whether a process is a target is asked first in the kernel program. Files
//! are looked into on a thread of its own: reading the symbols of a large binary takes longer than
//! filling the ring.

mod attach;
mod boring;
mod elf;
mod go;
mod inspect;
mod library;
mod mappings;
mod rustls;
mod steps;
mod watch;
mod worker;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use aya::{
    Ebpf, Pod,
    maps::{HashMap as BpfMap, MapData},
};
use llmtrace_common::config::{TlsConn, state};

pub use library::Kind;

use super::{ProbeError, privileges};
use attach::Attached;
pub use inspect::{Inspector, mapped};
use library::Library;
use mappings::FileId;
use watch::Watch;
use worker::{Answer, Worker};

/// Files that are remembered. Past it, those without TLS are forgotten and looked into again.
const MAX_FILES: usize = 8192;
/// How long a start waits for the files of its first targets to be looked into.
const START_WAIT: Duration = Duration::from_secs(1);
/// How often files that no target has mapped are let go, and mappings searched that no event told
/// of.
const SWEEP: Duration = Duration::from_secs(30);
/// The same where the kernel tells of no mapping.
const SWEEP_BLIND: Duration = Duration::from_secs(1);
/// Processes of a sweep that are read at one poll.
const SWEEP_STEP: usize = 6;

#[repr(transparent)]
#[derive(Clone, Copy)]
struct ConnValue(TlsConn);
// SAFETY: integers only, no padding.
unsafe impl Pod for ConnValue {}

/// What became of a library, as in the `state` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    Attached,
    /// It is there, but its functions could not be found.
    NoFunctions,
    /// The kernel refused the probes.
    Refused,
}

impl State {
    pub const ALL: [Self; 3] = [Self::Attached, Self::NoFunctions, Self::Refused];

    pub fn name(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::NoFunctions => "no_functions",
            Self::Refused => "refused",
        }
    }
}

/// A file that has been seen mapped.
#[derive(Debug)]
enum Known {
    /// Being looked into.
    Asked,
    /// Its libraries; none if there is no TLS in it.
    Read(Vec<Probed>),
}

#[derive(Debug)]
struct Probed {
    kind: Kind,
    state: State,
    links: Attached,
}

/// A search for files that no target has mapped any more: a process at a time, because to read the
/// mappings of all at once could take longer than the ring takes to fill.
#[derive(Debug, Default)]
struct Sweep {
    pids: Vec<u32>,
    mapped: HashSet<FileId>,
}

/// The TLS part of capture.
pub struct Tls {
    conns: BpfMap<MapData, u64, ConnValue>,
    files: HashMap<FileId, Known>,
    /// The agent's own program, which names what it looks for in others and speaks no TLS.
    own: Option<FileId>,
    watch: Option<Watch>,
    worker: Worker,
    sweep: Sweep,
    next_sweep: Instant,
    notes: Vec<String>,
}

impl Tls {
    pub fn new(ebpf: &mut Ebpf) -> Result<Self, ProbeError> {
        let map = "TLS_CONNS";
        let failed = |reason: String| ProbeError::Map { map, reason };
        let taken = ebpf.take_map(map).ok_or_else(|| failed("absent".into()))?;
        let (watch, mut notes) = match Watch::new() {
            Ok(watch) => (Some(watch), Vec::new()),
            Err(e) => (None, vec![format!("no events of mapped files ({e}): searching instead")]),
        };
        if !privileges::may_probe_users() {
            notes.push("not traced: this kernel wants CAP_SYS_ADMIN for uprobes".into());
        }
        let own = mappings::of(std::process::id()).into_iter().find(|mapping| mapping.main);
        Ok(Self {
            conns: BpfMap::try_from(taken).map_err(|e| failed(e.to_string()))?,
            files: HashMap::new(),
            own: own.map(|mapping| mapping.id),
            watch,
            worker: Worker::start().map_err(ProbeError::Ring)?,
            sweep: Sweep::default(),
            next_sweep: Instant::now() + SWEEP,
            notes,
        })
    }

    /// Silences a connection, as `Capture::silence` does a socket.
    pub fn silence(&mut self, id: u64, generation: u32) {
        const EXIST: u64 = 2;
        let Ok(ConnValue(mut conn)) = self.conns.get(&id, 0) else { return };
        if conn.generation == generation {
            conn.state |= state::SILENT;
            let _ = self.conns.insert(id, ConnValue(conn), EXIST);
        }
    }

    /// Looks at what a target has mapped.
    pub fn process(&mut self, pid: u32) {
        for mapping in mappings::of(pid) {
            if self.own == Some(mapping.id) {
                continue;
            }
            if self.files.contains_key(&mapping.id) {
                self.sweep.mapped.insert(mapping.id);
                continue;
            }
            if self.files.len() >= MAX_FILES {
                self.files.retain(|_, known| !matches!(known, Known::Read(l) if l.is_empty()));
            }
            // The process may have gone.
            let Some(file) = mappings::open(pid, &mapping) else { continue };
            self.files.insert(mapping.id, Known::Asked);
            self.sweep.mapped.insert(mapping.id);
            self.worker.ask(mapping, file);
        }
    }

    /// Takes what the kernel and the worker have to say; returns whether targets have mapped something
    /// new, or files are still being looked into. `is_target` is asked about processes that have
    /// mapped something new.
    pub fn poll(
        &mut self,
        ebpf: &mut Ebpf,
        is_target: impl Fn(u32) -> bool,
        targets: impl FnOnce() -> Vec<u32>,
    ) -> bool {
        let mut new = self.worker.asked() > 0;
        let mut due = Instant::now() >= self.next_sweep;
        if let Some(watch) = &mut self.watch {
            let (files, mapped) = (&self.files, &mut self.sweep.mapped);
            let mut pids = HashSet::new();
            let lost = watch.drain(|pid, id| {
                if files.contains_key(&id) {
                    // By a process that the sweep has been at already, perhaps.
                    mapped.insert(id);
                } else {
                    pids.insert(pid);
                }
            });
            for pid in pids {
                if is_target(pid) {
                    self.process(pid);
                    new = true;
                }
            }
            due |= lost;
        }
        while let Some(answer) = self.worker.answer(Duration::ZERO) {
            self.attach(ebpf, answer);
        }
        if !self.sweep.pids.is_empty() {
            // A few at a time: the ring waits meanwhile.
            let left = self.sweep.pids.len().saturating_sub(SWEEP_STEP);
            for pid in self.sweep.pids.split_off(left) {
                self.process(pid);
            }
            if self.sweep.pids.is_empty() {
                self.let_go(ebpf);
            }
        } else if due {
            self.sweep = Sweep { pids: targets(), mapped: HashSet::new() };
            if self.sweep.pids.is_empty() {
                self.let_go(ebpf);
            }
            let wait = if self.watch.is_some() { SWEEP } else { SWEEP_BLIND };
            self.next_sweep = Instant::now() + wait;
        }
        new
    }

    /// Waits until what was asked so far is attached.
    pub fn settle(&mut self, ebpf: &mut Ebpf) {
        let end = Instant::now() + START_WAIT;
        while self.worker.asked() > 0
            && let Some(answer) = self.worker.answer(end.saturating_duration_since(Instant::now()))
        {
            self.attach(ebpf, answer);
        }
    }

    fn attach(&mut self, ebpf: &mut Ebpf, answer: Answer) {
        let Answer { id, path, file, found } = answer;
        // Not ELF, or cut short: no library that anybody could call.
        let libraries = found.unwrap_or_default();
        let mut probed = Vec::new();
        for Library { kind, points } in libraries {
            let name = kind.name();
            let (state, links) = match points {
                Ok(points) => match attach::attach(ebpf, &file, &points) {
                    Ok(links) => {
                        self.note(format!("{name} in {}: attached", path.display()));
                        (State::Attached, links)
                    }
                    Err(e) => {
                        self.note(format!("{name} in {}: not traced: {e}", path.display()));
                        (State::Refused, Attached::default())
                    }
                },
                Err(missing) => {
                    self.note(format!("{name} in {}: not traced: {missing}", path.display()));
                    (State::NoFunctions, Attached::default())
                }
            };
            probed.push(Probed { kind, state, links });
        }
        self.files.insert(id, Known::Read(probed));
    }

    pub fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// Lets go of files that none of the targets had mapped in the sweep that is over.
    fn let_go(&mut self, ebpf: &mut Ebpf) {
        let mapped = std::mem::take(&mut self.sweep.mapped);
        let gone = self
            .files
            .extract_if(|id, known| matches!(known, Known::Read(_)) && !mapped.contains(id));
        let libraries = gone.flat_map(|(_, known)| match known {
            Known::Read(libraries) => libraries,
            Known::Asked => Vec::new(),
        });
        attach::detach(ebpf, libraries.map(|library| library.links));
    }

    /// Libraries by kind and by what became of them.
    pub fn libraries(&self) -> Vec<(&'static str, &'static str, u64)> {
        let mut counts: HashMap<(Kind, State), u64> = HashMap::new();
        for known in self.files.values() {
            let Known::Read(libraries) = known else { continue };
            for library in libraries {
                *counts.entry((library.kind, library.state)).or_default() += 1;
            }
        }
        let all = Kind::ALL.into_iter().flat_map(|kind| State::ALL.map(|state| (kind, state)));
        // Every kind that was seen keeps its series, so that what is let go goes to 0.
        all.filter_map(|key| Some((key.0.name(), key.1.name(), *counts.get(&key)?))).collect()
    }

    /// What happened to libraries since the last call, for people.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }
}
