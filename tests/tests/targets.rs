//! Ways to say what is traced, and processes that come and go while the agent runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use llmtrace_tests::agent::{Agent, Options, require_bpf, serial};
use llmtrace_tests::client::{Record, Request, load};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::compare::assert_same;
use llmtrace_tests::net::free_port;
use llmtrace_tests::paths::own_bin;
use llmtrace_tests::plan::Ask;
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;

fn send(server: &Server, name: &str, count: usize) -> Vec<Record> {
    let requests =
        (0..count).map(|n| Request::new(format!("target/{name}-{n}"), &Ask::default())).collect();
    load(&server.address, requests, 4)
}

/// All of `records` were found, and nothing else of these tests.
#[track_caller]
fn check(agent: Agent, records: &[Record]) {
    agent.wait_for_requests("server", records.len());
    let mut entries = agent.stop();
    // Discovery sees whatever else runs on the machine.
    entries.retain(|entry| {
        let agent = entry.user_agent.as_deref().unwrap_or("");
        agent.starts_with("target/") && entry.role == "server"
    });
    assert_same(records, &entries);
}

/// Waits until the agent has as many targets.
#[track_caller]
fn wait_for_targets(agent: &Agent, count: f64) {
    let what = format!("llmtrace_targets to be {count}");
    wait_for(&what, Duration::from_secs(10), || {
        (agent.metrics().sum("llmtrace_targets", &[]) == count).then_some(())
    });
}

#[test]
fn only_the_given_process() {
    require_bpf();
    let _alone = serial();
    let (traced, other) = (Server::app(Model::Thread), Server::app(Model::Thread));
    let agent = Options::default().pid(traced.id()).start();
    send(&other, "other", 10);
    let records = send(&traced, "traced", 10);
    check(agent, &records);
}

#[test]
fn by_port_before_the_server_listens_and_after_a_restart() {
    require_bpf();
    let _alone = serial();
    let port = free_port();
    let agent = Options::default().port(port).start();
    let mut records = Vec::new();
    for name in ["first", "again"] {
        let server = Server::app_on(port, Model::Thread);
        records.extend(send(&server, name, 10));
    }
    check(agent, &records);
}

#[test]
fn by_name_and_a_target_that_leaves() {
    require_bpf();
    let _alone = serial();
    // A name that no other process has: the kernel keeps 15 bytes of it.
    let dir = llmtrace_tests::paths::TempDir::new();
    let name = format!("llmsrv{}", std::process::id());
    let exe = dir.join(&name);
    fs::copy(own_bin("server"), &exe).unwrap();
    for flag in ["--comm", "--exe"] {
        let glob =
            if flag == "--comm" { format!("{}*", &name[..8]) } else { exe.display().to_string() };
        let agent = Options::default().arg(flag, &glob).start();
        wait_for_targets(&agent, 0.0);
        let server = Server::app_from(&exe);
        wait_for_targets(&agent, 1.0);
        let records = send(&server, &flag[2..], 10);
        drop(server);
        wait_for_targets(&agent, 0.0);
        check(agent, &records);
    }
}

/// A folder of the v2 hierarchy that is removed at the end.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Self {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let root = mounts
            .lines()
            .find_map(|line| {
                let mut fields = line.split(' ');
                let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
                (kind == "cgroup2").then(|| PathBuf::from(path))
            })
            .expect("a cgroup v2 hierarchy is mounted");
        let path = root.join(format!("llmtrace-test-{}", std::process::id()));
        fs::create_dir_all(path.join("below")).unwrap();
        Self(path)
    }

    fn take(path: &Path, pid: u32) {
        fs::write(path.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for path in [self.0.join("below"), self.0.clone()] {
            wait_for("the cgroup to be empty", Duration::from_secs(5), || {
                fs::remove_dir(&path).ok()
            });
        }
    }
}

/// Puts `command` into a cgroup before it runs, as the first process of a PID namespace, with
/// mounts and names of its own.
fn contain(server: &mut Command, cgroup: &Path) -> Command {
    let mut command = Command::new("sh");
    let script = r#"echo $$ > "$0/cgroup.procs"; exec "$@""#;
    command.args(["-c", script]).arg(cgroup);
    command.args(["unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc"]);
    command.arg("--mount-proc").arg(server.get_program()).args(server.get_args());
    command
}

/// A container that starts again: another cgroup at the same path, other namespaces, and the same
/// small process ids inside.
#[test]
fn a_container_that_starts_again() {
    require_bpf();
    let _alone = serial();
    let cgroup = Cgroup::new();
    let inside = cgroup.0.join("below");
    let agent = Options::default().arg("--cgroup", &inside).start();
    let mut records = Vec::new();
    for name in ["contained", "again", "once-more"] {
        let server = Server::app_by(|server| contain(server, &inside));
        records.extend(send(&server, name, 5));
        drop(server);
        agent.wait_for_requests("server", records.len());
        wait_for("the cgroup to be empty", Duration::from_secs(5), || fs::remove_dir(&inside).ok());
        fs::create_dir(&inside).unwrap();
        // It is looked for a few times a second.
        thread::sleep(Duration::from_millis(500));
    }
    check(agent, &records);
}

/// Has the next process get the id `pid`, if nobody takes it first.
fn take_pid<T>(pid: u32, start: impl Fn() -> T, id: impl Fn(&T) -> u32) -> T {
    for _ in 0..100 {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
        let started = start();
        if id(&started) == pid {
            return started;
        }
    }
    panic!("no process got the id {pid}");
}

/// What gets the id of a target that has left is no target, whatever else is watched for.
#[test]
fn an_id_that_is_used_again() {
    require_bpf();
    let _alone = serial();
    for watching in [false, true] {
        let first = Server::app(Model::Thread);
        let pid = first.id();
        let mut options = Options::default().pid(pid);
        if watching {
            options = options.comm("no-process-has-this-name");
        }
        let agent = options.start();
        let records = send(&first, "first", 5);
        drop(first);
        wait_for_targets(&agent, 0.0);
        let second = take_pid(pid, || Server::app(Model::Thread), Server::id);
        // Longer than from one look at the processes to the next.
        thread::sleep(Duration::from_millis(2500));
        send(&second, "second", 5);
        assert_eq!(agent.metrics().sum("llmtrace_targets", &[]), 0.0, "watching: {watching}");
        check(agent, &records);
    }
}

/// And a target that gets the id of one that has left is traced, under its own name.
#[test]
fn a_target_with_an_id_that_is_used_again() {
    require_bpf();
    let _alone = serial();
    let port = free_port();
    let agent = Options::default().port(port).start();
    let first = Server::app_on(port, Model::Thread);
    let pid = first.id();
    let mut records = send(&first, "first", 5);
    drop(first);
    wait_for_targets(&agent, 0.0);
    let second = take_pid(pid, || Server::app_on(port, Model::Thread), Server::id);
    records.extend(send(&second, "second", 5));
    check(agent, &records);
}

#[test]
fn by_cgroup_with_what_is_below() {
    require_bpf();
    let _alone = serial();
    let cgroup = Cgroup::new();
    let (inside, below, outside) =
        (Server::app(Model::Thread), Server::app(Model::Thread), Server::app(Model::Thread));
    Cgroup::take(&cgroup.0, inside.id());
    Cgroup::take(&cgroup.0.join("below"), below.id());
    let agent = Options::default().arg("--cgroup", &cgroup.0).start();
    send(&outside, "outside", 10);
    let mut records = send(&inside, "inside", 10);
    records.extend(send(&below, "below", 10));
    check(agent, &records);
    drop((inside, below));
}

/// No target at all: servers are found by what they say.
#[test]
fn discovery() {
    require_bpf();
    let _alone = serial();
    let server = Server::uvicorn("uvloop", "httptools");
    let agent = Options::default().start();
    let records = send(&server, "discovered", 10);
    check(agent, &records);
}
