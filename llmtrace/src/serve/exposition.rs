//! `/metrics` in the form that the client asks for.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use axum::response::Response;

use super::unpacked::Unpacked;
use crate::metrics::{Form, Metrics, PROTOBUF_FORMAT, TEXT_FORMAT};

/// How a client wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    form: Form,
    gzip: bool,
}

impl Wanted {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let protobuf = prefers_protobuf(&list(headers, header::ACCEPT));
        Self {
            form: if protobuf { Form::Protobuf } else { Form::Text },
            gzip: takes_gzip(&list(headers, header::ACCEPT_ENCODING)),
        }
    }

    pub(super) fn encode(self, metrics: &Metrics) -> Response {
        let kind = match self.form {
            Form::Text => TEXT_FORMAT,
            Form::Protobuf => PROTOBUF_FORMAT,
        };
        let mut response = Response::builder()
            .header(header::CONTENT_TYPE, kind)
            .header(header::VARY, "accept, accept-encoding");
        let packed = metrics.encode(self.form, true);
        let body = if self.gzip {
            response = response.header(header::CONTENT_ENCODING, "gzip");
            Body::from(packed)
        } else {
            Body::new(Unpacked::new(packed))
        };
        // The headers are constants: a test has each of them.
        response.body(body).unwrap_or_default()
    }
}

/// Everything that headers of that name list, in lower case.
fn list(headers: &HeaderMap, name: header::HeaderName) -> String {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.collect::<Vec<_>>().join(",").to_ascii_lowercase()
}

/// The parameters of an item, and how much it is wanted: 0 to 1.
fn item(item: &str) -> (&str, Vec<(&str, &str)>, f32) {
    let mut parts = item.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let pairs: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
    let q =
        pairs.iter().find(|(key, _)| *key == "q").map_or(1.0, |(_, q)| q.parse().unwrap_or(0.0));
    (name, pairs, q)
}

fn prefers_protobuf(accept: &str) -> bool {
    let (mut protobuf, mut text) = (0.0f32, 0.0f32);
    for (name, pairs, q) in accept.split(',').map(item) {
        let has = |key: &str, value: &str| {
            pairs.iter().any(|(k, v)| *k == key && v.trim_matches('"') == value)
        };
        match name {
            "application/vnd.google.protobuf"
                if has("proto", "io.prometheus.client.metricfamily")
                    && has("encoding", "delimited") =>
            {
                protobuf = protobuf.max(q);
            }
            "text/plain" | "text/*" => text = text.max(q),
            _ => {}
        }
    }
    // Who likes both alike gets the text, unless protobuf comes first in what clients send: they
    // give it the higher q.
    protobuf > 0.0 && protobuf >= text
}

fn takes_gzip(accept: &str) -> bool {
    let wanted = |coding: &str| {
        accept.split(',').map(item).find(|(name, ..)| *name == coding).map(|(_, _, q)| q)
    };
    wanted("gzip").or_else(|| wanted("*")).is_some_and(|q| q > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_prometheus_sends() {
        // Prometheus 3 with and without native histograms, and curl.
        let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
                        encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;\
                        escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        assert!(prefers_protobuf(&protobuf.to_ascii_lowercase()));
        assert!(!prefers_protobuf(
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4"
        ));
        for no in [
            "",
            "*/*",
            "text/html",
            "application/vnd.google.protobuf",
            "application/vnd.google.protobuf;proto=io.prometheus.client.metricfamily;encoding=text",
            "application/vnd.google.protobuf;proto=io.prometheus.client.metricfamily;\
             encoding=delimited;q=0",
            "application/vnd.google.protobuf;proto=io.prometheus.client.metricfamily;\
             encoding=delimited;q=0.3, text/plain;q=0.7",
        ] {
            assert!(!prefers_protobuf(no), "{no}");
        }
    }

    #[test]
    fn codings() {
        for yes in ["gzip", "deflate, gzip;q=1.0", "*", "br, *;q=0.5"] {
            assert!(takes_gzip(yes), "{yes}");
        }
        for no in ["", "identity", "gzip;q=0, *", "deflate"] {
            assert!(!takes_gzip(no), "{no}");
        }
    }
}
