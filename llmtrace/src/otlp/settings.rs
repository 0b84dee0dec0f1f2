//! Where to export to: the flag, the configuration file, or OpenTelemetry's own variables.

use std::time::Duration;

use anyhow::{Result, anyhow};
use percent_encoding::percent_decode_str;

use crate::config::{self, Compression, Sample};

/// Where to export to, and what.
#[derive(Clone, PartialEq)]
pub struct Settings {
    /// URLs; none if not wanted.
    pub(super) traces: Option<String>,
    pub(super) metrics: Option<String>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) sample: Sample,
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
    pub(super) gzip: bool,
    /// In place of the name of each server.
    pub(super) service: Option<String>,
    pub(super) resource: Vec<(String, String)>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Headers hold keys, and URLs may.
        f.debug_struct("Settings").field("service", &self.service).finish_non_exhaustive()
    }
}

impl Settings {
    /// By file, flag and the environment; none if nothing says where to.
    pub fn new(config: &config::Otlp, flag: Option<&str>) -> Result<Option<Self>> {
        Self::by(config, flag, |name| std::env::var(name).ok().filter(|v| !v.is_empty()))
    }

    /// `env` looks a variable up.
    pub(super) fn by(
        config: &config::Otlp,
        flag: Option<&str>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>> {
        // The program's own settings come before the standard variables, which may be meant for
        // everything on the machine.
        let own = flag.map(str::to_owned).or_else(|| config.endpoint.clone());
        let base = own.clone().or_else(|| env("OTEL_EXPORTER_OTLP_ENDPOINT"));
        let url = |wanted: bool, path: &str, variable: &str| -> Result<Option<String>> {
            let whole = env(variable).filter(|_| own.is_none());
            let base = base.as_deref().map(|b| format!("{}/{path}", b.trim_end_matches('/')));
            let url = whole.or(base).filter(|_| wanted);
            url.map(|url| {
                config::check_url("the OTLP endpoint", &url).map_err(|e| anyhow!(e))?;
                Ok(url)
            })
            .transpose()
        };
        let traces = url(config.spans, "v1/traces", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")?;
        let metrics = url(config.metrics, "v1/metrics", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")?;
        if traces.is_none() && metrics.is_none() {
            return Ok(None);
        }
        let said = |name: &str| env(name).map(|text| pairs(&text)).unwrap_or_default();
        let mut headers = said("OTEL_EXPORTER_OTLP_HEADERS");
        headers.extend(config.headers.clone());
        let mut resource = said("OTEL_RESOURCE_ATTRIBUTES");
        resource.extend(config.resource.clone());
        let service = env("OTEL_SERVICE_NAME").or_else(|| {
            let named = resource.iter().rev().find(|(key, _)| key == "service.name");
            named.map(|(_, name)| name.clone())
        });
        resource.retain(|(key, _)| key != "service.name");
        let milliseconds = |name: &str| env(name)?.parse().ok().map(Duration::from_millis);
        let default = config::Otlp::default();
        let or = |own: Duration, default: Duration, name: &str| {
            if own == default { milliseconds(name).unwrap_or(own) } else { own }
        };
        let least = Duration::from_millis(100);
        let gzip = match (config.compression, env("OTEL_EXPORTER_OTLP_COMPRESSION").as_deref()) {
            (Some(own), _) => own == Compression::Gzip,
            (None, None | Some("none")) => false,
            (None, Some("gzip")) => true,
            (None, Some(_)) => {
                return Err(anyhow!("OTEL_EXPORTER_OTLP_COMPRESSION is gzip or none"));
            }
        };
        Ok(Some(Self {
            traces,
            metrics,
            headers,
            sample: config.sample,
            interval: or(config.interval, default.interval, "OTEL_METRIC_EXPORT_INTERVAL")
                .max(least),
            gzip,
            timeout: or(config.timeout, default.timeout, "OTEL_EXPORTER_OTLP_TIMEOUT").max(least),
            service,
            resource,
        }))
    }
}

/// `key=value,key=value`, percent-encoded.
fn pairs(text: &str) -> Vec<(String, String)> {
    let decode = |text: &str| percent_decode_str(text.trim()).decode_utf8_lossy().into_owned();
    text.split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (decode(key), decode(value)))
        .filter(|(key, _)| !key.is_empty())
        .collect()
}
