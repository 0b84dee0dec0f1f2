//! Objectives, costs, buckets, and series that end.

use std::time::Duration;

use wildmatch::WildMatch;

use super::*;
use crate::metrics::policy::{Buckets, Cost, Price, SERIES_TTL, Slo};

const MS: Ns = 1_000_000;
const S: Ns = 1_000 * MS;

fn slo(model: &str, ttft: Ns, e2e: Ns) -> Slo {
    Slo { model: WildMatch::new(model), ttft: Some(ttft), tpot: None, e2e: Some(e2e) }
}

fn with(slos: Vec<Slo>, cost: Option<Cost>) -> Metrics {
    Metrics::new(Policy::new(slos, cost, &Buckets::default(), SERIES_TTL))
}

#[test]
fn objectives() {
    let metrics = with(vec![slo("m*", 30 * MS, 139 * MS), slo("*", 29 * MS, S)], None);
    let p = peer("s:1");
    // 30 ms to the first token, 140 ms in all.
    tell(&metrics, &finished("m", Outcome::Success), &p);
    tell(&metrics, &finished("other-model", Outcome::Success), &p);
    let got = metrics.finished(&finished("m", Outcome::Timeout), &p);
    assert_eq!((got.slo.ttft, got.slo.all), (Some(false), Some(false)));
    metrics.finished(&finished("m", Outcome::Incomplete), &p);
    let text = metrics.encode_text();
    let count = |slo: &str, met: &str, model: &str| {
        let [slo, met] = [format!("slo=\"{slo}\""), format!("met=\"{met}\"")];
        sum(&text, "llm_slo_requests_total", &[&slo, &met, &format!("model=\"{model}\"")])
    };
    assert_eq!((count("ttft", "true", "m"), count("ttft", "false", "m")), (1.0, 1.0));
    assert_eq!((count("e2e", "true", "m"), count("e2e", "false", "m")), (0.0, 2.0));
    assert_eq!((count("all", "true", "m"), count("all", "false", "m")), (0.0, 2.0));
    assert_eq!(
        (count("ttft", "false", "other-model"), count("e2e", "true", "other-model")),
        (1.0, 1.0)
    );
    assert!(!text.contains("slo=\"tpot\""), "{text}");
    let target = |slo: &str, model: &str| {
        let labels = [format!("slo=\"{slo}\""), format!("model=\"{model}\"")];
        sum(&text, "llmtrace_slo_target_seconds", &[&labels[0], &labels[1]])
    };
    assert_eq!(
        (target("ttft", "m*"), target("e2e", "m*"), target("ttft", "*")),
        (0.03, 0.139, 0.029)
    );
    // The objective is a bound, inclusive: the share within it can be read off the histogram.
    let m = ["model=\"m\"", "le=\"0.03\""];
    assert_eq!(sum(&text, "llm_time_to_first_token_seconds_bucket", &m), 2.0);
    assert!(text.contains("le=\"0.139\""), "{text}");
}

#[test]
fn without_objectives_there_are_no_series_of_them() {
    let metrics = Metrics::default();
    tell(&metrics, &finished("m", Outcome::Success), &peer("s:1"));
    let text = metrics.encode_text();
    for name in ["llm_slo_", "llmtrace_slo_", "llm_cost", "llmtrace_cost", "llm_request_cost"] {
        assert!(!text.lines().any(|line| line.starts_with(name)), "{name} in {text}");
    }
}

#[test]
fn costs() {
    let prices =
        vec![Price { model: WildMatch::new("m"), prompt: 1e-6, output: 2e-6, cached: None }];
    let cost = Cost { currency: "EUR".into(), prices, gpus: Some(0.5) };
    let metrics = with(Vec::new(), Some(cost));
    metrics.tick(0);
    let p = peer("s:1");
    let run = |start: Ns, end: Ns, model: &str| {
        let f = Finished { start, end, ..finished(model, Outcome::Success) };
        metrics.started(start, f.role, &p.server, f.endpoint);
        metrics.finished(&f, &p)
    };
    // Ten seconds idle, two in use, two by a model with a price: those are nobody's.
    let shared = run(10 * S, 12 * S, "gpu-model");
    assert!((shared.cost.unwrap() - 1.0).abs() < 1e-9, "{shared:?}");
    let priced = run(12 * S, 14 * S, "m");
    assert!((priced.cost.unwrap() - (7e-6 + 22e-6)).abs() < 1e-12, "{priced:?}");
    metrics.tick(20 * S);
    let text = metrics.encode_text();
    let total = |parts: &[&str]| sum(&text, "llm_cost_total", parts);
    let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
    assert!(near(total(&["type=\"gpu\"", "server=\"s:1\""]), 1.0));
    assert!(near(total(&["type=\"gpu\"", "server=\"\""]), 9.0));
    assert!(near(total(&["type=\"gpu\""]), 0.5 * 20.0), "all of the time is paid: {text}");
    assert!(near(total(&["type=\"prompt\"", "model=\"m\""]), 7e-6));
    assert!(near(total(&["type=\"output\"", "model=\"m\""]), 22e-6));
    assert_eq!(sum(&text, "llm_request_cost_count", &[]), 2.0);
    assert_eq!(sum(&text, "llmtrace_cost_info", &["currency=\"EUR\""]), 1.0);
}

#[test]
fn time_without_prices_is_not_paid_later() {
    let policy = |gpus| {
        let cost = Cost { currency: "EUR".into(), prices: Vec::new(), gpus: Some(gpus) };
        Policy::new(Vec::new(), Some(cost), &Buckets::default(), SERIES_TTL)
    };
    let metrics = Metrics::new(policy(0.5));
    metrics.tick(0);
    metrics.tick(10 * S);
    metrics.set_policy(Policy::default());
    metrics.tick(1_000 * S);
    metrics.set_policy(policy(0.5));
    metrics.tick(1_010 * S);
    let text = metrics.encode_text();
    assert_eq!(sum(&text, "llm_cost_total", &[]), 0.5 * 20.0, "{text}");
}

#[test]
fn quality() {
    let metrics = Metrics::default();
    let p = peer("s:1");
    let f =
        |repetition, answered, outcome| Finished { repetition, answered, ..finished("m", outcome) };
    metrics.finished(&f(Some(0.75), Some(true), Outcome::Success), &p);
    metrics.finished(&f(None, Some(false), Outcome::Success), &p);
    metrics.finished(&f(None, None, Outcome::Success), &p);
    // Whoever got an error got no empty answer, and half an answer says nothing.
    metrics.finished(&f(None, Some(false), Outcome::HttpError), &p);
    metrics.finished(&f(Some(0.5), Some(false), Outcome::Incomplete), &p);
    let text = metrics.encode_text();
    assert_eq!(sum(&text, "llm_output_repetition_ratio_sum", &[]), 0.75);
    assert_eq!(sum(&text, "llm_output_repetition_ratio_count", &[]), 1.0);
    assert_eq!(sum(&text, "llm_empty_answers_total", &[]), 1.0);
}

#[test]
fn histograms_of_other_buckets_start_anew() {
    let metrics = Metrics::default();
    let f = finished("m", Outcome::Success);
    tell(&metrics, &f, &peer("s:1"));
    let policy =
        |slos, ttft| Policy::new(slos, None, &Buckets { ttft, ..Buckets::default() }, SERIES_TTL);
    // An objective that is a bound already changes none.
    metrics.set_policy(policy(vec![slo("*", 20 * MS, 300 * MS)], vec![]));
    tell(&metrics, &f, &peer("s:1"));
    assert_eq!(sum(&metrics.encode_text(), "llm_requests_total", &[]), 2.0);
    metrics.set_policy(policy(vec![], vec![7 * MS, 70 * MS]));
    tell(&metrics, &f, &peer("s:1"));
    let text = metrics.encode_text();
    // What was counted stays counted, and what has the bounds that it had.
    let count = |name: &str| sum(&text, name, &[]);
    assert_eq!(
        (count("llm_requests_total"), count("llm_request_duration_seconds_count")),
        (3.0, 3.0)
    );
    assert_eq!(count("llm_time_to_first_token_seconds_count"), 1.0);
    let buckets = text.lines().filter(|l| l.starts_with("llm_time_to_first_token_seconds_bucket"));
    let bounds: Vec<_> =
        buckets.filter_map(|l| l.split(",le=\"").nth(1)?.split('"').next()).collect();
    assert_eq!(bounds, ["0.007", "0.07", "+Inf"]);
}

#[test]
fn idle_series_end_and_their_names_are_free_again() {
    let policy = Policy::new(Vec::new(), None, &Buckets::default(), Duration::from_secs(60));
    let metrics = Metrics::new(policy);
    let at =
        |model: &str, end: Ns| Finished { start: end, end, ..finished(model, Outcome::Success) };
    // Every model and server there is room for, and one that stays open.
    for n in 0..1_500 {
        tell(&metrics, &at(&format!("m{n}"), S), &peer(&format!("s{n}:1")));
    }
    metrics.started(S, Role::Server, &"open:1".into(), "/v1/chat/completions");
    let text = metrics.encode_text();
    assert!(text.contains("model=\"other\"") && text.contains("server=\"other\""));
    let busy = "llm_requests_in_flight{role=\"server\",server=\"other\",endpoint=\"/v1/chat/completions\",model=\"\"} 1";
    assert!(text.contains(busy), "{text}");

    tell(&metrics, &at("m7", 50 * S), &peer("s7:1"));
    metrics.tick(70 * S);
    let text = metrics.encode_text();
    let series: Vec<_> = text.lines().filter(|l| l.starts_with("llm_requests_total{")).collect();
    assert_eq!(series.len(), 1, "{series:?}");
    assert!(series[0].contains("model=\"m7\"") && series[0].ends_with(" 2"), "{series:?}");
    assert!(text.contains(busy), "what is in flight stays: {text}");

    // New names have room, the old ones count from 0, and what was open is counted down where it
    // was counted up.
    tell(&metrics, &at("new", 71 * S), &peer("new:1"));
    tell(&metrics, &at("m3", 71 * S), &peer("s3:1"));
    metrics.finished(&at("new", 72 * S), &peer("open:1"));
    let text = metrics.encode_text();
    assert_eq!(sum(&text, "llm_requests_total", &["model=\"new\"", "server=\"new:1\""]), 1.0);
    assert_eq!(sum(&text, "llm_requests_total", &["model=\"m3\""]), 1.0);
    assert_eq!(sum(&text, "llm_requests_in_flight", &[]), 0.0);
    metrics.tick(1_000 * S);
    let text = metrics.encode_text();
    assert!(!text.lines().any(|l| l.starts_with("llm_")), "{text}");
}
