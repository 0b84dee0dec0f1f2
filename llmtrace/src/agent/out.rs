//! Where exchanges go.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Write},
    sync::Arc,
};

use crate::{
    export::request_log::RequestLog,
    kubernetes::{Found, Kubernetes},
    llm::{Finished, Ns, Peer, Role, Watch},
    metrics::Metrics,
    pipeline::{Pipeline, Sink},
    probe,
};

/// Most processes that are known to take part in LLM requests.
const MAX_PARTS: usize = 1_024;

/// Where exchanges go, and how processes are called.
pub struct Out {
    pub metrics: Metrics,
    /// Told of each exchange while it runs and when it is over.
    pub watches: Vec<Box<dyn Watch>>,
    /// What processes are called in Kubernetes.
    pub kubernetes: Option<Kubernetes>,
    log: Option<RequestLog<Box<dyn Write>>>,
    log_failed: bool,
    names: HashMap<u32, Arc<str>>,
    /// Processes that took part in LLM requests; those that came first, if there are many.
    parts: HashSet<u32>,
    /// Names given since they were last asked for, if somebody wants to know.
    new_names: Option<Vec<(u32, Arc<str>)>>,
}

impl Out {
    pub(super) fn new(metrics: Metrics, log: Option<RequestLog<Box<dyn Write>>>) -> Self {
        if log.is_some() {
            metrics.log_failed(0);
        }
        Self {
            metrics,
            watches: Vec::new(),
            kubernetes: None,
            log,
            log_failed: false,
            names: HashMap::new(),
            parts: HashSet::new(),
            new_names: None,
        }
    }

    /// From here on, names are kept for [`Out::new_names`].
    pub(super) fn keep_names(&mut self) {
        self.new_names = Some(Vec::new());
    }

    /// Names given since the last call.
    pub(super) fn new_names(&mut self) -> impl Iterator<Item = (u32, Arc<str>)> {
        self.new_names.iter_mut().flat_map(|new| new.drain(..))
    }

    /// The process is another one now, or none.
    pub(super) fn forget(&mut self, pid: u32) {
        self.names.remove(&pid);
        if let Some(kubernetes) = &mut self.kubernetes {
            kubernetes.forget(pid);
        }
        self.parts.remove(&pid);
    }

    /// Whether the process took part in an LLM request.
    pub(super) fn takes_part(&self, pid: u32) -> bool {
        self.parts.contains(&pid)
    }

    pub(super) fn flush(&mut self) {
        if let Some(log) = &mut self.log {
            let flushed = log.flush();
            self.logged(flushed);
        }
    }

    /// The wall clock may have been set.
    pub(super) fn set_wall_offset(&mut self, wall_offset: i64) {
        if let Some(log) = &mut self.log {
            log.set_wall_offset(wall_offset);
        }
    }

    fn logged(&mut self, result: io::Result<()>) {
        let Err(e) = result else { return };
        self.metrics.log_failed(1);
        if !std::mem::replace(&mut self.log_failed, true) {
            log::error!("request log: {e}; further failures are counted and not reported");
        }
    }

    /// Tells those who watch of what is under way.
    pub(super) fn running(&mut self, now: Ns, pipeline: &mut Pipeline) {
        if self.watches.is_empty() {
            return;
        }
        pipeline.running(|running, peer| {
            self.watches.iter_mut().for_each(|watch| watch.running(now, &running, peer));
        });
        self.watches.iter_mut().for_each(|watch| watch.tick(now));
    }
}

impl Sink for Out {
    fn started(&mut self, role: Role, server: &Arc<str>, endpoint: &'static str) {
        self.started_at(0, role, server, endpoint);
    }

    fn started_at(&mut self, t: Ns, role: Role, server: &Arc<str>, endpoint: &'static str) {
        self.metrics.started(t, role, server, endpoint);
        self.watches.iter_mut().for_each(|watch| watch.started(role, server, endpoint));
    }

    fn finished(&mut self, f: &Finished, peer: &Peer) {
        let assessed = self.metrics.finished(f, peer);
        if self.parts.len() < MAX_PARTS {
            self.parts.insert(peer.pid);
        }
        if let Some(log) = &mut self.log {
            let written = log.write(f, peer, &assessed);
            self.logged(written);
        }
        self.watches.iter_mut().for_each(|watch| watch.finished(f, peer));
    }

    fn name(&mut self, pid: u32, comm: &str) -> Arc<str> {
        if let Some(name) = self.names.get(&pid) {
            return name.clone();
        }
        let found = self.kubernetes.as_mut().map(|kubernetes| kubernetes.find(pid));
        let name: Arc<str> = match &found {
            Some(Found::Member(member)) => format!("{}/{}", member.pod, member.container).into(),
            _ => probe::process::display_name(pid, comm).into(),
        };
        // The next connection may know better.
        if found != Some(Found::Unknown) {
            self.names.insert(pid, name.clone());
        }
        if let Some(new) = &mut self.new_names {
            new.push((pid, name.clone()));
        }
        name
    }

    fn port(&mut self, pid: u32) -> Option<u16> {
        probe::target::only_port(pid)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// Keeps what it is given, as long as there is room.
    #[derive(Clone, Default)]
    struct Disk {
        bytes: Arc<Mutex<Vec<u8>>>,
        full: bool,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.bytes.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn out(disk: &Disk) -> Out {
        let lines: Box<dyn Write> = Box::new(io::BufWriter::new(disk.clone()));
        Out::new(Metrics::default(), Some(RequestLog::new(lines, 0)))
    }

    fn finish(out: &mut Out) {
        let peer = Peer { server: "s:1".into(), client: "".into(), pid: 1, tls: false };
        out.finished(&Finished::new(Role::Server, 0), &peer);
    }

    #[test]
    fn a_full_disk_is_noticed_when_lines_are_flushed() {
        let mut out = out(&Disk { full: true, ..Disk::default() });
        finish(&mut out);
        out.flush();
        assert!(out.log_failed, "no more lines have to come for that");
        let text = out.metrics.encode_text();
        assert!(text.contains("llmtrace_request_log_errors_total 1\n"), "{text}");
    }

    #[test]
    fn lines_have_the_time_of_a_clock_that_was_set() {
        let disk = Disk::default();
        let mut out = out(&disk);
        for wall_offset in [0, 1_700_000_000_000_000_000] {
            out.set_wall_offset(wall_offset);
            finish(&mut out);
        }
        out.flush();
        let text = String::from_utf8(disk.bytes.lock().unwrap().clone()).unwrap();
        let years: Vec<&str> = text.lines().map(|line| &line[..13]).collect();
        assert_eq!(years, ["{\"time\":\"1970", "{\"time\":\"2023"]);
    }
}
