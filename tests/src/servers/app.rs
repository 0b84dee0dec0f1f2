//! A threaded blocking server that does what a request's [`Plan`](crate::plan::Plan) asks and
//! notes the time right before each of its own token writes.

use std::fs::File;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create, sendfile};
use rustix::pipe::{SpliceFlags, splice};

use super::events;
use super::http::{Reader, Request};
use super::log::{Log, ServerRecord};
use crate::clock;
use crate::net::Stream;
use crate::plan::{Asked, Plan};

/// Who serves a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Model {
    /// A thread of its own.
    Thread,
    /// One thread reads, another writes.
    Split,
    /// A child, forked after accept.
    Fork,
}

/// Enough for what a connection's thread calls.
const STACK: usize = 128 * 1024;

/// Serves connections until there are no more.
pub fn serve(
    accept: impl Fn() -> io::Result<Stream>,
    model: Model,
    log: Option<Log>,
) -> io::Result<()> {
    let log = Arc::new(log);
    loop {
        let stream = accept()?;
        let log = Arc::clone(&log);
        match model {
            Model::Thread => {
                thread::Builder::new()
                    .stack_size(STACK)
                    .spawn(move || connection(stream, log.as_ref().as_ref()))?;
            }
            Model::Split => split(stream, log)?,
            Model::Fork => super::super::fork::in_child(|| {
                let _ = connection(stream, log.as_ref().as_ref());
            })?,
        }
    }
}

/// Serves one connection to its end.
pub fn connection(stream: Stream, log: Option<&Log>) -> io::Result<()> {
    let mut reader = Reader::new(stream.try_clone()?);
    let mut stream = stream;
    while let Some(request) = reader.request()? {
        if !answer(&mut stream, &request, log)? {
            break;
        }
    }
    Ok(())
}

fn split(stream: Stream, log: Arc<Option<Log>>) -> io::Result<()> {
    let (send, receive) = mpsc::channel::<Request>();
    let mut reader = Reader::new(stream.try_clone()?);
    thread::Builder::new().stack_size(STACK).spawn(move || {
        while let Ok(Some(request)) = reader.request() {
            if send.send(request).is_err() {
                break;
            }
        }
    })?;
    let mut stream = stream;
    thread::Builder::new().stack_size(STACK).spawn(move || {
        while let Ok(request) = receive.recv() {
            if !matches!(answer(&mut stream, &request, log.as_ref().as_ref()), Ok(true)) {
                // The reader holds another descriptor of the same connection.
                let _ = stream.shutdown(std::net::Shutdown::Both);
                break;
            }
        }
    })?;
    Ok(())
}

/// Answers one request; false if the connection is over.
fn answer(stream: &mut Stream, request: &Request, log: Option<&Log>) -> io::Result<bool> {
    let mut answer = Answer {
        stream,
        plan: Plan::default(),
        record: ServerRecord {
            user_agent: request.user_agent.clone(),
            start_ns: request.start_ns,
            status: 200,
            outcome: "success".into(),
            ..ServerRecord::default()
        },
    };
    let result = answer.respond(request);
    let mut record = answer.record;
    let alive = match result {
        Ok(alive) => alive,
        Err(error)
            if error.kind() == io::ErrorKind::ConnectionAborted
                || error.kind() == io::ErrorKind::BrokenPipe
                || error.kind() == io::ErrorKind::ConnectionReset =>
        {
            record.outcome = "client_disconnect".into();
            let phase = if record.tokens == 0 { "before_first_token" } else { "mid_stream" };
            record.phase = Some(phase.into());
            record.end_ns = clock::now();
            false
        }
        Err(error) => return Err(error),
    };
    if let Some(log) = log {
        log.add(&record);
    }
    Ok(alive)
}

/// An answer under way.
struct Answer<'a> {
    stream: &'a mut Stream,
    plan: Plan,
    record: ServerRecord,
}

impl Answer<'_> {
    fn respond(&mut self, request: &Request) -> io::Result<bool> {
        let api = matches!(request.path.as_str(), "/v1/chat/completions" | "/v1/completions");
        let asked: Asked = serde_json::from_slice(&request.body).unwrap_or_default();
        self.plan = asked.test.clone();
        let status = if api { self.plan.status } else { Some(404) };
        if let Some(status) = status {
            self.record.status = status;
            self.record.outcome = "http_error".into();
            return self.json(status, &events::error(status));
        }
        let prompt = request.body.len() as u64 / 4;
        if !asked.stream {
            self.pause(self.plan.first_delay_ms * 1_000_000)?;
            if self.plan.error_after.is_some() {
                self.record.outcome = "stream_error".into();
                return self.json(200, &events::error(500));
            }
            self.record.tokens = asked.max_tokens;
            let body = events::completion(&asked.model, prompt, asked.max_tokens);
            return self.json(200, &body);
        }
        self.stream_answer(&asked, prompt)
    }

    fn json(&mut self, status: u16, body: &str) -> io::Result<bool> {
        self.write(&events::json_answer(status, body))?;
        Ok(true)
    }

    fn stream_answer(&mut self, asked: &Asked, prompt: u64) -> io::Result<bool> {
        let model = &asked.model;
        self.write(events::STREAM_HEAD)?;
        self.event(&events::role(model))?;
        self.pause(self.plan.first_delay_ms * 1_000_000)?;
        let mut next = clock::now();
        let mut batch = Vec::new();
        for n in 0..asked.max_tokens {
            if self.plan.error_after == Some(n) {
                self.record.outcome = "stream_error".into();
                self.event(&events::event(&events::error(500)))?;
                self.event(&events::done())?;
                self.write(events::LAST_CHUNK)?;
                return Ok(true);
            }
            if self.plan.hang_after == Some(n) {
                return self.pause(u64::MAX).map(|()| false);
            }
            if self.plan.drop_after == Some(n) {
                self.record.outcome = "server_disconnect".into();
                self.record.end_ns = clock::now();
                return Ok(false);
            }
            if self.plan.shut_after == Some(n) {
                self.record.outcome = "server_disconnect".into();
                self.record.end_ns = clock::now();
                self.stream.shutdown(std::net::Shutdown::Write)?;
                while self.stream.read(&mut [0])? > 0 {}
                return Ok(false);
            }
            if n > 0 && self.plan.interval_us > 0 {
                next += self.plan.interval_us * 1000;
                self.pause(next.saturating_sub(clock::now()))?;
            }
            let event = events::token(model, n);
            if self.plan.batch > 0 {
                batch.push(event);
                if batch.len() as u64 == self.plan.batch || n + 1 == asked.max_tokens {
                    self.batch(&batch)?;
                    batch.clear();
                }
                continue;
            }
            self.record.token_times_ns.push(clock::now());
            if self.plan.sendfile == Some(n) {
                self.sendfile(&events::chunk(&event))?;
            } else if self.plan.splice == Some(n) {
                self.splice(&events::chunk(&event))?;
            } else {
                self.event(&event)?;
            }
            self.record.tokens += 1;
        }
        self.event(&events::finish(model))?;
        if asked.stream_options.as_ref().is_some_and(|o| o.include_usage) {
            self.event(&events::usage(model, prompt, asked.max_tokens))?;
        }
        let mut last = events::chunk(&events::done());
        last.extend_from_slice(events::LAST_CHUNK);
        self.write(&last)?;
        Ok(true)
    }

    fn event(&mut self, event: &[u8]) -> io::Result<()> {
        self.write(&events::chunk(event))
    }

    /// One `write`, unless the plan cuts it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.record.end_ns = clock::now();
        match usize::try_from(self.plan.write_bytes).unwrap_or(0) {
            0 => self.stream.write_all(bytes),
            n => bytes.chunks(n).try_for_each(|piece| self.stream.write_all(piece)),
        }
    }

    /// All of `batch` in one `writev`, four segments per event, as Node does it.
    fn batch(&mut self, batch: &[Vec<u8>]) -> io::Result<()> {
        let sizes: Vec<_> = batch.iter().map(|e| format!("{:x}", e.len())).collect();
        let mut segments: Vec<_> = batch
            .iter()
            .zip(&sizes)
            .flat_map(|(event, size)| [size.as_bytes(), b"\r\n", event, b"\r\n"].map(IoSlice::new))
            .collect();
        let now = clock::now();
        self.record.token_times_ns.extend(batch.iter().map(|_| now));
        let mut left = segments.as_mut_slice();
        while !left.is_empty() {
            let n = self.stream.write_vectored(left)?;
            IoSlice::advance_slices(&mut left, n);
        }
        self.record.tokens += batch.len() as u64;
        Ok(())
    }

    /// By way of a file: bytes that the process itself never writes to its socket.
    fn sendfile(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::from(memfd_create("event", MemfdFlags::CLOEXEC)?);
        file.write_all(bytes)?;
        let mut offset = 0;
        while offset < bytes.len() as u64 {
            let left = bytes.len() - usize::try_from(offset).unwrap_or(0);
            let sent = if let Stream::OpenSsl(tls) = &*self.stream {
                let sent = tls.sendfile(&file, offset, left)?;
                offset += sent as u64;
                sent
            } else {
                sendfile(&*self.stream, &file, Some(&mut offset), left)?
            };
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// By way of a pipe.
    fn splice(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (read, write) = rustix::pipe::pipe()?;
        File::from(write).write_all(bytes)?;
        let mut left = bytes.len();
        while left > 0 {
            match splice(&read, None, &*self.stream, None, left, SpliceFlags::empty())? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => left -= n,
            }
        }
        Ok(())
    }

    /// Waits, but not for a client that has left.
    fn pause(&mut self, ns: u64) -> io::Result<()> {
        if ns == 0 {
            return Ok(());
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: (ns % 1_000_000_000) as _,
        };
        // poll refuses a time that does not fit: that is forever.
        let timeout = (ns < u64::MAX).then_some(&timeout);
        let mut fds = [PollFd::new(&*self.stream, PollFlags::RDHUP)];
        match poll(&mut fds, timeout)? {
            0 => Ok(()),
            _ => {
                // As a server does that reads until the end: unix sockets tell it no other way.
                let _ = self.stream.read(&mut [0])?;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
        }
    }
}
