//! The servers that the other tests trace, without an agent: each gives a client what was asked
//! and knows itself what it did.

use std::time::Duration;

use llmtrace_tests::bench::drive::{Load, drive};
use llmtrace_tests::client::{Connection, Keep, Record, Request, load, load_keeping};
use llmtrace_tests::mix;
use llmtrace_tests::plan::{Ask, Plan};
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::servers::flood::EXTRA_EVENTS;
use llmtrace_tests::servers::log::ServerRecord;
use llmtrace_tests::stack::Server;

const COUNT: usize = 40;

/// What `mix::requests` asks for, in the words of a record.
fn expected(n: usize) -> &'static str {
    match n % 10 {
        3 => "http_error",
        6 => "stream_error",
        _ => "success",
    }
}

fn number(user_agent: &str) -> usize {
    let number = user_agent.strip_prefix("llmtrace-test/");
    number.and_then(|n| n.parse().ok()).expect("a number")
}

/// The mix, a request to another path, and the four ways in which a stream is cut.
#[track_caller]
fn check(server: &Server) {
    let records = load(&server.address, mix::requests(COUNT), 8);
    assert_eq!(records.len(), COUNT);
    for record in &records {
        check_record(record);
    }
    let mut connection = Connection::new(&server.address);
    let mut other = Request::new("llmtrace-test/other", &Ask::default());
    other.path = "/v1/models".into();
    let other = connection.send(&other).unwrap();
    assert_eq!((other.status, other.outcome), (Some(404), "http_error"));

    for (request, outcome, phase, tokens) in [
        (
            mix::left_before_first_token("a", false),
            "client_disconnect",
            Some("before_first_token"),
            0,
        ),
        (
            mix::left_before_first_token("b", true),
            "client_disconnect",
            Some("before_first_token"),
            0,
        ),
        (mix::left_in_mid_stream("c", false), "client_disconnect", Some("mid_stream"), 5),
        (mix::left_in_mid_stream("d", true), "client_disconnect", Some("mid_stream"), 5),
        (mix::dropped_by_server("e"), "server_disconnect", None, 5),
    ] {
        let record = Connection::new(&server.address).send(&request).unwrap();
        assert_eq!((record.outcome, record.phase), (outcome, phase), "{record:?}");
        assert_eq!(record.answer.token_events, tokens, "{record:?}");
    }
    let log = server.wait_for_log(COUNT + 6);
    assert_eq!(log.len(), COUNT + 6, "one line a request");
    for record in &records {
        let own = find(&log, &record.user_agent);
        assert_eq!((own.outcome.as_str(), Some(own.status)), (record.outcome, record.status));
    }
    for who in ["a", "b", "c", "d"] {
        let own = find(&log, who);
        let phase = if who < "c" { "before_first_token" } else { "mid_stream" };
        assert_eq!(own.outcome, "client_disconnect", "{own:?}");
        assert_eq!(own.phase.as_deref(), Some(phase));
    }
    assert_eq!(find(&log, "e").outcome, "server_disconnect");
}

fn find<'a>(log: &'a [ServerRecord], user_agent: &str) -> &'a ServerRecord {
    let mut lines = log.iter().filter(|line| line.user_agent == user_agent);
    let line = lines.next().unwrap_or_else(|| panic!("{user_agent} is not in the server's log"));
    assert!(lines.next().is_none(), "{user_agent} is twice in the server's log");
    line
}

#[track_caller]
fn check_record(record: &Record) {
    let n = number(&record.user_agent);
    let tokens = 1 + (n as u64 * 5) % 30;
    assert_eq!(record.outcome, expected(n), "{record:?}");
    let answer = &record.answer;
    if record.outcome == "success" {
        assert_eq!(answer.finish_reason.as_deref(), Some("stop"), "{record:?}");
        assert_eq!(record.output_tokens(), Some(tokens), "{record:?}");
        assert_eq!(answer.model.as_deref(), Some("tiny"));
        let chat = n % 3 != 2;
        let usage = n % 4 != 1;
        let events = tokens + 2 + u64::from(chat) + u64::from(usage);
        assert_eq!(answer.events, if record.stream { events } else { 0 }, "{record:?}");
        assert_eq!(answer.prompt_tokens.is_some(), usage || !record.stream);
        assert_eq!(record.token_times_ns.len() as u64, answer.token_events);
    }
    if n % 10 == 7 && record.stream {
        // 20 ms were asked for; the timers of event loops are as coarse as a millisecond.
        assert!(record.ttft().unwrap() >= 18_000_000, "{record:?}");
    }
}

/// The Rust server knows no `/v1/completions` shape of its own: every event is a chat event.
#[track_caller]
fn check_rust(server: &Server) {
    let requests = (0..COUNT)
        .map(|n| {
            let ask = Ask { max_tokens: n as u64, stream: n % 2 == 0, ..Ask::default() };
            Request::new(format!("llmtrace-test/{n}"), &ask)
        })
        .collect();
    for record in load(&server.address, requests, 8) {
        let n = number(&record.user_agent) as u64;
        assert_eq!(record.outcome, "success", "{record:?}");
        assert_eq!(record.output_tokens(), Some(n));
        assert_eq!(record.answer.events, if record.stream { n + 4 } else { 0 });
    }
    assert_eq!(server.wait_for_log(COUNT).len(), COUNT);
}

#[test]
fn rust_threads() {
    check_rust(&Server::app(Model::Thread));
}

#[test]
fn rust_two_threads_a_connection() {
    check_rust(&Server::app(Model::Split));
}

#[test]
fn rust_fork_after_accept() {
    check_rust(&Server::app(Model::Fork));
}

#[test]
fn rust_unix_socket() {
    check_rust(&Server::unix_app());
}

#[test]
fn rust_cuts_streams_as_asked() {
    let server = Server::app(Model::Thread);
    for (request, outcome) in [
        (mix::left_before_first_token("a", false), "client_disconnect"),
        (mix::left_before_first_token("b", true), "client_disconnect"),
        (mix::left_in_mid_stream("c", false), "client_disconnect"),
        (mix::left_in_mid_stream("d", true), "client_disconnect"),
        (mix::dropped_by_server("e"), "server_disconnect"),
    ] {
        let record = Connection::new(&server.address).send(&request).unwrap();
        assert_eq!(record.outcome, outcome);
        let log = server.wait_for_log(1 + usize::from(request.user_agent.as_bytes()[0] - b'a'));
        let own = find(&log, &request.user_agent);
        assert_eq!((own.outcome.as_str(), own.phase.as_deref()), (outcome, record.phase));
    }
}

#[test]
fn rust_odd_writes_and_its_own_times() {
    let server = Server::app(Model::Thread);
    for (n, (who, plan, tokens)) in [
        ("bytes", Plan { write_bytes: 1, ..Plan::default() }, 20),
        ("batch", Plan { batch: 250, ..Plan::default() }, 500),
        ("paced", Plan { interval_us: 5000, first_delay_ms: 10, ..Plan::default() }, 20),
    ]
    .into_iter()
    .enumerate()
    {
        let ask = Ask { plan, max_tokens: tokens, ..Ask::default() };
        let request = Request::new(who, &ask);
        let record = Connection::new(&server.address).send(&request).unwrap();
        assert_eq!((record.outcome, record.answer.token_events), ("success", tokens));
        let log = server.wait_for_log(n + 1);
        let own = find(&log, who);
        assert_eq!(own.token_times_ns.len() as u64, tokens);
        assert!(record.send_ns <= own.start_ns && own.ttft() <= record.ttft());
        for (server, client) in own.token_times_ns.iter().zip(&record.token_times_ns) {
            assert!(server <= client);
        }
    }
    let log = server.wait_for_log(3);
    let paced = &find(&log, "paced").token_times_ns;
    let mean = (paced[19] - paced[0]) / 19;
    assert!((4_900_000..6_500_000).contains(&mean), "{mean} ns between events");
}

#[test]
fn flood_counts() {
    let server = Server::flood();
    let ask = Ask { max_tokens: 10_000, ..Ask::default() };
    let requests = vec![Request::new("flood", &ask); 4];
    for record in load(&server.address, requests, 2) {
        assert_eq!(record.outcome, "success");
        assert_eq!(record.answer.events, 10_000 + EXTRA_EVENTS);
        assert_eq!(record.output_tokens(), Some(10_000));
    }
}

#[test]
fn a_thousand_streams_at_once() {
    let server = Server::quiet_app();
    let plan = Plan { interval_us: 100_000, ..Plan::default() };
    let ask = Ask { max_tokens: 10, plan, ..Ask::default() };
    let load = Load { connections: 1000, ask, run: Duration::ZERO, first_token: 2 };
    let driven = drive(&server.address, &load);
    // Beside the tokens: role, finish, usage and the end.
    assert_eq!((driven.requests, driven.events), (1000, 1000 * 14));
    assert_eq!(driven.ttft_ns.len(), 1000);
}

#[test]
fn uvicorn_uvloop_httptools() {
    check(&Server::uvicorn("uvloop", "httptools"));
}

#[test]
fn uvicorn_asyncio_h11() {
    check(&Server::uvicorn("asyncio", "h11"));
}

#[test]
fn granian() {
    check(&Server::granian());
}

#[test]
fn node() {
    check(&Server::node());
}

#[test]
fn nginx_passes_all_on() {
    let upstream = Server::uvicorn("uvloop", "httptools");
    let nginx = Server::nginx(&upstream);
    let records = load(&nginx.address, mix::requests(COUNT), 8);
    assert_eq!(records.len(), COUNT);
    // The user agent goes through, so the hops can be joined.
    assert_eq!(upstream.wait_for_log(COUNT).len(), COUNT);
    for record in &records {
        check_record(record);
    }
    assert_eq!(nginx.children().len(), 1, "the worker is not the master");
}

#[test]
fn llama_cpp_on_both_kinds_of_socket() {
    for server in [Server::llama(), Server::llama_unix()] {
        let records = load_keeping(&server.address, mix::plain(16), 8, Keep::NotAfterStreams);
        for record in &records {
            let tokens = 1 + (number(&record.user_agent) as u64 * 5) % 30;
            assert_eq!(record.outcome, "success", "{record:?}");
            assert_eq!(record.output_tokens(), Some(tokens), "{record:?}");
            assert_eq!(record.answer.finish_reason.as_deref(), Some("length"));
        }
        assert!(records.iter().any(|record| record.stream));
        assert!(records.iter().any(|record| !record.stream));
    }
}
