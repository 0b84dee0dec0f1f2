//! HTTP/1.x, one parser for each direction of a connection.

mod side;

use self::side::{Next, Requests, Responses, Side};
use super::chunked::Chunked;
use super::head::{Framing, RequestHead, ResponseHead};
use super::{H1Error, MAX_HEAD, buf};

/// What a parser reports, in the order of the bytes.
#[derive(Debug)]
pub enum Event<'e, H> {
    /// The first byte of a head has come (the head may be far from complete).
    Start,
    /// Not for 1xx responses but 101.
    Head(&'e H),
    /// A 1xx response (not 101): the real one is still to come.
    Interim(u16),
    /// Body bytes after transfer decoding, never empty.
    Body(&'e [u8]),
    /// So many bytes of the body are missing; the framing survived.
    Gap(u64),
    /// The message is complete.
    End,
    /// The connection speaks another protocol from here on.
    Tunnel,
    /// Bytes of that other protocol.
    Other(&'e [u8]),
    /// The direction cannot be followed; the parser is lost.
    Error(H1Error),
    /// Bytes are missing where they were needed; the parser is lost.
    Lost,
    /// The direction ended inside a message.
    Truncated,
}

pub type RequestEvent<'e> = Event<'e, RequestHead<'e>>;
pub type ResponseEvent<'e> = Event<'e, ResponseHead<'e>>;

/// What a response must know of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Head,
    Connect,
    Other,
}

impl Asked {
    pub fn of(method: &str) -> Self {
        match method {
            "HEAD" => Self::Head,
            "CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }
}

/// Parses what a client sends.
#[derive(Debug, Default)]
pub struct RequestParser {
    core: Core<Requests>,
}

impl RequestParser {
    pub fn new() -> Self {
        Self::default()
    }

    #[inline]
    pub fn push(&mut self, bytes: &[u8], mut on: impl FnMut(RequestEvent<'_>)) {
        self.core.push(bytes, |e: Event<'_, RequestHead<'_>>| on(e));
    }

    /// `len` bytes are missing here.
    pub fn gap(&mut self, len: u64, mut on: impl FnMut(RequestEvent<'_>)) {
        self.core.gap(len, |e: Event<'_, RequestHead<'_>>| on(e));
    }

    /// The direction has ended.
    pub fn eof(&mut self, mut on: impl FnMut(RequestEvent<'_>)) {
        self.core.eof(|e: Event<'_, RequestHead<'_>>| on(e));
    }

    /// A message begins at the next byte: forget everything else.
    pub fn resync(&mut self) {
        self.core.resync();
    }

    /// Nothing is known of the bytes to come (the direction was joined in its middle).
    pub fn lose(&mut self) {
        self.core.set(State::Lost);
    }

    /// Between two messages.
    pub fn is_idle(&self) -> bool {
        self.core.is_idle()
    }

    /// After an error or a loss, until `resync`.
    pub fn is_lost(&self) -> bool {
        self.core.state == State::Lost
    }

    /// Heap bytes held.
    pub fn buffered(&self) -> usize {
        self.core.buf.capacity()
    }
}

/// Parses what a server sends.
#[derive(Debug, Default)]
pub struct ResponseParser {
    core: Core<Responses>,
}

impl ResponseParser {
    pub fn new() -> Self {
        Self::default()
    }

    /// A request was sent; the responses come in the same order. False if too many wait already
    /// (the connection should then be given up). A response that nobody expected is taken for
    /// one to an ordinary request.
    pub fn expect(&mut self, asked: Asked) -> bool {
        self.core.side.push(asked)
    }

    #[inline]
    pub fn push(&mut self, bytes: &[u8], mut on: impl FnMut(ResponseEvent<'_>)) {
        self.core.push(bytes, |e: Event<'_, ResponseHead<'_>>| on(e));
    }

    /// `len` bytes are missing here.
    pub fn gap(&mut self, len: u64, mut on: impl FnMut(ResponseEvent<'_>)) {
        self.core.gap(len, |e: Event<'_, ResponseHead<'_>>| on(e));
    }

    /// The direction has ended: completes a body that lasts until then.
    pub fn eof(&mut self, mut on: impl FnMut(ResponseEvent<'_>)) {
        self.core.eof(|e: Event<'_, ResponseHead<'_>>| on(e));
    }

    /// A message begins at the next byte: forget everything else, what was expected included.
    pub fn resync(&mut self) {
        self.core.resync();
        self.core.side = Responses::default();
    }

    /// Nothing is known of the bytes to come (the direction was joined in its middle).
    pub fn lose(&mut self) {
        self.core.set(State::Lost);
    }

    /// Between two messages.
    pub fn is_idle(&self) -> bool {
        self.core.is_idle()
    }

    /// After an error or a loss, until `resync`.
    pub fn is_lost(&self) -> bool {
        self.core.state == State::Lost
    }

    /// Heap bytes held.
    pub fn buffered(&self) -> usize {
        self.core.buf.capacity()
    }
}

#[derive(Debug, Default)]
struct Core<S> {
    state: State,
    /// A head that came in pieces.
    buf: Vec<u8>,
    /// How much of `buf` was last looked at as a whole.
    tried: usize,
    side: S,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    Head,
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    Tunnel,
    Lost,
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl<S: Side> Core<S> {
    #[inline]
    fn push(&mut self, mut bytes: &[u8], mut on: impl FnMut(Event<'_, S::Head<'_>>)) {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Chunked(chunked) => {
                    match chunked.push(bytes, |data| on(Event::Body(data))) {
                        Ok(None) => return,
                        Ok(Some(n)) => {
                            bytes = &bytes[n..];
                            self.state = State::Idle;
                            on(Event::End);
                        }
                        Err(e) => return self.fail(e, on),
                    }
                }
                State::Length(left) => {
                    let take = usize::try_from(*left).map_or(bytes.len(), |n| n.min(bytes.len()));
                    *left -= take as u64;
                    let over = *left == 0;
                    on(Event::Body(&bytes[..take]));
                    bytes = &bytes[take..];
                    if over {
                        self.state = State::Idle;
                        on(Event::End);
                    }
                }
                State::UntilClose => return on(Event::Body(bytes)),
                State::Tunnel => return on(Event::Other(bytes)),
                State::Lost => return,
                State::Idle => {
                    // Empty lines between messages are allowed.
                    let Some(n) = bytes.iter().position(|b| !matches!(b, b'\r' | b'\n')) else {
                        return;
                    };
                    bytes = &bytes[n..];
                    on(Event::Start);
                    self.state = State::Head;
                    match self.whole_head(bytes, &mut on) {
                        Some(n) => bytes = &bytes[n..],
                        None => return,
                    }
                }
                State::Head => match self.split_head(bytes, &mut on) {
                    Some(n) => bytes = &bytes[n..],
                    None => return,
                },
            }
        }
    }

    /// A head that begins with `bytes`; its length if it is all there.
    fn whole_head(
        &mut self,
        bytes: &[u8],
        on: &mut impl FnMut(Event<'_, S::Head<'_>>),
    ) -> Option<usize> {
        match self.side.parse(&bytes[..bytes.len().min(MAX_HEAD)]) {
            Ok(Some((head, len, next))) => {
                self.begin(&head, next, on);
                Some(len)
            }
            Ok(None) if bytes.len() >= MAX_HEAD => {
                self.fail(H1Error::HeadTooLong, on);
                None
            }
            Ok(None) => {
                buf::append(&mut self.buf, bytes, MAX_HEAD);
                self.tried = self.buf.len();
                None
            }
            Err(e) => {
                self.fail(e, on);
                None
            }
        }
    }

    /// A head of which a part is in the buffer; how many of `bytes` belong to it if they end it.
    fn split_head(
        &mut self,
        bytes: &[u8],
        on: &mut impl FnMut(Event<'_, S::Head<'_>>),
    ) -> Option<usize> {
        let had = self.buf.len();
        buf::append(&mut self.buf, bytes, MAX_HEAD);
        let end = head_end(&self.buf, had.saturating_sub(2));
        if let Some(end) = end {
            self.buf.truncate(end);
        } else if self.buf.len() < MAX_HEAD && self.buf.len() < self.tried * 2 {
            return None;
        }
        let buf = std::mem::take(&mut self.buf);
        self.tried = buf.len();
        let error = match self.side.parse(&buf) {
            Ok(Some((head, len, next))) if end == Some(len) => {
                self.begin(&head, next, on);
                return Some(len - had);
            }
            Ok(None) if end.is_none() && buf.len() < MAX_HEAD => None,
            Ok(None) if end.is_none() => Some(H1Error::HeadTooLong),
            Ok(_) => Some(H1Error::BadHead),
            Err(e) => Some(e),
        };
        match error {
            None => self.buf = buf,
            Some(e) => self.fail(e, on),
        }
        None
    }

    fn begin(
        &mut self,
        head: &S::Head<'_>,
        next: Next,
        on: &mut impl FnMut(Event<'_, S::Head<'_>>),
    ) {
        let framing = match next {
            Next::Interim(status) => {
                self.state = State::Idle;
                return on(Event::Interim(status));
            }
            Next::Message(framing) => framing,
        };
        self.state = match framing {
            Framing::None => State::Idle,
            Framing::Length(n) => State::Length(n),
            Framing::Chunked => State::Chunked(Chunked::default()),
            Framing::UntilClose => State::UntilClose,
            Framing::Tunnel => State::Tunnel,
        };
        on(Event::Head(head));
        match framing {
            Framing::None => on(Event::End),
            Framing::Tunnel => on(Event::Tunnel),
            _ => {}
        }
    }

    #[cold]
    fn fail(&mut self, e: H1Error, mut on: impl FnMut(Event<'_, S::Head<'_>>)) {
        self.set(State::Lost);
        on(Event::Error(e));
    }

    /// An error in the part of a head that came, which `split_head` put off looking for.
    fn bad_part(&mut self) -> Option<H1Error> {
        match self.state {
            State::Head => self.side.parse(&self.buf).err(),
            _ => None,
        }
    }

    fn gap(&mut self, len: u64, mut on: impl FnMut(Event<'_, S::Head<'_>>)) {
        if let Some(e) = self.bad_part() {
            return self.fail(e, on);
        }
        let survives = match &mut self.state {
            State::Length(left) if *left >= len => {
                *left -= len;
                true
            }
            State::Chunked(chunked) => chunked.gap(len),
            State::UntilClose => true,
            State::Tunnel | State::Lost => return,
            _ => false,
        };
        if !survives {
            self.set(State::Lost);
            return on(Event::Lost);
        }
        on(Event::Gap(len));
        if matches!(self.state, State::Length(0)) {
            self.state = State::Idle;
            on(Event::End);
        }
    }

    fn eof(&mut self, mut on: impl FnMut(Event<'_, S::Head<'_>>)) {
        if let Some(e) = self.bad_part() {
            return self.fail(e, on);
        }
        match self.state {
            State::UntilClose => {
                self.set(State::Idle);
                on(Event::End);
            }
            State::Head | State::Length(_) | State::Chunked(_) => {
                self.set(State::Lost);
                on(Event::Truncated);
            }
            State::Idle | State::Tunnel | State::Lost => {}
        }
    }

    fn set(&mut self, state: State) {
        self.state = state;
        self.buf = Vec::new();
    }

    fn resync(&mut self) {
        self.set(State::Idle);
    }

    fn is_idle(&self) -> bool {
        self.state == State::Idle
    }
}

/// The end of the first empty line that starts at `from` or later.
fn head_end(buf: &[u8], from: usize) -> Option<usize> {
    memchr::memchr_iter(b'\n', &buf[from..]).find_map(|i| match &buf[from + i + 1..] {
        [b'\n', ..] => Some(from + i + 2),
        [b'\r', b'\n', ..] => Some(from + i + 3),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
