//! gRPC-Web behind envoy, which makes gRPC of it: each hop is traced as what it is.

use std::io::{Read as _, Write as _};

use llmtrace_tests::agent::{Entry, Options, require_bpf, serial};
use llmtrace_tests::compare::hop;
use llmtrace_tests::gateway::{Front, Gateway, Kind};
use llmtrace_tests::http::{Body, head};
use llmtrace_tests::net::Address;
use llmtrace_tests::stack::Server;
use serde_json::{Value, json};

const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";
const UNARY: &str = "/inference.GRPCInferenceService/ModelInfer";

/// What a client got.
#[derive(Debug, PartialEq, Eq)]
struct Got {
    messages: usize,
    /// Of the trailers in the body, or of the head of an answer without a body.
    status: Option<u32>,
}

fn framed(plan: &Value) -> Vec<u8> {
    let plan = plan.to_string();
    let mut message = b"\x0a\x05llama\x12".to_vec();
    message.push(u8::try_from(plan.len()).expect("a short plan"));
    message.extend(plan.bytes());
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(message.len()).expect("a short message").to_be_bytes());
    bytes.extend(message);
    bytes
}

/// `grpc-status` in the lines of a head or of trailers.
fn status(text: &[u8]) -> Option<u32> {
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    text.lines().find_map(|line| line.strip_prefix("grpc-status:")?.trim().parse().ok())
}

fn call(address: &Address, who: &str, path: &str, plan: &Value) -> Got {
    let body = framed(plan);
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: {who}\r\nX-Grpc-Web: 1\r\n\
         Content-Type: application/grpc-web+proto\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = address.connect().expect("a connection");
    stream.write_all(&[request.as_bytes(), &body].concat()).expect("envoy reads");
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).expect("an answer");
    let (head, len) = head(&raw).expect("HTTP").expect("a whole head");
    assert_eq!(head.status, 200, "{who}");
    let mut payload = Vec::new();
    Body::new(&head).push(&raw[len..], &mut payload).expect("a whole body");
    let mut got = Got { messages: 0, status: status(&raw[..len]) };
    let mut rest = &payload[..];
    while let Some((&[flag, a, b, c, d], after)) = rest.split_first_chunk() {
        let (message, after) = after.split_at(u32::from_be_bytes([a, b, c, d]) as usize);
        match flag {
            0x80 => got.status = got.status.or(status(message)),
            _ => got.messages += 1,
        }
        rest = after;
    }
    got
}

#[test]
fn behind_envoy() {
    require_bpf();
    let _alone = serial();
    let server = Server::grpc();
    let envoy = Gateway::start(Kind::Envoy, &server).at(Front::Deep);
    let agent = Options::default().pid(envoy.id()).pid(server.id()).start();
    agent.wait_for_library(Kind::Envoy.library());
    // `(plan, outcome, status, messages, tokens)`
    let calls = [
        ("web/stream", STREAM, json!({"messages": 30}), "success", 0, 30, 30),
        ("web/unary", UNARY, json!({}), "success", 0, 1, 0),
        ("web/refused", STREAM, json!({"fail_after": 0}), "http_error", 8, 0, 0),
        ("web/fails", STREAM, json!({"messages": 9, "fail_after": 4}), "stream_error", 8, 4, 4),
        ("web/error", STREAM, json!({"messages": 9, "error_after": 3}), "stream_error", 0, 4, 3),
        ("web/bad", UNARY, json!({"fail_after": 0}), "http_error", 3, 0, 0),
    ];
    for (who, path, plan, _, status, messages, _) in &calls {
        let got = call(&envoy.address, who, path, plan);
        assert_eq!(got, Got { messages: *messages, status: Some(*status) }, "{who}");
    }
    agent.wait_for_requests("client", calls.len());
    agent.wait_for_requests("server", 2 * calls.len());
    let entries = agent.stop();
    let front = hop(&entries, "server", Some(envoy.port()));
    let middle = hop(&entries, "client", Some(server.port()));
    let back = hop(&entries, "server", Some(server.port()));
    assert!(front.iter().all(|entry| entry.tls));
    for (name, hop) in [("front", &front), ("middle", &middle), ("back", &back)] {
        assert_eq!(hop.len(), calls.len(), "{name}: each call once");
        for (who, path, _, outcome, _, messages, tokens) in &calls {
            let is = |entry: &&Entry| entry.user_agent.as_deref() == Some(who);
            let entry = hop.iter().find(is).unwrap_or_else(|| panic!("{who} at the {name}"));
            let streams = *path == STREAM;
            let events = if streams { *messages as u64 } else { 0 };
            assert_eq!(
                (&*entry.outcome, entry.stream, entry.events, entry.token_events),
                (*outcome, streams, events, *tokens),
                "{who} at the {name}"
            );
            assert_eq!(entry.model.as_deref(), Some("llama"), "{who} at the {name}");
        }
    }
}
