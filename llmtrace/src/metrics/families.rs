//! The forms in which metrics are written: Prometheus' text format 0.0.4 and its protocol buffers.
//!
//! The text is written here, series by series, and not by the `prometheus` crate, which wants a tree
//! of everything first: a thousand servers have a quarter of a million lines, and who measures must
//! not need ten times the memory, or a second, whenever it is asked. A test compares the two.

use std::fmt::Write as _;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Encoder, ProtobufEncoder};

use super::defs::{self, Def};
use super::hist::Hist;
use super::labels;
use super::series::Base;

/// How metrics are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    #[default]
    Text,
    /// Families, each after its length.
    Protobuf,
}

/// Bytes that are collected before they are passed on.
const CHUNK: usize = 64 * 1024;

enum Sink {
    Plain(Vec<u8>),
    Gzip(GzEncoder<Vec<u8>>),
}

pub(super) struct Families {
    form: Form,
    chunk: String,
    sink: Sink,
}

impl Families {
    pub(super) fn new(form: Form, gzip: bool) -> Self {
        let sink = if gzip {
            // The fastest level takes 95 % off the text already.
            Sink::Gzip(GzEncoder::new(Vec::new(), Compression::fast()))
        } else {
            Sink::Plain(Vec::new())
        };
        Self { form, chunk: String::new(), sink }
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.pass(0);
        match self.sink {
            Sink::Plain(bytes) => bytes,
            // Writing to memory does not fail.
            Sink::Gzip(encoder) => encoder.finish().unwrap_or_default(),
        }
    }

    /// Passes the chunk on, if it is longer than that.
    fn pass(&mut self, than: usize) {
        if self.chunk.len() > than {
            let mut chunk = std::mem::take(&mut self.chunk);
            self.write_all(chunk.as_bytes());
            chunk.clear();
            self.chunk = chunk;
        }
    }

    fn write_all(&mut self, bytes: &[u8]) {
        match &mut self.sink {
            Sink::Plain(all) => all.extend_from_slice(bytes),
            Sink::Gzip(encoder) => {
                let written = encoder.write_all(bytes);
                debug_assert!(written.is_ok(), "{written:?}");
            }
        }
    }

    /// Counters or gauges.
    pub(super) fn add<'a, const N: usize>(
        &mut self,
        def: &Def,
        values: impl Iterator<Item = (Option<&'a Base>, [&'a str; N], f64)>,
    ) {
        if self.form == Form::Protobuf {
            let metrics = values.map(|(base, more, value)| scalar(def, base, &more, value));
            return self.family(def, metrics.collect());
        }
        for (i, (base, more, value)) in values.enumerate() {
            if i == 0 {
                self.head(def);
            }
            self.chunk.push_str(def.name);
            self.labels(def, base, &more);
            self.value(value);
            self.pass(CHUNK);
        }
    }

    pub(super) fn one(&mut self, def: &Def, value: Option<f64>) {
        self.add(def, value.into_iter().map(|v| (None, [], v)));
    }

    /// Histograms, those without an observation left out; every value is divided by `unit`.
    pub(super) fn hist<'a, const N: usize>(
        &mut self,
        def: &Def,
        (bounds, unit): (&[u64], f64),
        values: impl Iterator<Item = (&'a Base, [&'a str; N], &'a Hist)>,
    ) {
        let values = values.filter(|(_, _, hist)| !hist.is_empty());
        if self.form == Form::Protobuf {
            let metrics = values.map(|(base, more, hist)| {
                let mut metric = Metric::from_label(pairs(def, Some(base), &more));
                metric.set_histogram(histogram(hist, bounds, unit));
                metric
            });
            return self.family(def, metrics.collect());
        }
        let les: Vec<String> = bounds.iter().map(|b| (*b as f64 / unit).to_string()).collect();
        let mut series = String::new();
        for (i, (base, more, hist)) in values.enumerate() {
            if i == 0 {
                self.head(def);
            }
            series.clear();
            label_list(&mut series, def, Some(base), &more);
            let counts = hist.cumulative(bounds.len());
            let les = les.iter().map(String::as_str).chain(["+Inf"]);
            for (le, count) in les.zip(counts) {
                self.chunk.push_str(def.name);
                self.chunk.push_str("_bucket{");
                self.chunk.push_str(&series);
                // A String takes everything.
                let _ = writeln!(self.chunk, ",le=\"{le}\"}} {count}");
            }
            let (name, chunk) = (def.name, &mut self.chunk);
            let (sum, count) = (hist.sum() as f64 / unit, hist.count());
            let _ = writeln!(chunk, "{name}_sum{{{series}}} {sum}");
            let _ = writeln!(chunk, "{name}_count{{{series}}} {count}");
            self.pass(CHUNK);
        }
    }

    fn family(&mut self, def: &Def, metrics: Vec<Metric>) {
        // The encoder takes a family without a metric for a mistake.
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(def.name.to_owned());
        family.set_help(def.help.to_owned());
        family.set_field_type(def.kind);
        family.set_metric(metrics);
        let mut bytes = Vec::new();
        let encoded = ProtobufEncoder::new().encode(&[family], &mut bytes);
        debug_assert!(encoded.is_ok(), "{encoded:?}");
        self.write_all(&bytes);
    }

    fn head(&mut self, def: &Def) {
        let kind = match def.kind {
            MetricType::COUNTER => "counter",
            MetricType::HISTOGRAM => "histogram",
            _ => "gauge",
        };
        // A test has it that no help needs an escape.
        let Def { name, help, .. } = def;
        let _ = write!(self.chunk, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn labels(&mut self, def: &Def, base: Option<&Base>, more: &[&str]) {
        if base.is_none() && more.is_empty() {
            return;
        }
        self.chunk.push('{');
        label_list(&mut self.chunk, def, base, more);
        self.chunk.push('}');
    }

    fn value(&mut self, value: f64) {
        let _ = writeln!(self.chunk, " {value}");
    }
}

/// Every label of a series, by name and value.
fn each<'a>(
    def: &Def,
    base: Option<&'a Base>,
    more: &'a [&'a str],
    mut on: impl FnMut(&'static str, &'a str),
) {
    debug_assert!(def.base == base.is_some() && def.labels.len() == more.len(), "{}", def.name);
    if let Some(base) = base {
        let values = [labels::role(base.role), &base.server, base.endpoint, &base.model];
        defs::BASE.iter().zip(values).for_each(|(name, value)| on(name, value));
    }
    def.labels.iter().zip(more).for_each(|(name, value)| on(name, value));
}

fn label_list(out: &mut String, def: &Def, base: Option<&Base>, more: &[&str]) {
    let mut first = true;
    each(def, base, more, |name, value| {
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        out.push_str(name);
        out.push_str("=\"");
        if value.contains(['\\', '"', '\n']) {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            out.push_str(&escaped);
        } else {
            out.push_str(value);
        }
        out.push('"');
    });
}

fn pairs(def: &Def, base: Option<&Base>, more: &[&str]) -> Vec<LabelPair> {
    let mut pairs = Vec::with_capacity(defs::BASE.len() + more.len());
    each(def, base, more, |name, value| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pairs.push(pair);
    });
    pairs
}

fn scalar(def: &Def, base: Option<&Base>, more: &[&str], value: f64) -> Metric {
    let mut metric = Metric::from_label(pairs(def, base, more));
    if def.kind == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}

fn histogram(hist: &Hist, bounds: &[u64], unit: f64) -> Histogram {
    let buckets = bounds.iter().zip(hist.cumulative(bounds.len())).map(|(bound, count)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound as f64 / unit);
        bucket.set_cumulative_count(count);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(hist.count());
    histogram.set_sample_sum(hist.sum() as f64 / unit);
    histogram
}
