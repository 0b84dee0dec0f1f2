//! The client's half of HTTP/1.1, over bytes that arrive piece by piece.

use std::io::{self, Read, Write};

use crate::net::Address;

/// Head of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    pub content_length: Option<u64>,
    pub chunked: bool,
    /// The server will close after this response.
    pub close: bool,
}

/// Parses a response head if `bytes` hold a whole one; with its length.
pub fn head(bytes: &[u8]) -> io::Result<Option<(Head, usize)>> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| bad("head is not text"))?;
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1."))
        .and_then(|line| line.split(' ').nth(1)?.parse().ok())
        .ok_or_else(|| bad("no status line"))?;
    let mut head = Head { status, content_length: None, chunked: false, close: false };
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| bad("header line"))?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => {
                head.content_length = Some(value.parse().map_err(|_| bad("content-length"))?);
            }
            "transfer-encoding" => head.chunked = value.eq_ignore_ascii_case("chunked"),
            "connection" => head.close = value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    Ok(Some((head, end + 4)))
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Undoes the framing of one body.
#[derive(Debug)]
pub struct Body {
    framing: Framing,
    line: Vec<u8>,
}

#[derive(Debug, PartialEq)]
enum Framing {
    Length(u64),
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    UntilClose,
    Done,
}

impl Body {
    pub fn new(head: &Head) -> Self {
        let framing = match (head.chunked, head.content_length) {
            (true, _) => Framing::Size,
            (false, Some(0)) => Framing::Done,
            (false, Some(n)) => Framing::Length(n),
            (false, None) => Framing::UntilClose,
        };
        Self { framing, line: Vec::new() }
    }

    pub fn is_done(&self) -> bool {
        self.framing == Framing::Done
    }

    /// Whether an end of the connection ends the body.
    pub fn may_close(&self) -> bool {
        matches!(self.framing, Framing::Done | Framing::UntilClose)
    }

    /// Appends the payload in `bytes` to `out`.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        while !bytes.is_empty() {
            match &mut self.framing {
                Framing::UntilClose => {
                    out.extend_from_slice(bytes);
                    return Ok(());
                }
                Framing::Length(left) | Framing::Data(left) => {
                    let n = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    out.extend_from_slice(&bytes[..n]);
                    bytes = &bytes[n..];
                    *left -= n as u64;
                    if *left == 0 {
                        self.framing = match self.framing {
                            Framing::Length(_) => Framing::Done,
                            _ => Framing::DataEnd,
                        };
                    }
                }
                Framing::Done => return Err(bad("bytes after the body")),
                Framing::Size | Framing::DataEnd | Framing::Trailers => {
                    let Some(end) = memchr::memchr(b'\n', bytes) else {
                        self.line.extend_from_slice(bytes);
                        return Ok(());
                    };
                    self.line.extend_from_slice(&bytes[..end]);
                    bytes = &bytes[end + 1..];
                    let line = std::mem::take(&mut self.line);
                    self.line_end(line.strip_suffix(b"\r").unwrap_or(&line))?;
                }
            }
        }
        Ok(())
    }

    fn line_end(&mut self, line: &[u8]) -> io::Result<()> {
        self.framing = match self.framing {
            Framing::DataEnd if line.is_empty() => Framing::Size,
            Framing::Trailers if line.is_empty() => Framing::Done,
            Framing::Trailers => Framing::Trailers,
            Framing::Size => {
                let size = std::str::from_utf8(line)
                    .ok()
                    .and_then(|text| u64::from_str_radix(text.split(';').next()?, 16).ok())
                    .ok_or_else(|| bad("chunk size"))?;
                match size {
                    0 => Framing::Trailers,
                    n => Framing::Data(n),
                }
            }
            _ => return Err(bad("chunk end")),
        };
        Ok(())
    }
}

/// A GET on a connection of its own: status and body.
pub fn get(port: u16, path: &str) -> io::Result<(u16, String)> {
    let mut stream = Address::loopback(port).connect()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let (head, len) = head(&bytes)?.ok_or_else(|| bad("no head"))?;
    let mut out = Vec::new();
    Body::new(&head).push(&bytes[len..], &mut out)?;
    Ok((head.status, String::from_utf8_lossy(&out).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_split_of_a_chunked_body_is_the_same() {
        let text = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=1\r\nabc\r\n0A\r\n0123456789\r\n0\r\nT: 1\r\n\r\n";
        let (head, len) = head(text).unwrap().unwrap();
        for split in len..text.len() {
            let (mut body, mut out) = (Body::new(&head), Vec::new());
            body.push(&text[len..split], &mut out).unwrap();
            assert!(!body.is_done());
            body.push(&text[split..], &mut out).unwrap();
            assert!(body.is_done());
            assert_eq!(out, b"abc0123456789");
        }
    }
}
