//! A small OpenAI-compatible streaming server: what `llmtrace demo` traces.
//!
//! A development aid, run in a process of its own and traced through its sockets like any other.
//! Threads and blocking IO; one `write` per event. It notes what it did with every request, so
//! that the trace can be held against it.

use std::io::{self, Read as _, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::probe::clock::monotonic_ns;

/// User agents of the demo's requests: the request's number follows.
pub const USER_AGENT: &str = "llmtrace-demo/";
/// More than the demo's clients ever send.
const MAX_REQUEST: usize = 1 << 20;
/// Enough for what a connection's thread calls.
const STACK: usize = 256 * 1024;

/// What the server itself knows of a request: a line of its log. The words are those of the
/// agent's request log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerRecord {
    /// From the user agent.
    pub id: u64,
    pub endpoint: String,
    pub stream: bool,
    pub model: String,
    pub outcome: String,
    /// How far an answer had come when its client left.
    pub phase: Option<String>,
    pub prompt_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    pub status: u16,
    /// `CLOCK_MONOTONIC`, right after the read that gave the request's first byte.
    pub start_ns: u64,
    /// Right before the write of the first token.
    pub first_token_ns: Option<u64>,
    /// Right before the last write, or when the client was found gone.
    pub end_ns: u64,
}

/// What a request may ask for beside the API's own fields, as the object `demo`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wish {
    /// HTTP 500.
    pub http_error: bool,
    /// An error event after half of the tokens.
    pub stream_error: bool,
    pub first_token_ms: u64,
    pub interval_ms: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    model: String,
    max_tokens: u64,
    stream: bool,
    demo: Wish,
}

/// Serves until the listener fails; logs every request as a line of JSON.
#[expect(clippy::needless_pass_by_value, reason = "the listener closes with its server")]
pub fn serve(listener: TcpListener, log: impl Write + Send) -> io::Result<()> {
    let log = Mutex::new(log);
    thread::scope(|scope| {
        loop {
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            let log = &log;
            thread::Builder::new().stack_size(STACK).spawn_scoped(scope, move || {
                if let Err(error) = Connection::new(stream).serve(log) {
                    eprintln!("demo server: {error}");
                }
            })?;
        }
    })
}

/// A whole request.
#[derive(Debug, Default)]
struct Request {
    path: String,
    user_agent: String,
    body: Vec<u8>,
    start_ns: u64,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    pending: Vec<u8>,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self { stream, pending: Vec::new() }
    }

    fn serve(&mut self, log: &Mutex<impl Write>) -> io::Result<()> {
        loop {
            let request = match self.request() {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(()),
                Err(error) if is_gone(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            let mut answer = Answer::new(&mut self.stream, &request);
            let alive = match answer.respond(&request) {
                Ok(()) => true,
                Err(error) if is_gone(&error) => {
                    answer.client_left();
                    false
                }
                Err(error) => return Err(error),
            };
            let mut line = serde_json::to_vec(&answer.record)?;
            line.push(b'\n');
            let mut log = log.lock().expect("no holder of the log panics");
            log.write_all(&line)?;
            log.flush()?;
            if !alive {
                return Ok(());
            }
        }
    }

    /// The next request; None at the end of the connection.
    fn request(&mut self) -> io::Result<Option<Request>> {
        // Pacing sets a limit.
        self.stream.set_read_timeout(None)?;
        if self.pending.is_empty() && self.fill()? == 0 {
            return Ok(None);
        }
        let start_ns = monotonic_ns();
        let head = loop {
            match memchr::memmem::find(&self.pending, b"\r\n\r\n") {
                Some(at) => break at + 4,
                None if self.fill()? == 0 => return Ok(None),
                None => {}
            }
        };
        let text = String::from_utf8_lossy(&self.pending[..head]).into_owned();
        let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut request = Request { path, start_ns, ..Request::default() };
        let mut length = 0;
        for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap_or(0);
            } else if name.eq_ignore_ascii_case("user-agent") {
                value.trim().clone_into(&mut request.user_agent);
            }
        }
        if length > MAX_REQUEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "body too large"));
        }
        while self.pending.len() < head + length {
            if self.fill()? == 0 {
                return Ok(None);
            }
        }
        request.body = self.pending[head..head + length].to_vec();
        self.pending.drain(..head + length);
        Ok(Some(request))
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut buf = [0; 8192];
        let n = self.stream.read(&mut buf)?;
        self.pending.extend_from_slice(&buf[..n]);
        if self.pending.len() > MAX_REQUEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "request too large"));
        }
        Ok(n)
    }
}

/// Whether the error says that the peer has left.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::UnexpectedEof
    )
}

/// An answer under way.
struct Answer<'a> {
    stream: &'a mut TcpStream,
    record: ServerRecord,
}

impl<'a> Answer<'a> {
    fn new(stream: &'a mut TcpStream, request: &Request) -> Self {
        let id = request.user_agent.strip_prefix(USER_AGENT).and_then(|id| id.parse().ok());
        let record = ServerRecord {
            id: id.unwrap_or(0),
            endpoint: request.path.clone(),
            outcome: "success".into(),
            status: 200,
            start_ns: request.start_ns,
            ..ServerRecord::default()
        };
        Self { stream, record }
    }

    fn client_left(&mut self) {
        let phase =
            if self.record.output_tokens == 0 { "before_first_token" } else { "mid_stream" };
        self.record.outcome = "client_disconnect".into();
        self.record.phase = Some(phase.into());
        self.record.end_ns = monotonic_ns();
    }

    fn respond(&mut self, request: &Request) -> io::Result<()> {
        let asked: Asked = serde_json::from_slice(&request.body).unwrap_or_default();
        self.record.model.clone_from(&asked.model);
        self.record.stream = asked.stream;
        if request.path != "/v1/chat/completions" {
            return self.error(404, "no such route");
        }
        if asked.demo.http_error {
            self.pause(asked.demo.first_token_ms)?;
            return self.error(500, "the engine failed, as asked");
        }
        self.record.prompt_tokens = request.body.len() as u64 / 4;
        if asked.stream { self.stream(&asked) } else { self.plain(&asked) }
    }

    fn error(&mut self, status: u16, message: &str) -> io::Result<()> {
        self.record.status = status;
        self.record.outcome = "http_error".into();
        let error = json!({"error": {"message": message, "type": "server_error", "code": status}});
        self.json(&error)
    }

    fn json(&mut self, body: &serde_json::Value) -> io::Result<()> {
        let body = body.to_string();
        let status = self.record.status;
        let reason = if status == 200 { "OK" } else { "Error" };
        self.write(
            format!(
                "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        )
    }

    fn plain(&mut self, asked: &Asked) -> io::Result<()> {
        self.pause(asked.demo.first_token_ms)?;
        self.record.output_tokens = asked.max_tokens;
        let text = " word".repeat(usize::try_from(asked.max_tokens).unwrap_or(0));
        let body = json!({
            "id": self.answer_id(),
            "object": "chat.completion",
            "model": asked.model,
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }],
            "usage": self.usage(),
        });
        self.json(&body)
    }

    fn stream(&mut self, asked: &Asked) -> io::Result<()> {
        self.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\
              Transfer-Encoding: chunked\r\n\r\n",
        )?;
        let role = json!({"role": "assistant", "content": ""});
        self.choice(asked, &role, None)?;
        self.pause(asked.demo.first_token_ms)?;
        for n in 0..asked.max_tokens {
            if n > 0 {
                self.pause(asked.demo.interval_ms)?;
            }
            if asked.demo.stream_error && n == asked.max_tokens / 2 {
                self.record.outcome = "stream_error".into();
                let error =
                    json!({"error": {"message": "the engine failed, as asked", "code": 500}});
                self.event(&error.to_string())?;
                return self.done();
            }
            if n == 0 {
                self.record.first_token_ns = Some(monotonic_ns());
            }
            self.choice(asked, &json!({"content": format!(" word{n}")}), None)?;
            self.record.output_tokens += 1;
        }
        self.choice(asked, &json!({}), Some("stop"))?;
        let usage = json!({
            "id": self.answer_id(),
            "object": "chat.completion.chunk",
            "model": asked.model,
            "choices": [],
            "usage": self.usage(),
        });
        self.event(&usage.to_string())?;
        self.done()
    }

    fn answer_id(&self) -> String {
        format!("chatcmpl-{:024x}", self.record.id)
    }

    fn usage(&self) -> serde_json::Value {
        let (prompt, output) = (self.record.prompt_tokens, self.record.output_tokens);
        json!({
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
        })
    }

    fn choice(
        &mut self,
        asked: &Asked,
        delta: &serde_json::Value,
        finish: Option<&str>,
    ) -> io::Result<()> {
        let chunk = json!({
            "id": self.answer_id(),
            "object": "chat.completion.chunk",
            "model": asked.model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        });
        self.event(&chunk.to_string())
    }

    fn event(&mut self, data: &str) -> io::Result<()> {
        let event = format!("data: {data}\n\n");
        self.write(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())
    }

    fn done(&mut self) -> io::Result<()> {
        self.event("[DONE]")?;
        self.write(b"0\r\n\r\n")
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.record.end_ns = monotonic_ns();
        self.stream.write_all(bytes)
    }

    /// Waits, but not for a client that has left.
    fn pause(&mut self, ms: u64) -> io::Result<()> {
        if ms == 0 {
            return Ok(());
        }
        let wait = Duration::from_millis(ms);
        self.stream.set_read_timeout(Some(wait))?;
        match self.stream.peek(&mut [0]) {
            Ok(0) => Err(io::ErrorKind::ConnectionAborted.into()),
            // The next request is there already.
            Ok(_) => {
                thread::sleep(wait);
                Ok(())
            }
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
