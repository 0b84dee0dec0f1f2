//! The agent's HTTP endpoint.
//!
//! Architecture Invariant: knows the metrics, the live windows and whether the agent is well; knows
//! nothing of what is traced.

mod api;
mod exposition;
mod guard;
mod page;
mod thread;
mod unpacked;
pub mod web;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::alerts::Board;
use crate::live::Live;
use crate::llm::Ns;
use crate::metrics::Metrics;

pub use api::everything;
use exposition::Wanted;
pub use thread::start;
use web::Listener;

/// How long ago the last tick may be of an agent that is well.
pub const MAX_TICK_AGE: Ns = 5_000_000_000;
/// Most scrapes that are written at the same time.
const MAX_SCRAPES: usize = 2;
/// Most summaries that are worked out at the same time.
const MAX_SUMMARIES: usize = 2;

/// What the endpoint shows.
#[derive(Clone, Debug)]
pub struct State {
    pub metrics: Metrics,
    /// Anomalies that were found.
    pub anomalies: Board,
    /// TLS, and who may read.
    pub web: web::Source,
    pub live: Live,
    /// Whether it captures.
    pub ready: Arc<AtomicBool>,
    /// When it last looked for records, on the clock of `now`.
    pub last_tick: Arc<AtomicU64>,
    /// The monotonic clock.
    pub now: fn() -> Ns,
}

#[derive(Clone)]
struct Inner {
    state: State,
    scrapes: Arc<Semaphore>,
    summaries: Arc<Semaphore>,
}

impl Inner {
    fn new(state: State) -> Self {
        let (scrapes, summaries) = (Semaphore::new(MAX_SCRAPES), Semaphore::new(MAX_SUMMARIES));
        Self { state, scrapes: scrapes.into(), summaries: summaries.into() }
    }
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, state: State) -> io::Result<()> {
    let web = state.web.clone();
    axum::serve(Listener::new(listener, web)?, router(state)).await
}

/// The routes by themselves.
pub fn router(state: State) -> Router {
    let guarded = middleware::from_fn_with_state(state.web.clone(), guard::guard);
    Router::new()
        .merge(page::routes())
        .route("/metrics", get(metrics))
        .route("/api/v1/summary", get(api::summary))
        .route("/api/v1/anomalies", get(anomalies))
        .route_layer(guarded)
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(Inner::new(state))
}

async fn metrics(Shared(inner): Shared<Inner>, headers: HeaderMap) -> Response {
    let wanted = Wanted::of(&headers);
    let unavailable = || StatusCode::SERVICE_UNAVAILABLE.into_response();
    let Ok(permit) = inner.scrapes.acquire_owned().await else { return unavailable() };
    // Thousands of series take long enough to be in the way of the drain.
    let response = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        wanted.encode(&inner.state.metrics)
    });
    response.await.unwrap_or_else(|_| unavailable())
}

async fn anomalies(Shared(inner): Shared<Inner>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], inner.state.anomalies.json()).into_response()
}

async fn healthz(Shared(inner): Shared<Inner>) -> (StatusCode, &'static str) {
    let age = (inner.state.now)().saturating_sub(inner.state.last_tick.load(Ordering::Relaxed));
    verdict(age < MAX_TICK_AGE, "stuck\n")
}

async fn readyz(Shared(inner): Shared<Inner>) -> (StatusCode, &'static str) {
    verdict(inner.state.ready.load(Ordering::Relaxed), "not ready\n")
}

fn verdict(good: bool, why: &'static str) -> (StatusCode, &'static str) {
    if good { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, why) }
}

#[cfg(test)]
mod tests;
