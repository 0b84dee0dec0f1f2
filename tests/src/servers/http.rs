//! The server's half of HTTP/1.1: requests with a Content-Length, one after the other.

use std::io::{self, Read};

use crate::clock;

/// A whole request.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub user_agent: String,
    pub body: Vec<u8>,
    /// Right after the read that gave its first byte.
    pub start_ns: u64,
    /// Right after the read that gave its last byte.
    pub end_ns: u64,
}

/// How long the request is whose head `bytes` begin with.
pub fn length(bytes: &[u8]) -> Option<usize> {
    let head = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let (_, rest) = text.split_once("\r\ncontent-length:")?;
    let (value, _) = rest.split_once("\r\n")?;
    Some(head + value.trim().parse::<usize>().ok()?)
}

/// Reads the requests of one connection.
#[derive(Debug)]
pub struct Reader<S> {
    stream: S,
    pending: Vec<u8>,
    buf: Box<[u8]>,
}

impl<S: Read> Reader<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, pending: Vec::new(), buf: vec![0; 16 * 1024].into() }
    }

    /// The connection itself, between two requests.
    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The next request; None at the end of the connection.
    pub fn request(&mut self) -> io::Result<Option<Request>> {
        let mut request = Request::default();
        if self.pending.is_empty() && self.fill()? == 0 {
            return Ok(None);
        }
        request.start_ns = clock::now();
        let head = loop {
            match memchr::memmem::find(&self.pending, b"\r\n\r\n") {
                Some(at) => break at + 4,
                None if self.fill()? == 0 => return Ok(None),
                None => {}
            }
        };
        let text = String::from_utf8_lossy(&self.pending[..head]).into_owned();
        let mut lines = text.split("\r\n");
        let mut first = lines.next().unwrap_or_default().split(' ');
        request.method = first.next().unwrap_or_default().to_owned();
        request.path = first.next().unwrap_or_default().to_owned();
        let mut length = 0;
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap_or(0);
            } else if name.eq_ignore_ascii_case("user-agent") {
                value.trim().clone_into(&mut request.user_agent);
            }
        }
        while self.pending.len() < head + length {
            if self.fill()? == 0 {
                return Ok(None);
            }
        }
        request.end_ns = clock::now();
        request.body = self.pending[head..head + length].to_vec();
        self.pending.drain(..head + length);
        Ok(Some(request))
    }

    fn fill(&mut self) -> io::Result<usize> {
        let n = self.stream.read(&mut self.buf)?;
        self.pending.extend_from_slice(&self.buf[..n]);
        Ok(n)
    }
}
