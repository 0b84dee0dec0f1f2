//! Where exchanges go.

use std::{
    collections::{HashMap, HashSet},
    io::Write,
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
            let _ = log.flush();
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
        if let Some(log) = &mut self.log
            && let Err(e) = log.write(f, peer, &assessed)
            && !self.log_failed
        {
            self.log_failed = true;
            log::error!("request log: {e}; further failures are not reported");
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
