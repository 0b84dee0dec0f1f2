//! `[anomaly]` and `[notify]`.

use std::time::Duration;

use serde::Deserialize;

use super::sections::{duration, plain_duration};

/// Most intervals that the sliding window may hold.
const MAX_WINDOW: u128 = 1_000;

/// How anomalies are found; docs/anomalies.md says what each number does.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Anomaly {
    pub enabled: bool,
    /// What is looked at; empty: everything.
    pub signals: Vec<String>,
    /// Requests are put together for this long.
    #[serde(deserialize_with = "plain_duration")]
    pub interval: Duration,
    /// An interval of fewer requests is continued, for at most six.
    pub min_requests: u32,
    /// Nothing is judged before a series has been learned for this long.
    #[serde(deserialize_with = "plain_duration")]
    pub warm_up: Duration,
    /// Length of the sliding window.
    #[serde(deserialize_with = "plain_duration")]
    pub window: Duration,
    /// Median and MAD in place of mean and standard deviation in the window.
    pub robust: bool,
    /// Standard deviations above what is expected.
    pub sigmas: f64,
    #[serde(deserialize_with = "plain_duration")]
    pub ewma_half_life: Duration,
    /// Of the series' own history.
    pub quantile: f64,
    pub quantile_factor: f64,
    /// How fast that history fades.
    #[serde(deserialize_with = "plain_duration")]
    pub quantile_half_life: Duration,
    /// Smallest drift that is followed, as a factor.
    pub drift: f64,
    #[serde(deserialize_with = "plain_duration")]
    pub drift_half_life: Duration,
    /// Smallest change of times and rates that is reported, as a factor.
    pub min_change: f64,
    /// Smallest change of shares that is reported.
    pub min_share: f64,
    /// From which factor on a change is critical.
    pub critical_change: f64,
    /// From which change of a share on it is critical.
    pub critical_share: f64,
    /// Raised once this many of the last `raise_of` intervals were out of bounds.
    pub raise: u32,
    pub raise_of: u32,
    /// Cleared after this many calm intervals in a row.
    pub clear: u32,
    /// What lasts for this long is the new normal.
    #[serde(deserialize_with = "plain_duration")]
    pub adapt_after: Duration,
}

impl Default for Anomaly {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        Self {
            enabled: true,
            signals: Vec::new(),
            interval: Duration::from_secs(10),
            min_requests: 8,
            warm_up: minutes(15),
            window: minutes(30),
            robust: false,
            sigmas: 5.0,
            ewma_half_life: minutes(10),
            quantile: 0.99,
            quantile_factor: 1.5,
            quantile_half_life: minutes(24 * 60),
            drift: 1.3,
            drift_half_life: minutes(4 * 60),
            min_change: 1.5,
            min_share: 0.05,
            critical_change: 3.0,
            critical_share: 0.25,
            raise: 3,
            raise_of: 5,
            clear: 6,
            adapt_after: minutes(120),
        }
    }
}

impl Anomaly {
    pub(super) fn check(&self) -> Result<(), String> {
        let known = crate::anomaly::Signal::ALL.map(|s| s.name());
        if let Some(other) = self.signals.iter().find(|s| !known.contains(&s.as_str())) {
            return Err(format!("anomaly.signals: {other:?} is none of {}", known.join(", ")));
        }
        let times = [
            ("interval", self.interval),
            ("window", self.window),
            ("ewma-half-life", self.ewma_half_life),
            ("quantile-half-life", self.quantile_half_life),
            ("drift-half-life", self.drift_half_life),
            ("adapt-after", self.adapt_after),
        ];
        let day = Duration::from_secs(31 * 24 * 3_600);
        for (name, time) in times {
            if time < Duration::from_secs(1) || time > day {
                return Err(format!("anomaly.{name} has to be from 1s to 31days"));
            }
        }
        if self.window.as_nanos() / self.interval.as_nanos().max(1) > MAX_WINDOW {
            return Err(format!("anomaly.window holds more than {MAX_WINDOW} intervals"));
        }
        let factors = [
            ("quantile-factor", self.quantile_factor),
            ("drift", self.drift),
            ("min-change", self.min_change),
            ("critical-change", self.critical_change),
        ];
        for (name, factor) in factors {
            if !(factor > 1.0 && factor.is_finite()) {
                return Err(format!("anomaly.{name} has to be more than 1"));
            }
        }
        let shares = [
            ("quantile", self.quantile),
            ("min-share", self.min_share),
            ("critical-share", self.critical_share),
        ];
        for (name, share) in shares {
            if !(share > 0.0 && share < 1.0) {
                return Err(format!("anomaly.{name} has to be between 0 and 1"));
            }
        }
        if !(self.sigmas > 0.0 && self.sigmas.is_finite()) {
            return Err("anomaly.sigmas has to be more than 0".into());
        }
        if !(1..=32).contains(&self.raise_of) || !(1..=self.raise_of).contains(&self.raise) {
            return Err("anomaly.raise and raise-of have to be 1 <= raise <= raise-of <= 32".into());
        }
        Ok(())
    }
}

/// Who is told of anomalies.
#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Notify {
    /// Base URL of an Alertmanager, or of a receiver of its API.
    pub alertmanager: Option<String>,
    /// Basic authentication.
    pub username: Option<String>,
    pub password_file: Option<std::path::PathBuf>,
    pub bearer_token_file: Option<std::path::PathBuf>,
    /// Further labels of every alert.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Where the alert's source link leads.
    pub generator_url: Option<String>,
    #[serde(deserialize_with = "duration")]
    pub timeout: Option<Duration>,
}

impl std::fmt::Debug for Notify {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A URL may hold a password.
        f.debug_struct("Notify").field("alertmanager", &self.alertmanager.is_some()).finish()
    }
}

impl Notify {
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(url) = &self.alertmanager {
            super::check_url("notify.alertmanager", url)?;
        }
        if let Some(url) = &self.generator_url {
            super::check_url("notify.generator-url", url)?;
        }
        let fine = Duration::from_millis(100)..=Duration::from_secs(3_600);
        if self.timeout.is_some_and(|timeout| !fine.contains(&timeout)) {
            return Err("notify.timeout has to be from 100ms to 1h".into());
        }
        if self.username.is_some() != self.password_file.is_some() {
            return Err("notify.username and notify.password-file go together".into());
        }
        if self.username.is_some() && self.bearer_token_file.is_some() {
            return Err("notify has a password and a token: only one of them".into());
        }
        for name in self.labels.keys() {
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty()
                || !name.chars().all(word)
                || name.starts_with(|c: char| c.is_ascii_digit())
            {
                return Err(format!("notify.labels: {name:?} is no name of a label"));
            }
        }
        Ok(())
    }
}
