//! An anomaly of a real traced run, at a real Alertmanager.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use llmtrace_tests::agent::{Options, require_bpf, serial};
use llmtrace_tests::client::{Request, load};
use llmtrace_tests::clock::{now, wait_for};
use llmtrace_tests::http;
use llmtrace_tests::net::free_port;
use llmtrace_tests::paths::{self, TempDir};
use llmtrace_tests::plan::{Ask, Plan};
use llmtrace_tests::process::Process;
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;
use rustix::process::Signal;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

/// An Alertmanager that tells nobody.
fn alertmanager(dir: &Path, port: u16) -> Process {
    let config = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n";
    fs::write(dir.join("alertmanager.yml"), config).unwrap();
    let program = paths::monitoring("prometheus-alertmanager");
    // Debian's looks for its templates below /usr/share. Where it is only unpacked, it gets a
    // /usr/share of its own, which nobody else sees.
    let unpacked = program.ancestors().nth(2).unwrap().to_path_buf();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    command.arg("mount --bind \"$0\" /usr/share && exec \"$@\"");
    command.arg(unpacked.join("share")).arg(program).current_dir(dir);
    command.args(["--config.file=alertmanager.yml", "--storage.path=data"]);
    command.args(["--cluster.listen-address=", "--log.level=warn"]);
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let mut process = Process::spawn(&mut command);
    wait_for("the Alertmanager", LIMIT, || {
        if let Some(status) = process.try_wait() {
            panic!("the Alertmanager left: {status}\n{}", process.finish_output());
        }
        http::get(port, "/-/ready").ok().filter(|(status, _)| *status == 200)
    });
    process
}

/// What fires there.
fn firing(port: u16) -> Vec<Value> {
    let (status, text) = http::get(port, "/api/v2/alerts").unwrap();
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn requests(plan: &Plan) -> Vec<Request> {
    let ask = Ask { plan: plan.clone(), max_tokens: 4, ..Ask::default() };
    (0..20).map(|n| Request::new(format!("notify/{n}"), &ask)).collect()
}

#[test]
fn a_slow_server_is_an_alert_until_it_is_fast_again() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let dir = TempDir::new();
    let port = free_port();
    let _alertmanager = alertmanager(dir.path(), port);
    let (config, log) = (dir.join("llmtrace.toml"), dir.join("anomalies.jsonl"));
    let anomaly = "[anomaly]\ninterval = '1s'\nwarm-up = '5s'\nwindow = '1m'\nraise = 2\nclear = 3\n\
                   signals = ['ttft']\n";
    fs::write(&config, anomaly).unwrap();
    let agent = Options::default()
        .pid(server.id())
        .arg("--config", &config)
        .arg("--anomaly-log", &log)
        .start();

    let fast = Plan { first_delay_ms: 100, ..Plan::default() };
    let slow = Plan { first_delay_ms: 1_000, ..Plan::default() };
    let end = now() + 10_000_000_000;
    while now() < end {
        load(&server.address, requests(&fast), 4);
    }
    assert_eq!(firing(port), [] as [Value; 0], "{}", agent.get("/api/v1/anomalies").1);

    // Nobody is to be told until the file says so: then of what is under way as well.
    let began = now();
    wait_for("an anomaly", LIMIT, || {
        load(&server.address, requests(&slow), 8);
        (agent.metrics().sum("llmtrace_anomaly", &[("signal", "ttft")]) > 0.0).then_some(())
    });
    println!("found {} ms after the server became slow", (now() - began) / 1_000_000);
    assert_eq!(firing(port), [] as [Value; 0]);
    let notify = format!(
        "[notify]\nalertmanager = 'http://127.0.0.1:{port}'\nlabels = {{ cluster = 'test' }}\n"
    );
    fs::write(&config, format!("{anomaly}{notify}")).unwrap();
    agent.signal(Signal::HUP);
    let alerts = wait_for("an alert", LIMIT, || {
        load(&server.address, requests(&slow), 8);
        // One that begins as a warning becomes critical.
        let all =
            |alerts: &Vec<Value>| alerts.iter().all(|a| a["labels"]["severity"] == "critical");
        Some(firing(port)).filter(|alerts| !alerts.is_empty() && all(alerts))
    });
    for alert in &alerts {
        let labels = &alert["labels"];
        assert_eq!(labels["alertname"], "LlmtraceAnomalyDetected");
        assert_eq!((&labels["signal"], &labels["model"]), (&"ttft".into(), &"tiny".into()));
        assert_eq!(labels["server"], format!("server:{}", server.port()));
        assert_eq!(labels["severity"], "critical");
        assert_eq!(
            (&labels["cluster"], &alert["status"]["state"]),
            (&"test".into(), &"active".into())
        );
    }
    let metrics = agent.metrics();
    assert!(metrics.sum("llmtrace_anomaly", &[("signal", "ttft")]) >= alerts.len() as f64);
    let list: Value = serde_json::from_str(&agent.get("/api/v1/anomalies").1).unwrap();
    let active = list["active"].as_array().unwrap();
    assert!(!active.is_empty());
    let offenders = active[0]["requests"].as_array().unwrap();
    assert!(!offenders.is_empty());
    assert!(offenders.iter().all(|r| r["ttft_s"].as_f64().unwrap() > 0.9), "{offenders:?}");

    wait_for("the alert to be over", LIMIT, || {
        load(&server.address, requests(&fast), 4);
        firing(port).is_empty().then_some(())
    });
    let metrics = agent.metrics();
    assert_eq!(metrics.sum("llmtrace_anomaly", &[]), 0.0);
    assert!(metrics.sum("llmtrace_notifications_total", &[("result", "ok")]) >= 2.0);
    assert_eq!(metrics.sum("llmtrace_notifications_total", &[("result", "failed")]), 0.0);
    agent.stop();
    let text = fs::read_to_string(log).unwrap();
    let events: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let count = |event: &str| events.iter().filter(|e| e["event"] == event).count();
    assert!(count("raised") >= 1 && count("raised") == count("cleared"), "{text}");
    assert!(!text.contains("Say something."), "no prompt is in it");
}
