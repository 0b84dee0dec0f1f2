//! What `/proc` says of a process.

use std::{fs, path::Path};

/// The name of a process; empty if it has gone.
pub fn comm(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// The arguments that a process was started with, its program first.
pub fn arguments(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = |arg: &[u8]| String::from_utf8_lossy(arg).into_owned();
    bytes.split(|&b| b == 0).filter(|arg| !arg.is_empty()).map(text).collect()
}

/// Files that a process has mapped for execution.
pub fn mapped_files(pid: u32) -> Vec<String> {
    super::tls::mapped(pid).into_iter().map(|path| path.display().to_string()).collect()
}

/// The id of the container that a process is in, by its cgroup.
pub fn container(pid: u32) -> Option<String> {
    super::container::of_process(pid).map(|container| container.id)
}

/// What to call a process: its own name, but the script or module for an interpreter.
pub fn display_name(pid: u32, comm: &str) -> String {
    let interpreter = ["python", "node", "ruby", "java", "MainThread", "bun", "deno"]
        .iter()
        .any(|name| comm.starts_with(name));
    if interpreter && let Some(script) = script(pid) {
        return script;
    }
    comm.to_owned()
}

fn script(pid: u32) -> Option<String> {
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let args: Vec<String> = cmdline
        .split(|&b| b == 0)
        .skip(1)
        .map(|arg| String::from_utf8_lossy(arg).into_owned())
        .collect();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-m" => return args.next().cloned(),
            "-c" | "-e" | "" => return None,
            flag if flag.starts_with('-') => {}
            path => return Path::new(path).file_stem()?.to_str().map(str::to_owned),
        }
    }
    None
}
