//! Start and end of the agent: what it says, what it leaves.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::Duration;

use aya::programs::loaded_programs;
use llmtrace_tests::agent::{Agent, Options, require_bpf, serial};
use llmtrace_tests::bpf::programs_of;
use llmtrace_tests::client::{Request, load};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::compare::assert_same;
use llmtrace_tests::paths::TempDir;
use llmtrace_tests::plan::Ask;
use llmtrace_tests::process::Process;
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;
use llmtrace_tests::usage;
use rustix::process::Signal;

fn requests(name: &str) -> Vec<Request> {
    (0..20).map(|n| Request::new(format!("life/{name}-{n}"), &Ask::default())).collect()
}

/// The programs that hold the agent's hooks; that there are some shows that it is real.
#[track_caller]
fn programs(agent: &Agent) -> BTreeSet<u32> {
    let programs = programs_of(agent.id());
    assert!(!programs.is_empty(), "the agent holds no BPF program");
    programs
}

/// The kernel frees programs a moment after their last holder is gone.
#[track_caller]
fn assert_gone(programs: &BTreeSet<u32>) {
    wait_for("the kernel to free the agent's programs", Duration::from_secs(10), || {
        let loaded: BTreeSet<u32> = loaded_programs().flatten().map(|p| p.id()).collect();
        programs.is_disjoint(&loaded).then_some(())
    });
}

#[test]
fn sigterm_leaves_nothing_attached() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    for signal in [Signal::TERM, Signal::INT] {
        let agent = Options::default().pid(server.id()).start();
        println!("ready after {:?}", agent.start_time);
        let programs = programs(&agent);
        let records = load(&server.address, requests("term"), 4);
        // Nothing is waited for: the drain must find it all.
        assert_same(&records, &agent.stop_by(signal));
        assert_gone(&programs);
    }
}

/// A collector that never answers holds the end up for three seconds.
#[test]
fn a_second_signal_ends_it_at_once() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let collector = format!("http://{}", silent.local_addr().unwrap());
    let mut agent = Options::default().pid(server.id()).arg("--otlp-endpoint", &collector).start();
    let programs = programs(&agent);
    load(&server.address, requests("twice"), 4);
    agent.wait_for_requests("server", 20);
    agent.signal(Signal::INT);
    // Right after the first it is taken for the same.
    agent.signal(Signal::INT);
    thread::sleep(Duration::from_millis(1_000));
    assert!(agent.is_alive(), "nothing was waited for: {}", agent.printed());
    agent.signal(Signal::INT);
    let (code, printed) = agent.left(Duration::from_secs(1));
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains("ended by a second signal"), "{printed}");
    assert_gone(&programs);
}

/// What it reads at its start, of the kernel's types and of every library of the machine, is not kept.
#[test]
fn what_it_needs_at_its_start_is_given_back() {
    const GOAL: u64 = 12 << 20;
    require_bpf();
    let _alone = serial();
    let agent = Options::default().flag("--all").start();
    // Libraries are looked into after the start.
    thread::sleep(Duration::from_secs(3));
    wait_for("no more than 12 MiB of its own memory", Duration::from_secs(60), || {
        (usage::anonymous(agent.id()) < GOAL).then_some(())
    });
    agent.stop();
}

#[test]
fn sigkill_leaves_nothing_attached_and_the_next_one_works() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let agent = Options::default().pid(server.id()).start();
    let programs = programs(&agent);
    load(&server.address, requests("killed"), 4);
    agent.kill();
    assert_gone(&programs);
    let agent = Options::default().pid(server.id()).start();
    let records = load(&server.address, requests("next"), 4);
    agent.wait_for_requests("server", records.len());
    assert_same(&records, &agent.stop());
}

#[test]
fn two_agents_at_once() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let agents = [(); 2].map(|()| Options::default().pid(server.id()).start());
    let records = load(&server.address, requests("both"), 4);
    for agent in agents {
        agent.wait_for_requests("server", records.len());
        assert_same(&records, &agent.stop());
    }
}

#[test]
fn what_is_said_at_the_start_and_the_end() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let agent = Options::default().pid(server.id()).start();
    let ready = agent.printed();
    let ready = ready.lines().find(|line| line.starts_with("ready ")).unwrap();
    assert!(ready.contains(" targets="), "{ready}");
    assert!(ready.contains(&format!("listen=127.0.0.1:{}", agent.port())), "{ready}");
    let backend = ready.split_whitespace().find_map(|word| word.strip_prefix("backend="));
    let backend = backend.expect("the ready line names the back end").to_owned();
    for path in ["/healthz", "/readyz"] {
        let (status, body) = agent.get(path);
        assert_eq!(status, 200, "{path}: {body}");
    }
    assert_eq!(agent.get("/no/such/path").0, 404);
    let records = load(&server.address, requests("said"), 4);
    let metrics = agent.wait_for_requests("server", records.len());
    assert_eq!(metrics.sum("llmtrace_build_info", &[]), 1.0);
    assert_eq!(metrics.sum("llmtrace_backend_info", &[("backend", &backend)]), 1.0);
    assert_eq!(metrics.sum("llmtrace_targets", &[]), 1.0);
    for name in [
        "llm_request_duration_seconds_count",
        "llm_time_to_first_byte_seconds_count",
        "llm_time_to_first_token_seconds_count",
        "llm_time_per_output_token_seconds_count",
        "llm_stream_max_stall_seconds_count",
        "llm_request_receive_seconds_count",
        "llm_request_prompt_tokens_count",
        "llm_request_output_tokens_count",
    ] {
        let count = metrics.sum(name, &[("role", "server")]);
        assert_eq!(count, records.len() as f64, "{name}");
    }
    // Sixteen tokens have fifteen gaps.
    let gaps = metrics.sum("llm_inter_token_latency_seconds_count", &[]);
    assert_eq!(gaps, (records.len() * 15) as f64);
    assert_eq!(metrics.sum("llm_finish_total", &[("reason", "stop")]), records.len() as f64);
    // The agent's own counts follow within its beat of 0.2 s.
    wait_for("records counted", Duration::from_secs(2), || {
        (agent.metrics().sum("llmtrace_records_total", &[]) > 0.0).then_some(())
    });
    assert!(metrics.has("process_resident_memory_bytes"));
    agent.stop();
}

#[test]
fn the_kernel_side_says_what_it_decides_if_asked() {
    require_bpf();
    let _alone = serial();
    let dir = TempDir::new();
    let script = format!("until [ -e {} ]; do sleep 0.1; done", dir.join("go").display());
    let mut shell = Process::spawn(Command::new("sh").args(["-c", &script]));
    let agent = Options::default().pid(shell.id()).flag("--kernel-log").start();
    let forked = format!("llmtrace: kernel: process {} forked ", shell.id());
    wait_for(&forked, Duration::from_secs(5), || agent.printed().contains(&forked).then_some(()));
    fs::write(dir.join("go"), "").unwrap();
    shell.wait(Duration::from_secs(10));
    let said = format!("llmtrace: kernel: process {} exits: a target no more", shell.id());
    wait_for(&said, Duration::from_secs(5), || agent.printed().contains(&said).then_some(()));
    agent.stop();
}
