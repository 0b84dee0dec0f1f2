//! `llmtrace run`.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use anyhow::Result;

use crate::{
    agent::{Agent, open_log},
    cli::{self, Command, LogFormat, RunArgs},
    config,
    metrics::{Metrics, Policy},
    probe::clock::monotonic_ns,
    serve,
    signals::Signals,
};

/// `llmtrace run`.
pub fn run(args: &RunArgs) -> Result<()> {
    let wanted = args.targets.wanted();
    let described = wanted.describe();
    let log = args.request_log.as_deref().map(open_log).transpose()?;
    let metrics = Metrics::new(policy(args)?);
    if let (true, Some(path)) = (args.log_payload, &args.request_log) {
        eprintln!(
            "llmtrace: warning: --log-payload: the text of prompts and answers is written to {}",
            path.display()
        );
    }
    let ready = Arc::new(AtomicBool::new(false));
    let last_tick = Arc::new(AtomicU64::new(monotonic_ns()));
    let web = serve::web::Source::new(args.web_config_file.as_deref())?;
    let state = serve::State {
        metrics: metrics.clone(),
        web,
        ready: ready.clone(),
        last_tick: last_tick.clone(),
        now: monotonic_ns,
    };
    // The address first: a port that is taken is a mistake to report before anything is attached.
    let listen = serve::start(args.listen, state)?;
    let signals = Signals::watch()?;
    let mut agent = Agent::start(wanted, &args.kernel.options(), metrics, log)?;
    agent.measure_targets()?;
    let settings = agent.settings();
    (settings.quality, settings.payload) = (args.quality, args.log_payload);
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
    while !signals.stopped() {
        agent.step()?;
        last_tick.store(monotonic_ns(), Ordering::Release);
        if signals.take_reload() {
            let result = reload(args, &mut agent);
            agent.out.metrics.reloaded(result.is_ok());
            match result {
                Ok(what) => eprintln!("llmtrace: reloaded: {what}"),
                Err(e) => eprintln!("llmtrace: not reloaded, everything stays as it was: {e:#}"),
            }
        }
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

/// What the configuration has the metrics judge by.
fn policy(args: &RunArgs) -> Result<Policy> {
    let sections = args.config.as_deref().map(config::sections).transpose()?.unwrap_or_default();
    Ok(sections.policy(args.series_ttl))
}

/// Reads the configuration file again. Says what came of it.
fn reload(args: &RunArgs, agent: &mut Agent) -> Result<String> {
    if args.config.is_none() {
        return Ok("there is no configuration file (--config)".into());
    }
    // A file that is no good is refused whole, before anything is touched.
    let argv = std::env::args_os().collect();
    let Command::Run(new) = cli::parse_from(argv).map_err(|e| cli::short(&e))?.command else {
        unreachable!("the command line is that of `run`");
    };
    let policy = policy(&new)?;
    let wanted = new.targets.wanted();
    let described = wanted.describe();
    agent.retarget(wanted)?;
    agent.out.metrics.set_policy(policy);
    agent.settings().itl_bounds = agent.out.metrics.gap_bounds();
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
