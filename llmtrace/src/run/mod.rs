//! `llmtrace run`.

mod watchers;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use anyhow::Result;
use caps::Capability;

use crate::{
    agent::{Agent, open_log, wall_offset},
    alerts::Board,
    cli::{self, Command, LogFormat, RunArgs},
    config::{self, Sections},
    kubernetes::Kubernetes,
    live::Live,
    logger,
    metrics::Metrics,
    probe::{clock::monotonic_ns, privileges},
    serve,
    signals::{HangUp, Signals},
};
use watchers::Watchers;

/// `llmtrace run`.
pub fn run(args: &RunArgs) -> Result<()> {
    let json = args.log_format == LogFormat::Json;
    logger::set(json, args.kernel.kernel_log);
    let wanted = args.targets.wanted();
    let described = wanted.describe();
    let log = args.request_log.as_deref().map(open_log).transpose()?;
    let sections = sections(args)?;
    let metrics = Metrics::new(sections.policy(args.series_ttl));
    let board = Board::default();
    let mut watchers = Watchers::new(args, &metrics, &board)?;
    if let (true, Some(path)) = (args.log_payload, &args.request_log) {
        log::warn!(
            "--log-payload: the text of prompts and answers is written to {}",
            path.display()
        );
    }
    let live = Live::new(wall_offset());
    let ready = Arc::new(AtomicBool::new(false));
    let last_tick = Arc::new(AtomicU64::new(monotonic_ns()));
    let web = serve::web::Source::new(args.web_config_file.as_deref())?;
    let state = serve::State {
        metrics: metrics.clone(),
        anomalies: board,
        web,
        live: live.clone(),
        ready: ready.clone(),
        last_tick: last_tick.clone(),
        now: monotonic_ns,
    };
    // Before there is a second thread: each has privileges of its own.
    confine(args);
    watchers.change(watchers.prepare(args, &sections)?);
    // The address first: a port that is taken is a mistake to report before anything is attached.
    let listen = serve::start(args.listen, state)?;
    let signals = Signals::watch(HangUp::Reloads)?;
    // Before anything is captured: it may take its time.
    let kubernetes = args.kubernetes.options().map(|o| Kubernetes::start(&o)).transpose()?;
    let mut agent = Agent::start(wanted, &args.kernel.options(), metrics, log)?;
    agent.watch(live.watch());
    agent.out.kubernetes = kubernetes;
    agent.measure_targets()?;
    let settings = agent.settings();
    (settings.quality, settings.payload) = (args.quality, args.log_payload);
    watchers.watch(&mut agent);
    ready.store(true, Ordering::Release);
    for missing in &agent.chosen.missing {
        log::warn!("without {}: {}", missing.program, missing.reason);
    }
    let hooks = agent.chosen.hooks;
    let backend = hooks.backend();
    let at = listen.to_string();
    say(
        json,
        "ready",
        &[("backend", backend), ("targets", &described), ("listen", &at), ("hooks", hooks.name())],
    );
    while !signals.stopped() {
        agent.step()?;
        last_tick.store(monotonic_ns(), Ordering::Release);
        live.set_wall_offset(wall_offset());
        if signals.take_reload() {
            let result = reload(args, &mut agent, &mut watchers);
            agent.out.metrics.reloaded(result.is_ok());
            match result {
                Ok(what) => log::info!("reloaded: {what}"),
                Err(e) => log::error!("not reloaded, everything stays as it was: {e:#}"),
            }
        }
    }
    ready.store(false, Ordering::Release);
    agent.stop();
    let text = agent.out.metrics.encode_text();
    let sum = |name: &str| sum_of(&text, name).to_string();
    let sums = [
        ("requests", sum("llm_requests_total")),
        ("events", sum("llm_stream_events_total")),
        ("lost_records", sum("llmtrace_lost_records_total")),
        ("incomplete", sum("llmtrace_incomplete_exchanges_total")),
    ];
    say(json, "stopped", &sums.each_ref().map(|(name, sum)| (*name, sum.as_str())));
    Ok(())
}

/// Gives up the privileges that a run does not need.
fn confine(args: &RunArgs) {
    let low = (1..1024).contains(&args.listen.port());
    privileges::keep_needed(if low { &[Capability::CAP_NET_BIND_SERVICE] } else { &[] });
}

/// A line that programs wait for: a word, and what belongs to it.
fn say(json: bool, word: &str, with: &[(&str, &str)]) {
    if json {
        let mut line = serde_json::Map::from_iter([("msg".into(), word.into())]);
        line.extend(with.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        eprintln!("{}", serde_json::Value::Object(line));
    } else {
        let with: Vec<String> =
            with.iter().map(|(name, value)| format!("{name}={value}")).collect();
        eprintln!("{word} {}", with.join(" "));
    }
}

/// The tables of the configuration file, if there is one.
fn sections(args: &RunArgs) -> Result<Sections> {
    Ok(args.config.as_deref().map_or(Ok(Sections::default()), config::sections)?)
}

/// Reads the configuration file again. Says what came of it.
fn reload(args: &RunArgs, agent: &mut Agent, watchers: &mut Watchers) -> Result<String> {
    if args.config.is_none() {
        return Ok("there is no configuration file (--config)".into());
    }
    // A file that is no good is refused whole, before anything is touched.
    let argv = std::env::args_os().collect();
    let Command::Run(new) = cli::parse_from(argv).map_err(|e| cli::short(&e))?.command else {
        unreachable!("the command line is that of `run`");
    };
    let sections = sections(&new)?;
    let changes = watchers.prepare(&new, &sections)?;
    let wanted = new.targets.wanted();
    let described = wanted.describe();
    if described != agent.targets() {
        agent.retarget(wanted)?;
    }
    agent.out.metrics.set_policy(sections.policy(new.series_ttl));
    agent.settings().itl_bounds = agent.out.metrics.gap_bounds();
    watchers.change(changes);
    Ok(format!("targets={described}"))
}

/// Sum of all series of a metric in an exposition.
fn sum_of(text: &str, name: &str) -> f64 {
    text.lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|r| r.starts_with(['{', ' '])))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        // Not `sum`, whose start is -0.
        .fold(0.0, |sum, value| sum + value)
}
