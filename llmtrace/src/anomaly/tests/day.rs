//! Days of traffic: a diurnal pattern with noise, and things that go wrong at known times. The
//! numbers of docs/anomalies.md are measured here, and compared with it.

use super::*;
use crate::llm::Progress;

const HOUR: Ns = 3_600 * SECOND;
/// Twice a second in an agent; four times fewer take a quarter of the time and show the same.
const LOOK: Ns = 2 * SECOND;

/// A generator of pseudo-random numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Of a normal distribution, by Box and Muller.
    fn normal(&mut self) -> f64 {
        let (u, v) = (self.uniform().max(1e-12), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// A factor around 1.
    fn factor(&mut self, sigma: f64) -> f64 {
        (sigma * self.normal()).exp()
    }
}

/// What goes wrong: factors of times, and the share of failures.
#[derive(Clone, Copy)]
struct Fault {
    ttft: f64,
    per_token: f64,
    errors: f64,
}

const NONE: Fault = Fault { ttft: 1.0, per_token: 1.0, errors: 0.003 };

/// Load over the day: 0.15 at 3 o'clock, 1 at 15 o'clock.
fn load(now: Ns) -> f64 {
    let hours = (now % (24 * HOUR)) as f64 / HOUR as f64;
    0.575 - 0.425 * ((hours - 3.0) / 24.0 * std::f64::consts::TAU).cos()
}

/// Tells `e` of traffic from `from` to `until`: at most four requests a second.
fn simulate(e: &mut Engine, r: &mut Random, (from, until): (Ns, Ns), fault: impl Fn(Ns) -> Fault) {
    let peer = peer("vllm:8000");
    // Requests under way, and how many of their tokens have been told.
    let mut open: Vec<(Finished, u64)> = Vec::new();
    let mut now = from;
    let mut next = from;
    while now < until {
        while next <= now {
            let load = load(next);
            let f = fault(next);
            // A busy server is slower: a third in its first token, a quarter in the others.
            let ttft = 0.22 * (1.0 + 0.33 * load) * f.ttft * r.factor(0.45);
            let per_token = 0.018 * (1.0 + 0.25 * load) * f.per_token * r.factor(0.15);
            let tokens = (160.0 * r.factor(0.8)).clamp(2.0, 1_500.0) as u64;
            let ns = |s: f64| (s * 1e9) as Ns;
            let mut x = stream("llama", next, ns(ttft), ns(per_token), tokens);
            x.max_stall = Some(ns(per_token * 2.5 * r.factor(0.3)));
            let luck = r.uniform();
            if luck < f.errors {
                x = Finished {
                    model: Some("llama".into()),
                    outcome: Outcome::HttpError,
                    status: Some(500),
                    end: next + ns(0.05),
                    ..Finished::new(Role::Server, next)
                };
            } else if luck > 0.98 {
                x.outcome = Outcome::ClientDisconnect(Phase::MidStream);
            }
            open.push((x, 0));
            next += ns(-r.uniform().max(1e-9).ln() / (4.0 * load)).max(1);
        }
        open.retain_mut(|(x, told)| {
            let over = x.end <= now;
            let so_far = match x.first_token.zip(x.last_token) {
                Some((first, last)) if now > first => {
                    let part = (now - first) as f64 / (last - first).max(1) as f64;
                    (part.min(1.0) * x.token_events as f64) as u64
                }
                _ => 0,
            };
            let mut progress = Progress::default();
            progress.tokens = so_far - *told;
            *told = so_far;
            if over {
                x.progress = progress;
                e.finished(x, &peer);
                return false;
            }
            let running = Running {
                role: x.role,
                endpoint: x.endpoint,
                model: x.model.as_deref(),
                stream: x.stream,
                status: x.status,
                start: x.start,
                first_token: x.first_token.filter(|t| *t <= now),
                last_token: x.first_token.filter(|t| *t <= now).map(|_| now),
                token_events: so_far,
                progress,
            };
            e.running(now, &running, &peer);
            true
        });
        e.tick(now);
        now += LOOK;
    }
}

fn raised(events: Vec<Event>) -> Vec<Anomaly> {
    events.into_iter().filter(|e| e.what == What::Raised).map(|e| e.anomaly).collect()
}

/// What goes wrong on the bad day: between which hours, with which signal, and how.
struct Incident {
    name: &'static str,
    signal: Signal,
    from: Ns,
    until: Ns,
    fault: fn(f64) -> Fault,
}

const INCIDENTS: [Incident; 4] = [
    Incident {
        name: "TTFT doubles, 3 o'clock (0.6 requests/s)",
        signal: Signal::Ttft,
        from: 3 * HOUR,
        until: 4 * HOUR,
        fault: |_| Fault { ttft: 2.0, ..NONE },
    },
    Incident {
        name: "TTFT doubles, 10 o'clock (3 requests/s)",
        signal: Signal::Ttft,
        from: 10 * HOUR,
        until: 11 * HOUR,
        fault: |_| Fault { ttft: 2.0, ..NONE },
    },
    Incident {
        name: "time per token doubles within 6 hours, from 12 o'clock",
        signal: Signal::Itl,
        from: 12 * HOUR,
        until: 18 * HOUR,
        fault: |part| Fault { per_token: 1.0 + part, ..NONE },
    },
    Incident {
        name: "30 % of requests fail for 10 minutes, 21 o'clock",
        signal: Signal::ErrorRatio,
        from: 21 * HOUR,
        until: 21 * HOUR + HOUR / 6,
        fault: |_| Fault { errors: 0.3, ..NONE },
    },
];

/// So long after an incident what is raised still belongs to it.
const AFTER: Ns = HOUR;

fn day(seed: u64, fault: impl Fn(Ns) -> Fault) -> Vec<Anomaly> {
    let mut e = Engine::new(config::Anomaly::default());
    simulate(&mut e, &mut Random(seed), (0, 24 * HOUR), fault);
    raised(e.take_events())
}

/// The lines of docs/anomalies.md.
fn table(bad: &[Anomaly]) -> Vec<String> {
    INCIDENTS
        .iter()
        .map(|incident| {
            let cell = |method: Method| {
                let found = bad.iter().find(|a| {
                    a.signal == incident.signal
                        && a.method == method
                        && (incident.from..incident.until).contains(&a.raised)
                });
                found.map_or("-".to_owned(), |a| {
                    format!("{} s", (a.raised - incident.from) / SECOND)
                })
            };
            let cells = Method::ALL.map(cell);
            format!("| {} | {} |", incident.name, cells.join(" | "))
        })
        .collect()
}

#[test]
fn a_bad_day() {
    let bad = day(0xfa17, |now| {
        let now_in = |i: &&Incident| (i.from..i.until).contains(&now);
        INCIDENTS
            .iter()
            .find(now_in)
            .map_or(NONE, |i| (i.fault)((now - i.from) as f64 / (i.until - i.from) as f64))
    });
    let lines = table(&bad);
    println!("{}", lines.join("\n"));
    for incident in &INCIDENTS {
        let delay = bad
            .iter()
            .filter(|a| a.signal == incident.signal)
            .filter(|a| (incident.from..incident.until).contains(&a.raised))
            .map(|a| (a.raised - incident.from) / SECOND)
            .min();
        let limit = match incident.signal {
            Signal::Itl => 2 * HOUR / SECOND,
            _ if incident.from == 3 * HOUR => 300,
            _ => 60,
        };
        assert!(delay.is_some_and(|d| d <= limit), "{}: {delay:?}", incident.name);
    }
    let stray = bad
        .iter()
        .find(|a| !INCIDENTS.iter().any(|i| (i.from..i.until + AFTER).contains(&a.raised)));
    assert_eq!(stray, None);
    let docs = include_str!("../../../../docs/anomalies.md");
    for line in lines {
        assert!(docs.contains(&line), "docs/anomalies.md does not say: {line}");
    }
}

#[test]
fn two_quiet_days() {
    let mut all = day(0x5eed, |_| NONE);
    all.extend(day(0x5eee, |_| NONE));
    let all: Vec<_> =
        all.iter().map(|a| (a.signal, a.method, a.value, a.expected, a.raised / SECOND)).collect();
    println!("{} false alarms in two days: {all:?}", all.len());
    let docs = include_str!("../../../../docs/anomalies.md");
    let line = format!("false alarms in two quiet days: {}", all.len());
    assert!(docs.contains(&line), "docs/anomalies.md does not say: {line}");
    assert!(all.len() <= 2);
}
