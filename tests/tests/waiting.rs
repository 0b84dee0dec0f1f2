//! Time that a request waits before the server reads it, and time that a slow client holds the server
//! back, against what server and client know of them themselves.

use std::io::{Read as _, Write as _};
use std::thread;
use std::time::Duration;

use llmtrace_tests::agent::{Entry, Options, require_bpf, serial};
use llmtrace_tests::client::Request;
use llmtrace_tests::clock;
use llmtrace_tests::net::Stream;
use llmtrace_tests::plan::Ask;
use llmtrace_tests::stack::Server;
use rustix::net::sockopt::set_socket_recv_buffer_size;

const MS: u64 = 1_000_000;
/// How late a thread of this machine may be noticed or resumed.
const LATE: u64 = 20 * MS;
const PAUSE: Duration = Duration::from_millis(300);
/// As many tokens as no buffer here holds: 1.6 MB.
const MANY: u64 = 8_000;

/// Small, but larger than two segments of the loopback device: with less room the kernel tells of it
/// only when the sender asks, which is not the client's doing.
fn connect(server: &Server) -> Stream {
    let stream = server.address.connect().unwrap();
    set_socket_recv_buffer_size(&stream, 128 * 1024).unwrap();
    stream
}

/// What a client saw of its own pause.
struct Seen {
    /// From when it stopped reading to when it went on.
    paused: u64,
    /// From when it stopped reading to the last byte.
    rest: u64,
}

/// Sends a request and reads the answer, after a pause at its first byte.
fn ask(stream: &mut Stream, name: &str, tokens: u64, pause: Duration) -> Seen {
    let ask = Ask { max_tokens: tokens, ..Ask::default() };
    stream.write_all(&Request::new(name, &ask).encode()).unwrap();
    let mut answer = vec![0; 1];
    stream.read_exact(&mut answer).unwrap();
    let stopped = clock::now();
    thread::sleep(pause);
    let went_on = clock::now();
    let mut buf = vec![0; 64 * 1024];
    while !answer.ends_with(b"0\r\n\r\n") {
        let n = stream.read(&mut buf).unwrap();
        assert!(n > 0, "the server left");
        answer.extend_from_slice(&buf[..n]);
    }
    Seen { paused: went_on - stopped, rest: clock::now() - stopped }
}

fn find<'a>(entries: &'a [Entry], name: &str) -> &'a Entry {
    let of = |entry: &&Entry| entry.user_agent.as_deref() == Some(name) && entry.role == "server";
    let mut found = entries.iter().filter(of);
    let entry = found.next().unwrap_or_else(|| panic!("{name} not traced: {entries:#?}"));
    assert!(found.next().is_none(), "{name} traced twice");
    assert_eq!(entry.outcome, "success");
    entry
}

#[test]
fn a_request_that_is_not_read_at_once() {
    require_bpf();
    let _alone = serial();
    let server = Server::slow(100);
    let agent = Options::default().pid(server.id()).start();
    let mut stream = connect(&server);
    // The first of a connection, and one on a connection that is known.
    let names = ["queue/first", "queue/second"];
    for name in names {
        ask(&mut stream, name, 8, Duration::ZERO);
    }
    let own = server.wait_for_log(2);
    let metrics = agent.wait_for_requests("server", 2);
    let entries = agent.stop();
    for (name, own) in names.iter().zip(&own) {
        let entry = find(&entries, name);
        let queued = entry.queue_ns.expect("a known arrival");
        println!("{name}: queued {queued} ns, the server waited {} ns", own.waited_ns);
        assert_eq!(own.user_agent, *name);
        // It came before the server noticed, and was read before the server took the time.
        assert!(queued >= 100 * MS && queued.abs_diff(own.waited_ns) < LATE, "{entry:#?}");
        assert_eq!(entry.backpressure_ns, Some(0));
    }
    let role = [("role", "server")];
    assert_eq!(metrics.sum("llm_request_queue_seconds_count", &role), 2.0);
    let sum = metrics.sum("llm_request_queue_seconds_sum", &role);
    assert!((0.2..0.24).contains(&sum), "{sum}");
    assert_eq!(metrics.sum("llm_client_backpressure_seconds_count", &role), 2.0);
    assert_eq!(metrics.sum("llm_client_backpressure_seconds_sum", &role), 0.0);
}

/// A server whose writes block until the client reads on.
#[test]
fn a_slow_client_of_a_blocking_server() {
    require_bpf();
    let _alone = serial();
    let server = Server::slow(0);
    let agent = Options::default().pid(server.id()).start();
    let seen = ask(&mut connect(&server), "slow/blocking", MANY, PAUSE);
    let own = server.wait_for_log(1).remove(0);
    let metrics = agent.wait_for_requests("server", 1);
    let entries = agent.stop();
    let held = find(&entries, "slow/blocking").backpressure_ns.expect("a server");
    let (all, longest) = (own.held_ns, own.longest_ns);
    println!("held back {held} ns; server {longest} to {all} ns, client {} ns", seen.paused);
    // The server's calls contain the kernel's. They also contain what its threads wait for each other
    // and for a processor, of which one call has little and all together may have much.
    assert!(held <= all && held + LATE > longest, "{held} of {longest} to {all}");
    assert!(held + 50 * MS > seen.paused && held < seen.rest + LATE, "{held}");
    let sum = metrics.sum("llm_client_backpressure_seconds_sum", &[("role", "server")]);
    assert!((sum - held as f64 / 1e9).abs() < 1e-6, "{sum}");
}

/// A server whose socket refuses until the client reads on.
#[test]
fn a_slow_client_of_an_event_loop() {
    require_bpf();
    let _alone = serial();
    let server = Server::small_uvicorn();
    let agent = Options::default().pid(server.id()).start();
    let seen = ask(&mut connect(&server), "slow/refused", MANY, PAUSE);
    ask(&mut connect(&server), "slow/not", 8, Duration::ZERO);
    agent.wait_for_requests("server", 2);
    let entries = agent.stop();
    let held = find(&entries, "slow/refused").backpressure_ns.expect("a server");
    println!("held back {held} ns; client paused {} ns, {} to the end", seen.paused, seen.rest);
    // Until its buffers are full nothing holds the server back.
    assert!(held + 50 * MS > seen.paused && held < seen.rest + LATE, "{held}");
    assert_eq!(find(&entries, "slow/not").backpressure_ns, Some(0));
}
