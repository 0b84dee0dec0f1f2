//! OTLP: spans of a real traced run, at a receiver that reads them with the official Python
//! package (`otlp_receiver.py` stands in for a collector), and by way of a real collector, Rotel.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use llmtrace_tests::agent::{Agent, Options, require_bpf, serial};
use llmtrace_tests::client::{Request, load};
use llmtrace_tests::clock::{self, wait_for};
use llmtrace_tests::net::free_port;
use llmtrace_tests::paths::{self, TempDir};
use llmtrace_tests::plan::{Ask, Plan};
use llmtrace_tests::process::Process;
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;
use rustix::process::Signal;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);
const REQUESTS: usize = 12;

fn lines(file: &Path, kind: &str) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    // The last line may be under way.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let all = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|line| line["type"] == kind).collect()
}

fn receiver(port: u16, file: &Path, more: &[&str]) -> Process {
    let mut receiver = Command::new(paths::python());
    receiver.arg(paths::app("otlp_receiver.py")).arg(port.to_string()).arg(file).args(more);
    Process::spawn(&mut receiver)
}

/// A collector that takes OTLP on `port` and hands it on to the receiver on `to`.
#[track_caller]
fn collector(port: u16, to: u16) -> Process {
    let mut rotel = Command::new(paths::rotel());
    rotel
        .args(["start", "--otlp-http-endpoint", &format!("127.0.0.1:{port}")])
        .args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{}", free_port())])
        .args(["--otlp-exporter-endpoint", &format!("http://127.0.0.1:{to}")])
        .args(["--otlp-exporter-protocol", "http"]);
    let collector = Process::spawn(&mut rotel);
    wait_for("the collector", LIMIT, || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    collector
}

/// An agent that exports to `port`, packed and twice a second.
fn exporting(server: &Server, dir: &TempDir, port: u16) -> Agent {
    let config = dir.join("llmtrace.toml");
    fs::write(&config, "[otlp]\ninterval = '500ms'\ncompression = 'gzip'\n").unwrap();
    Options::default()
        .pid(server.id())
        .arg("--config", &config)
        .arg("--otlp-endpoint", format!("http://127.0.0.1:{port}"))
        .start()
}

/// Waits until `file` has so many spans, and gives them.
#[track_caller]
fn wait_for_spans(file: &Path, count: usize) -> Vec<Value> {
    wait_for("spans", LIMIT, || {
        let spans = lines(file, "span");
        assert!(spans.len() <= count, "{spans:?}");
        (spans.len() == count).then_some(spans)
    })
}

fn wall_offset() -> i128 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    wall.as_nanos() as i128 - i128::from(clock::now())
}

#[test]
fn spans_are_children_of_their_callers_and_have_the_times_of_the_kernel() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let dir = TempDir::new();
    let (file, port) = (dir.join("otlp.jsonl"), free_port());
    let agent = exporting(&server, &dir, port);

    let ask = Ask {
        plan: Plan { first_delay_ms: 20, interval_us: 2_000, ..Plan::default() },
        ..Ask::default()
    };
    let bad = Ask { plan: Plan { status: Some(500), ..Plan::default() }, ..Ask::default() };
    let (trace, parent) =
        (|n: usize| format!("{:032x}", n + 1), |n: usize| format!("{:016x}", n + 77));
    let requests = (0..REQUESTS).map(|n| {
        let mut request = Request::new(format!("otlp/{n}"), if n == 3 { &bad } else { &ask });
        // One is not sampled, one has no parent, and one a parent that is no good.
        request.traceparent = match n {
            0 => Some(format!("00-{}-{}-00", trace(n), parent(n))),
            1 => None,
            2 => Some(format!("00-{}-{}-01", trace(n).replace('0', "G"), parent(n))),
            _ => Some(format!("00-{}-{}-01", trace(n), parent(n))),
        };
        request.tracestate = Some(format!("vendor={n}, other=x"));
        request
    });
    let records = load(&server.address, requests.collect(), 3);
    agent.wait_for_requests("server", REQUESTS);
    // The collector comes late, and refuses the first request.
    let receiver = receiver(port, &file, &["--not-ready"]);
    let spans = wait_for_spans(&file, REQUESTS - 1);
    let duration = "gen_ai.server.request.duration";
    let points = wait_for("metrics", LIMIT, || {
        let points = lines(&file, "point");
        points.iter().any(|p| p["name"] == duration).then_some(points)
    });
    let items = |result| {
        let labels = [("signal", "spans"), ("result", result)];
        agent.metrics().sum("llmtrace_otlp_items_total", &labels)
    };
    // They are written down before they are answered.
    wait_for("spans to count", LIMIT, || (items("ok") == (REQUESTS - 1) as f64).then_some(()));
    assert!(items("failed") > 0.0, "it was not there at first");
    assert_eq!(items("dropped"), 0.0);

    let offset = wall_offset();
    let entries = agent.stop();
    assert_eq!(entries.len(), REQUESTS);
    for (n, entry) in entries.iter().enumerate() {
        let user_agent = entry.user_agent.as_deref().unwrap();
        let nth: usize = user_agent.strip_prefix("otlp/").unwrap().parse().unwrap();
        let span = spans.iter().find(|s| s["attributes"]["user_agent.original"] == user_agent);
        if nth == 0 {
            assert!(span.is_none(), "its caller did not sample it: {span:?}");
            continue;
        }
        let span = span.unwrap_or_else(|| panic!("no span of entry {n}: {entry:?}"));
        if nth <= 2 {
            assert_eq!((&span["parent_span_id"], &span["trace_state"]), (&"".into(), &"".into()));
            assert_eq!(span["trace_id"].as_str().unwrap().len(), 32);
        } else {
            assert_eq!(span["trace_id"], trace(nth));
            assert_eq!(span["parent_span_id"], parent(nth));
            assert_eq!(span["trace_state"], format!("vendor={nth},other=x"));
        }
        assert_eq!(span["span_id"].as_str().unwrap().len(), 16);
        // As the request log has it, on the wall clock.
        let time = |v: &Value| i128::from(v.as_u64().unwrap());
        let (start, end) = (time(&span["start"]), time(&span["end"]));
        let logged = |ns: Option<u64>| i128::from(ns.unwrap());
        assert_eq!(end - start, logged(entry.end_ns) - logged(entry.start_ns));
        let off = start - offset - logged(entry.start_ns);
        assert!(off.abs() < 20_000_000, "{off} ns between the span and the request log");
        let record = records.iter().find(|r| r.user_agent == user_agent).unwrap();
        let since_sent = start - offset - i128::from(record.send_ns);
        assert!(
            (-20_000_000..100_000_000).contains(&since_sent),
            "{since_sent} ns after it was sent"
        );
        let attributes = &span["attributes"];
        assert_eq!(attributes["gen_ai.operation.name"], "chat");
        assert_eq!(attributes["gen_ai.request.model"], "tiny");
        assert_eq!(attributes["server.port"], server.port());
        assert_eq!(span["kind"], 2);
        if nth == 3 {
            assert_eq!((&attributes["error.type"], &span["status"]), (&"500".into(), &2.into()));
            continue;
        }
        assert_eq!(span["events"][0][0], "gen_ai.first_token");
        assert_eq!(
            time(&span["events"][0][1]) - start,
            logged(entry.first_token_ns) - logged(entry.start_ns)
        );
        let ttft = attributes["gen_ai.server.time_to_first_token"].as_f64().unwrap();
        assert!((ttft - entry.ttft().unwrap() as f64 / 1e9).abs() < 1e-9 && ttft > 0.02);
        assert_eq!(attributes["gen_ai.usage.output_tokens"].as_u64(), record.output_tokens());
        assert_eq!(attributes["gen_ai.response.finish_reasons"][0], "stop");
    }

    let of = |name: &str| points.iter().filter(|p| p["name"] == name).cloned().collect::<Vec<_>>();
    let ok = of(duration).into_iter().rfind(|p| p["attributes"]["error.type"].is_null()).unwrap();
    assert_eq!(
        (ok["count"].as_u64(), &ok["unit"], &ok["temporality"]),
        (Some(11), &"s".into(), &2.into())
    );
    assert_eq!(ok["count"], ok["in_buckets"]);
    assert_eq!(ok["resource"]["service.name"], "server");
    let all: Vec<&Value> = spans.iter().map(|s| &s["trace_id"]).collect();
    let mut exemplars = points.iter().flat_map(|p| p["exemplars"].as_array().unwrap());
    assert!(exemplars.all(|e| all.contains(&e)));
    let output: Vec<Value> = of("gen_ai.client.token.usage")
        .into_iter()
        .filter(|p| p["attributes"]["gen_ai.token.type"] == "output")
        .collect();
    let sum: u64 = records.iter().filter_map(|r| r.output_tokens()).sum();
    assert_eq!(output.last().unwrap()["sum"].as_f64(), Some(sum as f64));
    drop(receiver);
}

/// The collector is not there at first, and is killed in between: whatever it takes is handed on as it
/// was, and everything gets there, once.
#[test]
fn a_real_collector_that_comes_late_and_is_killed_hands_everything_on() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let dir = TempDir::new();
    let (file, port, end) = (dir.join("otlp.jsonl"), free_port(), free_port());
    let _receiver = receiver(end, &file, &[]);
    let agent = exporting(&server, &dir, port);
    let items = |signal, result| {
        let labels = [("signal", signal), ("result", result)];
        agent.metrics().sum("llmtrace_otlp_items_total", &labels)
    };
    let (trace, parent) = (|n: usize| format!("{n:032x}"), |n: usize| format!("{n:016x}"));
    let mut records = Vec::new();
    let mut send = |count: usize| {
        let requests = (records.len()..records.len() + count).map(|n| {
            // Every fifth fails.
            let status = (n % 5 == 4).then_some(500);
            let ask = Ask { plan: Plan { status, ..Plan::default() }, ..Ask::default() };
            let mut request = Request::new(format!("otlp/{n}"), &ask);
            request.traceparent = Some(format!("00-{}-{}-01", trace(n + 1), parent(n + 1)));
            request.tracestate = Some(format!("vendor={n}"));
            request
        });
        records.extend(load(&server.address, requests.collect(), 3));
        agent.wait_for_requests("server", records.len());
    };
    let wait_for_failure = |than: f64| {
        wait_for("a try that failed", LIMIT, || (items("spans", "failed") > than).then_some(()));
    };

    send(REQUESTS);
    wait_for_failure(0.0);
    let first = collector(port, end);
    wait_for_spans(&file, REQUESTS);
    // Only what it has answered for and handed on, so nothing goes with it.
    wait_for("spans to count", LIMIT, || (items("spans", "ok") == REQUESTS as f64).then_some(()));
    first.signal(Signal::KILL);
    drop(first);
    let failed = items("spans", "failed");
    send(REQUESTS);
    wait_for_failure(failed);
    let _second = collector(port, end);
    wait_for_spans(&file, 2 * REQUESTS);
    send(REQUESTS);
    let all = 3 * REQUESTS;
    let spans = wait_for_spans(&file, all);
    let (duration, errors) = ("gen_ai.server.request.duration", all / 5);
    let points = wait_for("all in the metrics", LIMIT, || {
        let points = lines(&file, "point");
        let of = |failed: bool| {
            let mut of = points.iter().filter(|p| p["name"] == duration);
            of.rfind(|p| p["attributes"]["error.type"].is_null() != failed)?["count"].as_u64()
        };
        let counts = (of(false)? as usize, of(true)? as usize);
        (counts == (all - errors, errors)).then_some(points)
    });
    wait_for("spans to count", LIMIT, || (items("spans", "ok") == all as f64).then_some(()));
    assert_eq!((items("spans", "dropped"), items("metrics", "dropped")), (0.0, 0.0));

    let entries = agent.stop();
    assert_eq!((entries.len(), records.len()), (all, all));
    for n in 0..all {
        let user_agent = format!("otlp/{n}");
        let record = records.iter().find(|r| r.user_agent == user_agent).unwrap();
        let entry = entries.iter().find(|e| e.user_agent.as_ref() == Some(&user_agent)).unwrap();
        let span = spans.iter().find(|s| s["attributes"]["user_agent.original"] == user_agent);
        let span = span.unwrap_or_else(|| panic!("no span of {entry:?}"));
        assert_eq!((&span["trace_id"], &span["kind"]), (&trace(n + 1).into(), &2.into()));
        assert_eq!(span["parent_span_id"], parent(n + 1));
        assert_eq!(span["trace_state"], format!("vendor={n}"));
        let took = span["end"].as_u64().unwrap() - span["start"].as_u64().unwrap();
        assert_eq!(Some(took), entry.end_ns.unwrap().checked_sub(entry.start_ns.unwrap()));
        let resource = &span["resource"];
        assert_eq!(resource["service.name"], "server");
        assert_eq!(resource["telemetry.distro.name"], "llmtrace");
        let attributes = &span["attributes"];
        assert_eq!(attributes["http.response.status_code"].as_u64(), record.status.map(u64::from));
        if n % 5 == 4 {
            assert_eq!((&attributes["error.type"], &span["status"]), (&"500".into(), &2.into()));
        } else {
            assert_eq!(span["events"][0][0], "gen_ai.first_token");
            assert_eq!(attributes["gen_ai.usage.output_tokens"].as_u64(), record.output_tokens());
            assert_eq!(attributes["gen_ai.response.finish_reasons"][0], "stop");
        }
    }
    for point in &points {
        assert_eq!((&point["count"], &point["temporality"]), (&point["in_buckets"], &2.into()));
    }
    let traces: Vec<&Value> = spans.iter().map(|s| &s["trace_id"]).collect();
    let exemplars = points.iter().flat_map(|p| p["exemplars"].as_array().unwrap());
    assert!(exemplars.clone().count() > 0 && exemplars.clone().all(|e| traces.contains(&e)));
}

#[test]
fn a_reload_flushes_to_the_old_collector_and_goes_on_with_the_new_one() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let dir = TempDir::new();
    let config = dir.join("llmtrace.toml");
    let (ports, files) = ([free_port(), free_port()], ["a", "b"].map(|name| dir.join(name)));
    let _receivers = [0, 1].map(|n| receiver(ports[n], &files[n], &[]));
    for port in ports {
        wait_for("a receiver", LIMIT, || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    }
    // Metrics that would not go out while the test runs.
    let to =
        |n: usize| format!("[otlp]\nendpoint = 'http://127.0.0.1:{}'\ninterval = '1h'\n", ports[n]);
    let mut said = 0;
    let mut reload = |agent: &Agent, text: &str| {
        fs::write(&config, text).unwrap();
        agent.signal(Signal::HUP);
        said += 1;
        let line = "llmtrace: reloaded: ";
        wait_for(line, LIMIT, || (agent.printed().matches(line).count() == said).then_some(()));
    };
    fs::write(dir.join("llmtrace.toml"), "").unwrap();
    let agent =
        Options::default().pid(server.id()).arg("--config", dir.join("llmtrace.toml")).start();
    let send = |name: &str, count: usize| {
        let all = (0..count).map(|n| Request::new(format!("{name}/{n}"), &Ask::default()));
        assert_eq!(load(&server.address, all.collect(), 2).len(), count);
    };
    send("nobody", 3);
    agent.wait_for_requests("server", 3);
    reload(&agent, &to(0));
    send("a", 5);
    agent.wait_for_requests("server", 8);
    let threads = caps_of_threads(agent.id());
    reload(&agent, &to(1));
    send("b", 7);
    agent.wait_for_requests("server", 15);

    let named = |spans: &[Value], name: &str| {
        let names = spans.iter().filter_map(|s| s["attributes"]["user_agent.original"].as_str());
        names.filter(|n| n.starts_with(name)).count()
    };
    let (a, b) = (wait_for_spans(&files[0], 5), wait_for_spans(&files[1], 7));
    assert_eq!((named(&a, "a/"), named(&b, "b/")), (5, 7));
    // The old one got its metrics at once, and those of the new one count from the reload on.
    let count = |n: usize| {
        let points = wait_for("points", LIMIT, || {
            let points = lines(&files[n], "point");
            (!points.is_empty()).then_some(points)
        });
        points.iter().find(|p| p["name"] == "gen_ai.server.request.duration").unwrap()["count"]
            .clone()
    };
    assert_eq!(count(0), 5);
    assert!(lines(&files[1], "point").is_empty());
    // Settings that stay keep the exporter, and its counts.
    reload(&agent, &format!("{}spans = true\n", to(1)));
    send("b", 2);
    agent.wait_for_requests("server", 17);
    wait_for_spans(&files[1], 9);
    assert_eq!(
        threads.len(),
        1,
        "a thread that exports has the privileges of the others: {threads:?}"
    );
    let dropped = agent.metrics().sum("llmtrace_otlp_items_total", &[("result", "dropped")]);
    agent.stop();
    assert_eq!((count(1), dropped), (9.into(), 0.0));
}

/// The sets of capabilities that threads of the process have.
fn caps_of_threads(pid: u32) -> std::collections::BTreeSet<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let status = tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    let caps = status
        .filter_map(|text| text.lines().find(|line| line.starts_with("CapEff")).map(str::to_owned));
    caps.collect()
}
