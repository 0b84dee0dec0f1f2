use std::sync::Arc;

use super::*;
use crate::http::{Event, RequestParser, ResponseParser};

const ASK: &str = r#"{"messages":[{"role":"user","content":"x"}],"model":"asked","stream":true}"#;

fn start(path: &str, body: &str) -> Exchange {
    let settings = Settings { itl_bounds: Arc::new([10, 20, 40]), token_times: true };
    let bytes = format!(
        "POST {path} HTTP/1.1\r\nuser-agent: test\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut exchange = None;
    RequestParser::new().push(bytes.as_bytes(), |event| match event {
        Event::Head(head) => exchange = Some(Exchange::start(&settings, Role::Server, 100, head)),
        Event::Body(bytes) => exchange.as_mut().expect("a head").request_body(bytes),
        Event::End => exchange.as_mut().expect("a head").request_end(150),
        _ => {}
    });
    exchange.expect("a request")
}

struct Server {
    exchange: Exchange,
    parser: ResponseParser,
}

impl Server {
    fn new(head: &str) -> Self {
        Self::of(start("/v1/chat/completions", ASK), head)
    }

    fn stream() -> Self {
        Self::new(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        )
    }

    fn of(exchange: Exchange, head: &str) -> Self {
        let mut server = Self { exchange, parser: ResponseParser::new() };
        server.write(200, head);
        server
    }

    fn write(&mut self, t: Ns, bytes: &str) {
        let exchange = &mut self.exchange;
        self.parser.push(bytes.as_bytes(), |event| match event {
            Event::Head(head) => exchange.response_head(t, head),
            Event::Body(bytes) => exchange.response_body(t, bytes),
            Event::End => exchange.response_end(t),
            Event::Start => {}
            other => panic!("{other:?}"),
        });
    }

    fn events(&mut self, t: Ns, events: &[&str]) {
        let text: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
        self.write(t, &format!("{:x}\r\n{text}\r\n", text.len()));
    }

    fn close(&mut self, t: Ns) {
        let exchange = &mut self.exchange;
        self.parser.eof(|event| {
            if matches!(event, Event::End) {
                exchange.response_end(t);
            }
        });
        exchange.server_left(t);
    }

    fn finish(self) -> Finished {
        self.exchange.finish()
    }
}

const ROLE: &str = r#"{"model":"said","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
const A: &str =
    r#"{"model":"said","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}"#;
const STOP: &str = r#"{"model":"said","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
const USAGE: &str =
    r#"{"model":"said","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12}}"#;
const ERROR: &str = r#"{"error":{"message":"x","code":500}}"#;
const DONE: &str = "[DONE]";

#[test]
fn a_whole_stream() {
    let mut server = Server::stream();
    server.events(300, &[ROLE]);
    server.events(400, &[A]);
    server.events(415, &[A, A]);
    server.write(420, "b\r\n: ping\r\n\r\n\r\n");
    server.events(500, &[A]);
    server.events(510, &[STOP, USAGE]);
    server.events(520, &[DONE]);
    server.write(530, "0\r\n\r\n");
    server.exchange.client_left(540);
    let f = server.finish();
    assert_eq!(f.outcome, Outcome::Success);
    assert_eq!((f.start, f.request_end, f.first_byte), (100, Some(150), Some(200)));
    assert_eq!((f.first_token, f.last_token, f.end), (Some(400), Some(500), 530));
    assert_eq!((f.events, f.token_events, f.first_tokens), (8, 4, 1));
    assert_eq!((f.stream, f.status, &*f.method), (true, Some(200), "POST"));
    assert_eq!((f.model.as_deref(), f.finish_reason.as_deref()), (Some("said"), Some("stop")));
    assert_eq!((f.usage.prompt, f.usage.output), (Some(9), Some(12)));
    assert_eq!((f.max_stall, f.itl_source), (Some(85), TokenSource::Events));
    let itl = f.itl.expect("gaps");
    // 15, 0, 85.
    assert_eq!((&*itl.counts, itl.sum), (&[1, 1, 0, 1][..], 100));
    assert_eq!(f.token_times, Some(vec![400, 415, 415, 500]));
    assert_eq!(f.user_agent.as_deref(), Some("test"));
}

#[test]
fn outcomes() {
    use Outcome::*;
    type Step = fn(&mut Server);
    let table: &[(&str, &[&str], Step, Outcome)] = &[
        ("no [DONE], no finish", &[A], |s| s.write(9, "0\r\n\r\n"), Success),
        ("finish, then broken off", &[A, STOP], |s| s.close(9), ServerDisconnect),
        ("[DONE], then broken off", &[A, STOP, DONE], |s| s.close(9), Success),
        ("[DONE], then the client", &[A, DONE], |s| s.exchange.client_left(400), Success),
        ("killed", &[A], |s| s.close(9), ServerDisconnect),
        ("killed early", &[ROLE], |s| s.close(9), ServerDisconnect),
        (
            "aborted early",
            &[ROLE],
            |s| s.exchange.client_left(400),
            ClientDisconnect(Phase::BeforeFirstToken),
        ),
        ("aborted", &[A], |s| s.exchange.client_left(400), ClientDisconnect(Phase::MidStream)),
        (
            "aborted, written to, closed",
            &[ROLE],
            |s| {
                s.exchange.client_left(400);
                s.events(410, &[A]);
                s.close(411);
            },
            ClientDisconnect(Phase::BeforeFirstToken),
        ),
        (
            "half closed",
            &[],
            |s| {
                s.exchange.client_left(400);
                s.events(410, &[A, DONE]);
                s.write(411, "0\r\n\r\n");
            },
            Success,
        ),
        (
            "aborted, then ended by a gateway",
            &[A],
            |s| {
                s.exchange.client_left(400);
                s.write(411, "0\r\n\r\n");
            },
            ClientDisconnect(Phase::MidStream),
        ),
        (
            "half closed, no [DONE]",
            &[],
            |s| {
                s.exchange.client_left(400);
                s.events(410, &[A, STOP]);
                s.write(411, "0\r\n\r\n");
            },
            Success,
        ),
        ("error, [DONE]", &[A, ERROR, DONE], |s| s.write(9, "0\r\n\r\n"), StreamError),
        ("error, broken off", &[A, ERROR], |s| s.close(9), StreamError),
        ("idle", &[A], |s| s.exchange.timed_out(9), Timeout),
        (
            "lost",
            &[A, DONE],
            |s| {
                s.write(9, "0\r\n\r\n");
                s.exchange.lost(10);
            },
            Incomplete,
        ),
    ];
    for (name, events, step, outcome) in table {
        let mut server = Server::stream();
        events.iter().for_each(|event| server.events(300, &[event]));
        step(&mut server);
        assert_eq!(server.finish().outcome, *outcome, "{name}");
    }
}

/// A client may send a request on a connection that the server has closed.
#[test]
fn cut_before_it_began() {
    let mut exchange = start("/v1/chat/completions", ASK);
    exchange.server_left(40);
    let f = exchange.finish();
    assert_eq!((f.outcome, f.start, f.end), (Outcome::ServerDisconnect, 100, 100));
}

#[test]
fn bodies_that_last_until_the_close() {
    let run = |kind: &str, body: &str, left: bool| {
        let mut server =
            Server::new(&format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n\r\n{body}"));
        if left {
            server.exchange.client_left(300);
        }
        server.close(400);
        server.finish().outcome
    };
    let stream = "text/event-stream; charset=utf-8";
    assert_eq!(run(stream, &format!("data: {A}\n\ndata: [DONE]\n"), false), Outcome::Success);
    assert_eq!(run(stream, &format!("data: {A}\n\ndata: {STOP}\n\n"), false), Outcome::Success);
    assert_eq!(run(stream, &format!("data: {A}\n\n"), false), Outcome::ServerDisconnect);
    assert_eq!(
        run(stream, &format!("data: {A}\n\n"), true),
        Outcome::ClientDisconnect(Phase::MidStream)
    );
    assert_eq!(run("application/json", r#"{"a":[1]}"#, false), Outcome::Success);
    assert_eq!(run("application/json", r#"{"a":[1]"#, false), Outcome::ServerDisconnect);
}

#[test]
fn one_json_text() {
    let run = |status: &str, body: &str| {
        let mut server = Server::of(
            start("/v1/completions?api-version=1", r#"{"model":"asked","n":2}"#),
            &format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            ),
        );
        server.write(300, body);
        server.finish()
    };
    let f = run(
        "200 OK",
        r#"{"model":"said","choices":[{"text":"x","finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":1}},"error":null}"#,
    );
    assert_eq!((f.outcome, f.endpoint, f.stream), (Outcome::Success, "/v1/completions", false));
    assert_eq!((f.model.as_deref(), f.finish_reason.as_deref()), (Some("said"), Some("length")));
    assert_eq!((f.usage.prompt, f.usage.output, f.usage.cached), (Some(3), Some(5), Some(1)));
    assert_eq!((f.first_token, f.output_tokens()), (None, Some((5, TokenSource::Usage))));
    let f = run("200 OK", r#"{"error":{"message":"x"}}"#);
    assert_eq!((f.outcome, f.model.as_deref()), (Outcome::StreamError, Some("asked")));
    assert_eq!(run("500 Oops", "{}").outcome, Outcome::HttpError);
    let f = run("200 OK", r#"{"choices":[],"timings":{"prompt_n":4,"cache_n":2,"predicted_n":7}}"#);
    assert_eq!((f.usage.prompt, f.usage.output, f.usage.cached), (Some(6), Some(7), Some(2)));

    let mut cut = Server::new("HTTP/1.1 503 X\r\ncontent-length: 50\r\n\r\n{");
    cut.close(300);
    assert_eq!(cut.finish().outcome, Outcome::HttpError);
    let mut none = start("/v1/chat/completions", ASK);
    none.client_left(300);
    let f = none.finish();
    assert_eq!(f.outcome, Outcome::ClientDisconnect(Phase::BeforeFirstToken));
    assert_eq!((f.stream, f.status, f.end), (true, None, 300));
}

#[test]
fn cumulative_usage_gives_tokens_per_event() {
    let event = |n: u64| {
        format!(
            r#"{{"choices":[{{"index":0,"delta":{{"content":"x"}},"finish_reason":null}}],"usage":{{"completion_tokens":{n}}}}}"#
        )
    };
    let mut server = Server::stream();
    server.events(300, &[&event(2)]);
    server.events(330, &[&event(5)]);
    server.events(340, &[&event(5)]);
    server.events(350, &[&event(6)]);
    server.events(360, &[USAGE]);
    server.write(370, "0\r\n\r\n");
    let f = server.finish();
    assert_eq!((f.first_tokens, f.token_events, f.itl_source), (2, 4, TokenSource::Usage));
    let itl = f.itl.expect("gaps");
    // 3 of 10, none at 340, 1 of 20.
    assert_eq!((&*itl.counts, itl.sum), (&[3, 1, 0, 0][..], 50));
    assert_eq!(f.usage.output, Some(12));
}

#[test]
fn token_ids_give_tokens_per_event() {
    let event =
        |ids: &str| format!(r#"{{"choices":[{{"index":0,"text":"x","token_ids":{ids}}}]}}"#);
    let mut server = Server::stream();
    server.events(300, &[&event("[1]")]);
    server.events(330, &[&event("[1,2,3]")]);
    server.events(335, &[&event("[4]")]);
    server.write(370, "0\r\n\r\n");
    let f = server.finish();
    assert_eq!((f.first_tokens, f.itl_source), (1, TokenSource::Usage));
    assert_eq!(&*f.itl.as_ref().expect("gaps").counts, [4, 0, 0, 0]);
    assert_eq!(f.output_tokens(), Some((5, TokenSource::Usage)));
}

#[test]
fn gaps_are_per_choice() {
    let event =
        |index: u64| format!(r#"{{"choices":[{{"index":{index},"delta":{{"content":"x"}}}}]}}"#);
    let mut server = Server::stream();
    for (t, index) in [(300, 0), (305, 1), (330, 0), (335, 1), (336, u64::MAX)] {
        server.events(t, &[&event(index)]);
    }
    server.write(370, "0\r\n\r\n");
    let f = server.finish();
    assert_eq!((f.first_token, f.max_stall), (Some(300), Some(25)));
    let itl = f.itl.expect("gaps");
    assert_eq!((&*itl.counts, itl.sum), (&[0, 0, 2, 0][..], 60));
}

#[test]
fn coded_bodies_are_timed_but_not_read() {
    let mut server = Server::new(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n",
    );
    server.events(300, &[A, ERROR]);
    server.write(310, "0\r\n\r\n");
    let f = server.finish();
    assert_eq!((f.outcome, f.events, f.output_tokens()), (Outcome::Success, 0, None));
    assert!(f.stream && f.response_bytes > 0 && f.first_token.is_none());
}

#[test]
fn routes() {
    let endpoint = |path: &str| start(path, "{}").endpoint();
    assert_eq!(
        endpoint("/openai/deployments/d/chat/completions?api-version=1"),
        "/v1/chat/completions"
    );
    assert_eq!(endpoint("/completions/"), "/completions");
    assert_eq!(endpoint("/v1/completions/x"), "");
    let other = start("/health", "");
    assert!(!other.is_llm());
    assert!(other.size() <= 48);
    assert_eq!(other.finish().endpoint, "");
}

#[test]
fn a_path_that_proves_nothing() {
    let settings = Settings { itl_bounds: Arc::new([10]), token_times: false };
    let begin = |kind: &str, path: &str| {
        let text = format!("POST {path} HTTP/1.1\r\ncontent-type: {kind}\r\n\r\n");
        let (head, _) = crate::http::head::request(text.as_bytes()).unwrap().unwrap();
        Exchange::start(&settings, Role::Server, 100, &head)
    };
    // The key may come late, and in pieces.
    let mut exchange = begin("application/json", "/v1/messages");
    exchange.request_body(br#"{"max_tokens":5,"mess"#);
    assert!(!exchange.is_llm());
    exchange.request_body(br#"ages":[],"#);
    assert!(exchange.is_llm());
    exchange.request_body(br#""model":"m"}"#);
    exchange.request_end(150);
    exchange.server_left(160);
    let f = exchange.finish();
    // It began with its first byte, all the same.
    assert_eq!((f.start, f.request_end, f.endpoint), (100, Some(150), "/v1/messages"));
    assert_eq!((f.model.as_deref(), f.asked.max_tokens), (Some("m"), Some(5)));
    assert_eq!(f.outcome, Outcome::ServerDisconnect);
    // It never comes: nothing is held any more.
    for (kind, path, body) in [
        ("application/json", "/v1/messages", r#"{"to":"messages","text":{"messages":[]}}"#),
        ("application/json", "/", r#"{"jsonrpc":"2.0","inputs":1}"#),
        ("application/x-www-form-urlencoded", "/", "inputs=1"),
        ("application/json", "/generate", r#"{"prompt":"a cat"}"#),
        ("application/json", "/api/chat", ""),
    ] {
        let mut exchange = begin(kind, path);
        exchange.request_body(body.as_bytes());
        exchange.request_end(150);
        assert!(!exchange.is_llm() && exchange.size() <= 48, "{path} {body}");
        exchange.response_body(160, b"data: {}\n\n");
        assert_eq!(exchange.finish().endpoint, "", "{path}");
    }
    assert!(begin("application/octet-stream", "/").size() <= 48);
    // What is not seen to its end is no call either.
    let mut exchange = begin("application/json", "/generate");
    exchange.lost(120);
    exchange.request_body(br#"{"inputs":"x"}"#);
    assert!(!exchange.is_llm());
}

#[test]
fn a_live_stream_is_small() {
    let mut server = Server::stream();
    for t in 0..10_000 {
        server.events(t, &[A]);
        server.exchange.live.as_mut().expect("a call").stream.token_times = None;
    }
    let parsers = size_of::<RequestParser>() + size_of::<ResponseParser>();
    let all = server.exchange.size() + parsers + server.parser.buffered();
    println!("{all} bytes");
    assert!(all <= 2_500, "{all}");
}
