//! The unit: that systemd understands it, how much it leaves open, and that the agent works under the
//! user, the capabilities and the system calls that it names. systemd itself does not run the tests'
//! machines, so the last is done from the values in the file.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use llmtrace_tests::agent::{Options, require_bpf, serial};
use llmtrace_tests::client::{Request, load};
use llmtrace_tests::compare::assert_same;
use llmtrace_tests::paths::{self, TempDir};
use llmtrace_tests::plan::Ask;
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// What `systemd-analyze security` may say at most, out of 10.
const MOST_EXPOSED: &str = "2.7";

fn unit() -> PathBuf {
    paths::root().join("deploy/systemd/llmtrace.service")
}

/// Values of a key, those of all its lines.
fn values(path: &Path, key: &str) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

#[track_caller]
fn analyze(args: &[&str]) -> (bool, String) {
    let output = Command::new("systemd-analyze").args(args).output().expect("systemd-analyze");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// The unit with the agent under test in it, since that has not been installed.
fn here(dir: &TempDir) -> PathBuf {
    let text = fs::read_to_string(unit()).unwrap();
    assert_eq!(text.matches("/usr/bin/llmtrace").count(), 1);
    let path = dir.join("llmtrace.service");
    let agent = paths::agent();
    fs::write(&path, text.replace("/usr/bin/llmtrace", agent.to_str().unwrap())).unwrap();
    path
}

#[test]
fn systemd_understands_it() {
    let dir = TempDir::new();
    let path = here(&dir);
    let (good, said) = analyze(&["verify", "--man=no", path.to_str().unwrap()]);
    assert!(good && !said.contains("llmtrace"), "{said}");
    // That a mistake is found.
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("ProtectSystem=strict", "ProtectSystem=stirct")).unwrap();
    let (_, said) = analyze(&["verify", "--man=no", path.to_str().unwrap()]);
    assert!(said.contains("stirct"), "{said}");
}

#[test]
fn it_leaves_little_open() {
    let most: f64 = MOST_EXPOSED.parse().unwrap();
    let unit = unit();
    let args = ["security", "--offline=true", "--no-pager", unit.to_str().unwrap()];
    let (good, said) = analyze(&args);
    let level = said.split("Overall exposure level for llmtrace.service: ").nth(1);
    let level: f64 = level.unwrap_or(&said).split(' ').next().unwrap().parse().expect("a number");
    assert!(good && level <= most, "{said}");
}

/// Only what it says it needs, and the same in both sets.
#[test]
fn its_capabilities_are_those_of_the_agent() {
    let set = |path: &Path, key| values(path, key).into_iter().collect::<BTreeSet<_>>();
    let four = ["CAP_BPF", "CAP_DAC_READ_SEARCH", "CAP_PERFMON", "CAP_SYS_PTRACE"];
    let tls = paths::root().join("deploy/systemd/tls.conf");
    for key in ["AmbientCapabilities", "CapabilityBoundingSet"] {
        assert_eq!(set(&unit(), key), four.map(str::to_owned).into());
        assert_eq!(set(&tls, key), ["CAP_SYS_ADMIN".to_owned()].into());
    }
}

/// Numbers of system calls, from the kernel's own header.
fn number(name: &str) -> Option<i64> {
    const HEADERS: [&str; 2] =
        ["/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"];
    let text = HEADERS.iter().find_map(|path| fs::read_to_string(path).ok());
    let text = text.expect("the C library's headers, which the linker comes with");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("#define __NR_{name} ")))?;
    line.trim().parse().ok()
}

/// Names in a group such as `@system-service`, as this systemd has it.
fn expand(name: &str, into: &mut BTreeSet<String>) {
    if !name.starts_with('@') {
        into.insert(name.to_owned());
        return;
    }
    let (good, said) = analyze(&["syscall-filter", "--no-pager", name]);
    assert!(good, "{said}");
    for line in said.lines().skip(1).map(str::trim) {
        if !line.is_empty() && !line.starts_with('#') {
            expand(line, into);
        }
    }
}

/// What `SystemCallFilter=` makes of all calls.
fn filter() -> BpfProgram {
    let mut allowed = BTreeSet::new();
    let text = fs::read_to_string(unit()).unwrap();
    for line in text.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (not, list) = line.strip_prefix('~').map_or((false, line), |list| (true, list));
        let mut names = BTreeSet::new();
        list.split(' ').for_each(|name| expand(name, &mut names));
        if not {
            allowed.retain(|name| !names.contains(name));
        } else {
            allowed.extend(names);
        }
    }
    assert!(allowed.contains("bpf") && !allowed.contains("mount"), "{allowed:?}");
    let rules = allowed.iter().filter_map(|name| Some((number(name)?, Vec::new()))).collect();
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let arch = std::env::consts::ARCH.try_into().unwrap();
    SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch).unwrap().try_into().unwrap()
}

#[test]
fn the_agent_works_under_it() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let caps = values(&unit(), "AmbientCapabilities");
    let agent = Options::default().port(server.port()).caps(&caps).filter(filter()).start();
    let requests = (0..10).map(|n| Request::new(format!("unit/{n}"), &Ask::default())).collect();
    let records = load(&server.address, requests, 2);
    agent.wait_for_requests("server", records.len());
    let printed = agent.printed();
    assert!(!printed.contains("cannot give up privileges"), "{printed}");
    assert_same(&records, &agent.stop());
}
