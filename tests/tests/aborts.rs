//! Connections that end before the answer does, each with its outcome and phase.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use llmtrace_tests::agent::{Entry, Options, require_bpf, serial};
use llmtrace_tests::client::{Connection, Record, Request};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::compare::assert_same;
use llmtrace_tests::mix;
use llmtrace_tests::plan::{Ask, Plan};
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;
use rustix::process::Signal;

/// Every way in which a client leaves, and the server's own: what the clients saw is what is
/// traced, and a good request afterwards is found.
#[track_caller]
fn check(server: &Server) {
    let agent = Options::default().pid(server.id()).start();
    let requests = [
        mix::left_before_first_token("abort/before-fin", false),
        mix::left_before_first_token("abort/before-rst", true),
        mix::left_in_mid_stream("abort/mid-fin", false),
        mix::left_in_mid_stream("abort/mid-rst", true),
        mix::dropped_by_server("abort/server"),
        Request::new("abort/none", &Ask::default()),
    ];
    let records: Vec<Record> = requests
        .iter()
        .map(|request| Connection::new(&server.address).send(request).unwrap())
        .collect();
    let outcomes: Vec<_> = records.iter().map(|r| (r.outcome, r.phase)).collect();
    assert_eq!(
        outcomes,
        [
            ("client_disconnect", Some("before_first_token")),
            ("client_disconnect", Some("before_first_token")),
            ("client_disconnect", Some("mid_stream")),
            ("client_disconnect", Some("mid_stream")),
            ("server_disconnect", None),
            ("success", None),
        ]
    );
    let metrics = agent.wait_for_requests("server", records.len());
    let entries = agent.stop();
    assert_same(&records, &entries);
    let left = [("role", "server"), ("outcome", "client_disconnect")];
    assert_eq!(metrics.sum("llm_requests_total", &left), 4.0);
    assert_eq!(metrics.sum("llm_wasted_tokens_total", &[("role", "server")]), 10.0);
}

#[test]
fn threaded_server() {
    require_bpf();
    let _alone = serial();
    check(&Server::app(Model::Thread));
}

#[test]
fn uvicorn() {
    require_bpf();
    let _alone = serial();
    check(&Server::uvicorn("uvloop", "httptools"));
}

#[test]
fn node() {
    require_bpf();
    let _alone = serial();
    check(&Server::node());
}

#[test]
fn unix_socket() {
    require_bpf();
    let _alone = serial();
    check(&Server::unix_app());
}

fn find<'a>(entries: &'a [Entry], user_agent: &str) -> &'a Entry {
    let mut found = entries.iter().filter(|entry| entry.user_agent.as_deref() == Some(user_agent));
    let entry = found.next().unwrap_or_else(|| panic!("{user_agent} not traced: {entries:#?}"));
    assert!(found.next().is_none(), "{user_agent} traced twice");
    entry
}

/// The client goes before a single byte of the answer was written.
#[test]
fn client_leaves_while_it_waits_for_the_head() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let agent = Options::default().pid(server.id()).start();
    let ask = Ask {
        stream: false,
        plan: Plan { first_delay_ms: 60_000, ..Plan::default() },
        ..Ask::default()
    };
    let request = Request::new("abort/no-head", &ask);
    let mut stream = server.address.connect().unwrap();
    std::io::Write::write_all(&mut stream, &request.encode()).unwrap();
    drop(stream);
    let own = server.wait_for_log(1);
    assert_eq!(own[0].outcome, "client_disconnect");
    agent.wait_for_requests("server", 1);
    let entries = agent.stop();
    let entry = find(&entries, "abort/no-head");
    assert_eq!(entry.outcome, "client_disconnect");
    assert_eq!(entry.phase.as_deref(), Some("before_first_token"));
    assert_eq!((entry.status, entry.events), (None, 0));
}

/// SIGKILL while the stream runs: its kernel closes the connection, not the server.
#[test]
fn server_killed_in_mid_stream() {
    require_bpf();
    let _alone = serial();
    let mut server = Server::app(Model::Thread);
    let agent = Options::default().pid(server.id()).start();
    let mut request = mix::left_in_mid_stream("abort/killed", false);
    request.abort = None;
    let mut connection = Connection::new(&server.address);
    let tokens = connection.tokens();
    let client = thread::spawn(move || connection.send(&request).unwrap());
    wait_for("five tokens", Duration::from_secs(10), || {
        (tokens.load(Ordering::Relaxed) == 5).then_some(())
    });
    server.process().signal(Signal::KILL);
    let record = client.join().unwrap();
    assert_eq!(record.outcome, "server_disconnect");
    agent.wait_for_requests("server", 1);
    let entries = agent.stop();
    let entry = find(&entries, "abort/killed");
    assert_eq!(entry.outcome, "server_disconnect");
    assert_eq!(entry.token_events, 5);
}
