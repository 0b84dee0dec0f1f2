//! `llmtrace top` in a real terminal (tmux) of 80 by 24, tracing by itself and showing another agent.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use llmtrace_tests::agent::{Options, require_bpf, serial};
use llmtrace_tests::client::{Request, load};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::paths;
use llmtrace_tests::plan::{Ask, Plan};
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;
use llmtrace_tests::terminal::Terminal;

const LIMIT: Duration = Duration::from_secs(30);
/// CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF.
const MAY_KEEP: u64 = 1 << 2 | 1 << 19 | 1 << 21 | 1 << 38 | 1 << 39;

/// The terminal's command cannot get privileges, and nothing is left of root's that has to do with neither
/// capture nor `/proc`.
#[track_caller]
fn assert_confined(terminal: &Terminal) {
    let threads = fs::read_dir(format!("/proc/{}/task", terminal.id())).unwrap();
    let mut count = 0;
    for thread in threads.flatten() {
        let status = fs::read_to_string(thread.path().join("status")).unwrap();
        let of = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
            line.trim_start_matches(':').trim().to_owned()
        };
        assert_eq!((of("NoNewPrivs"), of("Seccomp")), ("1".into(), "2".into()), "{status}");
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            let caps = u64::from_str_radix(&of(set), 16).unwrap();
            assert!(caps & !MAY_KEEP == 0 && caps != 0, "{set}: {caps:x}");
        }
        count += 1;
    }
    assert!(count > 1, "the agent has a thread of its own");
}

#[test]
fn servers_streams_and_keys() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let stop = Arc::new(AtomicBool::new(false));
    // Streams of a second, one of which fails now and then.
    let slow = Ask {
        max_tokens: 50,
        plan: Plan { interval_us: 20_000, ..Plan::default() },
        ..Ask::default()
    };
    let bad = Ask { plan: Plan { status: Some(503), ..Plan::default() }, ..Ask::default() };
    let clients: Vec<_> = [slow.clone(), slow, bad]
        .into_iter()
        .map(|ask| {
            let (address, stop) = (server.address.clone(), stop.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    load(&address, vec![Request::new("top", &ask)], 1);
                    thread::sleep(Duration::from_millis(20));
                }
            })
        })
        .collect();
    let name = format!(":{}", server.port());

    // Tracing by itself.
    let command = format!("{} top --pid {}", paths::agent().display(), server.id());
    let own = Terminal::start("own", &command);
    let screen = own.wait_for(&["SERVER", "MODEL", &name, "tiny"]);
    assert!(screen.contains("targets pid:"), "{screen}");
    assert_confined(&own);
    own.keys(&["2"]);
    own.wait_for(&["STALL", "127.0.0.1:"]);
    own.keys(&["3"]);
    own.wait_for(&["http_error", "503"]);
    own.keys(&["?"]);
    own.wait_for(&["time between two tokens"]);
    own.keys(&["1"]);
    own.wait_for(&["SERVER"]);
    own.keys(&["Enter"]);
    own.wait_for(&["as server", "TTFT p50", "600s"]);
    own.keys(&["q"]);
    // The terminal goes with its command.
    wait_for("the end of top", LIMIT, || own.screen().is_empty().then_some(()));

    // What another agent sees.
    let agent = Options::default().pid(server.id()).start();
    let command =
        format!("{} top --connect http://127.0.0.1:{}", paths::agent().display(), agent.port());
    let other = Terminal::start("other", &command);
    other.wait_for(&["SERVER", &name, "tiny", "http://127.0.0.1:"]);
    other.keys(&["/", "n", "o", "n", "e", "Enter"]);
    other.wait_for(&["nothing matches the filter"]);
    agent.stop();
    other.wait_for(&["no answer from"]);
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
}

#[test]
fn without_a_terminal_it_says_so() {
    require_bpf();
    let out = Command::new(paths::agent()).args(["top", "--all"]).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("needs a terminal"));
}
