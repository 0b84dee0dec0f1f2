//! A client that counts events at the least cost: one large read after the other, no parsing.

use std::io::{self, Read as _, Write as _};
use std::thread;
use std::time::Duration;

use crate::client::Request;
use crate::clock;
use crate::net::{Address, Stream};
use crate::plan::Ask;
use crate::process::raise_descriptor_limit;

const READ: usize = 256 * 1024;
/// For a thread that only reads: streams are many.
const STACK: usize = 128 * 1024;

/// What is sent.
#[derive(Clone, Debug)]
pub struct Load {
    pub connections: usize,
    pub ask: Ask,
    /// No request starts later than this after the first.
    pub run: Duration,
    /// The first event that carries a token, from 1 (the role chunk may come before).
    pub first_token: u64,
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Driven {
    pub requests: u64,
    pub events: u64,
    /// Of all connections together.
    pub events_per_second: f64,
    /// Nanoseconds from the send to the first token, of every request, ascending.
    pub ttft_ns: Vec<u64>,
}

/// Drives `address` until the time is over and every request has its answer.
///
/// # Panics
/// If a connection fails.
#[track_caller]
pub fn drive(address: &Address, load: &Load) -> Driven {
    raise_descriptor_limit();
    let deadline = clock::now() + load.run.as_nanos() as u64;
    let clients: Vec<_> = (0..load.connections)
        .map(|n| {
            let request = Request::new(format!("bench/{n}"), &load.ask).encode();
            let (address, first_token) = (address.clone(), load.first_token);
            thread::Builder::new()
                .stack_size(STACK)
                .spawn(move || client(&address, &request, deadline, first_token))
                .expect("a thread")
        })
        .collect();
    let mut driven = Driven::default();
    for client in clients {
        let one = client.join().expect("no client panics").expect("the server answers");
        driven.requests += one.requests;
        driven.events += one.events;
        driven.events_per_second += one.events_per_second;
        driven.ttft_ns.extend(one.ttft_ns);
    }
    driven.ttft_ns.sort_unstable();
    driven
}

fn client(
    address: &Address,
    request: &[u8],
    deadline: u64,
    first_token: u64,
) -> io::Result<Driven> {
    let mut stream = address.connect()?;
    let mut buf = vec![0; READ].into_boxed_slice();
    let mut driven = Driven::default();
    let begin = clock::now();
    while driven.requests == 0 || clock::now() < deadline {
        let sent = clock::now();
        stream.write_all(request)?;
        let (events, first) = answer(&mut stream, &mut buf, first_token)?;
        driven.events += events;
        driven.requests += 1;
        driven.ttft_ns.push(first - sent);
    }
    driven.events_per_second = driven.events as f64 / ((clock::now() - begin) as f64 / 1e9);
    Ok(driven)
}

/// Reads one chunked answer: its events, and when the first token was there.
fn answer(stream: &mut Stream, buf: &mut [u8], first_token: u64) -> io::Result<(u64, u64)> {
    let mut filled = 0;
    let head = loop {
        filled += some(stream.read(&mut buf[filled..])?)?;
        if let Some(at) = memchr::memmem::find(&buf[..filled], b"\r\n\r\n") {
            break at + 4;
        }
    };
    let mut count = Count::default();
    count.push(&buf[head..filled]);
    let mut first = None;
    loop {
        if count.events >= first_token {
            first.get_or_insert_with(clock::now);
        }
        if count.is_done() {
            return Ok((count.events, first.unwrap_or_else(clock::now)));
        }
        let n = some(stream.read(buf)?)?;
        count.push(&buf[..n]);
    }
}

fn some(n: usize) -> io::Result<usize> {
    if n == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(n)
}

/// Counts blank lines, and sees the last chunk.
#[derive(Debug, Default)]
struct Count {
    events: u64,
    /// The last bytes so far.
    tail: Vec<u8>,
}

const END: &[u8] = b"\r\n0\r\n\r\n";

impl Count {
    fn push(&mut self, bytes: &[u8]) {
        let Some(&first) = bytes.first() else {
            return;
        };
        let across = self.tail.last() == Some(&b'\n') && first == b'\n';
        self.events += u64::from(across) + memchr::memmem::find_iter(bytes, b"\n\n").count() as u64;
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(END.len())..]);
        let extra = self.tail.len().saturating_sub(END.len());
        self.tail.drain(..extra);
    }

    fn is_done(&self) -> bool {
        self.tail == END
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::events::{LAST_CHUNK, chunk, done, role, token};

    #[test]
    fn any_split_counts_the_same() {
        let text = [
            chunk(&role("m")),
            chunk(&token("m", 0)),
            chunk(&token("m", 1)),
            chunk(&done()),
            LAST_CHUNK.to_vec(),
        ]
        .concat();
        for split in 0..text.len() {
            let mut count = Count::default();
            count.push(&text[..split]);
            assert!(!count.is_done());
            count.push(&text[split..]);
            assert!(count.is_done());
            assert_eq!(count.events, 4, "split at {split}");
        }
    }
}
