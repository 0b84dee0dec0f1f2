//! Scripted exchanges, and days of traffic in virtual time.

mod day;
mod settings;

use super::*;
use crate::config;
use crate::llm::{Asked, Finished, Outcome, Peer, Phase, Role, Running, Watch};

const SECOND: Ns = 1_000_000_000;

fn peer(server: &str) -> Peer {
    Peer { server: server.into(), client: "10.0.0.7:1234".into(), pid: 1, tls: false }
}

fn stream(model: &str, start: Ns, ttft: Ns, per_token: Ns, tokens: u64) -> Finished {
    let first = start + ttft;
    let last = first + per_token * (tokens - 1);
    Finished {
        endpoint: "/v1/chat/completions",
        model: Some(model.into()),
        asked: Asked { model: Some(model.into()), ..Asked::default() },
        stream: true,
        status: Some(200),
        outcome: Outcome::Success,
        first_byte: Some(first),
        first_token: Some(first),
        last_token: Some(last),
        end: last,
        token_events: tokens,
        first_tokens: 1,
        max_stall: Some(per_token * 2),
        ..Finished::new(Role::Server, start)
    }
}

/// Two requests a second until `until`, each as `make` has it.
fn steady(e: &mut Engine, from: Ns, until: Ns, mut make: impl FnMut(Ns) -> Finished) -> Vec<Event> {
    let peer = peer("s:1");
    let mut now = from;
    while now < until {
        e.finished(&make(now), &peer);
        now += SECOND / 2;
        e.tick(now);
    }
    e.take_events()
}

fn fine(start: Ns) -> Finished {
    // A little noise, without which any change is beyond five deviations.
    let noise = (start / 500_000_000 * 7919) % 40;
    stream("m", start, (180 + noise) * 1_000_000, 20_000_000, 50)
}

fn names(events: &[Event]) -> Vec<(&'static str, &'static str, &'static str)> {
    events
        .iter()
        .map(|e| (e.what.name(), e.anomaly.signal.name(), e.anomaly.method.name()))
        .collect()
}

#[test]
fn a_step_is_found_and_over_when_it_is_over() {
    let mut e = Engine::new(config::Anomaly::default());
    let hour = 3_600 * SECOND;
    assert_eq!(steady(&mut e, 0, hour, fine), []);
    let slow = |start| {
        let mut f = fine(start);
        let by = 400_000_000;
        (f.first_token, f.last_token, f.end) =
            (f.first_token.map(|t| t + by), f.last_token.map(|t| t + by), f.end + by);
        f
    };
    let raised = steady(&mut e, hour, hour + 60 * SECOND, slow);
    let first = &raised[0].anomaly;
    assert_eq!((first.signal, first.severity), (Signal::Ttft, Severity::Critical));
    assert!(first.started >= hour - 10 * SECOND && first.raised <= hour + 40 * SECOND, "{first:?}");
    assert!((0.55..0.65).contains(&first.value), "{first:?}");
    assert!((0.15..0.25).contains(&first.expected), "{first:?}");
    assert!(first.threshold > first.expected && first.threshold < first.value);
    // Its context: the slow requests and none of the others.
    assert!((8..=MAX_REQUESTS).contains(&first.requests.len()));
    assert!(first.requests.iter().all(|r| r.start >= hour - SECOND && r.value > 0.5), "{first:?}");
    assert_eq!(&*first.requests[0].client, "10.0.0.7:1234");
    let methods: Vec<_> =
        names(&raised).iter().filter(|(_, s, _)| *s == "ttft").map(|n| n.2).collect();
    assert_eq!(methods, ["window", "ewma", "quantile"]);
    assert_eq!(e.active().count(), raised.len());

    let cleared = steady(&mut e, hour + 60 * SECOND, hour + 180 * SECOND, fine);
    assert!(cleared.iter().all(|e| e.what == What::Cleared && e.at <= hour + 140 * SECOND));
    assert!(cleared.iter().all(|e| e.anomaly.ended.unwrap().1 == End::Calm));
    assert_eq!((cleared.len(), e.active().count()), (raised.len(), 0));
}

#[test]
fn what_lasts_is_the_new_normal() {
    let s = config::Anomaly {
        adapt_after: std::time::Duration::from_secs(1_800),
        ..Default::default()
    };
    let mut e = Engine::new(s);
    let hour = 3_600 * SECOND;
    steady(&mut e, 0, hour, fine);
    let slow = |start| stream("m", start, 900_000_000, 20_000_000, 50);
    let events = steady(&mut e, hour, 2 * hour, slow);
    let ended: Vec<_> = events.iter().filter_map(|e| e.anomaly.ended).map(|(_, end)| end).collect();
    assert!(!ended.is_empty() && ended.iter().all(|end| *end == End::Adapted), "{ended:?}");
    // And what was normal once is no anomaly: faster is no worse.
    assert_eq!(e.active().count(), 0);
    assert_eq!(steady(&mut e, 2 * hour, 3 * hour, fine), []);
}

#[test]
fn nothing_is_judged_with_too_little_traffic_or_before_it_is_learned() {
    let mut e = Engine::new(config::Anomaly::default());
    // Ten minutes are less than the warm-up.
    let slow = |start| stream("m", start, 900_000_000, 20_000_000, 50);
    assert_eq!(steady(&mut e, 0, 600 * SECOND, fine), []);
    assert_eq!(steady(&mut e, 600 * SECOND, 660 * SECOND, slow), []);
    // Three requests in a minute.
    let mut e = Engine::new(config::Anomaly::default());
    let hour = 3_600 * SECOND;
    steady(&mut e, 0, hour, fine);
    for n in 0..120 {
        if n % 40 == 0 {
            e.finished(&slow(hour + n * SECOND), &peer("s:1"));
        }
        e.tick(hour + n * SECOND / 2);
    }
    assert_eq!(e.take_events(), []);
}

#[test]
fn a_server_that_hangs_finishes_nothing_and_is_found() {
    let mut e = Engine::new(config::Anomaly::default());
    let hour = 3_600 * SECOND;
    assert_eq!(steady(&mut e, 0, hour, fine), []);
    let peer = peer("s:1");
    let mut running = Running {
        role: Role::Server,
        endpoint: "/v1/chat/completions",
        model: Some("m"),
        stream: true,
        status: Some(200),
        start: hour,
        first_token: Some(hour),
        last_token: Some(hour),
        token_events: 1,
        progress: crate::llm::Progress::default(),
    };
    for n in 1..=60 {
        let now = hour + n * SECOND;
        for _ in 0..4 {
            e.running(now, &running, &peer);
        }
        running.first_token = None;
        running.last_token = None;
        for _ in 0..4 {
            e.running(now, &running, &peer);
        }
        (running.first_token, running.last_token) = (Some(hour), Some(hour));
        e.tick(now);
    }
    let events = e.take_events();
    let of = |signal| events.iter().find(|e| e.anomaly.signal == signal).unwrap();
    assert!(of(Signal::Stall).at <= hour + 60 * SECOND);
    let first = of(Signal::Ttft);
    assert!(first.at <= hour + 60 * SECOND);
    assert!(first.anomaly.requests.iter().all(|r| r.end.is_none() && r.outcome.is_none()));
}

#[test]
fn failures_belong_to_the_model_that_was_asked_for() {
    let mut e = Engine::new(config::Anomaly::default());
    let hour = 3_600 * SECOND;
    // Asked for by another name than the answer has, and a second model on the same server.
    let alias = |start| {
        let asked = Asked { model: Some("alias".into()), ..Asked::default() };
        Finished { asked, ..fine(start) }
    };
    for minute in 0..60 {
        let at = minute * 60 * SECOND;
        steady(&mut e, at, at + 30 * SECOND, alias);
        steady(&mut e, at + 30 * SECOND, at + 60 * SECOND, |start| {
            stream("n", start, 200_000_000, 20_000_000, 50)
        });
    }
    assert_eq!(e.series(), 2);
    let failing = |start: Ns| Finished {
        model: Some("alias".into()),
        outcome: Outcome::HttpError,
        status: Some(503),
        end: start,
        ..Finished::new(Role::Server, start)
    };
    let events = steady(&mut e, hour, hour + 60 * SECOND, failing);
    let errors: Vec<_> = events.iter().filter(|e| e.anomaly.signal == Signal::ErrorRatio).collect();
    assert!(!errors.is_empty());
    assert!(errors.iter().all(|e| &*e.anomaly.model == "m" && e.anomaly.value > 0.9), "{errors:?}");
    assert!(errors[0].anomaly.requests.iter().all(|r| r.status == Some(503)));
    // A client's own mistakes are none of the server's failures, a client that leaves neither.
    let mut e = Engine::new(config::Anomaly::default());
    steady(&mut e, 0, hour, fine);
    let bad = |start: Ns| Finished { status: Some(404), ..failing(start) };
    assert_eq!(steady(&mut e, hour, hour + 60 * SECOND, bad), []);
    let left = |start: Ns| Finished {
        outcome: Outcome::ClientDisconnect(Phase::BeforeFirstToken),
        ..failing(start)
    };
    let signals: Vec<_> = steady(&mut e, hour + 60 * SECOND, hour + 180 * SECOND, left)
        .iter()
        .map(|e| e.anomaly.signal)
        .collect();
    assert!(!signals.is_empty() && signals.iter().all(|s| *s == Signal::Aborts), "{signals:?}");
}

#[test]
fn the_number_of_series_is_bounded() {
    let mut e = Engine::new(config::Anomaly::default());
    for n in 0..1_000 {
        let f = stream(&format!("m{n}"), 0, SECOND, SECOND / 100, 10);
        e.finished(&f, &peer(&format!("s:{}", n % 7)));
    }
    assert_eq!((e.series(), e.unattributed()), (MAX_SERIES, 0));
    // Those that are idle make room.
    let f = stream("late", 3_600 * SECOND, SECOND, SECOND / 100, 10);
    e.finished(&f, &peer("late"));
    assert_eq!(e.series(), MAX_SERIES);
    let found = e.servers.get("late").is_some_and(|s| s.models.contains_key("late"));
    assert!(found);
    // Names that were only asked for are none.
    let mut e = Engine::new(config::Anomaly::default());
    let asked =
        Finished { model: Some("x".into()), status: Some(404), ..Finished::new(Role::Server, 0) };
    e.finished(&Finished { outcome: Outcome::HttpError, ..asked }, &peer("s"));
    assert_eq!((e.series(), e.unattributed()), (0, 1));
    assert!(e.servers.is_empty());
}

#[test]
fn scales_go_both_ways() {
    for signal in Signal::ALL {
        for value in [0.001, 0.02, 0.5, 0.9] {
            let back = signal.natural(signal.scaled(value));
            assert!((back - value).abs() < 1e-9, "{signal:?} {value} {back}");
        }
        let (low, high) = signal.range();
        assert!(low < high);
    }
}
