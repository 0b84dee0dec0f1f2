//! A client that knows exactly what it asked, what came back, and when.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::clock;
use crate::http::{Body, head};
use crate::net::{Address, Stream};
use crate::plan::Ask;
use crate::sse::Answer;

/// Nothing in these tests is silent for longer.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// What comes late of a request, if anything does.
const LATE_BYTES: usize = 20;

/// When the client leaves of its own accord, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    pub at: AbortAt,
    /// By RST instead of FIN.
    pub reset: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortAt {
    /// When that many events (of any kind) have come.
    Events(u64),
    /// When that many tokens have come.
    Tokens(u64),
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Tells it apart in every log.
    pub user_agent: String,
    pub method: &'static str,
    pub path: String,
    pub body: Vec<u8>,
    pub stream: bool,
    pub abort: Option<Abort>,
    /// A header of that name.
    pub traceparent: Option<String>,
    /// A header of that name.
    pub tracestate: Option<String>,
}

impl Request {
    pub fn new(user_agent: impl Into<String>, ask: &Ask) -> Self {
        Self {
            user_agent: user_agent.into(),
            method: "POST",
            path: ask.path().into(),
            body: ask.body(),
            stream: ask.stream,
            abort: None,
            traceparent: None,
            tracestate: None,
        }
    }

    #[must_use]
    pub fn abort(mut self, at: AbortAt, reset: bool) -> Self {
        self.abort = Some(Abort { at, reset });
        self
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let trace = [("traceparent", &self.traceparent), ("Tracestate", &self.tracestate)];
        let trace: String = trace
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name}: {}\r\n", value.as_ref()?)))
            .collect();
        let mut bytes = format!(
            "{} {} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: {}\r\n{trace}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.method, self.path, self.user_agent, self.body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// The client's own record of one request; the words are those of the agent's request log.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub user_agent: String,
    pub path: String,
    pub stream: bool,
    pub local: Option<SocketAddr>,
    /// Right before the first byte was sent.
    pub send_ns: u64,
    pub first_byte_ns: Option<u64>,
    pub token_times_ns: Vec<u64>,
    pub end_ns: u64,
    pub status: Option<u16>,
    pub outcome: &'static str,
    pub phase: Option<&'static str>,
    pub answer: Answer,
}

impl Record {
    /// What another client got, whose times are not known.
    pub fn of(request: &Request, status: u16, body: &[u8]) -> Self {
        let mut record = Self {
            user_agent: request.user_agent.clone(),
            path: request.path.clone(),
            stream: request.stream,
            status: Some(status),
            ..Self::default()
        };
        if request.stream && status == 200 {
            record.answer.push_stream(body);
        } else {
            record.answer.push_json(body, true);
        }
        record.outcome = record.answer.outcome(Some(status));
        record
    }

    pub fn ttft(&self) -> Option<u64> {
        Some(self.token_times_ns.first()? - self.send_ns)
    }

    /// As the server said, else as many as token-bearing events came.
    pub fn output_tokens(&self) -> Option<u64> {
        let counted =
            (self.stream && self.answer.token_events > 0).then_some(self.answer.token_events);
        self.answer.output_tokens.or(counted)
    }
}

/// A connection that is kept alive.
#[derive(Debug)]
pub struct Connection {
    address: Address,
    stream: Option<Stream>,
    keep: Keep,
    pause: Duration,
    tokens: Arc<AtomicU64>,
    buf: Vec<u8>,
}

/// After which answers the server leaves a connection open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    #[default]
    Always,
    /// llama.cpp closes after a stream, and throws away what was sent on by then.
    NotAfterStreams,
}

impl Connection {
    pub fn new(address: &Address) -> Self {
        Self {
            address: address.clone(),
            stream: None,
            keep: Keep::Always,
            pause: Duration::ZERO,
            tokens: Arc::default(),
            buf: vec![0; 256 * 1024],
        }
    }

    #[must_use]
    pub fn keep(mut self, keep: Keep) -> Self {
        self.keep = keep;
        self
    }

    /// Waits before it sends the last bytes of a request ([`LATE_BYTES`]).
    #[must_use]
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// The same over a connection that is open.
    #[must_use]
    pub fn over(mut self, stream: Stream) -> Self {
        self.stream = Some(stream);
        self
    }

    /// Tokens of the answer under way, for another thread to wait for.
    pub fn tokens(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.tokens)
    }

    /// Sends `request` on the open connection, or on a new one, and reads the answer.
    pub fn send(&mut self, request: &Request) -> io::Result<Record> {
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.address.connect()?,
        };
        self.on(stream, request)
    }

    fn on(&mut self, mut stream: Stream, request: &Request) -> io::Result<Record> {
        stream.set_read_timeout(Some(READ_LIMIT))?;
        let bytes = request.encode();
        let mut record = Record {
            user_agent: request.user_agent.clone(),
            path: request.path.clone(),
            stream: request.stream,
            local: stream.local(),
            send_ns: clock::now(),
            outcome: "server_disconnect",
            ..Record::default()
        };
        let (first, late) = bytes.split_at(bytes.len().saturating_sub(LATE_BYTES));
        if self.pause.is_zero() {
            stream.write_all(&bytes)?;
        } else {
            stream.write_all(first)?;
            std::thread::sleep(self.pause);
            stream.write_all(late)?;
        }
        let mut response = Response::default();
        while !response.is_done() {
            if let Some(abort) = request.abort
                && due(abort.at, &record.answer)
            {
                record.outcome = "client_disconnect";
                record.phase = Some(if record.answer.token_events == 0 {
                    "before_first_token"
                } else {
                    "mid_stream"
                });
                if abort.reset {
                    stream.reset()?;
                }
                record.end_ns = clock::now();
                return Ok(record);
            }
            let n = match stream.read(&mut self.buf) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => 0,
                Err(e) => return Err(e),
            };
            let now = clock::now();
            record.end_ns = now;
            if n == 0 {
                record.outcome = if record.answer.done {
                    record.answer.outcome(response.status())
                } else {
                    "server_disconnect"
                };
                record.status = response.status();
                return Ok(record);
            }
            record.first_byte_ns.get_or_insert(now);
            response.push(&self.buf[..n], now, &mut record)?;
            self.tokens.store(record.answer.token_events, Ordering::Relaxed);
        }
        record.status = response.status();
        record.outcome = record.answer.outcome(record.status);
        let kept = self.keep == Keep::Always || record.answer.events == 0;
        if kept && !response.close() {
            self.stream = Some(stream);
        }
        Ok(record)
    }
}

fn due(at: AbortAt, answer: &Answer) -> bool {
    match at {
        AbortAt::Events(n) => answer.events >= n,
        AbortAt::Tokens(n) => answer.token_events >= n,
    }
}

/// The response under way.
#[derive(Debug, Default)]
struct Response {
    head: Option<crate::http::Head>,
    body: Option<Body>,
    raw: Vec<u8>,
}

impl Response {
    fn status(&self) -> Option<u16> {
        self.head.as_ref().map(|head| head.status)
    }

    fn close(&self) -> bool {
        self.head.as_ref().is_none_or(|head| head.close)
    }

    fn is_done(&self) -> bool {
        self.body.as_ref().is_some_and(Body::is_done)
    }

    fn push(&mut self, bytes: &[u8], now: u64, record: &mut Record) -> io::Result<()> {
        let mut payload = Vec::new();
        if let Some(body) = &mut self.body {
            body.push(bytes, &mut payload)?;
        } else {
            self.raw.extend_from_slice(bytes);
            let Some((head, len)) = head(&self.raw)? else {
                return Ok(());
            };
            let mut body = Body::new(&head);
            body.push(&self.raw[len..], &mut payload)?;
            record.status = Some(head.status);
            self.head = Some(head);
            self.body = Some(body);
        }
        let streamed = record.stream && self.status() == Some(200);
        let before = record.answer.token_events;
        if streamed {
            record.answer.push_stream(&payload);
        } else {
            record.answer.push_json(&payload, self.is_done());
        }
        for _ in before..record.answer.token_events {
            record.token_times_ns.push(now);
        }
        Ok(())
    }
}

/// Sends `requests` by `threads` clients, each over a connection that it keeps.
///
/// # Panics
/// If a request could not be sent or its answer not be read.
#[track_caller]
pub fn load(address: &Address, requests: Vec<Request>, threads: usize) -> Vec<Record> {
    load_keeping(address, requests, threads, Keep::Always)
}

/// The same for a server that does not keep every connection.
#[track_caller]
pub fn load_keeping(
    address: &Address,
    requests: Vec<Request>,
    threads: usize,
    keep: Keep,
) -> Vec<Record> {
    let queue = Arc::new(Mutex::new(requests.into_iter()));
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let (queue, mut connection) = (Arc::clone(&queue), Connection::new(address).keep(keep));
            std::thread::spawn(move || {
                let mut records = Vec::new();
                loop {
                    let next = queue.lock().expect("no client panics").next();
                    let Some(request) = next else {
                        return records;
                    };
                    match connection.send(&request) {
                        Ok(record) => records.push(record),
                        Err(error) => panic!("{}: {error}", request.user_agent),
                    }
                }
            })
        })
        .collect();
    workers
        .into_iter()
        .flat_map(|worker| worker.join().expect("a client thread panicked"))
        .collect()
}
