//! What the kernel programs say of their decisions, for finding mistakes in them.

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::Log;

use super::ProbeError;

/// The programs' log, on its way to the agent's.
pub struct KernelLog(EbpfLogger<&'static dyn Log>);

impl KernelLog {
    pub fn new(ebpf: &mut Ebpf) -> Result<Self, ProbeError> {
        EbpfLogger::init(ebpf)
            .map(Self)
            .map_err(|e| ProbeError::Map { map: "AYA_LOGS", reason: e.to_string() })
    }

    /// Passes on what came since the last call.
    pub fn print(&mut self) {
        self.0.flush();
    }
}
