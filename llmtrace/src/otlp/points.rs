//! Exchanges as OpenTelemetry's metrics of generative AI: cumulative exponential histograms.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Exemplar, ExponentialHistogram, Metric, metric::Data,
};

use super::done::Done;
use super::exponential::Exponential;
use super::span::{Ids, server, text};
use crate::llm::{Outcome, Role};
use crate::metrics::labels;

/// Most combinations of attributes of all metrics; what comes later is one point with
/// `otel.metric.overflow`, as the SDKs do it.
const MAX_POINTS: usize = 2_000;
/// Most models that become attributes.
const MAX_MODELS: usize = 200;

/// Name, unit and description.
type Kind = (&'static str, &'static str, &'static str);

const SERVER_DURATION: Kind =
    ("gen_ai.server.request.duration", "s", "Time from the request's first byte to the end.");
const TTFT: Kind =
    ("gen_ai.server.time_to_first_token", "s", "Time to the first token of a stream.");
const PER_TOKEN: Kind = (
    "gen_ai.server.time_per_output_token",
    "s",
    "Time per output token after the first of a stream.",
);
const CLIENT_DURATION: Kind = ("gen_ai.client.operation.duration", "s", "Time of the operation.");
const TOKENS: Kind = ("gen_ai.client.token.usage", "{token}", "Input and output tokens.");
const ALL: [Kind; 5] = [SERVER_DURATION, TTFT, PER_TOKEN, CLIENT_DURATION, TOKENS];

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    name: &'static str,
    operation: &'static str,
    provider: &'static str,
    role: Role,
    server: Arc<str>,
    asked: Option<Arc<str>>,
    answered: Option<Arc<str>>,
    error: Option<String>,
    token: Option<&'static str>,
}

#[derive(Debug)]
pub(super) struct Points {
    points: HashMap<Key, (Vec<KeyValue>, Exponential)>,
    overflow: [Option<Exponential>; ALL.len()],
    models: HashSet<Arc<str>>,
    started: u64,
}

impl Points {
    /// `started`: nanoseconds since the Unix epoch.
    pub(super) fn new(started: u64) -> Self {
        Self {
            points: HashMap::new(),
            overflow: [const { None }; ALL.len()],
            models: HashSet::new(),
            started,
        }
    }

    /// An exchange, and its span if it has one.
    pub(super) fn add(&mut self, d: &Done, ids: Option<&Ids>, wall_offset: i64) {
        if d.outcome == Outcome::Incomplete {
            return;
        }
        let exemplar = ids.map(|ids| Exemplar {
            time_unix_nano: d.end.saturating_add_signed(wall_offset),
            span_id: ids.span.into(),
            trace_id: ids.trace.into(),
            ..Exemplar::default()
        });
        let duration = match d.role {
            Role::Server => SERVER_DURATION,
            Role::Client => CLIENT_DURATION,
        };
        // Anybody can ask for any model; only a server that has it answers.
        let accepted = d.accepted();
        let asked = self.model(d.asked_model.as_deref(), accepted);
        let answered = self.model(d.model.as_deref(), accepted);
        let seen = [
            (duration, None, Some(d.duration())),
            (TTFT, None, d.ttft().filter(|_| d.role == Role::Server)),
            (PER_TOKEN, None, d.per_token().filter(|_| d.role == Role::Server)),
            (TOKENS, Some("input"), d.usage.prompt.map(|n| n as f64)),
            (TOKENS, Some("output"), d.output_tokens.map(|n| n as f64)),
        ];
        for (kind, token, value) in seen {
            let Some(value) = value else { continue };
            let key = Key {
                name: kind.0,
                operation: d.operation.name(),
                provider: d.provider(),
                role: d.role,
                server: d.server.clone(),
                asked: asked.clone(),
                answered: answered.clone().filter(|_| accepted),
                error: d.error().filter(|_| kind == SERVER_DURATION || kind == CLIENT_DURATION),
                token,
            };
            self.histogram(key, d).observe(value, exemplar.clone());
        }
    }

    fn model(&mut self, name: Option<&str>, accepted: bool) -> Option<Arc<str>> {
        let name = name?;
        if let Some(known) = self.models.get(name) {
            return Some(known.clone());
        }
        if !accepted || self.models.len() >= MAX_MODELS {
            return None;
        }
        let name: Arc<str> = name.into();
        self.models.insert(name.clone());
        Some(name)
    }

    fn histogram(&mut self, key: Key, d: &Done) -> &mut Exponential {
        if self.points.len() >= MAX_POINTS && !self.points.contains_key(&key) {
            let place = ALL.iter().position(|kind| kind.0 == key.name);
            let slot = place.and_then(|place| self.overflow.get_mut(place));
            if let Some(slot) = slot {
                return slot.get_or_insert_default();
            }
        }
        let entry = self.points.entry(key);
        &mut entry.or_insert_with_key(|key| (attributes(key, d), Exponential::default())).1
    }

    /// How many points there are.
    pub(super) fn len(&self) -> usize {
        self.points.len() + self.overflow.iter().flatten().count()
    }

    /// Everything up to `now`, in nanoseconds since the Unix epoch.
    pub(super) fn metrics(&mut self, now: u64) -> Vec<Metric> {
        let started = self.started;
        let stamp = |attributes: Vec<KeyValue>, histogram: &mut Exponential| {
            let mut point = histogram.point();
            point.attributes = attributes;
            (point.start_time_unix_nano, point.time_unix_nano) = (started, now);
            point
        };
        let mut data: HashMap<&str, Vec<_>> = HashMap::new();
        for (key, (attributes, histogram)) in &mut self.points {
            data.entry(key.name).or_default().push(stamp(attributes.clone(), histogram));
        }
        for (kind, histogram) in ALL.iter().zip(&mut self.overflow) {
            if let Some(histogram) = histogram {
                let yes = AnyValue { value: Some(Value::BoolValue(true)) };
                let key = "otel.metric.overflow".to_owned();
                let overflow = KeyValue { key, value: Some(yes), ..KeyValue::default() };
                data.entry(kind.0).or_default().push(stamp(vec![overflow], histogram));
            }
        }
        ALL.iter()
            .filter_map(|(name, unit, description)| {
                Some(Metric {
                    name: (*name).into(),
                    unit: (*unit).into(),
                    description: (*description).into(),
                    data: Some(Data::ExponentialHistogram(ExponentialHistogram {
                        data_points: data.remove(name)?,
                        aggregation_temporality: AggregationTemporality::Cumulative.into(),
                    })),
                    ..Metric::default()
                })
            })
            .collect()
    }
}

fn attributes(key: &Key, d: &Done) -> Vec<KeyValue> {
    let mut all = vec![
        text("gen_ai.operation.name", key.operation),
        text("gen_ai.provider.name", key.provider),
        text("llmtrace.role", labels::role(key.role)),
    ];
    all.extend(server(d));
    let texts = [
        ("gen_ai.request.model", key.asked.as_deref()),
        ("gen_ai.response.model", key.answered.as_deref()),
        ("error.type", key.error.as_deref()),
        ("gen_ai.token.type", key.token),
    ];
    all.extend(texts.into_iter().filter_map(|(name, value)| Some(text(name, value?))));
    all
}
