//! Real Prometheus and Alertmanager on loopback, with the files of `dashboards/`.

mod board;
mod receiver;
mod rules;
mod traffic;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

pub use board::{Board, Panel, Query, Variable};
pub use receiver::Receiver;
pub use rules::{hurried, relaxed};
pub use traffic::Traffic;

use crate::clock::wait_for;
use crate::http;
use crate::net::free_port;
use crate::paths::{self, TempDir};
use crate::process::Process;

const START_LIMIT: Duration = Duration::from_secs(60);

/// A file or folder of `dashboards/`.
pub fn file(name: &str) -> PathBuf {
    paths::root().join("dashboards").join(name)
}

/// Text of a file of `dashboards/`.
#[track_caller]
pub fn text(name: &str) -> String {
    let path = file(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A program of Debian's packages of Prometheus, run to its end in `dashboards/`.
///
/// # Panics
/// If it says no.
#[track_caller]
pub fn check(program: &str, args: &[&str]) -> String {
    let output = Command::new(paths::monitoring(program))
        .args(args)
        .current_dir(file(""))
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{program} {args:?}:\n{text}");
    text
}

/// The text with `from` replaced, which has to be there.
#[track_caller]
pub fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "no {from:?} in:\n{text}");
    text.replace(from, to)
}

/// A running server of HTTP.
#[derive(Debug)]
struct Web {
    process: Process,
    port: u16,
    dir: TempDir,
}

impl Web {
    #[track_caller]
    fn start(command: &mut Command, port: u16, dir: TempDir) -> Self {
        let mut process = Process::spawn(command);
        wait_for("a server to be ready", START_LIMIT, || {
            if let Some(status) = process.try_wait() {
                panic!("it left: {status}\n{}", process.finish_output());
            }
            http::get(port, "/-/ready").ok().filter(|(status, _)| *status == 200)
        });
        Self { process, port, dir }
    }
}

/// A Prometheus that scrapes every second.
#[derive(Debug)]
pub struct Prometheus(Web);

impl Prometheus {
    /// With `dashboards/prometheus.yml`, its rules in a hurry, for these ports on loopback.
    #[track_caller]
    pub fn start(agent: u16, alertmanager: u16) -> Self {
        let dir = TempDir::new();
        let port = free_port();
        let config = text("prometheus.yml");
        let config = replaced(&config, "interval: 15s", "interval: 1s");
        let config = replaced(&config, "127.0.0.1:9466", &format!("127.0.0.1:{agent}"));
        let config = replaced(&config, "127.0.0.1:9093", &format!("127.0.0.1:{alertmanager}"));
        fs::write(dir.join("prometheus.yml"), config).expect("a temporary file");
        fs::create_dir(dir.join("rules")).expect("a temporary folder");
        for name in ["llmtrace.recording.yml", "llmtrace.alerts.yml"] {
            let rules = hurried(&text(&format!("rules/{name}")));
            fs::write(dir.join("rules").join(name), rules).expect("a temporary file");
        }
        let mut command = Command::new(paths::monitoring("prometheus"));
        command.current_dir(dir.path());
        command.arg("--config.file=prometheus.yml").arg("--storage.tsdb.path=data");
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        command.args(["--log.level=warn", "--rules.alert.resend-delay=1s"]);
        Self(Web::start(&mut command, port, dir))
    }

    pub fn port(&self) -> u16 {
        self.0.port
    }

    pub fn dir(&self) -> &Path {
        self.0.dir.path()
    }

    /// `data` of an answer, or what is wrong with the question.
    #[track_caller]
    pub fn api(&self, path: &str, args: &[(&str, &str)]) -> Result<Value, String> {
        let args: Vec<_> = args.iter().map(|(key, v)| format!("{key}={}", escaped(v))).collect();
        let path = format!("/api/v1/{path}?{}", args.join("&"));
        let (_, body) = http::get(self.0.port, &path).expect("Prometheus answers");
        let mut answer: Value = serde_json::from_str(&body).expect("Prometheus answers in JSON");
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].take()),
            _ => Err(answer["error"].to_string()),
        }
    }

    /// How many series of `expr` have a number now, or had one within `seconds`.
    #[track_caller]
    pub fn series(&self, expr: &str, seconds: u64) -> Result<usize, String> {
        let data = if seconds == 0 {
            self.api("query", &[("query", expr)])?
        } else {
            let now = self.now();
            let (start, end) = ((now - seconds as f64).to_string(), now.to_string());
            let args = [("query", expr), ("start", &start), ("end", &end), ("step", "1")];
            self.api("query_range", &args)?
        };
        let samples = |series: &Value| -> Vec<Value> {
            match (series["values"].as_array(), series["value"].as_array()) {
                (Some(all), _) => all.iter().map(|sample| sample[1].clone()).collect(),
                (None, Some(one)) => vec![one[1].clone()],
                // A scalar.
                (None, None) => vec![series.clone()],
            }
        };
        let result = data["result"].as_array().cloned().unwrap_or_default();
        Ok(result.iter().filter(|s| samples(s).iter().any(|v| v != "NaN")).count())
    }

    /// Its clock, in seconds.
    pub fn now(&self) -> f64 {
        let time = self.api("query", &[("query", "time()")]).expect("it knows the time");
        time["result"][0].as_f64().expect("a number")
    }

    /// Every rule: what `/api/v1/rules` says of it.
    #[track_caller]
    pub fn rules(&self) -> Vec<Value> {
        let data = self.api("rules", &[]).expect("rules");
        let groups = data["groups"].as_array().expect("groups");
        groups
            .iter()
            .flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default())
            .collect()
    }

    /// Name and state of every alert that is not inactive.
    #[track_caller]
    pub fn alerts(&self) -> Vec<(String, String)> {
        let data = self.api("alerts", &[]).expect("alerts");
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let alerts = data["alerts"].as_array().cloned().unwrap_or_default();
        alerts.iter().map(|a| (text(&a["labels"]["alertname"]), text(&a["state"]))).collect()
    }

    /// SIGTERM; what it printed.
    #[track_caller]
    pub fn stop(mut self) -> String {
        self.0.process.signal(rustix::process::Signal::TERM);
        self.0.process.wait(START_LIMIT);
        self.0.process.finish_output()
    }
}

/// An Alertmanager.
#[derive(Debug)]
pub struct Alertmanager(Web);

impl Alertmanager {
    /// With `dashboards/alertmanager.yml`, which does not wait and tells `receiver`.
    #[track_caller]
    pub fn start(receiver: u16) -> Self {
        let dir = TempDir::new();
        let port = free_port();
        let config = text("alertmanager.yml");
        let config = replaced(&config, "127.0.0.1:9095", &format!("127.0.0.1:{receiver}"));
        let config = replaced(&config, "group_wait: 30s", "group_wait: 1s");
        let config = replaced(&config, "group_interval: 5m", "group_interval: 1s");
        fs::write(dir.join("alertmanager.yml"), config).expect("a temporary file");
        let mut command = alertmanager();
        command.current_dir(dir.path());
        command.args(["--config.file=alertmanager.yml", "--storage.path=data"]);
        // Alone: it would look for others on every interface.
        command.args(["--cluster.listen-address=", "--log.level=warn"]);
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        Self(Web::start(&mut command, port, dir))
    }

    pub fn port(&self) -> u16 {
        self.0.port
    }
}

/// Debian's looks for its templates below /usr/share, and will not start without. Where it is only
/// unpacked, it gets a /usr/share of its own, which nobody else sees.
fn alertmanager() -> Command {
    let program = paths::monitoring("prometheus-alertmanager");
    let templates = "share/prometheus/alertmanager/default.tmpl";
    let unpacked = program.ancestors().nth(2).expect("a program in usr/bin").to_path_buf();
    if Path::new("/usr").join(templates).exists() || !unpacked.join(templates).exists() {
        return Command::new(program);
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    command.arg("mount --bind \"$0\" /usr/share && exec \"$@\"");
    command.arg(unpacked.join("share")).arg(program);
    command
}

/// As a value in a URL.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
