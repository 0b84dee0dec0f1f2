//! What a receiver of Alertmanager's API gets. The receiver is a fake, and the JSON is checked against
//! the API's schema here; tests/tests/notify.rs has a real Alertmanager.

use std::net::TcpListener;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::anomaly::{End, Offender};
use crate::client::receiver::{Post, receiver};
use crate::llm::{Outcome, Role};

const SECOND: Ns = 1_000_000_000;
const LIMIT: Duration = Duration::from_secs(20);

/// The next request: its head, and alerts that are as the API has them.
#[track_caller]
fn next(got: &mpsc::Receiver<Post>) -> (Post, Value) {
    let post = got.recv_timeout(LIMIT).unwrap();
    let alerts = serde_json::from_slice(&post.body).unwrap();
    check_postable(&alerts);
    (post, alerts)
}

/// `postableAlerts` of Alertmanager's openapi.yaml: a list of alerts, whose labels are needed.
fn check_postable(alerts: &Value) {
    for alert in alerts.as_array().unwrap() {
        for (key, value) in alert.as_object().unwrap() {
            match &**key {
                "labels" | "annotations" => {
                    let set = value.as_object().unwrap();
                    assert!(set.values().all(|v| v.as_str().is_some_and(|v| !v.is_empty())));
                }
                "startsAt" | "endsAt" => {
                    let time = value.as_str().unwrap();
                    assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
                }
                "generatorURL" => assert!(value.as_str().unwrap().starts_with("http")),
                other => panic!("{other} is not in the API"),
            }
        }
        assert!(alert["labels"]["alertname"].is_string());
    }
}

fn anomaly() -> Anomaly {
    Anomaly {
        id: 3,
        signal: Signal::Ttft,
        method: Method::Window,
        severity: Severity::Warning,
        server: "vllm:8000".into(),
        model: "llama".into(),
        started: 100 * SECOND,
        raised: 130 * SECOND,
        ended: None,
        value: 0.9,
        expected: 0.2,
        threshold: 0.4,
        worst: 1.5,
        requests: vec![Offender {
            start: 101 * SECOND,
            end: Some(104 * SECOND),
            first_token: Some(102 * SECOND),
            outcome: Some(Outcome::Success),
            status: Some(200),
            endpoint: "/v1/chat/completions",
            model: Some("llama".into()),
            client: "10.0.0.7:1".into(),
            output_tokens: Some(9),
            value: 1.0,
        }],
    }
}

fn raised() -> Event {
    Event { what: What::Raised, at: 130 * SECOND, anomaly: anomaly() }
}

fn worse() -> Event {
    let anomaly = Anomaly { severity: Severity::Critical, ..anomaly() };
    Event { what: What::Worse, at: 140 * SECOND, anomaly }
}

fn cleared() -> Event {
    let ended = Some((200 * SECOND, End::Calm));
    let anomaly = Anomaly { severity: Severity::Critical, ended, ..anomaly() };
    Event { what: What::Cleared, at: 200 * SECOND, anomaly }
}

fn alerts(sender: Option<Sender>, metrics: &Metrics) -> Alerts {
    let settings = config::Anomaly::default();
    let mut alerts = Alerts::new(settings, metrics.clone(), Board::default(), || 0);
    alerts.send_by(sender);
    alerts
}

#[track_caller]
fn wait(metrics: &Metrics, line: &str) {
    let end = std::time::Instant::now() + LIMIT;
    while !metrics.encode_text().contains(line) {
        assert!(std::time::Instant::now() < end, "no {line} in:\n{}", metrics.encode_text());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn raised_worse_cleared_at_a_receiver_that_first_fails() {
    let (url, got) = receiver(&[500, 200, 429]);
    let dir = std::env::temp_dir().join(format!("llmtrace-notify-{}", std::process::id()));
    std::fs::write(&dir, "secret\n").unwrap();
    let metrics = Metrics::default();
    let config = config::Notify {
        alertmanager: Some(url),
        username: Some("me".into()),
        password_file: Some(dir.clone()),
        labels: [("cluster".to_owned(), "a".to_owned())].into(),
        generator_url: Some("http://llmtrace/".into()),
        ..config::Notify::default()
    };
    let to = Receiver::new(&config).unwrap().unwrap();
    let sender = Some(Sender::start(to, metrics.clone()).unwrap());
    std::fs::remove_file(dir).unwrap();
    let mut alerts = alerts(sender, &metrics);

    alerts.event(&raised());
    let (post, first) = next(&got);
    assert_eq!(post.path, "/api/v2/alerts");
    assert_eq!(post.header("authorization"), Some("Basic bWU6c2VjcmV0"));
    let (_, again) = next(&got);
    let labels = serde_json::json!({
        "alertname": "LlmtraceAnomalyDetected", "signal": "ttft", "method": "window",
        "severity": "warning", "server": "vllm:8000", "model": "llama", "cluster": "a",
    });
    assert_eq!((&first[0]["labels"], &again[0]["labels"]), (&labels, &labels));
    assert_eq!(again[0]["startsAt"], "1970-01-01T00:01:40.000Z");
    assert_eq!(again[0]["generatorURL"], "http://llmtrace/");
    let text = again[0]["annotations"]["description"].as_str().unwrap();
    assert!(text.contains("0.9000 seconds; 0.2000 was expected"), "{text}");
    wait(&metrics, "llmtrace_notifications_total{result=\"ok\"} 1");
    wait(&metrics, "llmtrace_notifications_total{result=\"failed\"} 1");

    // It is over as a warning and begins as critical; the first try is one too many for the receiver.
    alerts.event(&worse());
    next(&got);
    let (_, both) = next(&got);
    let by = |severity: &str| {
        let all = both.as_array().unwrap();
        all.iter().find(|a| a["labels"]["severity"] == severity).unwrap()["endsAt"].clone()
    };
    assert_eq!(both.as_array().unwrap().len(), 2);
    assert_eq!(by("warning"), "1970-01-01T00:02:20.000Z");
    // What fires ends in four minutes, unless it is told again.
    let ends = humantime::parse_rfc3339(by("critical").as_str().unwrap()).unwrap();
    let left = ends.duration_since(std::time::SystemTime::now()).unwrap().as_secs();
    assert!((200..=240).contains(&left), "{left}");

    wait(&metrics, "llmtrace_notifications_total{result=\"ok\"} 3");
    alerts.event(&cleared());
    let (_, last) = next(&got);
    assert_eq!(last.as_array().unwrap().len(), 1, "what was told to be over is gone: {last}");
    assert_eq!(last[0]["endsAt"], "1970-01-01T00:03:20.000Z");
}

#[test]
fn what_is_not_watched_is_counted() {
    let metrics = Metrics::default();
    let mut alerts = alerts(None, &metrics);
    let counted = |n| {
        metrics.encode_text().contains(&format!("llmtrace_anomaly_unwatched_requests_total {n}\n"))
    };
    alerts.tick(SECOND);
    assert!(counted(0), "{}", metrics.encode_text());
    let peer = Peer { server: "s".into(), client: "c".into(), pid: 1, tls: false };
    let failed = Finished { outcome: Outcome::HttpError, ..Finished::new(Role::Server, SECOND) };
    alerts.finished(&failed, &peer);
    alerts.tick(2 * SECOND);
    assert!(counted(1), "{}", metrics.encode_text());
    alerts.end(3 * SECOND);
    let text = metrics.encode_text();
    assert!(!text.contains("llmtrace_anomaly_unwatched_requests_total"), "{text}");
}

#[test]
fn what_fires_is_sent_again() {
    let (url, got) = receiver(&[]);
    let metrics = Metrics::default();
    let config = config::Notify { alertmanager: Some(url), ..config::Notify::default() };
    let to = Receiver::new(&config).unwrap().unwrap();
    let sender = Sender::start_with(to, metrics.clone(), Duration::from_millis(100)).unwrap();
    let mut alerts = alerts(Some(sender), &metrics);
    alerts.event(&raised());
    let times: Vec<Value> = (0..3).map(|_| next(&got).1[0]["startsAt"].clone()).collect();
    assert_eq!(times, ["1970-01-01T00:01:40.000Z"; 3]);
}

#[test]
fn a_receiver_that_is_gone_costs_bounded_memory_and_no_time() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let metrics = Metrics::default();
    let url = Some(format!("http://{closed}"));
    let config = config::Notify { alertmanager: url, ..config::Notify::default() };
    let to = Receiver::new(&config).unwrap().unwrap();
    let sender = Sender::start(to, metrics.clone()).unwrap();
    let began = std::time::Instant::now();
    for n in 0..5_000 {
        let anomaly = Anomaly { server: format!("s{n}").into(), ..anomaly() };
        alert::of(&Event { anomaly, ..raised() }, 0).into_iter().for_each(|a| sender.send(a));
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    let text = metrics.encode_text();
    let dropped = text.lines().find_map(|l| {
        l.strip_prefix("llmtrace_notifications_total{result=\"dropped\"} ")?.parse::<u64>().ok()
    });
    // A thousand are kept, and 256 wait.
    assert!(dropped.is_some_and(|n| n >= 5_000 - 1_000 - 256 - 1), "{dropped:?}");
}

#[test]
fn metrics_log_and_list() {
    let metrics = Metrics::default();
    let mut alerts = alerts(None, &metrics);
    let log = Arc::new(std::sync::Mutex::new(Vec::new()));
    struct Shared(Arc<std::sync::Mutex<Vec<u8>>>);
    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    alerts.log_to(Box::new(Shared(log.clone())));
    alerts.event(&raised());
    alerts.show();
    let list: Value = serde_json::from_str(&alerts.board.json()).unwrap();
    assert_eq!(
        (list["active"][0]["id"].as_u64(), list["ended"].as_array().map(Vec::len)),
        (Some(3), Some(0))
    );
    let line = "llmtrace_anomaly{signal=\"ttft\",method=\"window\",severity=\"SEVERITY\",server=\"vllm:8000\",model=\"llama\"} ";
    let has = |severity: &str, value: &str| {
        let text = metrics.encode_text();
        let wanted = format!("{}{value}\n", line.replace("SEVERITY", severity));
        text.contains(&wanted)
    };
    assert!(has("warning", "1"), "{}", metrics.encode_text());
    alerts.event(&worse());
    alerts.event(&cleared());
    alerts.show();
    assert!(has("warning", "0") && has("critical", "0"));
    let total =
        "llmtrace_anomalies_total{signal=\"ttft\",method=\"window\",severity=\"critical\"} 1";
    assert!(metrics.encode_text().contains(total));
    // Ten minutes later nothing is left of it.
    alerts.tick(200 * SECOND + AFTER);
    assert!(!metrics.encode_text().contains("llmtrace_anomaly{"));
    let list: Value = serde_json::from_str(&alerts.board.json()).unwrap();
    assert_eq!(list["active"].as_array().map(Vec::len), Some(0));
    assert_eq!(
        (&list["ended"][0]["event"], &list["ended"][0]["end"]),
        (&"cleared".into(), &"calm".into())
    );
    let text = String::from_utf8(log.lock().unwrap().clone()).unwrap();
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    let request = &lines[0]["requests"][0];
    assert_eq!(
        (request["duration_s"].as_f64(), request["ttft_s"].as_f64()),
        (Some(3.0), Some(1.0))
    );
    assert_eq!(
        (&request["outcome"], &request["client"]),
        (&"success".into(), &"10.0.0.7:1".into())
    );
    assert_eq!(lines[0]["started"], "1970-01-01T00:01:40.000Z");
}
