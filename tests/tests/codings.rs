//! Streams under content codings, flushed event by event: every token is found, at its own time.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use llmtrace_tests::agent::{Options, require_bpf, serial};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::plan::{Ask, Plan};
use llmtrace_tests::stack::Server;

/// Sends a request on a connection of its own and reads the answer to its end, coded as it is.
#[track_caller]
fn send(server: &Server, user_agent: &str, fields: &str, body: &[u8]) {
    let mut stream = server.address.connect().expect("the server accepts");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket option");
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nuser-agent: {user_agent}\r\n\
         connection: close\r\ncontent-type: application/json\r\n{fields}content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("the head is sent");
    stream.write_all(body).expect("the body is sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    assert!(answer.starts_with(b"HTTP/1.1 "), "{user_agent}: no answer");
}

#[test]
fn responses() {
    require_bpf();
    let _alone = serial();
    let server = Server::coded();
    let agent = Options::default().pid(server.id()).token_times().start();
    let codings = ["gzip", "deflate", "raw", "br", "zstd", "zstd, gzip"];
    let ask = Ask {
        max_tokens: 25,
        plan: Plan { interval_us: 2000, ..Plan::default() },
        ..Ask::default()
    };
    let whole = Ask { stream: false, ..ask.clone() };
    for coding in codings {
        let fields = format!("accept-encoding: {coding}\r\n");
        send(&server, &format!("stream/{coding}"), &fields, &ask.body());
        send(&server, &format!("whole/{coding}"), &fields, &whole.body());
    }
    let log = server.wait_for_log(2 * codings.len());
    agent.wait_for_requests("server", 2 * codings.len());
    let entries = agent.stop();
    assert_eq!(entries.len(), 2 * codings.len());
    for entry in &entries {
        let who = entry.user_agent.as_deref().expect("a user agent");
        let stream = who.starts_with("stream/");
        let body = if stream { ask.body() } else { whole.body() };
        assert_eq!((&*entry.outcome, entry.stream), ("success", stream), "{who}");
        assert_eq!(entry.output_tokens, Some(25), "{who}");
        assert_eq!(entry.prompt_tokens, Some(body.len() as u64 / 4), "{who}");
        assert_eq!(entry.model.as_deref(), Some("tiny"), "{who}");
        if !stream {
            continue;
        }
        // Role, 25 tokens, finish, usage, the end.
        assert_eq!((entry.events, entry.token_events), (29, 25), "{who}");
        let server = log.iter().find(|record| record.user_agent == who).expect("a record");
        let traced = entry.token_times_ns.as_deref().expect("times");
        assert_eq!((traced.len(), server.token_times_ns.len()), (25, 25), "{who}");
        for (n, (traced, written)) in traced.iter().zip(&server.token_times_ns).enumerate() {
            // Between them lie the coder and the server's own write path, but no other event.
            let late = traced.checked_sub(*written).expect("written before it was made");
            assert!(late < 2_000_000 || n == 0, "{who}: token {n} is {late} ns late");
        }
    }
}

#[test]
fn requests() {
    require_bpf();
    let _alone = serial();
    let server = Server::coded();
    let agent = Options::default().pid(server.id()).start();
    // The answer to this names no model: the request's own does.
    let ask = Ask { plan: Plan { status: Some(500), ..Plan::default() }, ..Ask::default() };
    let body = ask.body();
    let level = flate2::Compression::default();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), level);
    gzip.write_all(&body).expect("memory");
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), level);
    zlib.write_all(&body).expect("memory");
    let zstd = zstd::encode_all(&body[..], 3).expect("memory");
    for (coding, body) in [
        ("gzip", gzip.finish().expect("memory")),
        ("deflate", zlib.finish().expect("memory")),
        ("zstd", zstd),
    ] {
        send(&server, coding, &format!("content-encoding: {coding}\r\n"), &body);
    }
    agent.wait_for_requests("server", 3);
    let entries = agent.stop();
    assert_eq!(entries.len(), 3);
    for entry in &entries {
        let who = entry.user_agent.as_deref();
        assert_eq!((&*entry.outcome, entry.status), ("http_error", Some(500)), "{who:?}");
        assert_eq!(entry.model.as_deref(), Some("tiny"), "{who:?}");
    }
}

/// A small body that stands for a large one costs its own exchange and nothing else.
#[test]
fn a_bomb() {
    require_bpf();
    let _alone = serial();
    let server = Server::coded();
    let agent = Options::default().pid(server.id()).start();
    send(&server, "bomb", "x-bomb: 1\r\n", &Ask::default().body());
    send(&server, "after", "accept-encoding: gzip\r\n", &Ask::default().body());
    agent.wait_for_requests("server", 2);
    let labels = [("reason", "coding_bomb")];
    // The agent's own counts follow by a beat.
    let counted = wait_for("the bomb in /metrics", Duration::from_secs(10), || {
        let n = agent.metrics().sum("llmtrace_incomplete_exchanges_total", &labels);
        (n > 0.0).then_some(n)
    });
    assert_eq!(counted, 1.0);
    let entries = agent.stop();
    let outcome = |who: &str| {
        let mut of = entries.iter().filter(|e| e.user_agent.as_deref() == Some(who));
        of.next().map(|entry| entry.outcome.clone())
    };
    assert_eq!(outcome("bomb").as_deref(), Some("incomplete"));
    assert_eq!(outcome("after").as_deref(), Some("success"));
}
