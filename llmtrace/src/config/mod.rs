//! The configuration file: flags of the command line by their long names, and tables for what
//! flags cannot say.
//!
//! docs/llmtrace.toml is the annotated example; a test reads it.

mod alerts;
mod flags;
mod otlp;
mod policy;
mod sections;
#[cfg(test)]
mod tests;

use std::{fs, path::Path};

use thiserror::Error;

pub use alerts::{Anomaly, Notify};
pub use flags::arguments;
pub use otlp::{Compression, Otlp, Sample};
pub use sections::{Buckets, Cost, MAX_BUCKETS, ModelPrice, Sections, Slo};

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What is wrong with a configuration file.
#[derive(Debug, Error)]
#[error("configuration file {path}: {reason}")]
pub struct ConfigError {
    path: String,
    reason: String,
}

impl ConfigError {
    fn new(path: &Path, reason: &dyn std::fmt::Display) -> Self {
        Self { path: path.display().to_string(), reason: reason.to_string() }
    }
}

/// The tables of a file, its flags left out: those are the command line's.
pub fn sections(path: &Path) -> Result<Sections, ConfigError> {
    let (_, sections) = flags::split(path, &read(path)?)?;
    Ok(sections)
}

/// Whether something can be sent to `url`.
pub fn check_url(name: &str, url: &str) -> Result<(), String> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let host = rest.and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let odd = |c: char| c.is_control() || c.is_whitespace();
    if host.is_empty() || url.contains(odd) {
        return Err(format!("{name} is no URL such as http://127.0.0.1:9093"));
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let length = fs::metadata(path).map_err(|e| ConfigError::new(path, &e))?.len();
    if length > MAX_FILE {
        return Err(ConfigError::new(path, &format!("{length} bytes are no configuration file")));
    }
    fs::read_to_string(path).map_err(|e| ConfigError::new(path, &e))
}
