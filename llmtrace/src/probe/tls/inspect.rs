//! A look at the TLS of processes, without probing anything.

use std::{collections::HashMap, path::PathBuf};

use super::{
    library,
    mappings::{self, FileId, Mapping},
};

/// What processes have of TLS, each file looked into once.
#[derive(Debug, Default)]
pub struct Inspector {
    known: HashMap<FileId, Vec<Inspected>>,
}

/// A library, and what stands in the way of its probes.
type Inspected = (&'static str, Option<&'static str>);

impl Inspector {
    /// The libraries that a process has mapped, and why one cannot be probed if so.
    pub fn of(&mut self, pid: u32) -> Vec<Inspected> {
        let mut all = Vec::new();
        for mapping in mappings::of(pid) {
            let found = self.known.entry(mapping.id).or_insert_with(|| inspect(pid, &mapping));
            all.extend(found.iter().copied());
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}

fn inspect(pid: u32, mapping: &Mapping) -> Vec<Inspected> {
    let file = mappings::open(pid, mapping);
    let libraries = file.and_then(|file| library::search(&file, mapping.main).ok());
    libraries
        .unwrap_or_default()
        .iter()
        .map(|l| (l.kind.name(), l.points.as_ref().err().copied()))
        .collect()
}

/// Files that a process has mapped for execution.
pub fn mapped(pid: u32) -> Vec<PathBuf> {
    mappings::of(pid).into_iter().map(|mapping| mapping.path).collect()
}
