//! Where the data come from: an agent on a thread of this process, or one that runs.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;

use super::data::Data;
use crate::{
    agent::{Agent, KernelOptions, wall_offset},
    client,
    live::Live,
    metrics::Metrics,
    probe::{ProbeError, clock::monotonic_ns, target::Wanted},
    serve,
};

/// How long another agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Seconds of history that are asked for.
const HISTORY: u64 = 600;
/// Longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 64 << 20;

/// Gives the data of now.
pub enum Source {
    Own(Own),
    Other(Other),
}

/// An agent that runs.
pub struct Other {
    agent: ureq::Agent,
    /// Its URL, without user and password: it is shown.
    url: String,
    authorization: Option<String>,
}

impl Source {
    /// Traces by itself.
    pub fn own(wanted: Wanted, kernel: KernelOptions) -> Result<Self> {
        Ok(Self::Own(Own::start(wanted, kernel)?))
    }

    /// Asks an agent that runs; its address is enough.
    pub fn other(url: &str) -> Self {
        Self::Other(Other::new(url))
    }

    /// For the title.
    pub fn name(&self) -> String {
        match self {
            Self::Own(own) => format!("targets {}", own.targets),
            Self::Other(other) => other.url.clone(),
        }
    }

    pub fn get(&self) -> Result<Data> {
        let json = match self {
            Self::Own(own) => own.get()?,
            Self::Other(other) => other.get()?,
        };
        serde_json::from_slice(&json).context("the answer is none of llmtrace")
    }
}

impl Other {
    fn new(url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (who, host) = match authority.rsplit_once('@') {
            Some((who, host)) => (Some(who), host),
            None => (None, authority),
        };
        let authorization = who.map(|who| {
            let who: Vec<u8> = percent_decode_str(who).collect();
            format!("Basic {}", STANDARD.encode(who))
        });
        let url = format!("{scheme}://{host}{}", path.trim_end_matches('/'));
        Self { agent: client::agent(PATIENCE), url, authorization }
    }

    fn get(&self) -> Result<Vec<u8>> {
        let Self { agent, url, authorization } = self;
        let mut request = agent.get(format!(
            "{url}/api/v1/summary?window=10s,60s,600s&history={HISTORY}&streams=1&ended=1"
        ));
        if let Some(authorization) = authorization {
            request = request.header("Authorization", authorization);
        }
        let mut answer = request
            .call()
            .with_context(|| format!("no answer from {url}: does `llmtrace run` listen there?"))?;
        match answer.status().as_u16() {
            200 => Ok(answer.body_mut().with_config().limit(MAX_ANSWER).read_to_vec()?),
            401 => bail!("{url} wants user and password: they go before the host, USER:PASSWORD@"),
            status => bail!("{url} answers with status {status}: is it `llmtrace run`?"),
        }
    }
}

/// An agent on a thread.
pub struct Own {
    live: Live,
    metrics: Metrics,
    targets: String,
    stop: Arc<AtomicBool>,
    failed: Arc<Mutex<Option<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Own {
    fn start(wanted: Wanted, kernel: KernelOptions) -> Result<Self> {
        let (live, metrics) = (Live::new(wall_offset()), Metrics::default());
        let targets = wanted.describe();
        let (stop, failed) = (Arc::<AtomicBool>::default(), Arc::<Mutex<_>>::default());
        let (send, started) = mpsc::channel::<Result<(), ProbeError>>();
        let thread = {
            let (live, metrics) = (live.clone(), metrics.clone());
            let (stop, failed) = (stop.clone(), failed.clone());
            thread::Builder::new().name("agent".into()).spawn(move || {
                crate::probe::signals::block();
                let mut agent = match Agent::start(wanted, &kernel, metrics, None) {
                    Ok(agent) => agent,
                    Err(e) => return drop(send.send(Err(e))),
                };
                agent.watch(live.watch());
                let _ = send.send(Ok(()));
                while !stop.load(Ordering::Acquire) {
                    if let Err(e) = agent.step() {
                        *failed.lock().unwrap_or_else(PoisonError::into_inner) =
                            Some(e.to_string());
                        return;
                    }
                }
                agent.stop();
            })?
        };
        started.recv().map_err(|_| anyhow!("the agent's thread ended"))??;
        Ok(Self { live, metrics, targets, stop, failed, thread: Some(thread) })
    }

    fn get(&self) -> Result<Vec<u8>> {
        if let Some(failed) = &*self.failed.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(anyhow!("{failed}"));
        }
        self.live.set_wall_offset(wall_offset());
        Ok(serve::everything(&self.live, &self.metrics, monotonic_ns(), HISTORY)?)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn an_address_is_enough_and_secrets_are_not_shown() {
        for (said, name) in [
            ("127.0.0.1:9466", "http://127.0.0.1:9466"),
            ("http://host:1/", "http://host:1"),
            ("https://host", "https://host"),
            ("me:secret@[::1]:1", "http://[::1]:1"),
            ("https://me:se@cret@host/behind/", "https://host/behind"),
        ] {
            assert_eq!(Source::other(said).name(), name);
        }
    }

    #[test]
    fn user_and_password_are_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
                // Of "me:se cret".
                let known = head.contains(&"authorization: Basic bWU6c2UgY3JldA==".to_lowercase());
                let answer = if known { "200 OK" } else { "401 Unauthorized" };
                write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 2\r\n\r\n{{}}").unwrap();
            }
        });
        assert!(Source::other(&format!("me:se%20cret@{address}")).get().is_ok());
        let error = Source::other(&format!("me:other@{address}")).get().unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("wants user and password") && !text.contains("other"), "{text}");
    }
}
