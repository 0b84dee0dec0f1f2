//! `/api/v1/summary`: the live windows as JSON. docs/api.md is its description.

use axum::extract::{Query, State as Shared};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::{Inner, State};
use crate::live::{Ended, History, Live, MAX_SECONDS, Streams, Summary, WINDOWS};
use crate::llm::Ns;
use crate::metrics::{Health, Metrics};

/// Most running requests in an answer.
const MAX_STREAMS: usize = 100;

/// What is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Asked {
    /// Such as `60s`, or several with commas.
    window: Option<String>,
    /// Seconds.
    history: Option<u64>,
    streams: Option<u8>,
    ended: Option<u8>,
}

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    summary: Summary,
    agent: Health,
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<History>,
    #[serde(skip_serializing_if = "Option::is_none", flatten)]
    streams: Option<Streams>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<Vec<Dated>>,
}

#[derive(Serialize)]
struct Dated {
    /// Seconds since the Unix epoch.
    at: f64,
    #[serde(flatten)]
    ended: std::sync::Arc<Ended>,
}

pub(super) async fn summary(
    Shared(inner): Shared<Inner>,
    asked: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let asked = match asked {
        Ok(Query(asked)) => asked,
        Err(rejection) => return refused(&rejection.body_text()),
    };
    let windows = match windows(asked.window.as_deref()) {
        Ok(windows) => windows,
        Err(wrong) => return refused(&wrong),
    };
    if asked.history.is_some_and(|seconds| seconds > MAX_SECONDS) {
        return refused(&format!("history is at most {MAX_SECONDS} seconds"));
    }
    let unavailable = || StatusCode::SERVICE_UNAVAILABLE.into_response();
    let Ok(permit) = inner.summaries.acquire_owned().await else { return unavailable() };
    let body = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        body(&inner.state, &asked, &windows)
    });
    match body.await {
        Ok(Ok(body)) => {
            let headers =
                [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
            (headers, body).into_response()
        }
        _ => unavailable(),
    }
}

/// The whole answer. `windows` are in seconds.
pub(super) fn body(state: &State, asked: &Asked, windows: &[u64]) -> serde_json::Result<Vec<u8>> {
    let State { live, metrics, now, .. } = state;
    serde_json::to_vec(&answer(live, metrics, now(), asked, windows))
}

fn answer(live: &Live, metrics: &Metrics, now: Ns, asked: &Asked, windows: &[u64]) -> Answer {
    let on = |flag: Option<u8>| flag.is_some_and(|n| n > 0);
    let streams = on(asked.streams).then(|| {
        let mut all = live.streams(now);
        all.streams.truncate(MAX_STREAMS);
        all
    });
    let ended = on(asked.ended).then(|| {
        let all = live.ended().into_iter();
        all.map(|ended| Dated { at: live.unix(ended.end), ended }).collect()
    });
    Answer {
        summary: live.summary(now, windows),
        agent: metrics.health(),
        history: asked.history.filter(|n| *n > 0).map(|n| live.history(now, n)),
        streams,
        ended,
    }
}

/// The whole answer: the usual windows, so much history, what runs and what ended.
pub fn everything(
    live: &Live,
    metrics: &Metrics,
    now: Ns,
    history: u64,
) -> serde_json::Result<Vec<u8>> {
    let asked = Asked { window: None, history: Some(history), streams: Some(1), ended: Some(1) };
    serde_json::to_vec(&answer(live, metrics, now, &asked, &WINDOWS))
}

/// The windows that are named, in seconds.
fn windows(text: Option<&str>) -> Result<Vec<u64>, String> {
    let Some(text) = text else { return Ok(WINDOWS.into()) };
    let one = |name: &str| {
        let seconds = name.strip_suffix('s').unwrap_or(name).parse().ok();
        seconds.filter(|n| (1..=MAX_SECONDS).contains(n))
    };
    let wrong = || format!("a window is a number of seconds from 1 to {MAX_SECONDS}, such as 60s");
    let all: Option<Vec<u64>> = text.split(',').map(one).collect();
    all.filter(|all| all.len() <= WINDOWS.len() * 2).ok_or_else(wrong)
}

fn refused(why: &str) -> Response {
    let body = serde_json::json!({ "error": why }).to_string();
    (StatusCode::BAD_REQUEST, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_by_name() {
        assert_eq!(windows(None).unwrap(), WINDOWS);
        assert_eq!(windows(Some("60s")).unwrap(), [60]);
        assert_eq!(windows(Some("1s,600")).unwrap(), [1, 600]);
        for wrong in ["", "0s", "601s", "1m", "-1s", "1s,,2s", "1s,1s,1s,1s,1s,1s,1s,1s,1s"] {
            assert!(windows(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
