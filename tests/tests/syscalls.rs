//! Every pair of system calls that a server may read and write by, on TCP and on unix sockets, by
//! each back end that this kernel has at the least.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use llmtrace_tests::agent::{Agent, Entry, Options, require_bpf, serial};
use llmtrace_tests::client::{Connection, Record, Request};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::compare::assert_same;
use llmtrace_tests::net::{Address, free_port};
use llmtrace_tests::paths::TempDir;
use llmtrace_tests::plan::{Ask, Plan};
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::{Io, Server};

const BACKENDS: [&str; 2] = ["tracepoint", "syscall"];

/// Runs `case` by each back end with a server on TCP and with one on a unix socket.
fn each(calls: &str, case: impl Fn(&str, &Server, Agent)) {
    require_bpf();
    let _alone = serial();
    let dir = TempDir::new();
    let addresses = [Address::loopback(free_port()), Address::Unix(dir.join("calls.sock"))];
    for address in addresses {
        let server = Server::app_with(address, &["--calls", calls]);
        for backend in BACKENDS {
            let agent = Options::default().arg("--backend", backend).pid(server.id()).start();
            case(backend, &server, agent);
        }
    }
}

fn send(server: &Server, name: &str, asks: &[Ask]) -> Vec<Record> {
    let mut connection = Connection::new(&server.address);
    let send = |(n, ask)| {
        let request = Request::new(format!("calls/{name}-{n}"), ask);
        connection.send(&request).unwrap()
    };
    asks.iter().enumerate().map(send).collect()
}

/// Pairs whose bytes are all seen, on both kinds of socket.
const SEEN: [&str; 6] = ["read", "readv", "recvfrom", "recvmsg", "preadv2", "peek"];

#[test]
fn pairs_that_are_seen_whole() {
    require_bpf();
    let _alone = serial();
    let dir = TempDir::new();
    let mut servers = Vec::new();
    for calls in SEEN {
        let unix = Address::Unix(dir.join(&format!("{calls}.sock")));
        for (kind, address) in [("tcp", Address::loopback(free_port())), ("unix", unix)] {
            let server = Server::app_with(address, &["--calls", calls]);
            servers.push((format!("{calls}-{kind}"), server));
        }
    }
    for backend in BACKENDS {
        let options = Options::default().arg("--backend", backend);
        let options = servers.iter().fold(options, |options, (_, s)| options.pid(s.id()));
        let agent = options.start();
        let long = Ask { prompt: "x".repeat(5000), ..Ask::default() };
        let plain = Ask { stream: false, ..Ask::default() };
        let asks = [Ask::default(), long, plain, Ask::default()];
        let records: Vec<_> =
            servers.iter().flat_map(|(name, server)| send(server, name, &asks)).collect();
        let metrics = agent.wait_for_requests("server", records.len());
        assert_eq!(metrics.sum("llmtrace_lost_records_total", &[]), 0.0);
        assert_same(&records, &agent.stop());
    }
}

/// The agent's own counters are brought up to date a few times a second.
#[track_caller]
fn wait_for_incomplete(agent: &Agent, count: f64) {
    wait_for("exchanges counted as incomplete", Duration::from_secs(5), || {
        let reason = [("reason", "response_gap")];
        let seen = agent.metrics().sum("llmtrace_incomplete_exchanges_total", &reason);
        (seen == count).then_some(())
    });
}

/// The second of three requests on a connection has a hole; the others are whole.
fn hole(plan: &Plan) {
    each("read", |_, server, agent| {
        let holed = Ask { plan: plan.clone(), ..Ask::default() };
        let mut records = send(server, "hole", &[Ask::default(), holed, Ask::default()]);
        let metrics = agent.wait_for_requests("server", records.len());
        wait_for_incomplete(&agent, 1.0);
        assert_eq!(metrics.sum("llm_request_duration_seconds_count", &[]), 2.0);
        let (incomplete, entries): (Vec<Entry>, Vec<Entry>) =
            agent.stop().into_iter().partition(|entry| entry.outcome == "incomplete");
        let holed = records.remove(1);
        assert_eq!(holed.outcome, "success", "to the client nothing was missing");
        assert_eq!(incomplete.len(), 1);
        assert_eq!(incomplete[0].user_agent.as_ref(), Some(&holed.user_agent));
        assert_same(&records, &entries);
    });
}

/// The server's end of the connection, by `calls` or by the plan, ends the exchange.
fn dropped(calls: &str, plan: &Plan) {
    each(calls, |_, server, agent| {
        let ask = Ask { plan: plan.clone(), ..Ask::default() };
        let records = send(server, "dropped", &[ask]);
        assert_eq!(records[0].outcome, "server_disconnect");
        agent.wait_for_requests("server", 1);
        assert_same(&records, &agent.stop());
    });
}

#[test]
fn sendfile_is_a_hole() {
    hole(&Plan { sendfile: Some(5), ..Plan::default() });
}

#[test]
fn splice_is_a_hole() {
    hole(&Plan { splice: Some(5), ..Plan::default() });
}

#[test]
fn dup2_over_the_last_descriptor() {
    dropped("dup2", &Plan { drop_after: Some(4), ..Plan::default() });
}

#[test]
fn close_range_of_the_last_descriptor() {
    dropped("close-range", &Plan { drop_after: Some(4), ..Plan::default() });
}

#[test]
fn a_half_close_by_the_server() {
    dropped("read", &Plan { shut_after: Some(4), ..Plan::default() });
}

/// A client that has said all it will still gets its answer.
#[test]
fn a_half_close_by_the_client() {
    each("read", |_, server, agent| {
        let mut stream = server.address.connect().unwrap();
        stream.write_all(&Request::new("calls/half", &Ask::default()).encode()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.ends_with(b"data: [DONE]\n\n\r\n0\r\n\r\n"));
        agent.wait_for_requests("server", 1);
        let entries = agent.stop();
        assert_eq!(entries.len(), 1);
        assert_eq!((&*entries[0].outcome, entries[0].token_events), ("success", 16));
    });
}

/// One read of a body that comes in pieces: it counts as received when the last piece is there.
#[test]
fn a_read_that_waits_for_all() {
    for calls in ["waitall", "waitall-msg"] {
        each(calls, |_, server, agent| {
            let mut client = Connection::new(&server.address).pause(Duration::from_millis(30));
            let records: Vec<_> = (0..2)
                .map(|n| {
                    let name = format!("{calls}/{n}");
                    client.send(&Request::new(name, &Ask::default())).unwrap()
                })
                .collect();
            agent.wait_for_requests("server", records.len());
            assert_same(&records, &agent.stop());
        });
    }
}

/// One message by a call that could take several.
#[test]
fn recvmmsg() {
    each("recvmmsg", |_, server, agent| {
        let records = send(server, "recvmmsg", &[Ask::default(), Ask::default()]);
        agent.wait_for_requests("server", records.len());
        assert_same(&records, &agent.stop());
    });
}

fn opaque(server: &Server, agent: Agent) {
    let records = send(server, "opaque", &[Ask::default(), Ask::default()]);
    assert!(records.iter().all(|record| record.outcome == "success"));
    wait_for("bytes counted as opaque", Duration::from_secs(5), || {
        let opaque = [("reason", "opaque")];
        (agent.metrics().sum("llmtrace_lost_bytes_total", &opaque) > 0.0).then_some(())
    });
    let metrics = agent.metrics();
    assert_eq!(metrics.sum("llm_requests_total", &[]), 0.0);
    assert_eq!(metrics.sum("llm_request_duration_seconds_count", &[]), 0.0);
    assert!(agent.stop().is_empty());
}

/// The socket tracepoints see that io_uring reads, but not where to.
#[test]
fn io_uring_reads_are_opaque() {
    require_bpf();
    let _alone = serial();
    let server = Server::app_at(Address::loopback(free_port()), Model::Thread, Io::Uring);
    let agent = Options::default().arg("--backend", "tracepoint").pid(server.id()).start();
    // The server has a ring for each of its connections.
    let _connected = server.address.connect().unwrap();
    wait_for("the agent's word on io_uring", Duration::from_secs(6), || {
        let said = agent.printed().contains("has an io_uring");
        (said && agent.metrics().sum("llmtrace_io_uring_targets", &[]) == 1.0).then_some(())
    });
    opaque(&server, agent);
}

#[test]
fn sendmmsg() {
    each("sendmmsg", |_, server, agent| {
        let records = send(server, "sendmmsg", &[Ask::default(), Ask::default()]);
        agent.wait_for_requests("server", records.len());
        assert_same(&records, &agent.stop());
    });
}

/// An answer that is read when the FIN behind it has come, in pieces: the read that takes the last
/// bytes takes the FIN with them, which has a place in TCP's count of bytes but not in the stream.
#[test]
fn the_last_bytes_with_the_fin() {
    require_bpf();
    let _alone = serial();
    const TOKEN: &str =
        "data: {\"model\":\"tiny\",\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    let answer = [
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n",
        TOKEN,
        TOKEN,
        "data: [DONE]\n\n",
    ]
    .concat();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    for backend in BACKENDS {
        let own = std::process::id();
        let agent = Options::default().arg("--backend", backend).pid(own).start();
        for piece in [answer.len(), 100, 7] {
            let request = Request::new(format!("fin/{piece}"), &Ask::default()).encode();
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(&request).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            server.read_exact(&mut vec![0; request.len()]).unwrap();
            server.write_all(answer.as_bytes()).unwrap();
            drop(server);
            // The FIN is on its way by loopback, which takes a moment on a busy machine.
            thread::sleep(Duration::from_millis(100));
            let (mut got, mut buf) = (0, vec![0; piece]);
            while got < answer.len() {
                got += client.read(&mut buf).unwrap();
            }
        }
        let metrics = agent.wait_for_requests("client", 3);
        let entries: Vec<Entry> = agent.stop().into_iter().filter(|e| e.role == "client").collect();
        assert_eq!(entries.len(), 3, "{backend}");
        for entry in &entries {
            assert_eq!((&*entry.outcome, entry.events), ("success", 3), "{backend}: {entry:?}");
        }
        assert_eq!(metrics.sum("llmtrace_lost_bytes_total", &[]), 0.0, "{backend}");
    }
}
