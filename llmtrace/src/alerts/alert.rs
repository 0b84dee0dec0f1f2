//! An anomaly as an alert of Alertmanager's API, version 2.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::anomaly::{Anomaly, Event, Severity, What};
use crate::export::anomalies::wall;

/// Name of all alerts that are sent; the rules of dashboards/ have others.
pub(super) const NAME: &str = "LlmtraceAnomalyDetected";

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub starts_at: String,
    /// None while it fires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<String>,
    #[serde(rename = "generatorURL", skip_serializing_if = "Option::is_none")]
    pub generator_url: Option<String>,
}

/// What to send because of `event`. The severity is a label, and labels are what an alert is: one
/// that got worse is over as a warning and begins as critical.
pub(super) fn of(event: &Event, wall_offset: i64) -> Vec<Alert> {
    let alert = active(&event.anomaly, wall_offset);
    match event.what {
        What::Raised | What::Cleared => vec![alert],
        What::Worse => {
            let ends_at = Some(wall(event.at, wall_offset));
            let warning = make(&event.anomaly, Severity::Warning, wall_offset);
            vec![Alert { ends_at, ..warning }, alert]
        }
    }
}

/// Of an anomaly as it is.
pub(super) fn active(a: &Anomaly, wall_offset: i64) -> Alert {
    make(a, a.severity, wall_offset)
}

fn make(a: &Anomaly, severity: Severity, wall_offset: i64) -> Alert {
    let mut labels = BTreeMap::new();
    let pairs = [
        ("alertname", NAME),
        ("signal", a.signal.name()),
        ("method", a.method.name()),
        ("severity", severity.name()),
        ("server", &*a.server),
        ("model", &*a.model),
    ];
    // An empty label is none.
    for (name, value) in pairs.into_iter().filter(|(_, value)| !value.is_empty()) {
        labels.insert(name.to_owned(), value.to_owned());
    }
    let of = if a.model.is_empty() { String::new() } else { format!(" of {}", a.model) };
    let summary = format!("{}{of} on {} is out of line", a.signal.name(), a.server);
    let unit = a.signal.unit();
    let description = format!(
        "{} is {:.4} {unit}; {:.4} was expected and {:.4} is the limit ({}). {} requests behind it \
         are in the anomaly log and at /api/v1/anomalies, id {}.",
        a.signal.name(),
        a.value,
        a.expected,
        a.threshold,
        a.method.name(),
        a.requests.len(),
        a.id,
    );
    let annotations = [("summary", summary), ("description", description)];
    Alert {
        labels,
        annotations: annotations.map(|(name, text)| (name.to_owned(), text)).into(),
        starts_at: wall(a.started, wall_offset),
        ends_at: a.ended.map(|(at, _)| wall(at, wall_offset)),
        generator_url: None,
    }
}
