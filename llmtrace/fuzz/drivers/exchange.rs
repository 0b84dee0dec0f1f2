//! An HTTP/1 connection's parsers and exchanges.
//!
//! An input is one byte that chooses the pieces, one that chooses the end, the client's bytes, a
//! `0x1E`, and the server's bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use llmtrace::http::{Asked, Event, MAX_EVENT, MAX_HEAD, RequestParser, ResponseParser};
use llmtrace::llm::{Exchange, Finished, Role, Settings};

use super::Cuts;

/// How the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    ServerCloses,
    ClientCloses,
    /// The client closes its side before the server writes.
    HalfClose,
    Timeout,
    /// So many bytes are missing at the end of what the server wrote, then it goes on as before.
    Gap(u64),
}

/// One connection, driven as the pipeline does it, but with one moment for everything.
pub struct Connection {
    requests: RequestParser,
    responses: ResponseParser,
    settings: Settings,
    open: VecDeque<Exchange>,
    pub finished: Vec<Finished>,
    /// Everything the parsers reported, bodies joined: the client's side, the server's.
    pub log: [String; 2],
    /// Most memory held by the parsers and by one exchange.
    pub peak: usize,
}

const NOW: u64 = 1_000;

impl Default for Connection {
    fn default() -> Self {
        Self {
            requests: RequestParser::new(),
            responses: ResponseParser::new(),
            settings: Settings {
                itl_bounds: Arc::new([1, 10, 100]),
                token_times: true,
                ..Settings::default()
            },
            open: VecDeque::new(),
            finished: Vec::new(),
            log: Default::default(),
            peak: 0,
        }
    }
}

/// What a parser reported, but for where bodies were cut.
fn note<H>(log: &mut String, event: &Event<'_, H>) {
    use std::fmt::Write;
    let _ = match event {
        Event::Body(bytes) => bytes.iter().try_for_each(|b| write!(log, "{b:02x}")),
        Event::Head(_) => write!(log, " Head "),
        Event::Start => write!(log, " Start "),
        Event::Interim(status) => write!(log, " Interim {status} "),
        Event::Gap(len) => write!(log, " Gap {len} "),
        Event::End => write!(log, " End "),
        Event::Tunnel => write!(log, " Tunnel "),
        Event::Error(e) => write!(log, " Error {e} "),
        Event::Lost => write!(log, " Lost "),
        Event::Truncated => write!(log, " Truncated "),
        Event::Other(bytes) => bytes.iter().try_for_each(|b| write!(log, "{b:02x}")),
    };
}

impl Connection {
    pub fn client(&mut self, bytes: &[u8]) {
        let Self { requests, responses, settings, open, log, .. } = self;
        let mut full = false;
        requests.push(bytes, |event| {
            note(&mut log[0], &event);
            match event {
                _ if full => {}
                Event::Head(head) => {
                    full = !responses.expect(Asked::of(head.method));
                    if !full {
                        open.push_back(Exchange::start(settings, Role::Server, NOW, head));
                    }
                }
                Event::Body(bytes) => {
                    if let Some(exchange) = open.back_mut() {
                        exchange.request_body(bytes);
                    }
                }
                Event::End => {
                    if let Some(exchange) = open.back_mut() {
                        exchange.request_end(NOW);
                    }
                }
                _ => {}
            }
        });
        self.measure();
    }

    pub fn server(&mut self, bytes: &[u8]) {
        let Self { responses, open, finished, log, .. } = self;
        responses.push(bytes, |event| {
            note(&mut log[1], &event);
            respond(&event, open, finished);
        });
        self.measure();
    }

    pub fn server_gap(&mut self, len: u64) {
        let Self { responses, open, finished, log, .. } = self;
        responses.gap(len, |event| {
            note(&mut log[1], &event);
            respond(&event, open, finished);
        });
    }

    pub fn client_left(&mut self) {
        if let Some(exchange) = self.open.front_mut() {
            exchange.client_left(NOW);
        }
    }

    pub fn server_left(&mut self) {
        let Self { requests, responses, open, finished, log, .. } = self;
        requests.eof(|event| note(&mut log[0], &event));
        responses.eof(|event| {
            note(&mut log[1], &event);
            respond(&event, open, finished);
        });
        if let Some(exchange) = self.open.front_mut() {
            exchange.server_left(NOW);
        }
    }

    pub fn timed_out(&mut self) {
        if let Some(exchange) = self.open.front_mut() {
            exchange.timed_out(NOW);
        }
    }

    pub fn finish(&mut self) {
        self.finished.extend(self.open.drain(..).map(Exchange::finish));
    }

    fn measure(&mut self) {
        let parsers = self.requests.buffered() + self.responses.buffered();
        let exchange = self.open.iter().map(Exchange::size).max().unwrap_or(0);
        self.peak = self.peak.max(parsers + exchange);
    }
}

fn respond(
    event: &Event<'_, llmtrace::http::ResponseHead<'_>>,
    open: &mut VecDeque<Exchange>,
    finished: &mut Vec<Finished>,
) {
    let Some(exchange) = open.front_mut() else { return };
    match event {
        Event::Head(head) => exchange.response_head(NOW, head),
        Event::Body(bytes) => exchange.response_body(NOW, bytes),
        Event::Gap(_) | Event::Lost | Event::Error(_) => exchange.lost(NOW),
        Event::End | Event::Tunnel => {
            exchange.response_end(NOW);
            finished.extend(open.pop_front().map(Exchange::finish));
        }
        Event::Start | Event::Interim(_) | Event::Truncated | Event::Other(_) => {}
    }
}

/// The whole of a connection.
pub fn drive(client: &[u8], server: &[u8], mut cuts: Cuts, end: End) -> Connection {
    let mut connection = Connection::default();
    cuts.each(client, |piece| connection.client(piece));
    if end == End::HalfClose {
        connection.client_left();
    }
    cuts.each(server, |piece| connection.server(piece));
    match end {
        End::ServerCloses | End::HalfClose => {}
        End::ClientCloses => connection.client_left(),
        End::Timeout => connection.timed_out(),
        End::Gap(len) => {
            connection.server_gap(len);
            cuts.each(server, |piece| connection.server(piece));
        }
    }
    connection.server_left();
    connection.finish();
    connection
}

/// Drives an input twice, whole and in pieces, and compares.
pub fn check(input: &[u8]) {
    let [cuts, end, bytes @ ..] = input else { return };
    let cuts = Cuts::of(*cuts);
    let end = match end {
        b'c' => End::ClientCloses,
        b'h' => End::HalfClose,
        b't' => End::Timeout,
        b'g' => End::Gap(5),
        _ => End::ServerCloses,
    };
    let mut sides = bytes.splitn(2, |&b| b == 0x1E);
    let (client, server) = (sides.next().unwrap_or(&[]), sides.next().unwrap_or(&[]));
    let whole = drive(client, server, Cuts::Whole, end);
    let pieces = drive(client, server, cuts, end);
    assert_eq!(whole.log, pieces.log);
    assert_eq!(format!("{:?}", whole.finished), format!("{:?}", pieces.finished));
    // A head on each side, an event, and the exchange itself (with the token times of tests).
    let most = 2 * MAX_HEAD + MAX_EVENT + 64 * 1024;
    assert!(whole.peak.max(pieces.peak) < most, "{} {}", whole.peak, pieces.peak);
}
