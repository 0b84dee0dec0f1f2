//! Records that carry no payload: what happens to a connection, or to a process.

use super::late::End;
use super::link::Link;
use super::{Pipeline, Sink, Verdict};
use crate::record::{Address, EndReason, Open, Process, Record, Sniffed, SockId};

impl Pipeline {
    #[cold]
    pub(super) fn other(&mut self, rec: &Record<'_>, sink: &mut impl Sink) {
        let (kind, at) = match rec {
            Record::Data(data) => return self.data(data, sink),
            Record::Open(open) => (2, open.at),
            Record::End { at, .. } => (3, *at),
            Record::Silenced { at, .. } => (4, *at),
            Record::Process { at, .. } => (5, *at),
            Record::Arrived { at, .. } => (6, *at),
            Record::Refused { at, .. } => (7, *at),
        };
        self.counts.records[kind] += 1;
        self.now = self.now.max(at);
        self.late(sink);
        match rec {
            Record::Open(open) => self.open(open, sink),
            Record::End { id, at, reason, reached, .. } => {
                self.end(
                    End { due: 0, id: *id, at: *at, reason: *reason, reached: *reached },
                    sink,
                );
            }
            Record::Silenced { id, sniffed, .. } => {
                if let Some(slot) = self.table.find(*id) {
                    let verdict = match sniffed {
                        Sniffed::Tls => Verdict::Tls,
                        Sniffed::Other => Verdict::Other,
                    };
                    self.silence(slot, verdict, sink);
                }
            }
            Record::Process { event: Process::Exit { pid }, at } => {
                let table = &mut self.table;
                let mut of_pid = self.unix.iter().copied().collect::<Vec<_>>();
                of_pid.retain(|&id| {
                    let slot = table.find(id);
                    slot.and_then(|s| table.get(s)).is_some_and(|(e, _)| e.pid == *pid)
                });
                of_pid.sort_unstable();
                for id in of_pid {
                    let reason = EndReason::Closed;
                    self.end(End { due: 0, id, at: *at, reason, reached: None }, sink);
                }
            }
            Record::Arrived { id, arrived, at } => {
                if let Some(link) = self.link(*id) {
                    link.arrived(*arrived, *at);
                }
            }
            Record::Refused { id, at, .. } => {
                if let Some(link) = self.link(*id) {
                    link.refused(*at);
                }
            }
            Record::Data(_) | Record::Process { .. } => {}
        }
    }

    fn link(&mut self, id: SockId) -> Option<&mut Link> {
        let slot = self.table.find(id)?;
        self.table.get(slot).map(|(entry, _)| &mut entry.state)
    }

    fn open(&mut self, open: &Open, sink: &mut impl Sink) {
        let slot = self.table.open(open);
        if let Some((entry, _)) = self.table.get(slot) {
            // Named again: addresses may have become known.
            entry.state.forget_peer();
        }
        let by_tcp = |a: &Address| matches!(a, Address::Ip(_));
        if by_tcp(&open.local) && by_tcp(&open.remote) {
            // A TLS connection that had no addresses before.
            self.unix.remove(&open.id);
        } else {
            self.unix.insert(open.id);
        }
        if self.table.has_evicted() {
            self.evicted(sink);
        }
    }
}
