//! `[otlp]`.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use super::sections::plain_duration;

/// Which exchanges become spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sample {
    /// As the request's `traceparent` says; every one that has none.
    #[default]
    Parent,
    /// Every one.
    Always,
}

/// How requests to the collector are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    None,
    Gzip,
}

/// Export by OTLP.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Otlp {
    /// Base URL of the collector; `--otlp-endpoint` replaces it.
    pub endpoint: Option<String>,
    pub sample: Sample,
    pub spans: bool,
    pub metrics: bool,
    /// How often metrics are sent.
    #[serde(deserialize_with = "plain_duration")]
    pub interval: Duration,
    /// Of one request to the collector.
    #[serde(deserialize_with = "plain_duration")]
    pub timeout: Duration,
    /// How requests are packed.
    pub compression: Option<Compression>,
    pub headers: BTreeMap<String, String>,
    /// Attributes of the resource.
    pub resource: BTreeMap<String, String>,
}

impl Default for Otlp {
    fn default() -> Self {
        Self {
            endpoint: None,
            sample: Sample::default(),
            spans: true,
            metrics: true,
            interval: Duration::from_secs(60),
            timeout: Duration::from_secs(10),
            compression: None,
            headers: BTreeMap::new(),
            resource: BTreeMap::new(),
        }
    }
}

impl std::fmt::Debug for Otlp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Headers hold keys, and URLs may.
        let names: Vec<_> = self.headers.keys().collect();
        f.debug_struct("Otlp").field("sample", &self.sample).field("headers", &names).finish()
    }
}

impl Otlp {
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(url) = &self.endpoint {
            super::check_url("otlp.endpoint", url)?;
        }
        let fine = Duration::from_millis(100)..=Duration::from_secs(3_600);
        if !fine.contains(&self.interval) || !fine.contains(&self.timeout) {
            return Err("otlp.interval and otlp.timeout have to be from 100ms to 1h".into());
        }
        Ok(())
    }
}
