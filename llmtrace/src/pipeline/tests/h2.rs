//! HTTP/2 from records to exchanges.

use httlib_hpack::Encoder;
use proptest::prelude::*;

use super::*;
use crate::http::h2::PREFACE;
use crate::llm::Phase;

/// What both ends send, as a library encodes it.
pub(super) struct Ends {
    client: Encoder<'static>,
    server: Encoder<'static>,
}

pub(super) const END_STREAM: u8 = 1;
const CANCEL: [u8; 4] = [0, 0, 0, 8];

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn event(text: &str) -> String {
    format!("data: {{\"model\":\"m\",\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
}

impl Ends {
    pub fn new() -> Self {
        Self { client: Encoder::default(), server: Encoder::default() }
    }

    fn block(encoder: &mut Encoder<'_>, fields: &[(&str, &str)]) -> Vec<u8> {
        let mut block = Vec::new();
        let flags = Encoder::HUFFMAN_VALUE | Encoder::WITH_INDEXING | Encoder::BEST_FORMAT;
        for (name, value) in fields {
            let field = (name.as_bytes().to_vec(), value.as_bytes().to_vec(), flags);
            encoder.encode(field, &mut block).unwrap();
        }
        block
    }

    fn post(&mut self, stream: u32, path: &str, kind: &str) -> Vec<u8> {
        let fields = [
            (":method", "POST"),
            (":path", path),
            ("content-type", kind),
            ("user-agent", &*format!("agent{stream}")),
        ];
        let block = Self::block(&mut self.client, &fields);
        let body = if kind == "application/json" { BODY.as_bytes() } else { b"\0\0\0\0\0" };
        [frame(1, 4, stream, &block), frame(0, END_STREAM, stream, body)].concat()
    }

    /// The head of a request, and fields beside the usual ones.
    pub fn post_head(&mut self, stream: u32, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
        let fields = [(":method", "POST"), (":path", path), ("content-type", "application/json")];
        frame(1, 4, stream, &Self::block(&mut self.client, &[&fields[..], more].concat()))
    }

    pub fn request(&mut self, stream: u32) -> Vec<u8> {
        self.post(stream, "/v1/chat/completions", "application/json")
    }

    pub fn head(&mut self, stream: u32, kind: &str) -> Vec<u8> {
        let fields = [(":status", "200"), ("content-type", kind), ("server", "x")];
        frame(1, 4, stream, &Self::block(&mut self.server, &fields))
    }

    fn trailers(&mut self, stream: u32, status: &str) -> Vec<u8> {
        frame(1, 5, stream, &Self::block(&mut self.server, &[("grpc-status", status)]))
    }
}

const SSE: &str = "text/event-stream";

pub(super) fn token(stream: u32, text: &str) -> Vec<u8> {
    frame(0, 0, stream, event(text).as_bytes())
}

pub(super) fn done(stream: u32) -> Vec<u8> {
    [frame(0, 0, stream, b"data: [DONE]\n\n"), frame(0, END_STREAM, stream, b"")].concat()
}

pub(super) fn start() -> Vec<u8> {
    [PREFACE, &frame(4, 0, 0, &[0, 3, 0, 0, 0, 100])].concat()
}

/// Three streams across each other, and a health check.
fn conversation() -> Vec<(bool, Vec<u8>)> {
    let mut e = Ends::new();
    vec![
        (false, frame(4, 0, 0, &[0; 6])),
        (true, start()),
        (true, [e.request(1), e.request(3)].concat()),
        (true, frame(4, 1, 0, b"")),
        (false, [e.head(3, SSE), token(3, "a")].concat()),
        (true, e.post(5, "/health", "application/json")),
        (false, [e.head(1, SSE), token(1, "a"), token(3, "b"), e.head(5, "text/plain")].concat()),
        (false, [frame(0, END_STREAM, 5, b"ok"), done(3)].concat()),
        (true, e.request(7)),
        (false, [e.head(7, SSE), done(7), token(1, "c"), token(1, "d"), done(1)].concat()),
    ]
}

impl Bench {
    fn client(&mut self, bytes: &[u8]) {
        self.send_bytes(Direction::Read, bytes);
    }

    fn server(&mut self, bytes: &[u8]) {
        self.send_bytes(Direction::Write, bytes);
    }

    /// By user agent: the outcome and the tokens.
    fn by_agent(&self) -> Vec<(String, Outcome, u64)> {
        let finished = self.log.finished.iter();
        let mut all: Vec<_> = finished
            .map(|(f, _)| {
                (f.user_agent.as_deref().unwrap_or("").to_owned(), f.outcome, f.token_events)
            })
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// A connection on which stream 1 went well.
    fn http2() -> (Self, Ends) {
        let (mut b, mut e) = (Self::new(), Ends::new());
        b.client(&[start(), e.request(1)].concat());
        b.server(&[frame(4, 0, 0, b""), e.head(1, SSE), token(1, "a"), done(1)].concat());
        assert_eq!(b.outcomes(), [Outcome::Success]);
        (b, e)
    }
}

fn agent(stream: u32, outcome: Outcome, tokens: u64) -> (String, Outcome, u64) {
    (format!("agent{stream}"), outcome, tokens)
}

#[test]
fn streams_across_each_other() {
    for role in [Role::Server, Role::Client] {
        let mut b = Bench::new();
        for (client, bytes) in conversation() {
            match client == (role == Role::Server) {
                true => b.send_bytes(Direction::Read, &bytes),
                false => b.send_bytes(Direction::Write, &bytes),
            }
        }
        let ok = Outcome::Success;
        assert_eq!(b.by_agent(), [agent(1, ok, 3), agent(3, ok, 2), agent(7, ok, 0)]);
        assert!(b.log.finished.iter().all(|(f, _)| f.role == role));
        assert_eq!((b.log.started, b.count("exchanges", "not_llm")), (3, 1));
        assert_eq!(b.count("resyncs", "bad_frame") + b.count("resyncs", "joined"), 0);
        let first = &b.log.finished.iter().find(|f| f.0.token_events == 3).unwrap().0;
        assert_eq!((first.model.as_deref(), first.status), (Some("m"), Some(200)));
        if role == Role::Server {
            // The third record; the first token in the seventh, from its beginning.
            assert_eq!(first.start, 1003 * MS);
            assert_eq!(first.first_token, Some(1007 * MS - MS / 2));
        }
    }
}

#[test]
fn resets() {
    let (mut b, mut e) = Bench::http2();
    b.client(&[e.request(3), e.request(5), e.request(7), e.request(9)].concat());
    b.server(&[e.head(3, SSE), e.head(5, SSE), token(5, "a"), e.head(7, SSE)].concat());
    b.client(&[frame(3, 0, 3, &CANCEL), frame(3, 0, 5, &CANCEL)].concat());
    // Another thread's write, which the client had before it left.
    let at = b.at[1];
    let late = token(5, "b");
    b.data(Direction::Write, at, b.t - MS / 4, &late, late.len() as u32);
    b.lose(Direction::Write, late.len() as u32);
    b.server(&frame(3, 0, 7, &CANCEL));
    b.server(&frame(7, 0, 0, &[0, 0, 0, 7, 0, 0, 0, 0]));
    // Those that the client left are not over at once.
    assert_eq!(b.log.finished.len(), 3);
    b.wait(2 * HOLD_NS);
    let left = Outcome::ClientDisconnect;
    assert_eq!(
        b.by_agent(),
        [
            agent(1, Outcome::Success, 1),
            agent(3, left(Phase::BeforeFirstToken), 0),
            agent(5, left(Phase::MidStream), 2),
            agent(7, Outcome::ServerDisconnect, 0),
            agent(9, Outcome::ServerDisconnect, 0),
        ]
    );
}

#[test]
fn the_end_of_the_connection() {
    for (reason, expected) in [
        (EndReason::PeerReset, Outcome::ClientDisconnect(Phase::MidStream)),
        (EndReason::LocalFin, Outcome::ServerDisconnect),
    ] {
        let (mut b, mut e) = Bench::http2();
        b.client(&[e.request(3), e.request(5)].concat());
        b.server(&[e.head(3, SSE), token(3, "a"), e.head(5, SSE), token(5, "a")].concat());
        b.end(reason);
        b.wait(2 * HOLD_NS);
        assert_eq!(b.outcomes(), [Outcome::Success, expected, expected]);
    }
    let (mut b, mut e) = Bench::http2();
    b.client(&e.request(3));
    b.wait(IDLE_NS + MS);
    assert_eq!(b.outcomes(), [Outcome::Success, Outcome::Timeout]);
}

#[test]
fn a_gap_in_a_frame_of_content_costs_one_stream() {
    let (mut b, mut e) = Bench::http2();
    b.client(&[e.request(3), e.request(5)].concat());
    b.server(&[e.head(3, SSE), e.head(5, SSE)].concat());
    let data = token(3, "some words");
    b.server(&data[..15]);
    b.lose(Direction::Write, 20);
    b.server(&[&data[35..], &token(5, "b"), &done(5), &done(3)].concat());
    b.wait(2 * HOLD_NS);
    let lost = Outcome::Incomplete;
    let ok = Outcome::Success;
    assert_eq!(b.by_agent(), [agent(1, ok, 1), agent(3, lost, 0), agent(5, ok, 1)]);
    assert_eq!(b.count("incomplete", "response_gap"), 1);
}

#[test]
fn a_gap_over_frames_costs_what_was_open_and_then_it_goes_on() {
    let (mut b, mut e) = Bench::http2();
    b.client(&[e.request(3), e.request(5)].concat());
    b.server(&[e.head(3, SSE), token(3, "a")].concat());
    let missed = [e.head(5, SSE), token(5, "b")].concat();
    b.lose(Direction::Write, missed.len() as u32);
    b.server(&[token(5, "c"), token(3, "d"), done(3), done(5)].concat());
    b.wait(2 * HOLD_NS);
    assert_eq!(b.outcomes()[1..], [Outcome::Incomplete; 2]);
    // Its head refers to what came before the gap: it is not guessed at.
    b.client(&e.request(7));
    b.server(&[e.head(7, SSE), token(7, "a"), done(7)].concat());
    assert_eq!(b.outcomes()[3..], [Outcome::Incomplete]);
    assert_eq!(b.count("incomplete", "unknown_headers"), 1);
    // One that refers to nothing older is exact again.
    b.client(&e.request(9));
    let head =
        Ends::block(&mut e.server, &[(":status", "200"), ("content-type", "text/event-stream; x")]);
    b.server(&[frame(1, 4, 9, &head), token(9, "a"), done(9)].concat());
    assert_eq!(b.outcomes()[4..], [Outcome::Success]);
}

/// What goes by unread after a loss may be about streams that were opened since.
#[test]
fn streams_opened_while_the_server_cannot_be_followed() {
    let (mut b, mut e) = Bench::http2();
    b.lose(Direction::Write, 50);
    // The middle of some frame.
    b.server(&token(1, "x")[3..]);
    b.wait(2 * HOLD_NS);
    b.client(&e.request(3));
    b.server(&[&e.head(3, SSE)[..], &token(3, "a")[..30]].concat()[5..]);
    b.server(&done(3));
    assert_eq!(b.by_agent()[1..], [agent(3, Outcome::Incomplete, 0)]);
    // A response without its head, whose loss nothing shows.
    let mut b = Bench::joined();
    let mut e = Ends::new();
    b.client(&e.request(1));
    b.server(&[token(1, "b"), done(1)].concat());
    assert_eq!(b.outcomes(), [Outcome::Incomplete]);
}

/// What the client sent in the gap may have been a reset: whose response comes to its end was not.
#[test]
fn a_gap_in_requests() {
    let (mut b, mut e) = Bench::http2();
    b.client(&[e.request(3), e.request(5)].concat());
    b.server(&[e.head(3, SSE), token(3, "a"), e.head(5, SSE)].concat());
    b.lose(Direction::Read, 400);
    b.client(&frame(8, 0, 0, &[0, 0, 1, 0]));
    b.wait(2 * HOLD_NS);
    b.server(&done(3));
    b.end(EndReason::PeerFin);
    b.end(EndReason::LocalFin);
    b.wait(2 * HOLD_NS);
    let ok = Outcome::Success;
    assert_eq!(b.by_agent(), [agent(1, ok, 1), agent(3, ok, 1), agent(5, Outcome::Incomplete, 0)]);
}

#[test]
fn joined_in_the_middle() {
    let mut e = Ends::new();
    e.request(1);
    let mut b = Bench::joined();
    b.server(&[token(1, "x"), done(1)].concat());
    b.client(&e.request(3));
    let mut fresh = Ends::new();
    b.client(&fresh.request(5));
    b.server(&[fresh.head(5, SSE), token(5, "a"), done(5)].concat());
    assert_eq!(b.by_agent(), [agent(5, Outcome::Success, 1)]);
    assert_eq!(b.count("resyncs", "unknown_headers"), 1);
    assert!(b.pipeline.take_verdicts().is_empty());
}

#[test]
fn an_upgrade_from_http1() {
    let r = request().replace("host: a", "host: a\r\nconnection: upgrade\r\nupgrade: h2c");
    let mut e = Ends::new();
    let answer = "HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n";
    let rest = [frame(4, 0, 0, b""), e.head(1, SSE), token(1, "a")].concat();
    // In one call, or with the client's preface before the answer.
    for early in [false, true] {
        let (mut b, mut e) = (Bench::new(), Ends::new());
        b.read(&r);
        if early {
            b.client(&[start(), e.request(3)].concat());
        }
        b.server(&[answer.as_bytes(), &rest].concat());
        if !early {
            b.client(&[start(), e.request(3)].concat());
        }
        b.server(&done(1));
        let mut server = Ends::new();
        server.head(1, SSE);
        b.server(&[server.head(3, SSE), done(3)].concat());
        assert_eq!(b.outcomes(), [Outcome::Success; 2], "{early}");
        assert_eq!(b.log.finished[0].0.token_events, 1);
        assert_eq!(b.log.finished[0].0.status, Some(200));
    }
    // Declined, it stays HTTP/1.
    let mut b = Bench::new();
    b.read(&r);
    b.write(&(HEAD.to_owned() + &super::done()));
    b.exchange();
    assert_eq!(b.outcomes(), [Outcome::Success; 2]);
}

#[test]
fn grpc_statuses() {
    const CALL: &str = "/inference.GRPCInferenceService/ModelStreamInfer";
    let message = |stream| frame(0, 0, stream, b"\0\0\0\0\x03\x12\x01x");
    let (mut b, mut e) = Bench::http2();
    let kind = "application/grpc";
    for stream in [3, 5, 7, 9] {
        b.client(&e.post(stream, CALL, kind));
    }
    b.server(&[e.head(3, kind), message(3), message(3), e.trailers(3, "0")].concat());
    b.server(&[e.head(5, kind), message(5), e.trailers(5, "8")].concat());
    let refused = [(":status", "200"), ("content-type", kind), ("grpc-status", "7")];
    b.server(&frame(1, 5, 7, &Ends::block(&mut e.server, &refused)));
    b.server(&[e.head(9, kind), message(9), frame(0, END_STREAM, 9, b"")].concat());
    assert_eq!(
        b.by_agent()[1..],
        [
            agent(3, Outcome::Success, 2),
            agent(5, Outcome::StreamError, 1),
            agent(7, Outcome::HttpError, 0),
            agent(9, Outcome::ServerDisconnect, 1),
        ]
    );
}

/// gRPC-Web has its status in the body, or in the head of an answer without one.
#[test]
fn grpc_web_statuses() {
    const CALL: &str = "/inference.GRPCInferenceService/ModelStreamInfer";
    const UNARY: &str = "/inference.GRPCInferenceService/ModelInfer";
    let kind = "application/grpc-web+proto";
    let message: &[u8] = b"\0\0\0\0\x03\x12\x01x";
    let trailers = |status| [&b"\x80\0\0\0\x10grpc-status: "[..], status, b"\r\n"].concat();
    let (mut b, mut e) = Bench::http2();
    for (stream, path) in [(3, CALL), (5, CALL), (7, CALL), (9, UNARY), (11, UNARY)] {
        b.client(&e.post(stream, path, kind));
    }
    for (stream, status) in [(3, &b"0"[..]), (5, b"8"), (9, b"0"), (11, b"3")] {
        b.server(&[e.head(stream, kind), frame(0, 0, stream, message)].concat());
        b.server(&frame(0, END_STREAM, stream, &trailers(status)));
    }
    let refused = [(":status", "200"), ("content-type", kind), ("grpc-status", "7")];
    b.server(&frame(1, 5, 7, &Ends::block(&mut e.server, &refused)));
    let (ok, refused) = (Outcome::Success, Outcome::HttpError);
    assert_eq!(
        b.by_agent()[1..],
        [
            agent(11, refused, 0),
            agent(3, ok, 1),
            agent(5, Outcome::StreamError, 1),
            agent(7, refused, 0),
            agent(9, ok, 0),
        ]
    );

    let mut b = Bench::new();
    for (body, head, outcome) in [
        ([message, &trailers(b"0")].concat(), "", ok),
        (trailers(b"9"), "", refused),
        (Vec::new(), "grpc-status: 7\r\n", refused),
    ] {
        let mut ask = format!("POST {CALL} HTTP/1.1\r\ncontent-type: {kind}\r\n");
        ask += "content-length: 5\r\n\r\n\0\0\0\0\0";
        b.read(&ask);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{head}");
        let head = format!("{head}content-length: {}\r\n\r\n", body.len());
        b.server(&[head.as_bytes(), &body].concat());
        assert_eq!(b.outcomes().pop(), Some(outcome), "{head}");
    }
}

/// A WebSocket on a stream (RFC 8441) is other HTTP, whatever it carries.
#[test]
fn a_websocket_on_a_stream() {
    let (mut b, mut e) = Bench::http2();
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":path", "/v1/realtime"),
        ("sec-websocket-version", "13"),
    ];
    b.client(&frame(1, 4, 3, &Ends::block(&mut e.client, &fields)));
    b.server(&e.head(3, "text/plain"));
    b.client(&[frame(0, 0, 3, b"\x81\x02{}"), e.request(5)].concat());
    b.server(&[frame(0, 0, 3, b"\x81\x02{}"), e.head(5, SSE), token(5, "a"), done(5)].concat());
    b.server(&frame(0, END_STREAM, 3, b"\x88\0"));
    assert_eq!(b.by_agent()[1..], [agent(5, Outcome::Success, 1)]);
    assert_eq!(b.count("exchanges", "not_llm"), 1);
    assert_eq!(b.count("resyncs", "bad_frame") + b.count("resyncs", "unknown_stream"), 0);
}

#[test]
fn too_many_streams() {
    let (mut b, mut e) = Bench::http2();
    for n in 0..1100 {
        b.client(&e.request(3 + 2 * n));
    }
    assert_eq!(b.log.finished.len(), 1 + 1100 - 1024);
    assert_eq!(b.count("incomplete", "too_many_pipelined"), 1100 - 1024);
}

#[test]
fn not_http2() {
    let mut b = Bench::new();
    b.read("PRI * HTTP/2.0\r\n\r\nno");
    assert_eq!(b.pipeline.take_verdicts(), [b.id]);
    let mut b = Bench::new();
    b.server(&frame(4, 0, 0, b""));
    b.read("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(b.pipeline.take_verdicts(), [b.id]);
    // A request whose first bytes could be the preface's.
    let mut b = Bench::new();
    let r = request();
    b.read(&r[..1]);
    b.read(&r[1..]);
    b.write(&(HEAD.to_owned() + &super::done()));
    assert_eq!(b.outcomes(), [Outcome::Success]);
    assert_eq!(b.log.finished[0].0.start, 1001 * MS);
}

fn summary(b: &Bench) -> Vec<String> {
    let finished = b.log.finished.iter();
    let mut all: Vec<_> = finished
        .map(|(f, _)| {
            let (agent, bytes) = (&f.user_agent, f.response_bytes);
            format!("{agent:?} {:?} {} {bytes} {:?}", f.outcome, f.token_events, f.model)
        })
        .collect();
    all.sort();
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn split_anyhow(cuts in prop::collection::vec(1_usize..120, 1..60)) {
        let (mut b, mut whole) = (Bench::new(), Bench::new());
        let mut cuts = cuts.iter().cycle();
        for (client, bytes) in conversation() {
            let direction = if client { Direction::Read } else { Direction::Write };
            whole.send_bytes(direction, &bytes);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let n = (*cuts.next().unwrap()).min(rest.len());
                b.send_bytes(direction, &rest[..n]);
                rest = &rest[n..];
            }
        }
        prop_assert_eq!(summary(&b), summary(&whole));
        prop_assert_eq!(b.outcomes(), vec![Outcome::Success; 3]);
    }

    /// Segments that are dropped, doubled, cut short or changed: no panic, every exchange ends once,
    /// and whatever is told of one is what went on.
    #[test]
    fn anything(faults in prop::collection::vec((0_u8..8, any::<u16>()), 1..40), joined in any::<bool>()) {
        let mut b = if joined { Bench::joined() } else { Bench::new() };
        let mut honest = true;
        for (n, (client, mut bytes)) in conversation().into_iter().cycle().take(30).enumerate() {
            let direction = if client { Direction::Read } else { Direction::Write };
            let (what, at) = faults[n % faults.len()];
            let at = usize::from(at) % bytes.len();
            match what {
                0 => b.lose(direction, bytes.len() as u32),
                1 => {
                    b.send_bytes(direction, &bytes);
                    let pos = b.at[direction as usize].wrapping_sub(bytes.len() as u32);
                    b.data(direction, pos, b.t, &bytes, bytes.len() as u32);
                }
                2 => {
                    b.send_bytes(direction, &bytes[..at]);
                    b.lose(direction, (bytes.len() - at) as u32);
                }
                3 => {
                    honest = false;
                    bytes[at] ^= 0x55;
                    b.send_bytes(direction, &bytes);
                }
                _ => b.send_bytes(direction, &bytes),
            }
            if n % 7 == 0 {
                b.wait(2 * HOLD_NS);
            }
        }
        b.end(EndReason::Closed);
        b.wait(2 * HOLD_NS);
        b.pipeline.finish(b.t, &mut b.log);
        let open = b.count("exchanges", "still_open") as usize;
        prop_assert_eq!(b.log.started, b.log.finished.len() + open);
        if honest {
            for (agent, outcome, tokens) in b.by_agent() {
                let most = match &*agent { "agent1" => 3, "agent3" => 2, _ => 0 };
                prop_assert!(outcome != Outcome::Success || tokens == most, "{agent} {tokens}");
            }
        }
    }
}
