//! Shapes of requests, writes and processes that real servers show.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use llmtrace_tests::agent::{Options, require_bpf, serial};
use llmtrace_tests::client::{Connection, Record, Request, load};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::compare::{assert_direct, assert_metrics, assert_same};
use llmtrace_tests::plan::{Ask, Plan};
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;

/// Sends `requests` by four clients; all are traced as the clients saw them.
#[track_caller]
fn check(server: &Server, requests: Vec<Request>) -> Vec<Record> {
    let agent = Options::default().pid(server.id()).start();
    let count = requests.len();
    let records = load(&server.address, requests, 4);
    let metrics = agent.wait_for_requests("server", count);
    let entries = agent.stop();
    assert_same(&records, &entries);
    assert_direct(&records, &entries);
    assert_metrics(&metrics, "server", &records);
    records
}

fn requests(count: usize, ask: &Ask) -> Vec<Request> {
    (0..count).map(|n| Request::new(format!("shape/{n}"), ask)).collect()
}

#[test]
fn a_body_of_5_mb_whose_model_comes_last() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let big = Ask { model: "the-last-key".into(), prompt: "x".repeat(5 << 20), ..Ask::default() };
    // The answer of a failure does not name the model: it is known from the request alone.
    let failed = Ask { plan: Plan { status: Some(500), ..Plan::default() }, ..big.clone() };
    let agent = Options::default().pid(server.id()).start();
    let requests = vec![
        Request::new("shape/big", &big),
        Request::new("shape/big-failed", &failed),
        Request::new("shape/small", &Ask::default()),
    ];
    let records = load(&server.address, requests, 1);
    agent.wait_for_requests("server", 3);
    let entries = agent.stop();
    assert_same(&records, &entries);
    for entry in &entries[..2] {
        assert_eq!(entry.model.as_deref(), Some("the-last-key"), "{entry:?}");
        assert!(entry.request_end_ns > entry.start_ns, "the upload took time");
    }
}

#[test]
fn a_response_in_one_byte_writes() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let ask = Ask { plan: Plan { write_bytes: 1, ..Plan::default() }, ..Ask::default() };
    check(&server, requests(8, &ask));
}

#[test]
fn events_250_in_one_writev_of_1000_segments() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let ask =
        Ask { max_tokens: 1000, plan: Plan { batch: 250, ..Plan::default() }, ..Ask::default() };
    let records = check(&server, requests(8, &ask));
    assert!(records.iter().all(|record| record.answer.token_events == 1000));
}

#[test]
fn two_threads_on_one_connection() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Split);
    check(&server, requests(40, &Ask::default()));
}

#[test]
fn fork_after_accept() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Fork);
    check(&server, requests(40, &Ask::default()));
}

#[test]
fn connections_from_before_the_agent() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let mut connections: Vec<_> = (0..4).map(|_| Connection::new(&server.address)).collect();
    for (n, connection) in connections.iter_mut().enumerate() {
        let before = Request::new(format!("shape/before-{n}"), &Ask::default());
        connection.send(&before).unwrap();
    }
    let agent = Options::default().pid(server.id()).start();
    let records: Vec<_> = connections
        .iter_mut()
        .enumerate()
        .map(|(n, connection)| {
            let request = Request::new(format!("shape/after-{n}"), &Ask::default());
            connection.send(&request).unwrap()
        })
        .collect();
    agent.wait_for_requests("server", 4);
    assert_same(&records, &agent.stop());
}

/// What was joined in its middle is not reported; the next request on the connection is.
#[test]
fn an_agent_started_in_mid_stream() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let ask = Ask {
        max_tokens: 250,
        plan: Plan { interval_us: 20_000, ..Plan::default() },
        ..Ask::default()
    };
    let mut connection = Connection::new(&server.address);
    let tokens = connection.tokens();
    let client = thread::spawn(move || {
        let joined = connection.send(&Request::new("shape/joined", &ask)).unwrap();
        let next = connection.send(&Request::new("shape/next", &Ask::default())).unwrap();
        (joined, next)
    });
    wait_for("five tokens", Duration::from_secs(10), || {
        (tokens.load(Ordering::Relaxed) >= 5).then_some(())
    });
    let agent = Options::default().pid(server.id()).start();
    let at = tokens.load(Ordering::Relaxed);
    assert!(at < 250, "the agent came too late to join the stream: {at}");
    let (joined, next) = client.join().unwrap();
    assert_eq!((joined.outcome, next.outcome), ("success", "success"));
    assert_eq!(joined.local, next.local, "one connection");
    agent.wait_for_requests("server", 1);
    assert_same(&[next], &agent.stop());
}
