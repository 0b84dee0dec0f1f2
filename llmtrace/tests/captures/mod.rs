//! Reads the captures in tests/captures: one request and its response, as text.
//!
//! ```text
//! # where it is from
//! > POST /path
//! > content-type: type
//!
//! the request's body
//! < status type
//! @ milliseconds after what came before
//! what the server wrote then
//! ! client | server      who leaves then; without it, the response comes to its end
//! ```
//!
//! In an AWS event stream, a line `frame KIND NAME JSON` is a frame (`KIND` is `event` or
//! `exception`), `broken ...` one with a wrong checksum, and `chunk JSON` a frame that wraps an event
//! in base64. A form's lines end with CR LF.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Who leaves before the response is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    Nobody,
    Client,
    Server,
}

#[derive(Clone, Debug)]
pub struct Capture {
    /// `dialect/name`.
    pub name: String,
    /// Head and body, as HTTP/1.1.
    pub request: Vec<u8>,
    /// Each write of the server and its time, in milliseconds from the one before.
    pub writes: Vec<(u64, Vec<u8>)>,
    pub leaves: Leaves,
}

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures")
}

/// All of them, by name.
pub fn all() -> Vec<Capture> {
    let mut captures = Vec::new();
    for dialect in std::fs::read_dir(folder()).expect("the captures") {
        let dialect = dialect.expect("an entry").path();
        let Ok(files) = std::fs::read_dir(&dialect) else { continue };
        for file in files {
            let path = file.expect("an entry").path();
            if path.extension().is_some_and(|e| e == "txt") {
                let stem = |p: &Path| p.file_stem().expect("a name").to_string_lossy().into_owned();
                let text = std::fs::read_to_string(&path).expect("a file");
                captures.push(read(format!("{}/{}", stem(&dialect), stem(&path)), &text));
            }
        }
    }
    captures.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(captures.len() >= 80, "{}", captures.len());
    captures
}

fn read(name: String, text: &str) -> Capture {
    let mut lines = text.split_inclusive('\n').peekable();
    let mut head = String::new();
    assert!(text.starts_with("# "), "{name} does not say where it is from");
    while lines.next_if(|line| line.starts_with("# ")).is_some() {}
    while let Some(line) = lines.next_if(|line| line.starts_with("> ")) {
        let line = line[2..].trim_end();
        head.push_str(line);
        head.push_str(if head.lines().count() == 1 { " HTTP/1.1\r\nhost: a\r\n" } else { "\r\n" });
    }
    assert_eq!(lines.next(), Some("\n"), "{name}: an empty line after the head");
    let mut body = String::new();
    while let Some(line) = lines.next_if(|line| !line.starts_with("< ")) {
        body.push_str(line);
    }
    body.pop();
    if head.contains("multipart/") {
        body = body.replace('\n', "\r\n");
    }
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes();

    let answer = lines.next().and_then(|line| line.strip_prefix("< ")).expect("an answer");
    let (status, kind) = answer.trim_end().split_once(' ').expect("a status and a type");
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    let mut writes = vec![(5, head.into_bytes())];
    let mut leaves = Leaves::Nobody;
    while let Some(line) = lines.next() {
        if let Some(who) = line.strip_prefix("! ") {
            leaves = if who.trim() == "client" { Leaves::Client } else { Leaves::Server };
            continue;
        }
        let after = line.strip_prefix("@ ").and_then(|ms| ms.trim().parse().ok());
        let after = after.unwrap_or_else(|| panic!("{name}: a time, not {line:?}"));
        let mut text = String::new();
        while let Some(line) = lines.next_if(|l| !l.starts_with("@ ") && !l.starts_with("! ")) {
            text.push_str(line);
        }
        let bytes = if kind.contains("eventstream") {
            text.lines().flat_map(frame).collect()
        } else {
            if kind.starts_with("application/json") {
                text.pop();
            }
            text.into_bytes()
        };
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(&bytes);
        chunk.extend_from_slice(b"\r\n");
        writes.push((after, chunk));
    }
    if leaves == Leaves::Nobody {
        writes.push((1, b"0\r\n\r\n".to_vec()));
    }
    Capture { name, request, writes, leaves }
}

fn frame(line: &str) -> Vec<u8> {
    let (kind, rest) = line.split_once(' ').expect("a kind of frame");
    if kind == "chunk" {
        let payload = format!(r#"{{"bytes":"{}","p":"abcdef"}}"#, STANDARD.encode(rest));
        return encode("event", "chunk", payload.as_bytes());
    }
    let mut parts = rest.splitn(3, ' ');
    let mut part = || parts.next().expect("a kind, a name, a payload");
    let mut bytes = encode(part(), part(), part().as_bytes());
    if kind == "broken" {
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
    }
    bytes
}

fn encode(kind: &str, name: &str, payload: &[u8]) -> Vec<u8> {
    let mut headers = Vec::new();
    let type_header = format!(":{kind}-type");
    for (name, value) in
        [(&*type_header, name), (":content-type", "application/json"), (":message-type", kind)]
    {
        headers.push(name.len() as u8);
        headers.extend_from_slice(name.as_bytes());
        headers.push(7);
        headers.extend_from_slice(&(value.len() as u16).to_be_bytes());
        headers.extend_from_slice(value.as_bytes());
    }
    let total = (headers.len() + payload.len() + 16) as u32;
    let mut frame = total.to_be_bytes().to_vec();
    frame.extend_from_slice(&(headers.len() as u32).to_be_bytes());
    frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
    frame.extend_from_slice(&headers);
    frame.extend_from_slice(payload);
    frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
    frame
}
