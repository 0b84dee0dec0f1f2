use std::sync::Arc;

use serde_json::Value;

use super::*;
use crate::llm::{Finished, Outcome, Peer, Phase, Progress, Role, Running, Usage};

const MS: Ns = 1_000_000;
/// The clock begins in the middle of a second, and of everything else.
const BEGIN: Ns = 1_234 * SECOND + 300 * MS;

struct Bench {
    live: Live,
    watch: Box<dyn Watch>,
    now: Ns,
}

impl Bench {
    fn new() -> Self {
        let live = Live::new(1_700_000_000 * SECOND as i64 - BEGIN as i64);
        let watch = live.watch();
        Self { live, watch, now: BEGIN }
    }

    /// Time passes with the looks of the agent; `on` tells of what runs at each.
    fn pass(&mut self, time: Ns, mut on: impl FnMut(Ns, &mut dyn Watch)) {
        let end = self.now + time;
        loop {
            let look = (self.now / (500 * MS) + 1) * 500 * MS;
            if look > end {
                break;
            }
            // As late as the agent may be.
            self.now = look + 3 * MS;
            on(self.now, &mut *self.watch);
            self.watch.tick(self.now);
        }
        self.now = self.now.max(end);
    }

    fn idle(&mut self, seconds: u64) {
        self.pass(seconds * SECOND, |_, _| {});
    }

    fn window(&self, window: u64) -> Rates {
        let summary = self.live.summary(self.now, &[window]);
        summary.totals.first().map(|t| t.windows[&format!("{window}s")].clone()).unwrap_or_default()
    }
}

fn peer(server: &str) -> Peer {
    Peer { server: server.into(), client: "10.0.0.9:4711".into(), pid: 7, tls: true }
}

/// A stream of `tokens` that is over, whose first token took 100 ms and each further one 20 ms.
fn finished(end: Ns, outcome: Outcome, tokens: u64) -> Finished {
    let last = end - MS;
    let first = last - tokens.saturating_sub(1) * 20 * MS;
    let mut progress =
        Progress::new(tokens, tokens + 1, &vec![20 * MS; tokens.saturating_sub(1) as usize]);
    progress.first = tokens > 0;
    Finished {
        model: Some("m".into()),
        endpoint: "/v1/chat/completions",
        stream: true,
        status: Some(200),
        outcome,
        first_token: (tokens > 0).then_some(first),
        last_token: (tokens > 0).then_some(last),
        end,
        events: tokens + 1,
        token_events: tokens,
        first_tokens: 1,
        usage: Usage { prompt: Some(11), output: Some(tokens), ..Usage::default() },
        progress,
        ..Finished::new(Role::Server, first - 100 * MS)
    }
}

/// Of a stream that was told before if `told` is something, and has just begun if not.
fn progress(told: u64, tokens: u64, gaps: &[Ns]) -> Progress {
    let mut progress = Progress::new(tokens, tokens, gaps);
    (progress.told, progress.first) = (told, told == 0 && tokens > 0);
    progress
}

fn running<'a>(model: &'a str, start: Ns, progress: Progress) -> Running<'a> {
    Running {
        role: Role::Server,
        endpoint: "/v1/chat/completions",
        model: Some(model),
        stream: true,
        status: Some(200),
        start,
        first_token: None,
        last_token: None,
        token_events: progress.told + progress.tokens,
        progress,
    }
}

fn close(found: f64, wanted: f64) {
    assert!((found / wanted - 1.0).abs() < 0.01, "{found} for {wanted}");
}

#[test]
fn counts_are_exact_and_times_within_a_hundredth() {
    let mut b = Bench::new();
    b.idle(2);
    let ends = [
        (Outcome::Success, 10),
        (Outcome::Success, 30),
        (Outcome::ClientDisconnect(Phase::MidStream), 5),
        (Outcome::ClientDisconnect(Phase::BeforeFirstToken), 0),
        (Outcome::StreamError, 3),
        (Outcome::HttpError, 0),
        (Outcome::ServerDisconnect, 1),
        (Outcome::Timeout, 1),
        (Outcome::Incomplete, 1_000),
    ];
    for (outcome, tokens) in ends {
        b.watch.finished(&finished(b.now, outcome, tokens), &peer("vllm:8000"));
    }
    assert_eq!(b.window(10).requests, 0, "the second is not over");
    b.idle(1);
    let w = b.window(1);
    assert_eq!((w.seconds, w.requests, w.errors, w.aborts), (1, 9, 4, 2));
    let outcomes = Outcomes {
        success: 2,
        http_error: 1,
        stream_error: 1,
        client_disconnect: 2,
        server_disconnect: 1,
        timeout: 1,
        incomplete: 1,
    };
    assert_eq!(w.outcomes, outcomes);
    assert_eq!(w.error_ratio, Some(0.5), "4 of the 8 that were seen whole");
    assert_eq!((w.output_tokens, w.wasted_tokens, w.prompt_tokens), (50, 5, 8 * 11));
    assert_eq!((w.rps, w.tokens_per_second), (9.0, 50.0));
    let (ttft, itl, tpot) = (w.ttft.unwrap(), w.itl.unwrap(), w.tpot.unwrap());
    // One of each that had a token; five have more than one.
    assert_eq!((ttft.count, itl.count, tpot.count), (6, 9 + 29 + 4 + 2, 4));
    close(ttft.p50, 0.1);
    close(ttft.p99, 0.1);
    close(itl.p99, 0.02);
    close(tpot.mean, 0.02);
    let e2e = w.e2e.unwrap();
    assert_eq!(e2e.count, 8);
    close(e2e.p99, 0.1 + 29.0 * 0.02 + 0.001);

    b.idle(3);
    assert_eq!(b.window(1).requests, 0);
    let w = b.window(10);
    // The first second was not whole, but it is one of those that are known.
    assert_eq!((w.seconds, w.requests), (6, 9));
    close(w.rps, 9.0 / 6.0);
    b.idle(10);
    assert_eq!((b.window(10).requests, b.window(60).requests), (0, 9));
    b.idle(60);
    assert_eq!((b.window(60).requests, b.window(600).requests), (0, 9));
    b.idle(600);
    assert_eq!(b.window(600).requests, 0);
    assert_eq!(b.live.summary(b.now, &WINDOWS).servers, []);
}

#[test]
fn a_stream_counts_as_it_comes_and_once() {
    let mut b = Bench::new();
    b.idle(1);
    let start = b.now;
    let mut told = 0;
    // 10 tokens a look, the first at the second look, for 4 seconds.
    let step = |now: Ns, watch: &mut dyn Watch| {
        let first = start + 700 * MS;
        let tokens = if now > first { 10 } else { 0 };
        let progress = progress(told, tokens, &vec![50 * MS; tokens as usize]);
        told += tokens;
        let begun = told > 0;
        let r = Running {
            first_token: begun.then_some(first),
            last_token: begun.then_some(now - 10 * MS),
            ..running("m", start, progress)
        };
        watch.running(now, &r, &peer("vllm:8000"));
    };
    b.pass(4 * SECOND, step);
    let w = b.window(10);
    assert_eq!((w.requests, w.in_flight_max, w.ttft.unwrap().count), (0, 1, 1));
    close(w.ttft.unwrap().p50, 0.7);
    close(w.itl.unwrap().p50, 0.05);
    assert_eq!(b.window(1).output_tokens, 20, "two looks a second");

    let summary = b.live.summary(b.now, &[1]);
    assert_eq!((summary.servers[0].in_flight, summary.servers[0].streaming), (1, 1));
    let streams = b.live.streams(b.now);
    let s = &streams.streams[0];
    assert_eq!((streams.running, s.tokens, &*s.client, s.tls), (1, told, "10.0.0.9:4711", true));
    close(s.ttft.unwrap(), 0.7);
    // The last look was at a whole half second.
    close(s.age, 4.203 - 0.5);
    close(s.stall.unwrap(), 0.01);
    close(s.tokens_per_second.unwrap(), (told - 1) as f64 / 3.003);

    // Its end tells of 7 more tokens, and the server of 5 that no event told.
    let usage = Usage { output: Some(told + 12), ..Usage::default() };
    let progress = progress(told, 7, &[]);
    let mut f = finished(b.now, Outcome::Success, 2);
    (f.usage, f.progress) = (usage, progress);
    b.watch.finished(&f, &peer("vllm:8000"));
    b.idle(2);
    let w = b.window(10);
    assert_eq!((w.output_tokens, w.requests, w.ttft.unwrap().count), (told + 12, 1, 1));
    let summary = b.live.summary(b.now, &[10]);
    assert_eq!((summary.totals[0].in_flight, b.live.streams(b.now).running), (0, 0));
}

#[test]
fn series_are_told_apart_and_added_up() {
    let mut b = Bench::new();
    for n in 0..40u64 {
        let mut f = finished(b.now, Outcome::Success, 2 + n % 4);
        f.model = Some(if n % 4 == 0 { "a" } else { "b" }.into());
        f.role = if n % 2 == 0 { Role::Server } else { Role::Client };
        b.watch.finished(&f, &peer(if n < 20 { "x:1" } else { "y:2" }));
        b.pass(100 * MS, |_, _| {});
    }
    b.idle(1);
    let summary = b.live.summary(b.now, &WINDOWS);
    assert_eq!(summary.windows, ["1s", "10s", "60s", "600s"]);
    let keys: Vec<_> = summary
        .servers
        .iter()
        .map(|s| (s.key.role, &*s.key.server, &*s.key.model, s.windows["60s"].requests))
        .collect();
    let (server, client) = (Role::Server, Role::Client);
    assert_eq!(
        keys,
        [
            (server, "x:1", "a", 5),
            (server, "x:1", "b", 5),
            (server, "y:2", "a", 5),
            (server, "y:2", "b", 5),
            (client, "x:1", "b", 10),
            (client, "y:2", "b", 10),
        ]
    );
    for (total, role) in summary.totals.iter().zip([Role::Server, Role::Client]) {
        for window in &summary.windows {
            let parts = summary.servers.iter().filter(|s| s.key.role == role);
            let parts: Vec<_> = parts.map(|s| &s.windows[window]).collect();
            let sum = |of: fn(&Rates) -> u64| parts.iter().map(|r| of(r)).sum::<u64>();
            let all = &total.windows[window];
            assert_eq!(all.requests, sum(|r| r.requests), "{role:?} {window}");
            assert_eq!(all.output_tokens, sum(|r| r.output_tokens), "{role:?} {window}");
            let count = sum(|r| r.itl.map_or(0, |q| q.count));
            assert_eq!(all.itl.map_or(0, |q| q.count), count, "{role:?} {window}");
        }
    }
    let h = b.live.history(b.now, 600);
    assert_eq!((h.totals.len(), h.series.len(), h.left_out), (2, 6, 0));
    assert_eq!(h.totals[0].requests.iter().sum::<u64>(), 20);
    assert_eq!(h.totals[0].requests.len() as u64, h.seconds);
    let per_series: u64 = h.series.iter().flat_map(|p| &p.output_tokens).sum();
    let totals: u64 = h.totals.iter().flat_map(|p| &p.output_tokens).sum();
    assert_eq!(per_series, totals);
    for (n, value) in h.totals[1].requests.iter().zip(&h.totals[1].ttft_p99) {
        assert_eq!(*n > 0, value.is_some());
        value.inspect(|v| close(*v, 0.1));
    }
    // A second earlier or later is another second.
    let end = h.start + h.seconds as f64;
    assert!((end - b.live.unix(b.now / SECOND * SECOND)).abs() < 1e-6, "{end}");
    assert_eq!(b.live.history(b.now, 3).seconds, 3);
}

#[test]
fn the_wall_clock_may_be_set() {
    let bench = Bench::new();
    let before = bench.live.unix(bench.now);
    let offset = 1_700_000_000 * SECOND as i64 - BEGIN as i64;
    // Two clocks that are read one after the other are never the same distance apart.
    bench.live.set_wall_offset(offset + 700);
    assert_eq!(bench.live.unix(bench.now), before);
    bench.live.clone().set_wall_offset(offset + 3_600 * SECOND as i64);
    assert_eq!(bench.live.unix(bench.now), before + 3_600.0);
}

#[test]
fn names_from_the_wire_are_bounded() {
    let mut b = Bench::new();
    // A client that asks for models that nobody has makes no series.
    for n in 0..5_000 {
        let mut f = finished(b.now, Outcome::HttpError, 0);
        (f.model, f.status) = (Some(format!("no-such-{n}").into()), Some(404));
        b.watch.finished(&f, &peer("vllm:8000"));
    }
    b.idle(1);
    let summary = b.live.summary(b.now, &[60]);
    assert_eq!((summary.servers.len(), &*summary.servers[0].key.model), (1, ""));
    assert_eq!(summary.servers[0].windows["60s"].requests, 5_000);

    // A server that answers with as many names as it likes.
    for n in 0..3_000u64 {
        let mut f = finished(b.now, Outcome::Success, 1);
        f.model = Some(format!("\u{1b}[2J{n}\n{}", "é".repeat(200)).into());
        f.usage.output = Some(u64::MAX);
        f.usage.prompt = Some(u64::MAX - n);
        b.watch.finished(&f, &peer(&format!("s\0{}", n % 100)));
    }
    b.idle(1);
    let summary = b.live.summary(b.now, &[60]);
    assert!(summary.servers.len() <= MAX_SERIES + 2, "{}", summary.servers.len());
    for s in &summary.servers {
        for name in [&s.key.server, &s.key.model] {
            assert!(
                name.len() <= crate::llm::MAX_LABEL && !name.contains(char::is_control),
                "{name:?}"
            );
        }
    }
    let models: std::collections::HashSet<_> =
        summary.servers.iter().map(|s| &*s.key.model).collect();
    assert!(models.contains(OTHER) && models.len() <= MAX_MODELS + 2, "{}", models.len());
    let total = &summary.totals[0].windows["60s"];
    assert_eq!((total.requests, total.output_tokens), (8_000, u64::MAX));
    let json: Value = serde_json::to_value(&summary).unwrap();
    assert!(json["totals"][0]["windows"]["60s"]["tokens_per_second"].as_f64().unwrap() > 1e17);
}

#[test]
fn series_and_models_expire() {
    let mut names = names::Names::default();
    for n in 0..MAX_SERIES + 50 {
        let server = format!("s{n}").into();
        names.key(Role::Server, &server, Some(&format!("m{}", n % 3)), true, 100);
    }
    assert_eq!(names.len(), (MAX_SERIES + 1, 3));
    let key = names.key(Role::Server, &"new".into(), Some("m1"), false, 100);
    assert_eq!((&*key.server, &*key.model), (OTHER, OTHER));
    names.key(Role::Server, &"s1".into(), Some("m1"), true, 600);
    names.expire(100 + MAX_SECONDS);
    assert_eq!(names.len().0, MAX_SERIES + 1);
    names.expire(101 + MAX_SECONDS);
    assert_eq!(names.len(), (1, 1));
    let key = names.key(Role::Server, &"new".into(), Some("m1"), false, 800);
    assert_eq!((&*key.server, &*key.model), ("new", "m1"));
}

#[test]
fn what_is_kept_is_bounded_in_bytes() {
    let mut b = Bench::new();
    b.idle(1);
    let servers: Vec<Peer> = (0..200).map(|n| peer(&format!("s:{n}"))).collect();
    for _ in 0..700 {
        for (n, server) in servers.iter().enumerate() {
            let mut f = finished(b.now, Outcome::Success, 30);
            // Wide distributions.
            let gaps: Vec<Ns> = (0..30).map(|i| (i * i + n as u64) * MS).collect();
            f.progress = progress(0, 30, &gaps);
            b.watch.finished(&f, server);
        }
        b.idle(1);
    }
    let bytes = lock(&b.live.shared).ring.bytes();
    assert!(bytes <= MAX_BYTES && bytes > MAX_BYTES / 2, "{bytes}");
    let w = b.window(600);
    assert!(w.seconds > 60 && w.seconds < 600, "{}", w.seconds);
    assert_eq!(w.requests, w.seconds * 200, "the rate is of what is known");
    close(w.rps, 200.0);
}

#[test]
fn a_busy_series_takes_some_hundred_kilobytes() {
    let mut b = Bench::new();
    let mut random = 1u64;
    for _ in 0..600 {
        for _ in 0..50 {
            let mut f = finished(b.now, Outcome::Success, 30);
            let gaps: Vec<Ns> = (0..30)
                .map(|_| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    15 * MS + (random >> 33) % (10 * MS)
                })
                .collect();
            f.progress = progress(0, 30, &gaps);
            f.start -= (random >> 34) % (50 * MS);
            b.watch.finished(&f, &peer("vllm:8000"));
        }
        b.idle(1);
    }
    let bytes = lock(&b.live.shared).ring.bytes();
    assert!(bytes < 400 << 10, "{bytes} bytes of 600 seconds");
}

#[test]
fn late_looks_lose_nothing() {
    let mut b = Bench::new();
    b.idle(3);
    b.watch.finished(&finished(b.now, Outcome::Success, 2), &peer("x:1"));
    // The agent was held up for 7 seconds; a request of then is told now.
    b.now += 7 * SECOND;
    let stale = b.live.summary(b.now, &[1]);
    assert_eq!(stale.totals.len(), 0, "an old second is not the last one");
    for _ in 0..8 {
        b.watch.finished(&finished(b.now - 5 * SECOND, Outcome::Success, 2), &peer("x:1"));
    }
    b.watch.tick(b.now);
    let w = b.window(10);
    assert_eq!((w.requests, w.output_tokens, w.ttft.unwrap().count), (9, 18, 9));
    let spread = b.live.history(b.now, 7).totals.remove(0);
    assert_eq!(spread.requests, [2, 2, 1, 1, 1, 1, 1]);
    assert_eq!(spread.output_tokens, [3, 3, 3, 3, 2, 2, 2]);
    assert!(spread.ttft_p99[..6].iter().all(Option::is_none) && spread.ttft_p99[6].is_some());
    b.watch.finished(&finished(b.now, Outcome::Success, 2), &peer("x:1"));
    b.idle(2);
    assert_eq!(b.window(10).requests, 10);
    // A clock that stands still or goes back.
    b.watch.tick(0);
    b.watch.tick(u64::MAX);
    b.watch.tick(u64::MAX - 1);
    b.live.summary(0, &[0, u64::MAX]);
    b.live.history(u64::MAX, u64::MAX);
    b.live.streams(0);
}

#[test]
fn what_went_wrong_is_kept_with_its_reason() {
    let mut b = Bench::new();
    for _ in 0..30 {
        b.watch.finished(&finished(b.now, Outcome::Success, 2), &peer("x:1"));
    }
    let mut slow = finished(b.now, Outcome::Success, 2);
    slow.start -= 900 * MS;
    b.watch.finished(&slow, &peer("x:1"));
    let mut stalled = finished(b.now, Outcome::Success, 2);
    stalled.max_stall = Some(3 * SECOND);
    b.watch.finished(&stalled, &peer("x:1"));
    b.watch.finished(&finished(b.now, Outcome::StreamError, 2), &peer("x:1"));
    let left = Outcome::ClientDisconnect(Phase::MidStream);
    b.watch.finished(&finished(b.now, left, 2), &peer("x:1"));
    let ended = b.live.ended();
    let why: Vec<_> = ended.iter().map(|e| e.why).collect();
    assert_eq!(why, [Why::ClientLeft, Why::Failed, Why::Stalled, Why::SlowFirstToken]);
    let json = serde_json::to_value(&ended[0]).unwrap();
    assert_eq!(
        (&json["why"], &json["outcome"]),
        (&"client_left".into(), &"client_disconnect".into())
    );
    assert_eq!((&json["server"], &json["role"]), (&"x:1".into(), &"server".into()));
    for _ in 0..MAX_ENDED + 5 {
        b.watch.finished(&finished(b.now, Outcome::Timeout, 2), &peer("x:1"));
    }
    assert_eq!(b.live.ended().len(), MAX_ENDED);
    assert!(b.live.ended().iter().all(|e| e.outcome == Outcome::Timeout));
}

#[test]
fn running_requests_are_listed_up_to_a_bound() {
    let mut b = Bench::new();
    let peer: Arc<Peer> = peer("x:1").into();
    b.pass(SECOND, |now, watch| {
        for n in 0..MAX_STREAMS as u64 + 10 {
            let last = (n % 2 == 0).then(|| now - n % 100 * 20 * MS);
            let mut r = running("m", now - 3 * SECOND + n, Progress::default());
            (r.first_token, r.last_token) = (last, last);
            watch.running(now, &r, &peer);
        }
    });
    let streams = b.live.streams(b.now);
    assert_eq!((streams.running as usize, streams.streams.len()), (MAX_STREAMS + 10, MAX_STREAMS));
    let silent = |s: &Stream| s.stall.unwrap_or(s.age);
    let (stalled, others): (Vec<_>, Vec<_>) =
        streams.streams.iter().partition(|s| silent(s) >= 1.0);
    assert!(stalled.is_sorted_by(|a, b| silent(a) >= silent(b)));
    assert!(others.is_sorted_by_key(|s| s.start));
    let first = streams.streams.iter().take(stalled.len());
    assert!(first.eq(stalled.iter().copied()), "those that stall come first");
    let count = (0..MAX_STREAMS).filter(|n| n % 2 == 1 || n % 100 >= 50).count();
    assert_eq!(stalled.len(), count);
}
