//! The live page at `/`, built from llmtrace/web and embedded.

use axum::Router;
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

// `FILES`: names and contents. build.rs writes it; it is empty if the page was not built.
include!(concat!(env!("OUT_DIR"), "/page.rs"));

const INDEX: &str = "index.html";

/// Of a build without the page.
const PLAIN: &str = "<!doctype html>
<html lang=\"en\">
<head><meta charset=\"utf-8\"><title>llmtrace</title></head>
<body>
<h1>llmtrace</h1>
<p>This program was built without the live page: <code>cargo xtask build</code> makes it where there is
Node 20.19 or newer.</p>
<ul>
<li><a href=\"metrics\">/metrics</a>: Prometheus metrics</li>
<li><a href=\"api/v1/summary\">/api/v1/summary</a>: the last seconds, as JSON</li>
<li><a href=\"healthz\">/healthz</a>: is it alive</li>
<li><a href=\"readyz\">/readyz</a>: does it capture</li>
</ul>
</body>
</html>
";

/// The page asks nobody but the agent.
const HEADERS: [(HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    // Another version of the agent has another page at the same address.
    (header::CACHE_CONTROL, "no-cache"),
];

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        _ => "application/octet-stream",
    }
}

fn answer(name: &str, body: &'static [u8]) -> Response {
    (HEADERS, [(header::CONTENT_TYPE, content_type(name))], body).into_response()
}

/// `/` and what belongs to it.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    routes_of(FILES)
}

pub(super) fn routes_of<S: Clone + Send + Sync + 'static>(
    files: &'static [(&'static str, &'static [u8])],
) -> Router<S> {
    let index = files.iter().find(|(name, _)| *name == INDEX);
    let index = index.map_or(PLAIN.as_bytes(), |(_, body)| body);
    let mut router = Router::new().route("/", get(async || answer(INDEX, index)));
    for (name, body) in files.iter().filter(|(name, _)| *name != INDEX) {
        router = router.route(&format!("/{name}"), get(async || answer(name, body)));
    }
    router
}
