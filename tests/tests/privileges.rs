//! With how little the agent works, what it says when it has less, and what root's agent gives up.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use llmtrace_tests::agent::{Agent, NOBODY, Options, as_nobody, require_bpf, serial};
use llmtrace_tests::client::{Request, load};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::compare::assert_same;
use llmtrace_tests::paths::{self, TempDir};
use llmtrace_tests::plan::Ask;
use llmtrace_tests::process::Process;
use llmtrace_tests::recording::{Recorder, replay_entries};
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;
use serde_json::Value;

/// What a run needs, with the bits of `linux/capability.h`.
const NEEDED: [(&str, u32); 4] =
    [("CAP_DAC_READ_SEARCH", 2), ("CAP_SYS_PTRACE", 19), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];
const SYS_ADMIN: (&str, u32) = ("CAP_SYS_ADMIN", 21);

fn names(of: &[(&'static str, u32)]) -> Vec<&'static str> {
    of.iter().map(|(name, _)| *name).collect()
}

fn bits(of: &[(&str, u32)]) -> u64 {
    of.iter().map(|(_, bit)| 1 << bit).sum()
}

/// A field of each thread's `/proc/PID/task/TID/status`.
fn of_threads(pid: u32, field: &str) -> BTreeSet<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let values = tasks.filter_map(|task| {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        Some(line.trim().to_owned())
    });
    values.collect()
}

/// Every thread has `caps` and no more, and cannot get more.
#[track_caller]
fn assert_confined(pid: u32, caps: u64) {
    let hex = BTreeSet::from([format!("{caps:016x}")]);
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(of_threads(pid, set), hex, "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(of_threads(pid, set), BTreeSet::from([format!("{:016x}", 0)]), "{set}");
    }
    assert_eq!(of_threads(pid, "NoNewPrivs"), BTreeSet::from(["1".to_owned()]));
    assert_eq!(of_threads(pid, "Seccomp"), BTreeSet::from(["2".to_owned()]));
}

/// Ten requests are traced as the client saw them.
#[track_caller]
fn assert_traces(agent: Agent, server: &Server, tls: bool) {
    let requests = (0..10).map(|n| Request::new(format!("little/{n}"), &Ask::default())).collect();
    let records = load(&server.address, requests, 2);
    agent.wait_for_requests("server", records.len());
    let entries = agent.stop();
    assert_same(&records, &entries);
    assert!(entries.iter().all(|entry| entry.tls == tls), "{entries:#?}");
}

#[test]
fn four_capabilities_are_enough() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    // By its port, so that it has to be found among the descriptors of another user's process.
    let agent = Options::default().port(server.port()).caps(&names(&NEEDED)).start();
    let user = format!("{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}");
    assert_eq!(of_threads(agent.id(), "Uid"), BTreeSet::from([user]));
    assert_confined(agent.id(), bits(&NEEDED));
    assert_traces(agent, &server, false);
}

#[test]
fn a_server_that_starts_later_is_found() {
    require_bpf();
    let _alone = serial();
    let port = llmtrace_tests::net::free_port();
    let agent = Options::default().port(port).caps(&names(&NEEDED)).start();
    let server = Server::app_on(port, Model::Thread);
    assert_traces(agent, &server, false);
}

/// Uprobes take one more on kernels since July 2025; without it the agent says so and goes on.
#[test]
fn tls_takes_one_more() {
    require_bpf();
    let _alone = serial();
    let server = Server::uvicorn_tls("uvloop");
    let with = [&NEEDED[..], &[SYS_ADMIN]].concat();
    let agent = Options::default().pid(server.id()).caps(&names(&with)).start();
    let attached = |agent: &Agent| {
        agent.metrics().sum("llmtrace_tls_libraries", &[("state", "attached")]) >= 1.0
    };
    wait_for("probes", Duration::from_secs(20), || attached(&agent).then_some(()));
    let kept = of_threads(agent.id(), "CapEff");
    assert_traces(agent, &server, true);

    let agent = Options::default().pid(server.id()).caps(&names(&NEEDED)).start();
    let hex = format!("{:016x}", bits(&NEEDED));
    if kept.contains(&hex) {
        // This kernel is content with CAP_PERFMON, and the agent found that out.
        assert_traces(agent, &server, true);
    } else {
        let sentence = "TLS: not traced: this kernel wants CAP_SYS_ADMIN";
        wait_for(sentence, Duration::from_secs(10), || agent.printed().find(sentence));
        assert!(!attached(&agent));
    }
}

#[test]
fn root_gives_up_what_it_does_not_need() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let agent = Options::default().port(server.port()).start();
    let kept = kept(agent.id());
    assert_confined(agent.id(), kept);
    assert_traces(agent, &server, false);
}

/// What is left of root's: one more than is needed where the kernel wants it for uprobes.
#[track_caller]
fn kept(pid: u32) -> u64 {
    let needed = bits(&NEEDED);
    let with_admin = bits(&[&NEEDED[..], &[SYS_ADMIN]].concat());
    let kept = u64::from_str_radix(of_threads(pid, "CapEff").first().unwrap(), 16).unwrap();
    assert!(kept == needed || kept == with_admin, "{kept:x}");
    kept
}

/// The same of the commands of a person at a terminal that capture.
#[test]
fn a_recorder_gives_up_as_much() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let recorder = Recorder::start(&["--port", &server.port().to_string()]);
    assert_confined(recorder.id(), kept(recorder.id()));
    let requests = (0..5).map(|n| Request::new(format!("record/{n}"), &Ask::default())).collect();
    let records = load(&server.address, requests, 1);
    let recording = recorder.stop_after(records.len());
    assert_same(&records, &recording.entries());
    assert_eq!(replay_entries(&recording.file()).len(), records.len());
}

/// Where only its owner may write, and whatever is there stays if there is no kernel side.
#[test]
fn a_recorder_opens_its_file_with_what_it_was_started_with() {
    require_bpf();
    let _alone = serial();
    let dir = TempDir::new();
    // Root needs CAP_DAC_OVERRIDE to write here.
    std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o500)).unwrap();
    let (new, old) = (dir.join("new.pcapng"), dir.join("old.pcapng"));
    fs::write(&old, "of yesterday").unwrap();
    let record = |file: &Path, more: &[&str]| {
        let mut command = Command::new(paths::agent());
        command.args(["record", "--pid", "1", "--seconds", "0", "--output"]).arg(file).args(more);
        let mut process = Process::spawn(&mut command);
        let status = process.wait(Duration::from_secs(60));
        (status.code(), process.finish_output())
    };
    for file in [&new, &old] {
        let (code, printed) = record(file, &[]);
        assert_eq!(code, Some(0), "{printed}");
        assert_eq!(fs::read(file).unwrap()[..4], [0x0a, 0x0d, 0x0d, 0x0a], "a pcapng file");
    }
    // In a folder of its own, as to remove a file takes what it has given up elsewhere.
    let dir = TempDir::new();
    let (new, old) = (dir.join("new.pcapng"), dir.join("old.pcapng"));
    fs::write(&old, "of yesterday").unwrap();
    for file in [&new, &old] {
        // There is no such process.
        let (code, printed) = record(file, &["--pid", "4194304"]);
        assert_eq!(code, Some(1), "{printed}");
    }
    assert!(!new.exists());
    assert_eq!(fs::read_to_string(&old).unwrap(), "of yesterday");
}

/// Each thing that matters is there, each that is not well says what to do, and what TLS takes is
/// said to who does not have it.
#[test]
fn the_doctor_names_what_is_missing_and_what_to_do() {
    require_bpf();
    let _alone = serial();
    let dir = TempDir::new();
    let exe = dir.join("llmtrace");
    fs::copy(paths::agent(), &exe).unwrap();
    let ask = |caps: &[&str], args: &[&str]| -> Vec<Value> {
        let mut command = as_nobody(&exe, caps);
        let output = command.args(["doctor", "--json"]).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let of = |checks: &[Value], what: &str| {
        checks.iter().find(|check| check["what"] == what).unwrap_or(&Value::Null).clone()
    };
    let with = [&NEEDED[..], &[SYS_ADMIN]].concat();
    let (without, with) = (ask(&names(&NEEDED), &[]), ask(&names(&with), &[]));
    for checks in [&without, &with] {
        for what in [
            "kernel",
            "types (BTF)",
            "privileges",
            "clock",
            "pid namespace",
            "cgroup v2",
            "fentry (functions)",
            "kprobe (functions)",
            "tracepoint (sockets)",
            "tracepoint (syscalls)",
            "ring",
            "TLS (uprobes)",
        ] {
            let check = of(checks, what);
            let advice = check["advice"].as_str().unwrap_or_default();
            match check["state"].as_str() {
                Some("ok") => {}
                Some("degraded" | "missing") => assert!(!advice.is_empty(), "{check}"),
                _ => panic!("{what}: {checks:#?}"),
            }
        }
        assert_eq!(of(checks, "privileges")["state"], "ok");
        assert_eq!(of(checks, "ring")["state"], "ok");
        let used = checks.iter().filter(|check| check.to_string().contains("would be used"));
        assert_eq!(used.count(), 1, "{checks:#?}");
    }
    assert_eq!(of(&with, "TLS (uprobes)")["state"], "ok");
    let tls = of(&without, "TLS (uprobes)");
    // A kernel that is content with CAP_PERFMON has nothing to advise.
    if tls["state"] != "ok" {
        assert_eq!(tls["state"], "degraded");
        let advice = tls["advice"].as_str().unwrap();
        for wanted in ["CAP_SYS_ADMIN", "tls.conf", "tls: true", "docs/security.md"] {
            assert!(advice.contains(wanted), "{advice}");
        }
    }
    let small = ask(&names(&NEEDED), &["--ring-mib", "1"]);
    assert_eq!(of(&small, "ring")["state"], "degraded", "{small:#?}");
}

#[test]
fn each_that_is_missing_is_named_and_is_3() {
    require_bpf();
    let dir = TempDir::new();
    let exe = dir.join("llmtrace");
    fs::copy(paths::agent(), &exe).unwrap();
    for (without, _) in NEEDED {
        let caps: Vec<&str> = names(&NEEDED).into_iter().filter(|c| *c != without).collect();
        for verb in [&["run", "--listen", "127.0.0.1:0"][..], &["doctor"]] {
            let mut process = Process::spawn(as_nobody(&exe, &caps).args(verb));
            let status = process.wait(Duration::from_secs(30));
            let printed = process.finish_output();
            assert_eq!(status.code(), Some(3), "{without}: {printed}");
            let named = format!("{without} missing");
            assert!(printed.contains(&named), "{without}: {printed}");
            for other in &caps {
                assert!(!printed.contains(&format!("{other} missing")), "{printed}");
            }
        }
    }
}
