//! Bytes that no client and no server should send: the agent lives, does not grow, counts them,
//! and finds the next good request.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::time::Duration;

use llmtrace_tests::agent::{Agent, Options, require_bpf, serial};
use llmtrace_tests::client::{Connection, Request};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::compare::{assert_same, hop};
use llmtrace_tests::metrics::Metrics;
use llmtrace_tests::net::Address;
use llmtrace_tests::plan::Ask;
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::servers::events::{STREAM_HEAD, chunk, event};
use llmtrace_tests::stack::Server;
use llmtrace_tests::usage::rss;

/// What buffers for the largest of the inputs may take.
const GROWTH_LIMIT: u64 = 6 << 20;
const ROUNDS: usize = 20;

const HEAD: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n";

/// Bytes of a fixed generator; none of them begins like HTTP or TLS.
fn random(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = vec![0x81];
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// A ClientHello as far as a sniff looks, and some of its body.
fn tls_hello() -> Vec<u8> {
    let mut bytes = vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    bytes.extend_from_slice(&random(506));
    bytes
}

fn with_head(rest: &[u8]) -> Vec<u8> {
    [HEAD, rest].concat()
}

/// What a client sends, by name.
fn requests() -> Vec<(&'static str, Vec<u8>)> {
    let header = [b"X-Long: ".as_slice(), &[b'a'; 1 << 20], b"\r\n\r\n"].concat();
    let chunked = b"Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n{\"model\":\"m\"}";
    let length = b"Content-Length: 18446744073709551616\r\n\r\n{}";
    vec![
        ("random bytes", random(4096)),
        ("TLS on a plain port", tls_hello()),
        ("half a header", HEAD[..40].to_vec()),
        ("a chunk size of 2^64", with_head(chunked)),
        ("a length of 2^64", with_head(length)),
        ("a header of 1 MB", with_head(&header)),
        ("NULs", vec![0; 8192]),
        ("NULs in a header", with_head(b"X: a\0\0\0b\r\nContent-Length: 0\r\n\r\n")),
        ("random after a head", with_head(&random(4096))),
        ("no JSON", with_head(b"Content-Length: 9\r\n\r\n{\"model\":")),
        ("deep JSON", {
            let body = "[".repeat(100_000);
            with_head(format!("Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
        }),
    ]
}

/// What a server answers, by name.
fn responses() -> Vec<(&'static str, Vec<u8>)> {
    let data = |text: &[u8]| [STREAM_HEAD, &chunk(text)].concat();
    vec![
        ("random bytes", random(4096)),
        ("nothing", Vec::new()),
        ("a status line only", b"HTTP/1.1 200".to_vec()),
        ("a chunk size of 2^64", [STREAM_HEAD, b"10000000000000000\r\ndata: {}\n\n"].concat()),
        ("no chunk size", [STREAM_HEAD, b"\r\n\r\n\r\n"].concat()),
        ("random chunks", [STREAM_HEAD, random(4096).as_slice()].concat()),
        ("an endless event", data(&[b"data: ".as_slice(), &[b'x'; 2 << 20]].concat())),
        ("an event that is no JSON", data(&event("{\"choices\":[{\"delta\":"))),
        ("an event of NULs", data(&event("\0\0\0\0"))),
        ("a negative length", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}".to_vec()),
        ("a head of 1 MB", {
            let long = "a".repeat(1 << 20);
            format!("HTTP/1.1 200 OK\r\nX: {long}\r\n\r\n").into_bytes()
        }),
    ]
}

/// Sends `bytes` on a connection of its own and reads until the server closes.
fn send(address: &Address, bytes: &[u8]) {
    let mut stream = address.connect().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // A server may close before it has read all.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

/// One good request on a new connection of `server`.
#[track_caller]
fn good(server: &Server, user_agent: &str) -> llmtrace_tests::client::Record {
    let request = Request::new(user_agent, &Ask::default());
    let record = Connection::new(&server.address).send(&request).unwrap();
    assert_eq!(record.outcome, "success");
    record
}

/// All counts of input that was not understood.
fn not_understood(metrics: &Metrics) -> f64 {
    metrics.sum("llmtrace_parse_resyncs_total", &[])
}

/// Runs `junk` often; the agent must stay as large as the first round made it.
#[track_caller]
fn check_growth(agent: &mut Agent, mut junk: impl FnMut()) {
    junk();
    let first = rss(agent.id());
    for _ in 0..ROUNDS {
        junk();
    }
    assert!(agent.is_alive(), "{}", agent.printed());
    // The scrape comes after all that was sent before it.
    agent.metrics();
    let last = rss(agent.id());
    println!("RSS {first} bytes after the first round, {last} after {ROUNDS} more");
    assert!(last < first + GROWTH_LIMIT, "grew from {first} to {last} bytes");
}

/// Without an agent: what is sent reaches servers that live on.
#[test]
fn the_servers_survive_it() {
    let (server, parrot) = (Server::app(Model::Thread), Server::parrot());
    for (n, (_, bytes)) in requests().iter().enumerate() {
        send(&server.address, bytes);
        good(&server, &format!("bad/alive-{n}"));
    }
    for (name, bytes) in responses() {
        let mut request = Request::new("bad/parrot", &Ask::default());
        request.body.clone_from(&bytes);
        let mut stream = parrot.address.connect().unwrap();
        stream.write_all(&request.encode()).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert!(back == bytes, "{name}: {} of {} bytes came back", back.len(), bytes.len());
    }
}

#[test]
fn from_clients() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let mut agent = Options::default().pid(server.id()).start();
    let inputs = requests();
    check_growth(&mut agent, || {
        for (_, bytes) in &inputs {
            send(&server.address, bytes);
        }
    });
    let record = good(&server, "bad/good");
    // The agent's own counts follow within its beat of 0.2 s.
    wait_for("what is not understood counted", Duration::from_secs(2), || {
        (not_understood(&agent.metrics()) > 0.0).then_some(())
    });
    let entries = agent.stop();
    let of_good: Vec<_> = hop(&entries, "server", Some(server.port()))
        .into_iter()
        .filter(|entry| entry.user_agent.as_deref() == Some("bad/good"))
        .collect();
    assert_same(&[record], &of_good);
    // A server may answer 200 to what it should refuse; the agent reports what happened, once.
    let rest = entries.len() - of_good.len();
    assert!(rest <= inputs.len() * (ROUNDS + 1), "{rest} exchanges of {} inputs", inputs.len());
}

/// Each kind alone, so that none hides behind another: the agent finds a good request after it.
#[test]
fn a_good_request_is_found_after_each() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let agent = Options::default().pid(server.id()).start();
    let mut records = Vec::new();
    for (n, (_, bytes)) in requests().iter().enumerate() {
        send(&server.address, bytes);
        records.push(good(&server, &format!("bad/after-{n}")));
    }
    agent.wait_for_requests("server", records.len());
    let mut entries = agent.stop();
    entries.retain(|entry| entry.user_agent.is_some());
    assert_same(&records, &entries);
}

#[test]
fn from_servers() {
    require_bpf();
    let _alone = serial();
    let parrot = Server::parrot();
    let server = Server::app(Model::Thread);
    let mut agent = Options::default().pid(parrot.id()).pid(server.id()).start();
    let inputs = responses();
    check_growth(&mut agent, || {
        for (name, bytes) in &inputs {
            let mut request = Request::new(format!("bad/{name}"), &Ask::default());
            request.body.clone_from(bytes);
            send(&parrot.address, &request.encode());
        }
    });
    let record = good(&server, "bad/good");
    wait_for("what is not understood counted", Duration::from_secs(2), || {
        (not_understood(&agent.metrics()) > 0.0).then_some(())
    });
    let entries = agent.stop();
    assert_same(&[record], &hop(&entries, "server", Some(server.port())));
    let bad = hop(&entries, "server", Some(parrot.port()));
    assert!(bad.iter().all(|entry| entry.outcome != "success"), "{bad:#?}");
}
