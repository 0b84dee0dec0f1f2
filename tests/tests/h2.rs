//! HTTP/2 with prior knowledge, and gRPC over it: many exchanges on one connection.

use std::process::Command;
use std::time::Duration;

use llmtrace_tests::agent::{Entry, Options, require_bpf, serial};
use llmtrace_tests::client::{Record, Request};
use llmtrace_tests::compare::{assert_direct, assert_metrics, assert_same, hop};
use llmtrace_tests::gateway::{Front, Gateway, Kind};
use llmtrace_tests::h2::{Connection, Grpc};
use llmtrace_tests::mix;
use llmtrace_tests::plan::Ask;
use llmtrace_tests::stack::Server;
use serde_json::json;

const COUNT: usize = 50;

/// Fifty requests of every kind as streams of one connection, all at the same time.
#[test]
fn fifty_streams_on_granian() {
    require_bpf();
    let _alone = serial();
    let server = Server::granian();
    let agent = Options::default().port(server.port()).start();
    let records = Connection::new(&server.address).load(mix::requests(COUNT));
    let metrics = agent.wait_for_requests("server", COUNT);
    let entries = agent.stop();
    assert_eq!(entries.len(), COUNT, "each request once");
    let served = hop(&entries, "server", Some(server.port()));
    assert_same(&records, &served);
    assert_direct(&records, &served);
    assert_metrics(&metrics, "server", &records);
}

/// Ends that leave by RST_STREAM, while other streams of the connection go on.
#[test]
fn aborts_by_reset() {
    require_bpf();
    let _alone = serial();
    let server = Server::granian();
    let agent = Options::default().port(server.port()).start();
    let connection = Connection::new(&server.address);
    let mut requests = vec![
        mix::left_before_first_token("h2/before", true),
        mix::left_in_mid_stream("h2/mid", true),
    ];
    requests.push(mix::dropped_by_server("h2/dropped"));
    requests.extend((0..10).map(|n| Request::new(format!("h2/whole{n}"), &Ask::default())));
    let mut records = connection.load(requests);
    connection.work(Duration::from_millis(50));
    // The connection goes on afterwards.
    records.extend(connection.load(vec![Request::new("h2/after", &Ask::default())]));
    let outcomes: Vec<_> = records.iter().map(|r| (r.outcome, r.phase)).collect();
    assert_eq!(outcomes[0], ("client_disconnect", Some("before_first_token")));
    assert_eq!(outcomes[1], ("client_disconnect", Some("mid_stream")));
    assert_eq!(outcomes[2], ("server_disconnect", None));
    assert!(outcomes[3..].iter().all(|outcome| *outcome == ("success", None)));
    let metrics = agent.wait_for_requests("server", records.len());
    let entries = agent.stop();
    assert_same(&records, &entries);
    assert_direct(&records, &entries);
    assert_eq!(metrics.sum("llm_wasted_tokens_total", &[("role", "server")]), 5.0);
    assert_eq!(metrics.sum("llm_requests_in_flight", &[("role", "server")]), 0.0);
}

/// nginx takes HTTP/2 and asks its upstream by HTTP/1: both hops are traced, each as what it is.
#[test]
fn nginx_in_front() {
    require_bpf();
    let _alone = serial();
    let upstream = Server::uvicorn("uvloop", "httptools");
    let nginx = Gateway::start(Kind::Nginx, &upstream).at(Front::H2c);
    let agent = Options::default().pid(nginx.id()).pid(upstream.id()).start();
    let records = Connection::new(&nginx.address).load(mix::requests(COUNT));
    agent.wait_for_requests("client", COUNT);
    agent.wait_for_requests("server", 2 * COUNT);
    let entries = agent.stop();
    assert_same(&records, &hop(&entries, "server", Some(nginx.port())));
    assert_same(&records, &hop(&entries, "client", Some(upstream.port())));
    assert_same(&records, &hop(&entries, "server", Some(upstream.port())));
    assert_direct(&records, &hop(&entries, "server", Some(nginx.port())));
}

/// Of a connection that was there before the agent, only what is certain is told; a new one is
/// traced in full.
#[test]
fn joined_in_its_middle() {
    require_bpf();
    let _alone = serial();
    let server = Server::granian();
    let old = Connection::new(&server.address);
    old.load(mix::requests(10));
    let agent = Options::default().port(server.port()).start();
    let before = old.load(
        (0..10).map(|n| Request::new(format!("old/{n}"), &Ask::default())).collect::<Vec<_>>(),
    );
    let new = Connection::new(&server.address).load(mix::requests(COUNT));
    agent.wait_for_requests("server", COUNT);
    let entries = agent.stop();
    let (old, fresh): (Vec<Entry>, Vec<Entry>) = entries
        .into_iter()
        .partition(|e| e.user_agent.as_deref().is_some_and(|agent| agent.starts_with("old/")));
    assert_same(&new, &fresh);
    // What is told of the old one is as its client saw it, or said to be incomplete.
    let told: Vec<Entry> = old.into_iter().filter(|e| e.outcome != "incomplete").collect();
    let of: Vec<Record> = before
        .into_iter()
        .filter(|r| told.iter().any(|e| e.user_agent.as_deref() == Some(&r.user_agent)))
        .collect();
    assert_same(&of, &told);
}

/// curl asks for HTTP/2 within HTTP/1; hypercorn switches, and answers its first request as stream 1.
#[test]
fn upgraded_from_http1() {
    require_bpf();
    let _alone = serial();
    let server = Server::hypercorn();
    let agent = Options::default().port(server.port()).start();
    let requests: Vec<Request> =
        (0..10).map(|n| Request::new(format!("upgraded/{n}"), &Ask::default())).collect();
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--http2", "--write-out", PROTOCOL]);
    command.arg(format!("http://127.0.0.1:{}/v1/models", server.port()));
    for request in &requests {
        command.args(["--next", "--silent", "--show-error", "--http2", "--write-out", PROTOCOL]);
        command.arg("--user-agent").arg(&request.user_agent);
        command.args(["--header", "content-type: application/json", "--data"]);
        command.arg(String::from_utf8(request.body.clone()).unwrap());
        command.arg(format!("http://127.0.0.1:{}{}", server.port(), request.path));
    }
    let output = command.output().expect("curl is there");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers: Vec<&str> = said.split_terminator(VERSION_2).collect();
    assert_eq!(answers.len(), 1 + requests.len(), "all of them by HTTP/2:\n{said}");
    let answered = requests.iter().zip(&answers[1..]);
    let records: Vec<_> =
        answered.map(|(request, body)| Record::of(request, 200, body.as_bytes())).collect();
    agent.wait_for_requests("server", records.len());
    assert_same(&records, &agent.stop());
}

/// What curl writes after an answer, and what that is of HTTP/2.
const PROTOCOL: &str = "#version %{http_version}#";
const VERSION_2: &str = "#version 2#";

fn request(plan: &serde_json::Value) -> Vec<u8> {
    let plan = plan.to_string();
    let mut bytes = b"\x0a\x05llama\x12".to_vec();
    bytes.push(u8::try_from(plan.len()).expect("a short plan"));
    bytes.extend(plan.bytes());
    bytes
}

const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";
const UNARY: &str = "/inference.GRPCInferenceService/ModelInfer";
const TGI: &str = "/fmaas.GenerationService/GenerateStream";

/// Calls of a real gRPC server: each with its messages, its times and its status.
#[test]
fn grpc() {
    require_bpf();
    let _alone = serial();
    let server = Server::grpc();
    let agent = Options::default().pid(server.id()).token_times().start();
    let connection = Connection::new(&server.address);
    let none = usize::MAX;
    let calls = [
        ("grpc/stream", STREAM, json!({"messages": 30, "interval_us": 500}), none),
        ("grpc/tgi", TGI, json!({"messages": 12}), none),
        ("grpc/unary", UNARY, json!({}), none),
        ("grpc/refused", STREAM, json!({"fail_after": 0}), none),
        ("grpc/fails", STREAM, json!({"messages": 9, "fail_after": 4}), none),
        ("grpc/error", STREAM, json!({"messages": 9, "error_after": 3}), none),
        ("grpc/left", STREAM, json!({"messages": 9, "hang_after": 5}), 5),
        ("grpc/bad", UNARY, json!({"fail_after": 0}), none),
        ("grpc/health", "/grpc.health.v1.Health/Check", json!({}), none),
        ("grpc/after", STREAM, json!({"messages": 2}), none),
    ];
    let answers: Vec<Grpc> = calls
        .iter()
        .map(|(who, path, plan, most)| connection.call(who, path, &request(plan), *most))
        .collect();
    connection.work(Duration::from_millis(50));
    agent.wait_for_requests("server", calls.len() - 1);
    let entries = agent.stop();
    assert_eq!(entries.len(), calls.len() - 1, "each call of an LLM once: {entries:#?}");
    let find = |who: &str| {
        let mut of = entries.iter().filter(|e| e.user_agent.as_deref() == Some(who));
        of.next().unwrap_or_else(|| panic!("{who}: not traced"))
    };
    for (who, outcome, status, messages, tokens) in [
        ("grpc/stream", "success", Some(0), 30, 30),
        ("grpc/tgi", "success", Some(0), 12, 12),
        ("grpc/unary", "success", Some(0), 1, 0),
        ("grpc/refused", "http_error", Some(8), 0, 0),
        ("grpc/fails", "stream_error", Some(8), 4, 4),
        ("grpc/error", "stream_error", Some(0), 4, 3),
        ("grpc/left", "client_disconnect", None, 5, 5),
        ("grpc/bad", "http_error", Some(3), 0, 0),
        ("grpc/after", "success", Some(0), 2, 2),
    ] {
        let at = calls.iter().position(|call| call.0 == who).expect("a call");
        let (answer, entry) = (&answers[at], find(who));
        assert_eq!((answer.status, answer.messages.len()), (status, messages), "{who}: client");
        assert_eq!((&*entry.outcome, entry.token_events), (outcome, tokens), "{who}: traced");
        let streams = calls[at].1 != UNARY;
        assert_eq!(entry.events, if streams { messages as u64 } else { 0 }, "{who}: events");
        assert_eq!(entry.stream, streams, "{who}");
        let model = calls[at].1.starts_with("/inference").then_some("llama");
        assert_eq!(entry.model.as_deref(), model, "{who}: model");
        assert!(answer.send_ns <= entry.start_ns.expect("a start"), "{who}: read before sent");
        let times = entry.token_times_ns.clone().unwrap_or_default();
        assert_eq!(times.len(), if streams { tokens as usize } else { 0 }, "{who}: times");
        // Written before it was read, message by message.
        for (traced, client) in times.iter().zip(&answer.times_ns) {
            assert!(traced <= client, "{who}: a message {} ns late", traced - client);
        }
        if outcome == "client_disconnect" {
            assert_eq!(entry.phase.as_deref(), Some("mid_stream"));
        } else if outcome == "success" && streams {
            assert_eq!(entry.output_source.as_deref(), Some("events"));
        }
    }
}
