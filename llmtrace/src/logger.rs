//! The agent's own log: lines on standard error, for people or as JSON.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::export::request_log::rfc3339;

/// Modules of the kernel side, whose messages come by the ring.
const KERNEL: &str = "llmtrace_ebpf";

struct Logger {
    json: AtomicBool,
}

static LOGGER: Logger = Logger { json: AtomicBool::new(false) };

/// To be called once, before anything is logged.
pub fn init() {
    // It fails if another logger is there: in a test, perhaps.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(LevelFilter::Info);
}

/// From here on lines are JSON, or not; with or without what the kernel side says.
pub fn set(json: bool, kernel: bool) {
    LOGGER.json.store(json, Ordering::Relaxed);
    log::set_max_level(if kernel { LevelFilter::Debug } else { LevelFilter::Info });
}

impl Log for Logger {
    /// Libraries talk of what is their own affair.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("llmtrace")
            && (metadata.level() <= Level::Info || metadata.target().starts_with(KERNEL))
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let from = if record.target().starts_with(KERNEL) { "kernel: " } else { "" };
        if self.json.load(Ordering::Relaxed) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let line = serde_json::json!({
                "time": rfc3339(now.as_nanos() as i128),
                "level": record.level().as_str().to_ascii_lowercase(),
                "msg": format!("{from}{}", record.args()),
            });
            eprintln!("{line}");
        } else {
            eprintln!("llmtrace: {from}{}", record.args());
        }
    }

    fn flush(&self) {}
}
