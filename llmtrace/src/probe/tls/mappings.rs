//! Executable files that a process has mapped.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// A file, as the kernel names it in a process's mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    pub major: u32,
    pub minor: u32,
    pub inode: u64,
}

/// A file that is mapped for execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub id: FileId,
    /// As the process sees it.
    pub path: PathBuf,
    /// `START-END`, as in `/proc/PID/map_files`.
    pub range: String,
    /// It is the program itself.
    pub main: bool,
}

/// What a process has mapped, each file once. Empty if it has gone.
pub fn of(pid: u32) -> Vec<Mapping> {
    let text = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    parse(&text, &exe)
}

fn parse(maps: &str, exe: &Path) -> Vec<Mapping> {
    let mut found: Vec<Mapping> = Vec::new();
    for line in maps.lines() {
        let Some(mapping) = parse_line(line, exe) else { continue };
        if !found.iter().any(|m| m.id == mapping.id) {
            found.push(mapping);
        }
    }
    found
}

/// `7f..-7f.. r-xp 00028000 fe:01 1835   /usr/lib/libc.so.6`
fn parse_line(line: &str, exe: &Path) -> Option<Mapping> {
    // Not by whitespace alone: a path may contain any.
    let mut rest = line;
    let mut field = || {
        rest = rest.trim_start_matches(' ');
        let (field, after) = rest.split_once(' ')?;
        rest = after;
        Some(field)
    };
    let (range, mode, _, device, inode) = (field()?, field()?, field()?, field()?, field()?);
    if !mode.contains('x') {
        return None;
    }
    let (major, minor) = device.split_once(':')?;
    let id = FileId {
        major: u32::from_str_radix(major, 16).ok()?,
        minor: u32::from_str_radix(minor, 16).ok()?,
        inode: inode.parse().ok().filter(|&inode| inode != 0)?,
    };
    let path = PathBuf::from(rest.trim_start_matches(' '));
    let main = path == exe;
    path.is_absolute().then(|| Mapping { id, path, range: range.into(), main })
}

/// Opens a mapped file: by its path in the process's root, or by the mapping itself if another
/// file has that path now.
pub fn open(pid: u32, mapping: &Mapping) -> Option<File> {
    let relative = mapping.path.strip_prefix("/").ok()?;
    let by_path = File::open(Path::new(&format!("/proc/{pid}/root")).join(relative)).ok();
    let same = |file: &File| {
        file.metadata().is_ok_and(|data| data.is_file() && data.ino() == mapping.id.inode)
    };
    by_path
        .filter(same)
        .or_else(|| File::open(format!("/proc/{pid}/map_files/{}", mapping.range)).ok())
        .filter(|file| file.metadata().is_ok_and(|data| data.is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let maps = "\
55d0c0000000-55d0c0001000 r--p 00000000 fe:01 12                         /usr/bin/my server
55d0c0001000-55d0c0002000 r-xp 00001000 fe:01 12                         /usr/bin/my server
7f0000000000-7f0000001000 r-xp 00000000 00:2f 340 /usr/lib/libssl.so.3 (deleted)
7f0000001000-7f0000002000 r-xp 00000000 00:2f 340 /usr/lib/libssl.so.3 (deleted)
7f0000002000-7f0000003000 rwxp 00000000 00:00 0 
7ffd00000000-7ffd00001000 r-xp 00000000 00:00 0                          [vdso]
nonsense
";
        let found = parse(maps, Path::new("/usr/bin/my server"));
        let (program, library) = match &found[..] {
            [a, b] => (a, b),
            other => panic!("{other:?}"),
        };
        assert_eq!(program.id, FileId { major: 0xfe, minor: 1, inode: 12 });
        assert_eq!(program.path, Path::new("/usr/bin/my server"));
        assert!(program.main && !library.main);
        assert_eq!(program.range, "55d0c0001000-55d0c0002000");
        assert_eq!(library.id, FileId { major: 0, minor: 0x2f, inode: 340 });
    }

    #[test]
    fn own_program_is_found_and_opens() {
        let pid = std::process::id();
        let found = of(pid);
        let main = found.iter().find(|m| m.main).expect("the test program is mapped");
        let file = open(pid, main).expect("it can be opened");
        assert_eq!(file.metadata().unwrap().ino(), main.id.inode);
    }
}
