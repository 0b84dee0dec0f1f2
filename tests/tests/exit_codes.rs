//! Exit codes and the sentence that goes with each.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use llmtrace_tests::agent::require_bpf;
use llmtrace_tests::paths::{self, TempDir};
use llmtrace_tests::process::Process;

const NOBODY: u32 = 65534;

/// Runs to its end: the exit code and what it printed.
#[track_caller]
fn run(command: &mut Command) -> (Option<i32>, String) {
    let mut process = Process::spawn(command);
    let status = process.wait(Duration::from_secs(30));
    let printed = process.finish_output();
    assert!(!printed.contains("panicked"), "{printed}");
    (status.code(), printed)
}

fn agent() -> Command {
    let mut command = Command::new(paths::agent());
    command.args(["run", "--all", "--listen", "127.0.0.1:0"]);
    command
}

#[test]
fn without_privileges_it_is_3_and_says_what_helps() {
    require_bpf();
    // nobody cannot reach the build's folder.
    let dir = TempDir::new();
    let exe = dir.join("llmtrace");
    fs::copy(paths::agent(), &exe).unwrap();
    let mut command = Command::new(exe);
    command.args(["run", "--all", "--listen", "127.0.0.1:0"]);
    command.current_dir("/").uid(NOBODY).gid(NOBODY);
    let (code, printed) = run(&mut command);
    assert_eq!(code, Some(3), "{printed}");
    assert!(printed.contains("CAP_BPF") || printed.contains("root"), "{printed}");
}

#[test]
fn without_btf_it_is_3_and_says_so() {
    require_bpf();
    let (code, printed) = run(agent().env("LLMTRACE_BTF", "/nonexistent"));
    assert_eq!(code, Some(3), "{printed}");
    assert!(printed.contains("BTF"), "{printed}");
}

#[test]
fn with_btf_that_is_none_it_is_3() {
    require_bpf();
    // Something that is not BTF, as on a kernel that is built otherwise.
    let dir = TempDir::new();
    let path = dir.join("btf");
    fs::write(&path, b"\xeb\x9f\x01\x00").unwrap();
    let (code, printed) = run(agent().env("LLMTRACE_BTF", path.to_str().unwrap()));
    assert_eq!(code, Some(3), "{printed}");
    assert!(printed.contains("BTF"), "{printed}");
}

#[test]
fn wrong_usage_is_2() {
    for args in [&["run", "--no-such-flag"][..], &["run", "--pid", "many"], &["no-such-verb"]] {
        let (code, printed) = run(Command::new(paths::agent()).args(args));
        assert_eq!(code, Some(2), "{args:?}: {printed}");
        assert!(printed.contains("--help") || printed.contains("Usage"), "{printed}");
    }
}

#[test]
fn a_listen_address_in_use_is_1_and_named() {
    require_bpf();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let mut command = Command::new(paths::agent());
    command.args(["run", "--all", "--listen", &addr]);
    let (code, printed) = run(&mut command);
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains(&addr), "{printed}");
}

/// Who reads a pipe may stop at any time, as `head` does.
#[test]
fn nobody_who_reads_on_is_0() {
    for args in [&["discover", "--json"][..], &["completions", "zsh"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(paths::agent()).args(args).stdout(writer).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
        assert!(!said.to_lowercase().contains("pipe"), "{args:?}: {said}");
    }
}

#[test]
fn help_and_version_are_0() {
    for flag in ["--help", "--version"] {
        let (code, printed) = run(Command::new(paths::agent()).arg(flag));
        assert_eq!(code, Some(0));
        assert!(printed.contains("llmtrace"), "{printed}");
    }
}
