//! The request log's file and clock.

use std::{
    fs::OpenOptions,
    io::{BufWriter, Write},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};

use crate::{export::request_log::RequestLog, probe::clock::monotonic_ns};

/// Opens a request log.
pub fn open_log(path: &Path) -> Result<RequestLog<Box<dyn Write>>> {
    Ok(RequestLog::new(open_lines(path, "request log")?, wall_offset()))
}

/// Opens a log for appending; "-" is standard output.
pub fn open_lines(path: &Path, what: &str) -> Result<Box<dyn Write>> {
    Ok(if path == Path::new("-") {
        Box::new(std::io::stdout())
    } else {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("{what} {}", path.display()))?;
        Box::new(BufWriter::new(file))
    })
}

/// Nanoseconds since the Unix epoch, less those of `CLOCK_MONOTONIC`.
pub fn wall_offset() -> i64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    wall.as_nanos() as i64 - monotonic_ns() as i64
}
