//! Sends alerts, on a thread of its own.
//!
//! What fires is sent again every minute, as Prometheus does, and expires at the receiver when the
//! agent is gone. What cannot be sent is kept and tried again, as far as there is room.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::Engine as _;
use ureq::Agent;

use super::alert::Alert;
use crate::client::{self, Backoff, Posted};
use crate::config;
use crate::export::request_log::rfc3339;
use crate::metrics::{Metrics, Sent};

/// Alerts that wait for the thread.
const QUEUE: usize = 256;
/// Most alerts that fire or wait to be told that they are over.
const MAX_ALERTS: usize = 1_000;
/// Most alerts of one request.
const BATCH: usize = 64;
/// What fires is sent this often.
const RESEND: Duration = Duration::from_secs(60);
/// What is over is not worth telling after so long.
const STALE: Duration = Duration::from_secs(900);
/// Without being sent again, an alert is over after so many times [`RESEND`].
const EXPIRES: u32 = 4;
const TIMEOUT: Duration = Duration::from_secs(10);

/// Whom alerts go to, and with what.
#[derive(Clone, PartialEq)]
pub struct Receiver {
    url: String,
    headers: Vec<(String, String)>,
    labels: BTreeMap<String, String>,
    generator_url: Option<String>,
    timeout: Duration,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Headers hold secrets, and a URL may.
        f.debug_struct("Receiver").field("labels", &self.labels).finish_non_exhaustive()
    }
}

impl Receiver {
    /// None if nobody is to be told. Reads the files with secrets.
    pub fn new(config: &config::Notify) -> Result<Option<Self>> {
        let Some(base) = &config.alertmanager else { return Ok(None) };
        Ok(Some(Self {
            url: format!("{}/api/v2/alerts", base.trim_end_matches('/')),
            headers: headers(config)?,
            labels: config.labels.clone(),
            generator_url: config.generator_url.clone(),
            timeout: config.timeout.unwrap_or(TIMEOUT),
        }))
    }
}

/// Takes alerts without waiting; a clone sends by the same thread.
#[derive(Clone, Debug)]
pub struct Sender {
    receiver: Receiver,
    queue: SyncSender<Alert>,
    metrics: Metrics,
}

impl Sender {
    /// Starts the thread. It ends with the last clone of the value.
    pub fn start(receiver: Receiver, metrics: Metrics) -> Result<Self> {
        Self::start_with(receiver, metrics, RESEND)
    }

    pub(super) fn start_with(
        receiver: Receiver,
        metrics: Metrics,
        resend: Duration,
    ) -> Result<Self> {
        let (queue, alerts) = sync_channel(QUEUE);
        let thread = Thread::new(receiver.clone(), metrics.clone(), resend);
        let builder = std::thread::Builder::new().name("alerts".into());
        builder.spawn(move || thread.run(&alerts))?;
        Ok(Self { receiver, queue, metrics })
    }

    pub fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    pub(super) fn send(&self, alert: Alert) {
        match self.queue.try_send(alert) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.metrics.notified(Sent::Dropped, 1);
            }
        }
    }
}

fn headers(config: &config::Notify) -> Result<Vec<(String, String)>> {
    let mut headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
    let read = |path: &std::path::Path| {
        let text = std::fs::read_to_string(path);
        Ok::<_, anyhow::Error>(
            text.with_context(|| format!("secret of [notify]: {}", path.display()))?
                .trim_end()
                .to_owned(),
        )
    };
    if let Some((user, path)) = config.username.as_ref().zip(config.password_file.as_ref()) {
        let both = format!("{user}:{}", read(path)?);
        let value = base64::engine::general_purpose::STANDARD.encode(both);
        headers.push(("Authorization".into(), format!("Basic {value}")));
    }
    if let Some(path) = &config.bearer_token_file {
        headers.push(("Authorization".into(), format!("Bearer {}", read(path)?)));
    }
    Ok(headers)
}

struct Thread {
    to: Receiver,
    agent: Agent,
    metrics: Metrics,
    resend: Duration,
    /// By labels: what fires, and what is over and has not been told.
    known: HashMap<BTreeMap<String, String>, Known>,
    backoff: Backoff,
    failing: bool,
}

struct Known {
    alert: Alert,
    /// When it was over.
    over: Option<Instant>,
}

impl Thread {
    fn new(to: Receiver, metrics: Metrics, resend: Duration) -> Self {
        Self {
            agent: client::agent(to.timeout),
            to,
            metrics,
            resend,
            known: HashMap::new(),
            backoff: Backoff::default(),
            failing: false,
        }
    }

    fn run(mut self, alerts: &std::sync::mpsc::Receiver<Alert>) {
        let mut due: Option<Instant> = None;
        loop {
            let wait = due.map_or(RESEND, |due| due.saturating_duration_since(Instant::now()));
            match alerts.recv_timeout(wait) {
                Ok(alert) => {
                    self.take(alert);
                    while let Ok(alert) = alerts.try_recv() {
                        self.take(alert);
                    }
                    // News go out at once, except to one that does not answer.
                    if !self.failing {
                        due = Some(Instant::now());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if due.is_some_and(|due| due <= Instant::now()) {
                let wait = self.send();
                due = (!self.known.is_empty()).then(|| Instant::now() + wait);
            }
        }
    }

    fn take(&mut self, mut alert: Alert) {
        for (name, value) in &self.to.labels {
            alert.labels.entry(name.clone()).or_insert_with(|| value.clone());
        }
        alert.generator_url.clone_from(&self.to.generator_url);
        if self.known.len() >= MAX_ALERTS && !self.known.contains_key(&alert.labels) {
            self.metrics.notified(Sent::Dropped, 1);
            return;
        }
        let over = alert.ends_at.is_some().then(Instant::now);
        self.known.insert(alert.labels.clone(), Known { alert, over });
    }

    /// Sends everything, and says when to do so again.
    fn send(&mut self) -> Duration {
        let stale = |known: &Known| known.over.is_some_and(|over| over.elapsed() > STALE);
        let before = self.known.len();
        self.known.retain(|_, known| !stale(known));
        self.metrics.notified(Sent::Dropped, (before - self.known.len()) as u64);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let expires = rfc3339((now + EXPIRES * self.resend).as_nanos() as i128);
        let all: Vec<Alert> = self
            .known
            .values()
            .map(|known| {
                let ends_at = known.alert.ends_at.clone().unwrap_or_else(|| expires.clone());
                Alert { ends_at: Some(ends_at), ..known.alert.clone() }
            })
            .collect();
        let mut refused = false;
        for batch in all.chunks(BATCH) {
            let Ok(body) = serde_json::to_vec(batch) else { continue };
            let posted = client::post(&self.agent, &self.to.url, &self.to.headers, &body);
            let count = batch.len() as u64;
            let (why, later) = match posted {
                Posted::Taken(_) => {
                    self.metrics.notified(Sent::Ok, count);
                    for alert in batch {
                        let over = |known: &Known| known.over.is_some();
                        if self.known.get(&alert.labels).is_some_and(over) {
                            self.known.remove(&alert.labels);
                        }
                    }
                    continue;
                }
                Posted::Later(after, why) => (why, Some(after)),
                // For what is in it: that says nothing of the other ones.
                Posted::Refused(why) => (why, None),
            };
            self.metrics.notified(Sent::Failed, count);
            if !std::mem::replace(&mut self.failing, true) {
                log::warn!("alerts are not taken, trying again: {why}");
            }
            match later {
                Some(after) => return self.backoff.next(after),
                None => refused = true,
            }
        }
        if refused {
            return self.backoff.next(None);
        }
        if self.failing {
            self.failing = false;
            log::info!("alerts are taken again");
        }
        self.backoff.reset();
        self.resend
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::receiver::receiver;

    #[test]
    fn what_is_refused_does_not_hold_up_the_others() {
        let (url, got) = receiver(&[400]);
        let config = config::Notify { alertmanager: Some(url), ..config::Notify::default() };
        let to = Receiver::new(&config).unwrap().unwrap();
        let mut thread = Thread::new(to, Metrics::default(), RESEND);
        for n in 0..BATCH + 1 {
            thread.take(Alert {
                labels: [("server".to_owned(), format!("s{n}"))].into(),
                annotations: BTreeMap::new(),
                starts_at: String::new(),
                ends_at: None,
                generator_url: None,
            });
        }
        let wait = thread.send();
        let alerts = got.try_iter().map(|post| {
            let list: Vec<serde_json::Value> = serde_json::from_slice(&post.body).unwrap();
            list.len()
        });
        assert_eq!(alerts.collect::<Vec<_>>(), [BATCH, 1]);
        assert_eq!(wait, Duration::from_secs(1), "the refused ones are tried again");
    }
}
