//! The configuration file, and that SIGHUP has it read again without a hole.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use llmtrace_tests::agent::{Agent, Options, require_bpf, serial};
use llmtrace_tests::client::{Request, load};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::compare::assert_same;
use llmtrace_tests::paths::TempDir;
use llmtrace_tests::plan::{Ask, Plan};
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(30);

fn requests(name: &str, count: usize) -> Vec<Request> {
    (0..count).map(|n| Request::new(format!("reload/{name}-{n}"), &Ask::default())).collect()
}

/// Reloads, and waits until the agent has printed `count` times what became of it.
#[track_caller]
fn reload(agent: &mut Agent, config: &Path, text: &str, said: &str, count: usize) {
    fs::write(config, text).unwrap();
    agent.signal(Signal::HUP);
    wait_for(said, LIMIT, || (agent.printed().matches(said).count() == count).then_some(()));
}

#[test]
fn targets_change_and_a_stream_that_stays_has_no_hole() {
    require_bpf();
    let _alone = serial();
    let (a, b) = (Server::app(Model::Thread), Server::app(Model::Thread));
    let dir = TempDir::new();
    let config = dir.join("llmtrace.toml");
    fs::write(&config, format!("pid = [{}]\n", a.id())).unwrap();
    let mut agent = Options::default().arg("--config", &config).start();
    assert!(agent.printed().contains(&format!("targets=pid:{} ", a.id())), "{}", agent.printed());

    // A stream that lasts over the reload: some 3 s.
    let slow = Ask {
        max_tokens: 300,
        plan: Plan { interval_us: 10_000, ..Plan::default() },
        ..Ask::default()
    };
    let address = a.address.clone();
    let streams = (0..8).map(|n| Request::new(format!("reload/over-{n}"), &slow)).collect();
    let over = thread::spawn(move || load(&address, streams, 8));
    thread::sleep(Duration::from_millis(500));
    let both = format!("pid = [{}, {}]\n", a.id(), b.id());
    reload(&mut agent, &config, &both, "llmtrace: reloaded: targets=pid:", 1);
    let mut records = load(&b.address, requests("b", 10), 2);
    records.extend(over.join().unwrap());

    // Files that are refused, and a target that does not exist: all stays as it was.
    let no = "llmtrace: not reloaded, everything stays as it was";
    for (n, bad) in ["pid = [\n", "pidd = [1]\n", "pid = [999999999]\n"].iter().enumerate() {
        reload(&mut agent, &config, bad, no, n + 1);
    }
    records.extend(load(&a.address, requests("a", 10), 2));
    records.extend(load(&b.address, requests("bb", 10), 2));
    let metrics = agent.wait_for_requests("server", records.len());
    let reloads = |result| metrics.sum("llmtrace_config_reloads_total", &[("result", result)]);
    assert_eq!((reloads("ok"), reloads("failed")), (1.0, 3.0));

    // One that is no target any more.
    reload(&mut agent, &config, &format!("pid = [{}]\n", b.id()), "reloaded: targets=", 2);
    load(&a.address, requests("gone", 10), 2);
    records.extend(load(&b.address, requests("last", 10), 2));
    agent.wait_for_requests("server", records.len());
    assert_same(&records, &agent.stop());
}
