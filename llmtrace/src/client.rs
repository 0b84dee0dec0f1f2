//! The HTTP client of everything that is sent out: alerts and OTLP.
//!
//! It blocks, so it belongs on threads of its own and never on the agent's.

#[cfg(test)]
pub mod receiver;

use std::{sync::Arc, time::Duration};

use tokio_rustls::rustls::crypto::ring;
use ureq::{
    Agent,
    tls::{RootCerts, TlsConfig},
};

/// Longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 64 << 10;

/// Certificates are checked against the system's store.
pub fn agent(timeout: Duration) -> Agent {
    let tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .root_certs(RootCerts::PlatformVerifier)
        .build();
    Agent::config_builder()
        .tls_config(tls)
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .user_agent(concat!("llmtrace/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

/// What became of something that was posted.
#[derive(Debug)]
pub enum Posted {
    Taken(Vec<u8>),
    /// It may be taken later, after so long if the server said it.
    Later(Option<Duration>, String),
    /// It will never be taken.
    Refused(String),
}

/// Posts `body`. An answer is read as far as it matters.
pub fn post(agent: &Agent, url: &str, headers: &[(String, String)], body: &[u8]) -> Posted {
    let mut request = agent.post(url);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let mut response = match request.send(body) {
        Ok(response) => response,
        Err(e) => return Posted::Later(None, e.to_string()),
    };
    let status = response.status().as_u16();
    let after = response.headers().get("retry-after");
    let after = after.and_then(|v| v.to_str().ok()?.parse().ok()).map(Duration::from_secs);
    let answer = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
    let answer = answer.unwrap_or_default();
    match status {
        200..=299 => Posted::Taken(answer),
        408 | 429 | 500..=599 => Posted::Later(after, format!("status {status}")),
        _ => {
            let text = String::from_utf8_lossy(&answer);
            let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
            Posted::Refused(format!("status {status}: {text}"))
        }
    }
}

/// Least and most that a server's own word on when to try again counts for.
const MIN_SAID: Duration = Duration::from_secs(1);
const MAX_SAID: Duration = Duration::from_secs(300);

/// Waits between tries: doubled each time, a minute at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff(u32);

impl Backoff {
    /// How long to wait after one more failure. `said`: what the server asks for.
    pub fn next(&mut self, said: Option<Duration>) -> Duration {
        let own = Duration::from_secs(1 << self.0.min(6)).min(Duration::from_secs(60));
        self.0 = self.0.saturating_add(1);
        said.map_or(own, |said| said.clamp(MIN_SAID, MAX_SAID))
    }

    pub fn reset(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_minute() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..8).map(|_| backoff.next(None).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.next(Some(Duration::from_secs(9_999))), Duration::from_secs(300));
        // "Retry-After: 0", again and again, is no leave to ask as fast as it answers.
        assert_eq!(backoff.next(Some(Duration::ZERO)), Duration::from_secs(1));
        backoff.reset();
        assert_eq!(backoff.next(None), Duration::from_secs(1));
    }
}
