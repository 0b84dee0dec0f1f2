//! For those who see exchanges as they run and end.

use std::sync::Arc;

use super::outcome::{Finished, Ns, Role};
use super::progress::Running;

/// Longest name of an end, in bytes: names of a pod and of a container have at most 63 each, as a
/// rule.
pub const MAX_LABEL: usize = 144;

/// Who was at the two ends of an exchange.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Name and port of the serving end, such as `llama-server:8080`.
    pub server: Arc<str>,
    /// Address and port of the client; empty if unknown.
    pub client: Arc<str>,
    /// The traced process.
    pub pid: u32,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// Sees exchanges as they run and end, on the agent's thread: it must not wait for anything.
pub trait Watch {
    /// An exchange began.
    fn started(&mut self, _role: Role, _server: &Arc<str>, _endpoint: &'static str) {}

    /// An exchange is under way; told a few times a second of each.
    fn running(&mut self, _now: Ns, _running: &Running<'_>, _peer: &Peer) {}

    /// An exchange is over.
    fn finished(&mut self, f: &Finished, peer: &Peer);

    /// Time passed, and what is under way has been told.
    fn tick(&mut self, _now: Ns) {}
}
