//! One POST on a connection of its own; the answer as JSON values, whatever the API.

use std::io::{self, Read as _, Write as _};
use std::time::Duration;

use serde_json::Value;

use crate::clock;
use crate::http::{Body, head};
use crate::net::Address;

const READ_LIMIT: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub user_agent: String,
    /// Right before the first byte was sent.
    pub send_ns: u64,
    pub status: u16,
    /// The texts that came, each with the time at which its last byte was there: the data of
    /// server-sent events, or the one text of the body.
    pub texts: Vec<(u64, Value)>,
    pub streamed: bool,
}

impl Answer {
    /// The values of a JSON pointer in the texts that have it.
    pub fn all(&self, pointer: &str) -> Vec<&Value> {
        self.texts.iter().filter_map(|(_, text)| text.pointer(pointer)).collect()
    }

    /// The last number there.
    pub fn number(&self, pointer: &str) -> Option<u64> {
        self.all(pointer).into_iter().filter_map(Value::as_u64).next_back()
    }

    /// The last string there.
    pub fn string(&self, pointer: &str) -> Option<&str> {
        self.all(pointer).into_iter().filter_map(Value::as_str).next_back()
    }

    /// The times of the texts with a string there that is not empty.
    pub fn times(&self, pointer: &str) -> Vec<u64> {
        let with = self.texts.iter().filter(|(_, text)| {
            text.pointer(pointer).and_then(Value::as_str).is_some_and(|s| !s.is_empty())
        });
        with.map(|(t, _)| *t).collect()
    }
}

/// Sends `body`, and reads the answer up to its end, or up to `leave_after` texts.
pub fn post(
    address: &Address,
    path: &str,
    user_agent: &str,
    body: &Value,
    leave_after: Option<usize>,
) -> io::Result<Answer> {
    let mut stream = address.connect()?;
    stream.set_read_timeout(Some(READ_LIMIT))?;
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: {user_agent}\r\n\
         Content-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut answer = Answer { user_agent: user_agent.into(), ..Answer::default() };
    answer.send_ns = clock::now();
    stream.write_all(request.as_bytes())?;
    let (mut raw, mut text) = (Vec::new(), Vec::new());
    let mut framing: Option<Body> = None;
    let mut buf = vec![0; 64 * 1024];
    loop {
        let n = stream.read(&mut buf)?;
        let now = clock::now();
        if n == 0 {
            break;
        }
        match &mut framing {
            Some(framing) => framing.push(&buf[..n], &mut text)?,
            None => {
                raw.extend_from_slice(&buf[..n]);
                let Some((head, len)) = head(&raw)? else { continue };
                let lower = String::from_utf8_lossy(&raw[..len]).to_ascii_lowercase();
                answer.streamed = lower.contains("text/event-stream");
                answer.status = head.status;
                let mut body = Body::new(&head);
                body.push(&raw[len..], &mut text)?;
                framing = Some(body);
            }
        }
        if answer.streamed {
            events(&mut text, now, &mut answer.texts);
        }
        if leave_after.is_some_and(|n| answer.texts.len() >= n) {
            return Ok(answer);
        }
        if framing.as_ref().is_some_and(Body::is_done) {
            break;
        }
    }
    if !answer.streamed {
        answer.texts.push((clock::now(), serde_json::from_slice(&text).map_err(io::Error::other)?));
    }
    Ok(answer)
}

/// Takes the whole events out of `text`.
fn events(text: &mut Vec<u8>, now: u64, out: &mut Vec<(u64, Value)>) {
    while let Some(end) = memchr::memmem::find(text, b"\n\n") {
        let event: Vec<u8> = text.drain(..end + 2).collect();
        for line in event.split(|&b| b == b'\n') {
            if let Some(Ok(value)) = line.strip_prefix(b"data: ").map(serde_json::from_slice) {
                out.push((now, value));
            }
        }
    }
}
