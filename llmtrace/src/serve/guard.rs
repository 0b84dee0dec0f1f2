//! Who may read, and the headers of every response.

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::web::Source;

/// Lets through who may read. `/healthz` and `/readyz` are not behind it: they say nothing of the
/// traffic, and who probes them has no password.
pub(super) async fn guard(State(source): State<Source>, request: Request, next: Next) -> Response {
    let web = source.get();
    let shown = request.headers().get(header::AUTHORIZATION).map(|v| v.as_bytes());
    let allowed = web.auth.clone().allows(shown).await;
    let mut response = if allowed {
        next.run(request).await
    } else {
        let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"llmtrace\"")];
        (StatusCode::UNAUTHORIZED, challenge, "unauthorized\n").into_response()
    };
    for (name, value) in web.headers.iter() {
        response.headers_mut().insert(name, value.clone());
    }
    response
}
