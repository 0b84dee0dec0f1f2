//! The files of `dashboards/` with the real Prometheus and Alertmanager: what they name exists, and every
//! query of a panel and a rule has data in a real run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use llmtrace_tests::agent::{Options, require_bpf, serial};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::monitoring::{
    self, Alertmanager, Board, Prometheus, Receiver, Traffic, relaxed, text,
};
use llmtrace_tests::paths::{self, TempDir};
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;
use serde_json::Value;

const BOARDS: [&str; 2] = ["llmtrace-serving", "llmtrace-agents"];
const RULES: [&str; 2] = ["rules/llmtrace.recording.yml", "rules/llmtrace.alerts.yml"];
const RULE_TESTS: [&str; 4] = ["requests", "latency", "targets", "agent"];

/// `(part of a query, why it may have no data in the run below)`.
const MAY_BE_EMPTY: &[(&str, &str)] = &[
    ("state!=\"attached\"", "every TLS library of the targets can be probed"),
    ("llmtrace_io_uring_targets", "only where the hooks do not see io_uring"),
    ("llm_cost_total{role=\"\"", "the clients leave the GPU of the configuration no rest"),
    ("llmtrace_target_gpu_", "only with a GPU, and a target that uses it"),
    (
        "llmtrace_anomal",
        "only once something is out of line with a past that is longer than this run",
    ),
    ("llmtrace_notifications_total", "only with [notify]"),
    ("llmtrace_otlp_items_total", "only with --otlp-endpoint"),
];

/// Type of every metric of the agent; a unit test compares the page with the code.
fn metrics() -> BTreeMap<String, String> {
    let page = fs::read_to_string(paths::root().join("docs/metrics.md")).expect("docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let all: BTreeMap<_, _> = rows
        .filter_map(|row| {
            let (name, rest) = row.split_once("` | ")?;
            let kind = rest.split(" |").next()?;
            matches!(kind, "counter" | "gauge" | "histogram")
                .then(|| (name.to_owned(), kind.to_owned()))
        })
        .collect();
    assert!(all.len() > 25, "{all:?}");
    all
}

/// Words that can only be metrics of ours or recorded ones.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "_:".contains(c)));
    let ours = |word: &&str| {
        let word = word.rsplit(':').nth(1).unwrap_or(word);
        ["llm_", "llmtrace_", "process_"].iter().any(|p| word.starts_with(p))
            && !word.ends_with('_')
    };
    words.filter(ours).map(str::to_owned).collect()
}

/// Rules without what is written for people.
fn rules_text() -> String {
    RULES.map(|file| text(file)).concat()
}

/// Every string in a dashboard.
fn strings(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => *out += &format!("{text}\n"),
        Value::Array(all) => all.iter().for_each(|v| strings(v, out)),
        Value::Object(all) => all.values().for_each(|v| strings(v, out)),
        _ => {}
    }
}

#[test]
fn every_metric_that_is_named_exists() {
    let metrics = metrics();
    let mut all = rules_text();
    for uid in BOARDS {
        strings(&Board::read(uid).json, &mut all);
    }
    let recorded: BTreeSet<_> = text(RULES[0])
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- record: ").map(str::to_owned))
        .collect();
    assert!(recorded.len() > 20);
    let mut used = BTreeSet::new();
    for name in names(&all) {
        if name.contains(':') {
            assert!(recorded.contains(&name), "{name} is asked for, and no rule records it");
            continue;
        }
        let parts = ["_bucket", "_sum", "_count"];
        let base = parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(&name);
        let whole = metrics.contains_key(&name);
        let histogram = metrics.get(base).is_some_and(|kind| kind == "histogram");
        assert!(
            whole || histogram,
            "the agent has no metric {name}, of which the dashboards or the rules speak"
        );
        used.insert(if whole { name.clone() } else { base.to_owned() });
    }
    // What is not on the dashboards is not looked at.
    let unused: Vec<_> = metrics.keys().filter(|name| !used.contains(*name)).collect();
    let known = [
        "llm_stream_events_total",
        "llm_time_to_first_byte_seconds",
        "llmtrace_target_info",
        "process_max_fds",
        "process_open_fds",
        "process_start_time_seconds",
        "process_threads",
        "process_virtual_memory_bytes",
    ];
    assert_eq!(unused, known, "metrics that neither a panel nor a rule uses");
}

#[test]
fn panels_say_what_they_are() {
    for uid in BOARDS {
        let board = Board::read(uid);
        assert_eq!(board.json["uid"], uid);
        assert!(!board.variables().is_empty());
        let mut taken = BTreeSet::new();
        for panel in board.panels() {
            let (title, json) = (&panel.title, &panel.json);
            assert!(json["description"].as_str().is_some_and(|d| d.len() > 20), "{title}");
            assert!(!panel.queries.is_empty(), "{title} asks for nothing");
            let defaults = &json["fieldConfig"]["defaults"];
            let unit = [&defaults["unit"], &json["options"]["yAxis"]["unit"]];
            assert!(unit.iter().any(|unit| unit.is_string()), "{title} has no unit");
            assert_eq!(json["datasource"]["uid"], "${datasource}", "{title}");
            let grid = |key: &str| json["gridPos"][key].as_u64().expect("a place");
            assert!(grid("x") + grid("w") <= 24, "{title} is too wide");
            for x in grid("x")..grid("x") + grid("w") {
                for y in grid("y")..grid("y") + grid("h") {
                    assert!(taken.insert((x, y)), "{title} lies on another panel");
                }
            }
        }
    }
}

#[test]
fn prometheus_takes_its_files() {
    monitoring::check("promtool", &["check", "config", "prometheus.yml"]);
    monitoring::check("amtool", &["check-config", "alertmanager.yml"]);
    for file in RULES {
        monitoring::check("promtool", &["check", "rules", "--lint-fatal", file]);
    }
}

/// The unit tests of the rules, and that each alert has one in which it fires and one in which not.
#[test]
fn alerts_fire_when_they_should() {
    let mut fires = BTreeSet::new();
    let mut silent = BTreeSet::new();
    for name in RULE_TESTS {
        let file = format!("rules/tests/{name}.yml");
        let printed = monitoring::check("promtool", &["test", "rules", &file]);
        assert!(printed.contains("SUCCESS"), "{printed}");
        let text = text(&file);
        let mut lines = text.lines().map(str::trim);
        while let Some(line) = lines.next() {
            if let Some(alert) = line.strip_prefix("alertname: ") {
                let expected = lines.next().expect("what is expected");
                let set = if expected == "exp_alerts: []" { &mut silent } else { &mut fires };
                set.insert(alert.to_owned());
            }
        }
    }
    let alerts: BTreeSet<_> = alerts().collect();
    assert!(alerts.len() > 20, "{alerts:?}");
    assert_eq!(fires, alerts, "alerts that are shown to fire");
    assert_eq!(silent, alerts, "alerts that are shown not to fire");
}

fn alerts() -> impl Iterator<Item = String> {
    let text = text(RULES[1]);
    let names = text.lines().filter_map(|l| l.trim().strip_prefix("- alert: ").map(str::to_owned));
    names.collect::<Vec<_>>().into_iter()
}

#[test]
fn every_alert_has_a_page() {
    let alerts: BTreeSet<_> = alerts().collect();
    let folder = paths::root().join("docs/runbooks");
    let pages: BTreeSet<_> = fs::read_dir(&folder)
        .expect("docs/runbooks")
        .filter_map(|entry| {
            entry.ok()?.file_name().to_str()?.strip_suffix(".md").map(str::to_owned)
        })
        .collect();
    assert_eq!(pages, alerts);
    let metrics = metrics();
    for page in pages {
        let text = fs::read_to_string(folder.join(format!("{page}.md"))).expect("a page");
        for heading in ["## What it means", "## Look", "## Do"] {
            assert!(text.contains(heading), "{page} has no {heading:?}");
        }
        assert!(text.starts_with(&format!("# {page}\n")), "{page}");
        for name in names(&text).iter().filter(|name| !name.contains(':')) {
            let base = name.trim_end_matches("_bucket").trim_end_matches("_count");
            assert!(metrics.contains_key(base), "{page} speaks of {name}, which is no metric");
        }
    }
}

/// With Grafana's variables filled in.
fn filled(expr: &str) -> String {
    let mut expr = expr.to_owned();
    for (variable, value) in [
        ("$__rate_interval", "10s"),
        ("$role", "server"),
        ("$server", ".*"),
        ("$model", ".*"),
        ("$job", "llmtrace"),
        ("$instance", ".*"),
    ] {
        expr = expr.replace(variable, value);
    }
    assert!(!expr.contains('$'), "a variable is left in {expr}");
    expr
}

/// What there has to be a configuration for: targets that some requests miss, prices by token for one model
/// and by GPU hour for the other, and the look for repetitions.
const CONFIG: &str = r#"
quality = true

[[slo]]
model = "*"
ttft = "60ms"
tpot = "5ms"
e2e = "10s"

[cost]
currency = "EUR"
gpu-hour = 2.5
gpus = 1.0

[[cost.model]]
model = "scripted"
prompt = 0.15
output = 0.60
cached = 0.075
"#;

/// Why a query may have no data.
fn excuse(expr: &str) -> Option<&'static str> {
    MAY_BE_EMPTY.iter().find(|(part, _)| expr.contains(part)).map(|(_, why)| *why)
}

/// Asks until there is data: some of it needs a second scrape.
fn assert_data(prometheus: &Prometheus, what: &str, expr: &str, seconds: u64) -> usize {
    let ask = || prometheus.series(expr, seconds).unwrap_or_else(|e| panic!("{what}: {e}\n{expr}"));
    if excuse(expr).is_some() {
        return ask();
    }
    wait_for(&format!("data of {what}: {expr}"), Duration::from_secs(10), || {
        Some(ask()).filter(|series| *series > 0)
    })
}

#[test]
fn a_real_run_has_data_for_every_panel_and_rule() {
    require_bpf();
    let _alone = serial();
    let (app, llama) = (Server::app(Model::Thread), Server::llama());
    let dir = TempDir::new();
    fs::write(dir.join("llmtrace.toml"), CONFIG).expect("a temporary file");
    let options = Options::default().pid(app.id()).pid(llama.id());
    let agent = options.arg("--config", dir.join("llmtrace.toml")).start();
    let receiver = Receiver::start();
    let alertmanager = Alertmanager::start(receiver.port());
    let prometheus = Prometheus::start(agent.port(), alertmanager.port());
    let traffic = [Traffic::app(&app, "scripted", 6), Traffic::llama(&llama, 1)];

    // pending -> firing -> notified. A state that is over is still in the history.
    for state in ["pending", "firing"] {
        let expr = format!("ALERTS{{alertname=\"LlmErrorRatioHigh\", alertstate=\"{state}\"}}");
        wait_for(&expr, Duration::from_secs(60), || {
            (prometheus.series(&expr, 120) != Ok(0)).then_some(())
        });
    }
    let (path, call) = wait_for("a notification", Duration::from_secs(30), || {
        let calls = receiver.calls();
        calls.into_iter().find(|(_, c)| c["commonLabels"]["alertname"] == "LlmErrorRatioHigh")
    });
    assert_eq!(path, "/oncall", "{call:#}");
    assert_eq!(call["status"], "firing");
    let annotations = &call["commonAnnotations"];
    let summary = annotations["summary"].as_str().expect("a summary");
    let port = app.port();
    assert!(summary.contains(&format!(":{port} fails ")) && summary.contains('%'), "{summary}");
    let page = annotations["runbook_url"].as_str().expect("a page");
    assert!(page.ends_with("/docs/runbooks/LlmErrorRatioHigh.md"));

    // Panels.
    let mut asked = 0;
    let mut empty = Vec::new();
    for uid in BOARDS {
        let board = Board::read(uid);
        for panel in board.panels() {
            for query in &panel.queries {
                let expr = filled(&query.expr);
                let seconds = if query.instant { 0 } else { 20 };
                let what = format!("{uid}, {}", panel.title);
                asked += 1;
                if assert_data(&prometheus, &what, &expr, seconds) == 0 {
                    empty.push(what);
                }
            }
        }
        for variable in board.variables() {
            let args = [("match[]", &*filled(&variable.metric))];
            let path = format!("label/{}/values", variable.label);
            let values = prometheus.api(&path, &args).expect("values of a label");
            assert!(values.as_array().is_some_and(|v| !v.is_empty()), "{}", variable.name);
        }
        let annotation = &board.json["annotations"]["list"][0]["expr"];
        let expr = annotation.as_str().expect("an annotation");
        assert_data(&prometheus, "alerts on panels", expr, 20);
    }
    assert!(asked > 80, "{asked}");

    // Rules: what they record, and all that alerts look at.
    for rule in prometheus.rules() {
        let name = rule["name"].as_str().expect("a name");
        assert_eq!(rule["health"], "ok", "{rule:#}");
        if rule["type"] == "recording" {
            if assert_data(&prometheus, name, name, 20) == 0 {
                empty.push(name.to_owned());
            }
            continue;
        }
        let severity = rule["labels"]["severity"].as_str().expect("a severity");
        assert!(["critical", "warning", "{{ $labels.severity }}"].contains(&severity), "{name}");
        for key in ["summary", "description", "runbook_url"] {
            assert!(rule["annotations"][key].is_string(), "{name} has no {key}");
        }
        let both =
            format!("{} {}", rule["annotations"]["summary"], rule["annotations"]["description"]);
        assert!(both.contains("{{ $") || name == "LlmtraceAbsent", "{name} says no value");
        for part in relaxed(rule["query"].as_str().expect("an expression")) {
            if assert_data(&prometheus, name, &part, 20) == 0 {
                empty.push(name.to_owned());
            }
        }
    }
    println!("{asked} queries of panels; without data: {empty:#?}");

    // What is well does not call.
    let alerts: BTreeSet<_> = prometheus.alerts().into_iter().map(|(name, _)| name).collect();
    for quiet in ["LlmtraceAbsent", "LlmtraceDown", "LlmtraceNoTargets", "LlmNoTraffic"] {
        assert!(!alerts.contains(quiet), "{quiet} in {alerts:?}");
    }
    assert!(traffic.iter().all(|traffic| traffic.count() > 20));
    drop(traffic);
    let printed = prometheus.stop();
    assert!(!printed.contains("level=error"), "{printed}");
    agent.stop();
}
