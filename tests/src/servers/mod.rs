//! Our own servers, run by the `server` and `rustls_server` binaries as processes of their own.

pub mod app;
pub mod cost;
pub mod events;
pub mod flood;
pub mod http;
pub mod log;
pub mod openssl;
pub mod parrot;
pub mod relay;
pub mod rust_tls;
