//! Where the pipeline's results go.

use std::sync::Arc;

use crate::llm::{Finished, Peer, Role};
use crate::record::{Address, Ns};

/// Where the results go, and who knows names.
pub trait Sink {
    /// An LLM request's head has come.
    fn started(&mut self, role: Role, server: &Arc<str>, endpoint: &'static str);

    /// The same, for who asks when its first byte came.
    fn started_at(&mut self, _t: Ns, role: Role, server: &Arc<str>, endpoint: &'static str) {
        self.started(role, server, endpoint);
    }

    /// An exchange that was started is over. Called once for each, unless the pipeline stops.
    fn finished(&mut self, f: &Finished, peer: &Peer);

    /// What to call a process.
    fn name(&mut self, _pid: u32, comm: &str) -> Arc<str> {
        comm.into()
    }

    /// The port that a process listens on, if there is just one: for a connection without addresses.
    fn port(&mut self, _pid: u32) -> Option<u16> {
        None
    }

    /// The whole label of the server at a remote address.
    fn remote(&mut self, _addr: &Address) -> Option<Arc<str>> {
        None
    }
}
