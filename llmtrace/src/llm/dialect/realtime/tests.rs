use super::*;
use crate::http::Framing;
use crate::llm::{Outcome, Phase};

fn session() -> Session {
    let head = RequestHead {
        method: "GET",
        target: "/v1/realtime?intent=x&model=gpt-realtime",
        minor: 1,
        host: None,
        user_agent: Some("agent"),
        content_type: None,
        content_encoding: None,
        traceparent: None,
        tracestate: None,
        expect_continue: false,
        upgrade: true,
        keep_alive: true,
        framing: Framing::None,
    };
    classify(&head).expect("a session")
}

struct Bench {
    session: Session,
    t: Ns,
    started: usize,
    finished: Vec<Finished>,
}

impl Bench {
    fn new() -> Self {
        Self { session: session(), t: 100, started: 0, finished: vec![] }
    }

    fn say(&mut self, from: From, text: &str) {
        let settings =
            Settings { itl_bounds: [10].into(), token_times: true, ..Settings::default() };
        self.t += 10;
        self.session.begin(from, self.t);
        text.as_bytes().chunks(7).for_each(|piece| self.session.data(from, piece));
        let Self { session, started, finished, .. } = self;
        session.end(from, self.t + 5, Role::Server, &settings, |act| match act {
            Act::Started(_) => *started += 1,
            Act::Finished(f) => finished.push(*f),
        });
    }

    fn server(&mut self, text: &str) {
        self.say(From::Server, text);
    }

    fn delta(&mut self, id: &str, kind: &str, text: &str) {
        self.server(&format!(
            r#"{{"type":"response.{kind}.delta","response_id":"{id}","delta":"{text}"}}"#
        ));
    }

    fn done(&mut self, id: &str, rest: &str) {
        self.server(&format!(r#"{{"type":"response.done","response":{{"id":"{id}",{rest}}}}}"#));
    }
}

const CREATE: &str = r#"{"event_id":"e1","type":"response.create","response":{"id":"no"}}"#;

fn created(id: &str) -> String {
    format!(r#"{{"type":"response.created","response":{{"id":"{id}","status":"in_progress"}}}}"#)
}

#[test]
fn asked_by_the_client() {
    let mut b = Bench::new();
    b.server(r#"{"type":"session.created","session":{"model":"gpt-realtime-2"}}"#);
    b.say(From::Client, r#"{"type":"input_audio_buffer.append","audio":"AAAA"}"#);
    b.say(From::Client, CREATE);
    let t0 = b.t;
    b.server(&created("r1"));
    b.delta("r1", "output_audio_transcript", "");
    b.delta("r1", "output_text", "Hi");
    let first = b.t + 5;
    b.delta("r1", "output_audio", "AAAA");
    b.done(
        "r1",
        r#""status":"completed","usage":{"input_tokens":9,"output_tokens":2,"input_token_details":{"cached_tokens":4}}"#,
    );
    let f = &b.finished[0];
    assert_eq!((b.started, f.outcome, f.start), (1, Outcome::Success, t0));
    assert_eq!((f.first_token, f.token_events, f.events), (Some(first), 2, 5));
    let usage = Usage { prompt: Some(9), output: Some(2), cached: Some(4), reasoning: None };
    assert_eq!((f.usage, f.status, f.stream), (usage, Some(101), true));
    assert_eq!(f.finish_reason.as_deref(), Some("completed"));
    assert_eq!((f.model.as_deref(), f.endpoint), (Some("gpt-realtime-2"), "/v1/realtime"));
    assert_eq!((f.user_agent.as_deref(), b.session.open()), (Some("agent"), 0));
}

#[test]
fn asked_by_silence_and_every_ending() {
    let ends = [
        (r#""status":"incomplete","status_details":{"reason":"max_output_tokens"}"#, "success"),
        (r#""status":"failed","status_details":{"type":"failed","error":{"code":"x"}}"#, "error"),
        (r#""status":"cancelled","status_details":{"reason":"turn_detected"}"#, "left"),
    ];
    for (end, what) in ends {
        let mut b = Bench::new();
        b.server(r#"{"type":"input_audio_buffer.committed","item_id":"i"}"#);
        let t0 = b.t + 5;
        b.server(&created("r"));
        b.delta("r", "audio", "AA");
        b.done("r", end);
        let f = &b.finished[0];
        let expected = match what {
            "success" => Outcome::Success,
            "error" => Outcome::StreamError,
            _ => Outcome::ClientDisconnect(Phase::MidStream),
        };
        assert_eq!((f.outcome, f.start), (expected, t0), "{what}");
    }
}

#[test]
fn several_at_once_and_the_end_of_the_session() {
    let mut b = Bench::new();
    b.say(From::Client, CREATE);
    b.say(From::Client, CREATE);
    b.say(From::Client, CREATE);
    b.server(&created("a"));
    b.server(&created("b"));
    b.delta("b", "output_text", "x");
    b.server(r#"{"type":"error","error":{"type":"invalid_request_error"}}"#);
    assert_eq!((b.finished.len(), b.finished[0].outcome), (1, Outcome::StreamError));
    let t = b.t + 100;
    let finished = &mut b.finished;
    b.session.end_all(
        |e| e.client_left(t),
        |act| match act {
            Act::Finished(f) => finished.push(*f),
            Act::Started(_) => panic!(),
        },
    );
    let outcomes: Vec<_> = b.finished[1..].iter().map(|f| f.outcome).collect();
    let left = Outcome::ClientDisconnect;
    assert_eq!(outcomes, [left(Phase::BeforeFirstToken), left(Phase::MidStream)]);
    // No more than so many are followed.
    let mut b = Bench::new();
    (0..40).for_each(|_| b.say(From::Client, CREATE));
    assert_eq!((b.started, b.session.open()), (MAX_RESPONSES, MAX_RESPONSES));
}

#[test]
fn what_was_missed_is_not_guessed() {
    let mut b = Bench::new();
    // A message with a hole may have asked for the next response, but not for the one after.
    let settings = Settings { itl_bounds: [10].into(), token_times: false, ..Settings::default() };
    b.session.begin(From::Client, b.t);
    b.session.hole(From::Client);
    b.session.end(From::Client, b.t, Role::Server, &settings, |_| panic!("nothing is known"));
    b.server(&created("r"));
    b.done("r", r#""status":"completed""#);
    b.say(From::Client, CREATE);
    b.server(&created("s"));
    b.done("s", r#""status":"completed""#);
    let outcomes: Vec<_> = b.finished.iter().map(|f| f.outcome).collect();
    assert_eq!(outcomes, [Outcome::Incomplete, Outcome::Success]);
    // A client that cannot be followed any more may have asked for any of them.
    b.session.lost(From::Client, b.t, |_| panic!("nothing was open"));
    for id in ["t", "u"] {
        b.server(&created(id));
        b.done(id, r#""status":"completed""#);
    }
    assert!(b.finished[2..].iter().all(|f| f.outcome == Outcome::Incomplete));
    b.server(&created("v"));
    let finished = &mut b.finished;
    b.session.lost(From::Server, b.t, |act| match act {
        Act::Finished(f) => finished.push(*f),
        Act::Started(_) => panic!(),
    });
    assert_eq!((b.finished.len(), b.finished[4].outcome), (5, Outcome::Incomplete));
    // Nor is anything begun whose end would not be seen.
    let started = b.started;
    b.say(From::Client, CREATE);
    assert_eq!((b.started, b.session.open()), (started, 0));
}

#[test]
fn other_paths() {
    for (target, is) in [
        ("/openai/realtime?deployment=d", true),
        ("/v1/realtime/", true),
        ("/v1/realtime/client_secrets", false),
        ("/ws", false),
    ] {
        let mut head = RequestHead {
            method: "GET",
            target,
            minor: 1,
            host: None,
            user_agent: None,
            content_type: None,
            content_encoding: None,
            traceparent: None,
            tracestate: None,
            expect_continue: false,
            upgrade: true,
            keep_alive: true,
            framing: Framing::None,
        };
        assert_eq!(classify(&head).is_some(), is, "{target}");
        head.method = "POST";
        assert!(classify(&head).is_none());
    }
}
