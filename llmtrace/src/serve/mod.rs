//! The agent's HTTP endpoint.
//!
//! Architecture Invariant: knows the metrics and whether the agent is well; knows nothing of what
//! is traced.

mod exposition;
mod guard;
mod thread;
pub mod web;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::llm::Ns;
use crate::metrics::Metrics;

use exposition::Wanted;
pub use thread::start;
use web::Listener;

/// How long ago the last tick may be of an agent that is well.
pub const MAX_TICK_AGE: Ns = 5_000_000_000;
/// Most scrapes that are written at the same time.
const MAX_SCRAPES: usize = 2;

const INDEX: &str = "<!doctype html>
<html lang=\"en\">
<head><meta charset=\"utf-8\"><title>llmtrace</title></head>
<body>
<h1>llmtrace</h1>
<ul>
<li><a href=\"/metrics\">/metrics</a>: Prometheus metrics</li>
<li><a href=\"/healthz\">/healthz</a>: is it alive</li>
<li><a href=\"/readyz\">/readyz</a>: does it capture</li>
</ul>
</body>
</html>
";

/// What the endpoint shows.
#[derive(Clone, Debug)]
pub struct State {
    pub metrics: Metrics,
    /// TLS, and who may read.
    pub web: web::Source,
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
        .route("/", get(async || Html(INDEX)))
        .route("/metrics", get(metrics))
        .route_layer(guarded)
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(Inner { state, scrapes: Arc::new(Semaphore::new(MAX_SCRAPES)) })
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
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn ask(at: std::net::SocketAddr, path: &str) -> String {
        let mut c = tokio::net::TcpStream::connect(at).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        c.write_all(head.as_bytes()).await.unwrap();
        let mut text = String::new();
        c.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn routes() {
        let state = State {
            metrics: Metrics::default(),
            web: web::Source::new(None).unwrap(),
            ready: Arc::default(),
            last_tick: Arc::new(AtomicU64::new(5_000_000_001)),
            now: || 10_000_000_000,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, state.clone()));

        let text = ask(at, "/metrics").await;
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        assert!(text.contains("content-type: text/plain; version=0.0.4"), "{text}");
        assert!(text.contains("\nllmtrace_build_info{version="), "{text}");
        // As Prometheus asks, and what it then gets.
        let accept = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
                      encoding=delimited;q=0.6,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        let mut c = tokio::net::TcpStream::connect(at).await.unwrap();
        let head = format!(
            "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nAccept-Encoding: gzip\r\n\
             Connection: close\r\n\r\n"
        );
        c.write_all(head.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        c.read_to_end(&mut bytes).await.unwrap();
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        assert!(
            head.contains("content-type: application/vnd.google.protobuf; proto=io."),
            "{head}"
        );
        assert!(head.contains("content-encoding: gzip") && head.contains("vary: accept"), "{head}");
        let mut plain = Vec::new();
        let mut unpack = flate2::read::GzDecoder::new(&bytes[end..]);
        io::copy(&mut unpack, &mut plain).unwrap();
        let name = b"llmtrace_build_info";
        assert!(plain.windows(name.len()).any(|w| w == name));

        assert!(ask(at, "/").await.contains("href=\"/metrics\""));
        assert!(ask(at, "/nothing").await.starts_with("HTTP/1.1 404"));

        assert!(ask(at, "/healthz").await.starts_with("HTTP/1.1 200"));
        state.last_tick.store(5_000_000_000, Ordering::Relaxed);
        assert!(ask(at, "/healthz").await.starts_with("HTTP/1.1 503"));

        assert!(ask(at, "/readyz").await.starts_with("HTTP/1.1 503"));
        state.ready.store(true, Ordering::Relaxed);
        assert!(ask(at, "/readyz").await.starts_with("HTTP/1.1 200"));
        server.abort();
    }
}
