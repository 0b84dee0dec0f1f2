//! Which BPF programs a process holds.

use std::collections::BTreeSet;
use std::fs;

/// Ids of the programs that a process holds by a descriptor, itself or through a link.
pub fn programs_of(pid: u32) -> BTreeSet<u32> {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else {
        return BTreeSet::new();
    };
    files
        .flatten()
        .filter_map(|file| fs::read_to_string(file.path()).ok())
        .filter_map(|text| {
            text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())
        })
        .collect()
}
