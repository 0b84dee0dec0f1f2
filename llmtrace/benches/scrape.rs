//! How long `/metrics` of 1,000 servers with two models each takes, in every form, while nothing and
//! while everything is counted; and how long who counts waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use llmtrace::llm::{Finished, ItlHistogram, Outcome, Peer, Role, Usage};
use llmtrace::metrics::{Form, MAX_SERIES, Metrics};

const SERVERS: usize = 1_000;
const MODELS: usize = 50;
const ROUNDS: usize = 7;
const MS: u64 = 1_000_000;

fn finished(model: &str) -> Finished {
    let bounds = Metrics::itl_bounds();
    let mut counts = vec![0; bounds.len() + 1].into_boxed_slice();
    counts[7] = 100;
    Finished {
        method: "POST".into(),
        endpoint: "/v1/chat/completions",
        model: Some(model.into()),
        stream: true,
        status: Some(200),
        outcome: Outcome::Success,
        finish_reason: Some("stop".into()),
        request_end: Some(2 * MS),
        first_byte: Some(40 * MS),
        first_token: Some(50 * MS),
        last_token: Some(2_050 * MS),
        end: 2_060 * MS,
        events: 103,
        token_events: 101,
        first_tokens: 1,
        usage: Usage { prompt: Some(700), output: Some(101), ..Usage::default() },
        max_stall: Some(30 * MS),
        itl: Some(Box::new(ItlHistogram { bounds, counts, sum: 2_000 * MS })),
        queued: Some(MS),
        blocked: Some(0),
        ..Finished::new(Role::Server, MS)
    }
}

fn main() {
    let metrics = Metrics::default();
    let models: Vec<String> = (0..MODELS).map(|n| format!("org/model-{n}-instruct")).collect();
    let peers: Vec<Peer> = (0..SERVERS)
        .map(|n| Peer {
            server: format!("vllm-{n}:8000").into(),
            client: "".into(),
            pid: 1,
            tls: false,
        })
        .collect();
    let all: Vec<(Finished, &Peer)> = (0..MAX_SERIES)
        .map(|n| (finished(&models[(n + n / SERVERS) % MODELS]), &peers[n % SERVERS]))
        .collect();
    let count = |(f, peer): &(Finished, &Peer)| {
        metrics.started(f.start, f.role, &peer.server, f.endpoint);
        metrics.finished(f, peer);
    };
    all.iter().for_each(count);
    for busy in [false, true] {
        let stop = Arc::new(AtomicBool::new(false));
        thread::scope(|scope| {
            let counting = busy.then(|| {
                let stop = stop.clone();
                let (all, count) = (&all, &count);
                scope.spawn(move || {
                    let (mut slowest, mut n) = (Duration::ZERO, 0u64);
                    for one in all.iter().cycle() {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let began = Instant::now();
                        count(one);
                        slowest = slowest.max(began.elapsed());
                        n += 1;
                    }
                    (slowest, n)
                })
            });
            for (form, gzip) in [
                (Form::Text, false),
                (Form::Text, true),
                (Form::Protobuf, false),
                (Form::Protobuf, true),
            ] {
                let mut times: Vec<_> = (0..ROUNDS)
                    .map(|_| {
                        let began = Instant::now();
                        let bytes = metrics.encode(form, gzip).len();
                        (began.elapsed(), bytes)
                    })
                    .collect();
                times.sort_unstable();
                let (median, bytes) = times[ROUNDS / 2];
                println!(
                    "{form:?}{}, {}: {:.0} ms, {:.1} MB, slowest of {ROUNDS} {:.0} ms",
                    if gzip { " with gzip" } else { "" },
                    if busy { "while requests end" } else { "idle" },
                    median.as_secs_f64() * 1e3,
                    bytes as f64 / 1e6,
                    times[ROUNDS - 1].0.as_secs_f64() * 1e3,
                );
            }
            stop.store(true, Ordering::Relaxed);
            if let Some(counting) = counting {
                let (slowest, n) = counting.join().expect("no panic");
                println!("meanwhile {n} requests were counted, each within {slowest:?}");
            }
        });
    }
}
