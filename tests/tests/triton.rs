//! NVIDIA's Triton: its generate extension over HTTP, and its gRPC streams.

use std::time::Duration;

use llmtrace_tests::agent::{Entry, Options, require_bpf, serial};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::h2::{Connection, Grpc};
use llmtrace_tests::net::Address;
use llmtrace_tests::post::{Answer, post};
use llmtrace_tests::stack::Server;
use serde_json::{Value, json};

const START_LIMIT: Duration = Duration::from_secs(30);
const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

#[track_caller]
fn entry<'a>(entries: &'a [Entry], user_agent: &str) -> &'a Entry {
    let mut found = entries.iter().filter(|e| e.user_agent.as_deref() == Some(user_agent));
    let entry = found.next().unwrap_or_else(|| panic!("{user_agent} is traced"));
    assert!(found.next().is_none(), "{user_agent} is traced once");
    entry
}

/// A server whose model is loaded: it listens before.
fn start() -> Server {
    let server = Server::triton();
    wait_for("Triton to load its model", START_LIMIT, || {
        let body = json!({"text_input": "a", "max_tokens": 1});
        let answer = post(&server.address, "/v2/models/tiny/generate", "warm-up", &body, None);
        answer.is_ok_and(|answer| answer.status == 200).then_some(())
    });
    server
}

#[test]
fn generate_and_generate_stream() {
    require_bpf();
    let _alone = serial();
    let server = start();
    let agent = Options::default().port(server.port()).start();
    let ask = |user_agent: &str, path: &str, body: Value, leave_after| -> Answer {
        post(&server.address, path, user_agent, &body, leave_after).expect("an answer")
    };
    let (whole, stream) = ("/v2/models/tiny/generate", "/v2/models/tiny/generate_stream");
    let versioned = "/v2/models/tiny/versions/1/generate_stream";
    let of = |n: u64| json!({"text_input": "word word", "max_tokens": n});
    let answers = [
        ask("streams", stream, of(12), None),
        ask("version", versioned, of(5), None),
        ask("whole", whole, of(1), None),
        ask("nowhere", "/v2/models/none/generate", of(1), None),
        ask("refused", stream, json!({"max_tokens": "many"}), None),
        ask("fails", stream, json!({"text_input": "a", "max_tokens": 9, "fail_after": 4}), None),
        ask("leaves", stream, of(900), Some(6)),
        ask("after", stream, of(3), None),
    ];
    agent.wait_for_requests("server", answers.len());
    let entries = agent.stop();
    assert_eq!(entries.len(), answers.len(), "each call once: {entries:#?}");
    for (n, outcome) in [
        "success",
        "success",
        "success",
        "http_error",
        "http_error",
        "stream_error",
        "client_disconnect",
        "success",
    ]
    .into_iter()
    .enumerate()
    {
        let (answer, entry) = (&answers[n], entry(&entries, &answers[n].user_agent));
        let what = format!("{}: {answer:?}\n{entry:?}", answer.user_agent);
        assert_eq!((&*entry.outcome, entry.status), (outcome, Some(answer.status)), "{what}");
        assert!(entry.endpoint.contains("/generate"), "{what}");
        if outcome == "http_error" {
            continue;
        }
        assert_eq!(entry.model.as_deref(), Some("tiny"), "{what}");
        assert_eq!(entry.stream, answer.streamed, "{what}");
        let times = answer.times("/text_output");
        assert!(!times.is_empty(), "{what}");
        if outcome == "client_disconnect" {
            assert!(entry.token_events >= times.len() as u64, "{what}");
        } else if answer.streamed {
            assert_eq!(entry.token_events, times.len() as u64, "{what}");
            let traced = entry.ttft().expect("a first token");
            assert!(traced <= times[0] - answer.send_ns, "{what}");
        }
    }
}

/// A length-delimited field of a protobuf message.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("a short field");
    assert!(length < 0x80);
    [&[number << 3 | 2, length], bytes].concat()
}

/// An input of one value: its name and type, and the shape `[1]`.
fn input(name: &str, datatype: &str) -> Vec<u8> {
    let tensor = [field(1, name.as_bytes()), field(2, datatype.as_bytes()), field(3, &[1])];
    field(5, &tensor.concat())
}

/// KServe's ModelInferRequest.
fn infer(model: &str, text: &str, max_tokens: i32, fail_after: i32) -> Vec<u8> {
    let text = [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    [
        field(1, model.as_bytes()),
        input("text_input", "BYTES"),
        input("max_tokens", "INT32"),
        input("fail_after", "INT32"),
        field(7, &text),
        field(7, &max_tokens.to_le_bytes()),
        field(7, &fail_after.to_le_bytes()),
    ]
    .concat()
}

#[test]
fn model_stream_infer() {
    require_bpf();
    let _alone = serial();
    let server = start();
    let grpc = Address::loopback(server.port() + 1);
    let agent = Options::default().pid(server.id()).token_times().start();
    let connection = Connection::new(&grpc);
    let calls = [
        ("grpc/streams", "tiny", 20, -1),
        ("grpc/one", "tiny", 1, -1),
        ("grpc/fails", "tiny", 9, 4),
        ("grpc/nowhere", "none", 3, -1),
        ("grpc/after", "tiny", 5, -1),
    ];
    let answers = calls.map(|(who, model, tokens, fail)| {
        connection.call(who, STREAM, &infer(model, "word word", tokens, fail), usize::MAX)
    });
    agent.wait_for_requests("server", calls.len());
    let entries = agent.stop();
    for ((who, model, tokens, _), answer) in calls.iter().zip(&answers) {
        let entry = entry(&entries, who);
        let what = format!("{who}: {answer:?}\n{entry:?}");
        assert_eq!(answer.status, Some(0), "{what}: errors are messages here");
        let (outcome, tokens) = match *who {
            "grpc/fails" => ("stream_error", 4),
            "grpc/nowhere" => ("stream_error", 0),
            _ => ("success", *tokens as u64),
        };
        assert_eq!((&*entry.outcome, entry.token_events), (outcome, tokens), "{what}");
        assert_eq!(entry.events, answer.messages.len() as u64, "{what}");
        assert_eq!(entry.model.as_deref(), Some(*model), "{what}");
        assert_times(answer, entry, &what);
    }
}

/// Written before it was read, message by message.
#[track_caller]
fn assert_times(answer: &Grpc, entry: &Entry, what: &str) {
    let times = entry.token_times_ns.clone().unwrap_or_default();
    assert_eq!(times.len() as u64, entry.token_events, "{what}");
    for (traced, client) in times.iter().zip(&answer.times_ns) {
        assert!(traced <= client, "{what}: a message {} ns late", traced - client);
    }
}
