//! Message heads: the few fields that are needed, borrowed from the bytes.

use std::mem::MaybeUninit;

use super::{H1Error, MAX_HEADERS};

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    Length(u64),
    Chunked,
    /// Responses only.
    UntilClose,
    /// The connection is no longer HTTP (101, or 2xx to CONNECT).
    Tunnel,
}

#[derive(Clone, Debug)]
pub struct RequestHead<'a> {
    pub method: &'a str,
    /// As sent: path and query, or `*`, or an absolute URI, or an authority.
    pub target: &'a str,
    /// The x of HTTP/1.x.
    pub minor: u8,
    pub host: Option<&'a str>,
    pub user_agent: Option<&'a str>,
    pub content_type: Option<&'a str>,
    pub content_encoding: Option<&'a str>,
    pub traceparent: Option<&'a str>,
    /// The first, if there are several: the later ones are older.
    pub tracestate: Option<&'a str>,
    /// `Expect: 100-continue`.
    pub expect_continue: bool,
    /// Asks for another protocol on this connection.
    pub upgrade: bool,
    pub keep_alive: bool,
    pub framing: Framing,
}

#[derive(Clone, Debug)]
pub struct ResponseHead<'a> {
    pub status: u16,
    /// The x of HTTP/1.x.
    pub minor: u8,
    pub content_type: Option<&'a str>,
    /// With the transfer codings that the framing does not undo.
    pub content_encoding: Option<&'a str>,
    /// The protocol that a 101 switches to.
    pub upgrade: Option<&'a str>,
    /// `Sec-WebSocket-Extensions`, as agreed.
    pub websocket_extensions: Option<&'a str>,
    /// Of a gRPC answer that has no message.
    pub grpc_status: Option<u32>,
    pub keep_alive: bool,
    pub framing: Framing,
}

impl RequestHead<'_> {
    /// The path without scheme, authority, query and fragment.
    pub fn path(&self) -> &str {
        let t = self.path_and_query();
        t.find(['?', '#']).map_or(t, |i| &t[..i])
    }

    /// The value of a query parameter, as it is: percent signs stay.
    pub fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.path_and_query().split_once('?')?;
        let query = query.split('#').next()?;
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    fn path_and_query(&self) -> &str {
        let t = self.target;
        match t.find("://") {
            Some(i) if !t.starts_with('/') => {
                let rest = &t[i + 3..];
                rest.find('/').map_or("/", |i| &rest[i..])
            }
            _ => t,
        }
    }
}

impl ResponseHead<'_> {
    /// Whether the content type's essence is `essence` (lower case), parameters left aside.
    pub fn is_type(&self, essence: &str) -> bool {
        self.content_type
            .is_some_and(|v| v.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case(essence))
    }

    /// Whether the body is coded, so that its text cannot be read as it is.
    pub fn is_encoded(&self) -> bool {
        self.content_encoding.is_some_and(|v| {
            let v = v.trim();
            !v.is_empty() && !v.eq_ignore_ascii_case("identity")
        })
    }
}

/// What the fields say that both kinds of head have.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a str>,
    user_agent: Option<&'a str>,
    content_type: Option<&'a str>,
    content_encoding: Option<&'a str>,
    traceparent: Option<&'a str>,
    tracestate: Option<&'a str>,
    expect_continue: bool,
    upgrade: Option<&'a str>,
    websocket_extensions: Option<&'a str>,
    grpc_status: Option<u32>,
    close: bool,
    keep_alive: bool,
    length: Option<u64>,
    coding: Coding,
    /// Transfer codings besides `chunked`.
    transfer: Option<&'a str>,
}

/// What `Transfer-Encoding` says.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Coding {
    #[default]
    None,
    Chunked,
    /// Present, but `chunked` is not the last of the list.
    Other,
}

fn fields<'a>(headers: &[httparse::Header<'a>]) -> Result<Fields<'a>, H1Error> {
    let mut f = Fields::default();
    for h in headers {
        let is = |name: &str| h.name.eq_ignore_ascii_case(name);
        let text = || std::str::from_utf8(h.value).ok();
        match h.name.len() {
            4 if is("host") => f.host = text(),
            6 if is("expect") => f.expect_continue = has_token(h.value, "100-continue"),
            7 if is("upgrade") => f.upgrade = Some(text().unwrap_or("")),
            10 if is("user-agent") => f.user_agent = text(),
            10 if is("connection") => {
                f.close |= has_token(h.value, "close");
                f.keep_alive |= has_token(h.value, "keep-alive");
            }
            10 if is("tracestate") => f.tracestate = f.tracestate.or_else(text),
            11 if is("traceparent") => f.traceparent = text(),
            11 if is("grpc-status") => f.grpc_status = text().and_then(|text| text.parse().ok()),
            12 if is("content-type") => f.content_type = text(),
            14 if is("content-length") => {
                for part in h.value.split(|&b| b == b',') {
                    let n = decimal(part.trim_ascii()).ok_or(H1Error::BadLength)?;
                    if f.length.is_some_and(|m| m != n) {
                        return Err(H1Error::BadLength);
                    }
                    f.length = Some(n);
                }
            }
            16 if is("content-encoding") => f.content_encoding = text(),
            17 if is("transfer-encoding") => {
                let last = h.value.rsplit(|&b| b == b',').next().unwrap_or_default();
                f.coding = match last.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    _ if f.coding == Coding::Chunked => return Err(H1Error::BadLength),
                    true => Coding::Chunked,
                    false => Coding::Other,
                };
                let all = text().unwrap_or(UNREADABLE);
                let rest = match f.coding {
                    Coding::Chunked => all.rsplit_once(',').map_or("", |(rest, _)| rest.trim()),
                    _ => all,
                };
                if !rest.is_empty() {
                    f.transfer = Some(if f.transfer.is_none() { rest } else { UNREADABLE });
                }
            }
            24 if is("sec-websocket-extensions") => f.websocket_extensions = text(),
            _ => {}
        }
    }
    if f.length.is_some() && f.coding != Coding::None {
        return Err(H1Error::BadLength);
    }
    // To a reader the two kinds of coding are one.
    if let Some(transfer) = f.transfer {
        f.content_encoding = Some(f.content_encoding.map_or(transfer, |_| UNREADABLE));
    }
    Ok(f)
}

/// In the place of a coding that cannot be undone.
const UNREADABLE: &str = "unreadable";

fn has_token(value: &[u8], token: &str) -> bool {
    value.split(|&b| b == b',').any(|t| t.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |n, &b| {
        let d = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
        n.checked_mul(10)?.checked_add(d)
    })
}

fn bad(e: httparse::Error) -> H1Error {
    match e {
        httparse::Error::TooManyHeaders => H1Error::HeadTooLong,
        _ => H1Error::BadHead,
    }
}

/// The request head at the start of `bytes` and its length; None if it is not all there.
pub fn request(bytes: &[u8]) -> Result<Option<(RequestHead<'_>, usize)>, H1Error> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut req = httparse::Request::new(&mut []);
    let len = match req.parse_with_uninit_headers(bytes, &mut headers).map_err(bad)? {
        httparse::Status::Complete(len) => len,
        httparse::Status::Partial => return Ok(None),
    };
    let f = fields(req.headers)?;
    let minor = req.version.unwrap_or(1);
    let framing = match (f.coding, f.length) {
        (Coding::Chunked, _) => Framing::Chunked,
        (Coding::Other, _) => return Err(H1Error::BadLength),
        (Coding::None, Some(n)) if n > 0 => Framing::Length(n),
        (Coding::None, _) => Framing::None,
    };
    let head = RequestHead {
        method: req.method.unwrap_or(""),
        target: req.path.unwrap_or(""),
        minor,
        host: f.host,
        user_agent: f.user_agent,
        content_type: f.content_type,
        content_encoding: f.content_encoding,
        traceparent: f.traceparent,
        tracestate: f.tracestate,
        expect_continue: f.expect_continue,
        upgrade: f.upgrade.is_some(),
        keep_alive: !f.close && (minor > 0 || f.keep_alive),
        framing,
    };
    Ok(Some((head, len)))
}

/// The response head at the start of `bytes` and its length; None if it is not all there. The
/// framing is that of a response to an ordinary request.
pub fn response(bytes: &[u8]) -> Result<Option<(ResponseHead<'_>, usize)>, H1Error> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut res = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let parsed = config.parse_response_with_uninit_headers(&mut res, bytes, &mut headers);
    let len = match parsed.map_err(bad)? {
        httparse::Status::Complete(len) => len,
        httparse::Status::Partial => return Ok(None),
    };
    let f = fields(res.headers)?;
    let status = res.code.unwrap_or(0);
    let minor = res.version.unwrap_or(1);
    let framing = match (status, f.coding, f.length) {
        (101, ..) => Framing::Tunnel,
        (100..200 | 204 | 304, ..) => Framing::None,
        (_, Coding::Chunked, _) => Framing::Chunked,
        (_, Coding::Other, _) => Framing::UntilClose,
        (_, Coding::None, Some(0)) => Framing::None,
        (_, Coding::None, Some(n)) => Framing::Length(n),
        (_, Coding::None, None) => Framing::UntilClose,
    };
    let head = ResponseHead {
        status,
        minor,
        content_type: f.content_type,
        content_encoding: f.content_encoding,
        upgrade: f.upgrade,
        websocket_extensions: f.websocket_extensions,
        grpc_status: f.grpc_status,
        keep_alive: !f.close && (minor > 0 || f.keep_alive),
        framing,
    };
    Ok(Some((head, len)))
}
