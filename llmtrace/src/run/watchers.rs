//! Who watches exchanges as the tables of the configuration file say it, and can be replaced while
//! the agent runs.

use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Result;

use crate::{
    agent::{Agent, open_lines, wall_offset},
    alerts::{Alerts, Board, Receiver, Sender},
    cli::RunArgs,
    config::{self, Sections},
    llm::{Finished, Ns, Peer, Role, Running, Watch},
    metrics::Metrics,
    otlp::{Otlp, Settings},
    probe::clock::monotonic_ns,
};

/// Something that watches, or nothing; a clone is the same one.
struct Slot<W>(Rc<RefCell<Option<W>>>);

impl<W> Slot<W> {
    fn new(watch: Option<W>) -> Self {
        Self(Rc::new(RefCell::new(watch)))
    }

    fn share(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<W: Watch> Watch for Slot<W> {
    fn started(&mut self, role: Role, server: &Arc<str>, endpoint: &'static str) {
        if let Some(watch) = &mut *self.0.borrow_mut() {
            watch.started(role, server, endpoint);
        }
    }

    fn running(&mut self, now: Ns, running: &Running<'_>, peer: &Peer) {
        if let Some(watch) = &mut *self.0.borrow_mut() {
            watch.running(now, running, peer);
        }
    }

    fn finished(&mut self, f: &Finished, peer: &Peer) {
        if let Some(watch) = &mut *self.0.borrow_mut() {
            watch.finished(f, peer);
        }
    }

    fn tick(&mut self, now: Ns) {
        if let Some(watch) = &mut *self.0.borrow_mut() {
            watch.tick(now);
        }
    }
}

/// What watches for anomalies, and what exports.
pub(super) struct Watchers {
    alerts: Slot<Alerts>,
    otlp: Slot<Otlp>,
    metrics: Metrics,
    board: Board,
    /// Until somebody writes to it.
    anomaly_log: Option<Box<dyn Write>>,
}

/// Something that stays as it is, goes, or is replaced by a new one.
enum Change<T> {
    None,
    To(Option<T>),
}

/// What is to change, with everything done that can go wrong.
pub(super) struct Changes {
    anomaly: config::Anomaly,
    sender: Change<Sender>,
    otlp: Change<Otlp>,
}

impl Watchers {
    /// Nobody so far.
    pub(super) fn new(args: &RunArgs, metrics: &Metrics, board: &Board) -> Result<Self> {
        let log = args.anomaly_log.as_deref();
        Ok(Self {
            alerts: Slot::new(None),
            otlp: Slot::new(None),
            metrics: metrics.clone(),
            board: board.clone(),
            anomaly_log: log.map(|path| open_lines(path, "anomaly log")).transpose()?,
        })
    }

    pub(super) fn watch(&self, agent: &mut Agent) {
        agent.watch(Box::new(self.alerts.share()));
        agent.watch(Box::new(self.otlp.share()));
    }

    /// What it takes to do as `args` and `sections` say. Nothing changes yet.
    pub(super) fn prepare(&self, args: &RunArgs, sections: &Sections) -> Result<Changes> {
        let receiver =
            if sections.anomaly.enabled { Receiver::new(&sections.notify)? } else { None };
        let settings = Settings::new(&sections.otlp, args.otlp_endpoint.as_deref())?;
        let (alerts, otlp) = (self.alerts.0.borrow(), self.otlp.0.borrow());
        let sender = alerts.as_ref().and_then(Alerts::sender);
        let sender = if sender.map(Sender::receiver) == receiver.as_ref() {
            Change::None
        } else {
            let start = |receiver| Sender::start(receiver, self.metrics.clone());
            Change::To(receiver.map(start).transpose()?)
        };
        let otlp = if otlp.as_ref().map(Otlp::settings) == settings.as_ref() {
            Change::None
        } else {
            let start = |settings| Otlp::start(settings, &self.metrics, wall_offset);
            Change::To(settings.map(start).transpose()?)
        };
        Ok(Changes { anomaly: sections.anomaly.clone(), sender, otlp })
    }

    pub(super) fn change(&mut self, changes: Changes) {
        let Changes { anomaly, sender, otlp } = changes;
        self.change_alerts(anomaly, sender);
        if let Change::To(otlp) = otlp
            && let Some(old) = self.otlp.0.replace(otlp)
        {
            // It waits for what it still has to export, and this thread must not.
            let ended = std::thread::Builder::new().name("otlp-end".into()).spawn(|| drop(old));
            if let Err(e) = ended {
                log::warn!("OTLP: what was not exported yet is lost: {e}");
            }
        }
    }

    fn change_alerts(&mut self, settings: config::Anomaly, sender: Change<Sender>) {
        let now = monotonic_ns();
        let mut alerts = self.alerts.0.borrow_mut();
        if !settings.enabled {
            if let Some(mut alerts) = alerts.take() {
                alerts.end(now);
                self.anomaly_log = alerts.take_log();
            }
            return;
        }
        match &mut *alerts {
            Some(alerts) if *alerts.settings() != settings => alerts.set(settings, now),
            Some(_) => {}
            none => {
                let (metrics, board) = (self.metrics.clone(), self.board.clone());
                let mut new = Alerts::new(settings, metrics, board, wall_offset);
                self.anomaly_log.take().into_iter().for_each(|log| new.log_to(log));
                *none = Some(new);
            }
        }
        if let (Some(alerts), Change::To(sender)) = (&mut *alerts, sender) {
            alerts.send_by(sender);
        }
    }
}
