//! Other settings while it watches.

use std::time::Duration;

use super::*;

const HOUR: Ns = 3_600 * SECOND;

fn slow(start: Ns) -> Finished {
    stream("m", start, 600_000_000, 20_000_000, 50)
}

fn learned() -> Engine {
    let mut e = Engine::new(config::Anomaly::default());
    assert_eq!(steady(&mut e, 0, HOUR, fine), []);
    e
}

#[test]
fn what_was_learned_is_kept() {
    let s = config::Anomaly {
        min_change: 1.4,
        window: Duration::from_secs(600),
        quantile_half_life: Duration::from_secs(3_600),
        raise: 1,
        raise_of: 2,
        ..config::Anomaly::default()
    };
    let mut e = learned();
    e.set(s, HOUR);
    let raised = steady(&mut e, HOUR, HOUR + 30 * SECOND, slow);
    // No warm-up, and one interval is enough now.
    let ttft: Vec<_> = names(&raised).into_iter().filter(|(_, s, _)| *s == "ttft").collect();
    assert_eq!(ttft.len(), 3, "{raised:?}");
    assert!(raised.iter().all(|e| e.at <= HOUR + 21 * SECOND), "{raised:?}");
    // Limits change, and what is under way goes on.
    let active = e.active().count();
    e.set(config::Anomaly::default(), HOUR + 30 * SECOND);
    assert_eq!((e.active().count(), e.take_events()), (active, vec![]));
}

#[test]
fn intervals_of_another_length_are_learned_anew() {
    let mut e = learned();
    let s = config::Anomaly { interval: Duration::from_secs(20), ..config::Anomaly::default() };
    assert!(!steady(&mut e, HOUR, HOUR + 60 * SECOND, slow).is_empty());
    let active = e.active().count();
    e.set(s, HOUR + 60 * SECOND);
    let ended = e.take_events();
    assert_eq!((ended.len(), e.active().count()), (active, 0));
    let unwatched = |e: &Event| e.anomaly.ended == Some((HOUR + 60 * SECOND, End::Unwatched));
    assert!(ended.iter().all(|e| e.what == What::Cleared && unwatched(e)), "{ended:?}");
    // What is slow is all that it knows.
    assert_eq!(steady(&mut e, HOUR + 60 * SECOND, 2 * HOUR, slow), []);
}

#[test]
fn signals_come_and_go() {
    let mut e = learned();
    let only = |signal: &str| config::Anomaly {
        signals: vec![signal.to_owned()],
        ..config::Anomaly::default()
    };
    let raised = steady(&mut e, HOUR, HOUR + 60 * SECOND, slow);
    let of =
        |events: &[Event], signal| events.iter().filter(|e| e.anomaly.signal == signal).count();
    let (ttft, e2e) = (of(&raised, Signal::Ttft), of(&raised, Signal::E2e));
    assert!(ttft > 0 && ttft + e2e == e.active().count(), "{raised:?}");
    let at = HOUR + 60 * SECOND;
    e.set(only("ttft"), at);
    let ended = e.take_events();
    assert_eq!((of(&ended, Signal::E2e), ended.len(), e.active().count()), (e2e, e2e, ttft));
    // One that is new has to be learned first.
    e.set(only("error_ratio"), at);
    e.take_events();
    let failing = |start: Ns| Finished {
        outcome: Outcome::HttpError,
        status: Some(503),
        end: start,
        ..fine(start)
    };
    assert_eq!(steady(&mut e, at, at + 60 * SECOND, failing), []);
    assert_eq!(steady(&mut e, at + 60 * SECOND, at + HOUR, fine), []);
    assert!(!steady(&mut e, at + HOUR, at + HOUR + 60 * SECOND, failing).is_empty());
    e.end(at + HOUR + 60 * SECOND);
    assert!(e.active().next().is_none() && !e.take_events().is_empty());
}
