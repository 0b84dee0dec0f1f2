//! TLS and basic authentication for the endpoint, by a file in the format of the Prometheus
//! exporters (<https://prometheus.io/docs/prometheus/latest/configuration/https/>).

mod auth;
mod file;
mod listener;
#[cfg(test)]
mod tests;
mod tls;

pub use auth::Auth;
pub use file::{Source, Web, WebError};
pub use listener::Listener;
