//! As many events as the machine can move: a thread per connection, one `write` per event, no
//! pacing.
//!
//! TCP_NODELAY is off: with it the kernel's own cost of an event doubles, and what a tracer adds
//! would look smaller beside it.

use std::fs::File;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;

use super::events;
use super::http::Reader;
use super::openssl::Context;
use crate::net::Stream;
use crate::plan::Asked;

const MODEL: &str = "flood";
/// Of each of many threads.
const CROWD_STACK: usize = 256 * 1024;

/// Serves until the process is killed.
pub fn serve(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        thread::spawn(move || {
            let writer = stream.try_clone()?;
            connection(Reader::new(Stream::Tcp(stream)), writer.into())
        });
    }
}

fn connection(mut reader: Reader<Stream>, writer: OwnedFd) -> io::Result<()> {
    // A File writes with write(2); std's sockets use sendto(2).
    let mut writer = File::from(writer);
    while let Some(request) = reader.request()? {
        answer(&mut writer, MODEL, &request.body)?;
    }
    Ok(())
}

/// As many small servers as it is given listeners, which have whatever model they are asked for. Serves
/// until the process is killed, each one connection at a time.
pub fn crowd(listeners: Vec<TcpListener>) -> io::Result<()> {
    for listener in listeners {
        let serve = move || -> io::Result<()> {
            loop {
                let (stream, _) = listener.accept()?;
                // Answers are short, and nobody counts what they cost.
                stream.set_nodelay(true)?;
                let mut writer = File::from(OwnedFd::from(stream.try_clone()?));
                let mut reader = Reader::new(stream);
                while let Some(request) = reader.request()? {
                    let asked: Asked = serde_json::from_slice(&request.body).unwrap_or_default();
                    answer(&mut writer, &asked.model, &request.body)?;
                }
            }
        };
        thread::Builder::new().stack_size(CROWD_STACK).spawn(serve)?;
    }
    loop {
        thread::park();
    }
}

/// The same over TLS by OpenSSL: one `SSL_write` per event.
pub fn serve_tls(listener: &TcpListener, context: Context) -> io::Result<()> {
    let context = Arc::new(context);
    loop {
        let (socket, _) = listener.accept()?;
        let context = Arc::clone(&context);
        thread::spawn(move || {
            let mut reader = Reader::new(context.accept(socket)?);
            while let Some(request) = reader.request()? {
                answer(reader.stream(), MODEL, &request.body)?;
            }
            io::Result::Ok(())
        });
    }
}

fn answer(writer: &mut impl Write, model: &str, body: &[u8]) -> io::Result<()> {
    let asked: Asked = serde_json::from_slice(body).unwrap_or_default();
    let event = events::chunk(&events::token(model, 1));
    writer.write_all(events::STREAM_HEAD)?;
    for _ in 0..asked.max_tokens {
        writer.write_all(&event)?;
    }
    writer.write_all(&events::chunk(&events::finish(model)))?;
    writer.write_all(&events::chunk(&events::usage(model, 9, asked.max_tokens)))?;
    let mut last = events::chunk(&events::done());
    last.extend_from_slice(events::LAST_CHUNK);
    writer.write_all(&last)
}

/// Events beside the tokens: finish, usage, `[DONE]`.
pub const EXTRA_EVENTS: u64 = 3;
