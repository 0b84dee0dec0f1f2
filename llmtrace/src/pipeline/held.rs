//! How long the writes of a connection were held back by a peer that reads slowly, and since when
//! what is read had waited.

use crate::record::Ns;

/// A write that lasts as long had to wait; one that does not takes microseconds.
pub const LONG_WRITE_NS: Ns = 1_000_000;

/// Time for which writes were held back, of a whole connection: a response's own is what it grows by.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    total: Ns,
    /// The socket took no more, and nothing since; 0: it takes.
    refused: Ns,
    /// Exit of the last write: the pieces of one call have it in common.
    exit: Ns,
}

impl Held {
    /// The socket takes no more.
    pub fn refused(&mut self, at: Ns) {
        // Not if a record that came late tells it: writes went on since.
        if self.refused == 0 && at >= self.exit {
            self.refused = at;
        }
    }

    /// Bytes of a write, or the place of some that are missing.
    #[inline]
    pub fn wrote(&mut self, enter: Ns, exit: Ns) {
        if exit == self.exit {
            return;
        }
        self.exit = exit;
        // The write that was cut short was told before, or is told late.
        if self.refused != 0 && enter >= self.refused {
            self.total = self.total.saturating_add(enter - self.refused);
            self.refused = 0;
        }
        let lasted = exit.saturating_sub(enter);
        if lasted >= LONG_WRITE_NS {
            self.total = self.total.saturating_add(lasted);
        }
    }

    /// All of it, as of `t`.
    #[inline]
    pub fn total(&self, t: Ns) -> Ns {
        let now = if self.refused == 0 { 0 } else { t.saturating_sub(self.refused) };
        self.total.saturating_add(now)
    }
}

/// What the read that ended at `read` took had waited since `since`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub since: Ns,
    pub read: Ns,
}
