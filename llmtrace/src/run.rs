//! `llmtrace run`.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use anyhow::Result;

use crate::{
    agent::{Agent, open_log, wall_offset},
    cli::{LogFormat, RunArgs},
    live::Live,
    metrics::Metrics,
    probe::{clock::monotonic_ns, signals},
    serve,
};

/// `llmtrace run`.
pub fn run(args: &RunArgs) -> Result<()> {
    let wanted = args.targets.wanted();
    let described = wanted.describe();
    let log = args.request_log.as_deref().map(open_log).transpose()?;
    let metrics = Metrics::new(Metrics::itl_bounds());
    let live = Live::new(wall_offset());
    let ready = Arc::new(AtomicBool::new(false));
    let last_tick = Arc::new(AtomicU64::new(monotonic_ns()));
    let stop = Arc::new(AtomicBool::new(false));
    let state = serve::State {
        metrics: metrics.clone(),
        live: live.clone(),
        ready: ready.clone(),
        last_tick: last_tick.clone(),
        now: monotonic_ns,
    };
    // The address first: a port that is taken is a mistake to report before anything is attached.
    let listen = serve::start(args.listen, state, stop.clone())?;
    // The endpoint's thread takes the signals: one that came to this thread would interrupt the
    // verifier.
    signals::block();
    let mut agent = Agent::start(wanted, &args.kernel.options(), metrics, log)?;
    agent.watch(live.watch());
    ready.store(true, Ordering::Release);
    for missing in &agent.chosen.missing {
        eprintln!("llmtrace: without {}: {}", missing.program, missing.reason);
    }
    let hooks = agent.chosen.hooks;
    let backend = hooks.backend();
    match args.log_format {
        LogFormat::Text => eprintln!(
            "ready backend={backend} targets={described} listen={listen} hooks={}",
            hooks.name()
        ),
        LogFormat::Json => eprintln!(
            "{}",
            serde_json::json!({ "msg": "ready", "backend": backend, "targets": described,
                                "listen": listen.to_string(), "hooks": hooks.name() })
        ),
    }
    while !stop.load(Ordering::Acquire) {
        agent.step()?;
        last_tick.store(monotonic_ns(), Ordering::Release);
    }
    ready.store(false, Ordering::Release);
    agent.stop();
    let text = agent.out.metrics.encode_text();
    let sum = |name: &str| sum_of(&text, name);
    eprintln!(
        "stopped requests={} events={} lost_records={} incomplete={}",
        sum("llm_requests_total"),
        sum("llm_stream_events_total"),
        sum("llmtrace_lost_records_total"),
        sum("llmtrace_incomplete_exchanges_total"),
    );
    Ok(())
}

/// Sum of all series of a metric in an exposition.
fn sum_of(text: &str, name: &str) -> f64 {
    text.lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|r| r.starts_with(['{', ' '])))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        // Not `sum`, whose start is -0.
        .fold(0.0, |sum, value| sum + value)
}
