//! The configuration file, and that SIGHUP has it read again without a hole.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use llmtrace_tests::agent::{Agent, Options, require_bpf, serial};
use llmtrace_tests::client::{Request, load};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::compare::assert_same;
use llmtrace_tests::metrics::Metrics;
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

#[test]
fn objectives_change_and_what_was_counted_stays() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let dir = TempDir::new();
    let config = dir.join("llmtrace.toml");
    let slo = |e2e: &str| format!("[[slo]]\nmodel = 'tiny'\ne2e = '{e2e}'\n");
    fs::write(&config, slo("1m")).unwrap();
    let mut agent = Options::default().pid(server.id()).arg("--config", &config).start();
    let met = |metrics: &Metrics| {
        let of = |met| metrics.sum("llm_slo_requests_total", &[("slo", "all"), ("met", met)]);
        (of("true"), of("false"))
    };
    let changed = |metrics: &Metrics| {
        metrics.sum("llmtrace_config_last_reload_success_timestamp_seconds", &[])
    };
    load(&server.address, requests("kind", 8), 2);
    let first = agent.wait_for_requests("server", 8);
    assert_eq!(met(&first), (8.0, 0.0));

    // Nobody answers within a microsecond.
    reload(&mut agent, &config, &slo("1us"), "llmtrace: reloaded: targets=pid:", 1);
    load(&server.address, requests("strict", 5), 2);
    let second = agent.wait_for_requests("server", 13);
    assert_eq!(met(&second), (8.0, 5.0));
    assert_eq!(second.sum("llmtrace_slo_target_seconds", &[("slo", "e2e")]), 1e-6);
    assert!(changed(&second) > changed(&first), "{} {}", changed(&first), changed(&second));

    // Of a file that is half right, nothing is taken: not even what is right in it.
    let no = "llmtrace: not reloaded, everything stays as it was";
    let bad = [
        ("[anomaly]\nsigmas = -1.0\n", "anomaly.sigmas has to be more than 0"),
        ("[notify]\nalertmanager = 'http://127.0.0.1:1'\nbearer-token-file = '/none'\n", "/none"),
        ("[otlp]\nendpoint = 'collector'\n", "otlp.endpoint is no URL"),
        ("[cost]\ngpu-hour = -2.0\n", "cannot be -2"),
    ];
    for (n, (bad, why)) in bad.iter().enumerate() {
        reload(&mut agent, &config, &format!("{}{bad}", slo("1m")), no, n + 1);
        assert!(agent.printed().contains(why), "{why} is not in:\n{}", agent.printed());
    }
    load(&server.address, requests("still", 3), 2);
    let third = agent.wait_for_requests("server", 16);
    assert_eq!(met(&third), (8.0, 8.0));
    let reloads = |result| third.sum("llmtrace_config_reloads_total", &[("result", result)]);
    assert_eq!((reloads("ok"), reloads("failed")), (1.0, bad.len() as f64));
    assert_eq!(changed(&third), changed(&second));
    agent.stop();
}
