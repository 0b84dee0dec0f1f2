//! The tables of the file.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error as _};

use super::{Anomaly, Notify, Otlp};

/// Most bounds of a histogram.
pub const MAX_BUCKETS: usize = 64;

/// Everything that is no flag.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Sections {
    /// Objectives by model; the first that matches counts.
    pub slo: Vec<Slo>,
    pub cost: Option<Cost>,
    pub buckets: Buckets,
    pub anomaly: Anomaly,
    pub notify: Notify,
    pub otlp: Otlp,
}

/// What is promised to users of a model.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slo {
    /// Glob over the model's name.
    #[serde(default = "any")]
    pub model: String,
    /// Time to first token.
    #[serde(default, deserialize_with = "duration")]
    pub ttft: Option<Duration>,
    /// Time per output token.
    #[serde(default, deserialize_with = "duration")]
    pub tpot: Option<Duration>,
    /// The whole request.
    #[serde(default, deserialize_with = "duration")]
    pub e2e: Option<Duration>,
}

/// What tokens or GPUs cost.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Cost {
    #[serde(default = "currency")]
    pub currency: String,
    /// Price of one GPU for an hour.
    #[serde(default)]
    pub gpu_hour: Option<f64>,
    /// GPUs that serve.
    #[serde(default = "one")]
    pub gpus: f64,
    /// Prices by model; the first that matches counts.
    #[serde(default)]
    pub model: Vec<ModelPrice>,
}

/// Prices of a million tokens.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPrice {
    /// Glob over the model's name.
    #[serde(default = "any")]
    pub model: String,
    #[serde(default)]
    pub prompt: f64,
    #[serde(default)]
    pub output: f64,
    /// Prompt tokens from a cache; without it they cost as much as others.
    #[serde(default)]
    pub cached: Option<f64>,
}

/// Upper bounds of histograms, in seconds; empty: the default ones.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Buckets {
    pub ttft: Vec<f64>,
    pub e2e: Vec<f64>,
    pub itl: Vec<f64>,
    pub tpot: Vec<f64>,
}

fn any() -> String {
    "*".into()
}

fn currency() -> String {
    "USD".into()
}

fn one() -> f64 {
    1.0
}

/// "500ms", "2s", "1m 30s", or a number of seconds.
pub(super) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Time {
        Seconds(f64),
        Text(String),
    }
    let parsed = match Time::deserialize(from)? {
        Time::Seconds(s) => Duration::try_from_secs_f64(s).map_err(D::Error::custom)?,
        Time::Text(text) => humantime::parse_duration(&text)
            .map_err(|e| D::Error::custom(format!("{text:?} is no duration such as 500ms: {e}")))?,
    };
    Ok(Some(parsed))
}

/// A [`duration`] that is always there.
pub(super) fn plain_duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    Ok(duration(from)?.unwrap_or_default())
}

impl Sections {
    /// From what is left of a file without its flags.
    pub(super) fn deserialize_from(table: toml::Table) -> Result<Self, String> {
        let sections = Self::deserialize(table).map_err(|e| e.to_string())?;
        sections.check()?;
        Ok(sections)
    }

    /// What types cannot say.
    fn check(&self) -> Result<(), String> {
        self.anomaly.check()?;
        self.notify.check()?;
        self.otlp.check()?;
        for slo in &self.slo {
            if slo.ttft.or(slo.tpot).or(slo.e2e).is_none() {
                return Err(format!(
                    "the slo of model {:?} has none of ttft, tpot, e2e",
                    slo.model
                ));
            }
        }
        if let Some(cost) = &self.cost {
            let prices =
                cost.model.iter().flat_map(|m| [m.prompt, m.output, m.cached.unwrap_or(0.0)]);
            let all = prices.chain(cost.gpu_hour).chain([cost.gpus]);
            if let Some(bad) = all.into_iter().find(|p| !p.is_finite() || *p < 0.0) {
                return Err(format!("a price or a number of GPUs cannot be {bad}"));
            }
        }
        let Buckets { ttft, e2e, itl, tpot } = &self.buckets;
        for (name, bounds) in [("ttft", ttft), ("e2e", e2e), ("itl", itl), ("tpot", tpot)] {
            let fine = bounds.iter().all(|b| b.is_finite() && *b > 0.0)
                && bounds.is_sorted_by(|a, b| a < b)
                && bounds.len() <= MAX_BUCKETS;
            if !fine {
                return Err(format!(
                    "buckets.{name} has to be at most {MAX_BUCKETS} seconds above 0, ascending"
                ));
            }
        }
        Ok(())
    }
}
