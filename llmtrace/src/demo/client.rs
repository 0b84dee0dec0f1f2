//! The demo's clients: a fixed mix of requests that go well, fail, or are given up.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::server::{USER_AGENT, Wish};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A stream read to its end.
    Stream,
    /// An answer in one piece.
    Plain,
    /// HTTP 500.
    HttpError,
    /// An error event inside a 200.
    StreamError,
    /// The client leaves before the first token.
    LeaveBefore,
    /// The client leaves in the middle of the stream.
    LeaveMid,
}

/// The order in which they come. Every kind is here, so a whole round has a known least of each.
const ROUND: [Kind; 16] = [
    Kind::Stream,
    Kind::LeaveMid,
    Kind::Stream,
    Kind::HttpError,
    Kind::Stream,
    Kind::Plain,
    Kind::Stream,
    Kind::LeaveBefore,
    Kind::Stream,
    Kind::StreamError,
    Kind::Stream,
    Kind::Plain,
    Kind::Stream,
    Kind::LeaveMid,
    Kind::Stream,
    Kind::Stream,
];
/// Sent however short the demo is.
const LEAST: u64 = 2 * ROUND.len() as u64;
/// The demo's server is never silent for longer.
const SILENCE: Duration = Duration::from_secs(10);
const SEED: u64 = 0x6c6c_6d74_7261_6365;

/// What a client knows of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientRecord {
    pub id: u64,
    pub kind: Kind,
    /// Token events read.
    pub tokens: u64,
}

/// What all clients did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientSummary {
    /// In order of their numbers.
    pub requests: Vec<ClientRecord>,
}

impl ClientSummary {
    pub fn count(&self, kind: Kind) -> usize {
        self.requests.iter().filter(|request| request.kind == kind).count()
    }
}

/// Sends the mix by `concurrency` clients for `seconds`, and every kind at least twice.
pub fn run(addr: SocketAddr, seconds: u64, concurrency: usize) -> io::Result<ClientSummary> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let next = AtomicU64::new(1);
    let requests = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let clients: Vec<_> = (0..concurrency.max(1))
            .map(|_| {
                scope.spawn(|| -> io::Result<()> {
                    let mut client = Client { addr, stream: None };
                    loop {
                        let id = next.fetch_add(1, Ordering::Relaxed);
                        if id > LEAST && Instant::now() >= end {
                            return Ok(());
                        }
                        let record = client.send(id)?;
                        requests.lock().expect("no client panics").push(record);
                    }
                })
            })
            .collect();
        clients.into_iter().try_for_each(|client| client.join().expect("a client does not panic"))
    })?;
    let mut requests = requests.into_inner().expect("no client panics");
    requests.sort_unstable_by_key(|request: &ClientRecord| request.id);
    Ok(ClientSummary { requests })
}

/// A number between `low` and `high`, fixed for every `id` and `salt`.
fn pick(id: u64, salt: u64, low: u64, high: u64) -> u64 {
    // splitmix64
    let mut z = SEED.wrapping_add((id * 16 + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    low + (z ^ (z >> 31)) % (high - low + 1)
}

fn kind(id: u64) -> Kind {
    ROUND[usize::try_from(id % ROUND.len() as u64).expect("less than 16")]
}

/// The request on the wire.
fn request(id: u64, kind: Kind) -> Vec<u8> {
    let wish = Wish {
        http_error: kind == Kind::HttpError,
        stream_error: kind == Kind::StreamError,
        first_token_ms: pick(id, 0, 20, 80),
        interval_ms: pick(id, 1, 5, 20),
    };
    let prompt = "Why is the sky blue? ".repeat(usize::try_from(pick(id, 2, 1, 40)).unwrap_or(1));
    let body = json!({
        "model": if pick(id, 3, 0, 2) == 0 { "demo-70b" } else { "demo-7b" },
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": pick(id, 4, 12, 40),
        "stream": kind != Kind::Plain,
        "stream_options": {"include_usage": true},
        "demo": wish,
    })
    .to_string();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nUser-Agent: {USER_AGENT}{id}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A client that keeps its connection while all goes well.
#[derive(Debug)]
struct Client {
    addr: SocketAddr,
    stream: Option<TcpStream>,
}

impl Client {
    fn send(&mut self, id: u64) -> io::Result<ClientRecord> {
        let kind = kind(id);
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.addr)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(SILENCE))?;
                stream
            }
        };
        stream.write_all(&request(id, kind))?;
        let mut record = ClientRecord { id, kind, tokens: 0 };
        let mut answer = Vec::new();
        let mut buf = [0; 16 * 1024];
        while !is_whole(&answer) {
            let n = stream.read(&mut buf)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            answer.extend_from_slice(&buf[..n]);
            record.tokens = tokens(&answer);
            let leave = match kind {
                // The head is here, so the server is at work.
                Kind::LeaveBefore => true,
                Kind::LeaveMid => record.tokens >= pick(id, 5, 2, 8),
                _ => false,
            };
            if leave {
                return Ok(record);
            }
        }
        self.stream = Some(stream);
        Ok(record)
    }
}

/// Whether an answer of the demo's server, chunked or with its length, has come to its end.
fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = memchr::memmem::find(answer, b"\r\n\r\n") else {
        return false;
    };
    let text = String::from_utf8_lossy(&answer[..head]);
    let length = text.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    match length.and_then(|length| length.parse::<usize>().ok()) {
        Some(length) => answer.len() >= head + 4 + length,
        None => answer.ends_with(b"\r\n0\r\n\r\n"),
    }
}

/// Token-bearing events of the demo's server: the role chunk has empty content.
fn tokens(answer: &[u8]) -> u64 {
    memchr::memmem::find_iter(answer, b"\"delta\":{\"content\":\" ").count() as u64
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex, PoisonError};

    use super::super::server::{ServerRecord, serve};
    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Log {
        fn records(&self) -> Vec<ServerRecord> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
    }

    #[test]
    fn the_server_logs_what_the_clients_did() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let log = Log::default();
        thread::spawn({
            let log = log.clone();
            move || serve(listener, log)
        });
        let summary = run(addr, 0, 6).unwrap();
        assert!(summary.requests.len() as u64 >= LEAST);
        let limit = Instant::now() + Duration::from_secs(5);
        while log.records().len() < summary.requests.len() && Instant::now() < limit {
            thread::sleep(Duration::from_millis(5));
        }
        let records = log.records();
        assert_eq!(records.len(), summary.requests.len());
        for request in &summary.requests {
            let own = records.iter().find(|r| r.id == request.id).expect("logged");
            let (outcome, phase) = match request.kind {
                Kind::Stream | Kind::Plain => ("success", None),
                Kind::HttpError => ("http_error", None),
                Kind::StreamError => ("stream_error", None),
                Kind::LeaveBefore => ("client_disconnect", Some("before_first_token")),
                Kind::LeaveMid => ("client_disconnect", Some("mid_stream")),
            };
            assert_eq!((own.outcome.as_str(), own.phase.as_deref()), (outcome, phase), "{own:?}");
            assert_eq!(own.status, if outcome == "http_error" { 500 } else { 200 });
            assert_eq!(own.stream, request.kind != Kind::Plain);
            assert_eq!(own.first_token_ns.is_some(), request.tokens > 0);
            match request.kind {
                Kind::LeaveMid => assert!(own.output_tokens >= request.tokens),
                Kind::Plain => assert!(own.output_tokens >= 12),
                _ => assert_eq!(own.output_tokens, request.tokens, "{own:?}"),
            }
        }
        for kind in ROUND {
            assert!(summary.count(kind) >= 2, "{kind:?}");
        }
    }
}
