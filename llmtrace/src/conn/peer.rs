//! Who talks to whom on a connection, as the layers above name it.

use std::sync::Arc;

/// The two ends of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Name and port of the serving end, such as `llama-server:8080`.
    pub server: Arc<str>,
    /// Address and port of the client; empty if unknown.
    pub client: Arc<str>,
    /// The traced process that used the connection last.
    pub pid: u32,
    /// The connection is encrypted, and what was seen its plaintext.
    pub tls: bool,
}
