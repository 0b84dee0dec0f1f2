//! The stacks that LLM servers are built on, each with a small application of ours.

use std::time::Duration;

use llmtrace_tests::agent::{Agent, Options, require_bpf, serial};
use llmtrace_tests::client::load;
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::compare::{assert_direct, assert_metrics, assert_same, hop};
use llmtrace_tests::mix;
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;

const COUNT: usize = 50;

/// The mix over eight kept connections, with nothing lost, doubled or different.
#[track_caller]
fn check(server: &Server, agent: Agent, port: Option<u16>) {
    let records = load(&server.address, mix::requests(COUNT), 8);
    assert_eq!(records.len(), COUNT);
    let metrics = agent.wait_for_requests("server", COUNT);
    let entries = agent.stop();
    assert_eq!(entries.len(), COUNT, "each request once");
    let served = hop(&entries, "server", port);
    assert_same(&records, &served);
    assert_direct(&records, &served);
    assert_metrics(&metrics, "server", &records);
}

#[track_caller]
fn check_by_pid(server: &Server) {
    let agent = Options::default().pid(server.id()).start();
    check(server, agent, Some(server.port()));
}

#[test]
fn uvicorn_uvloop() {
    require_bpf();
    let _alone = serial();
    check_by_pid(&Server::uvicorn("uvloop", "httptools"));
}

#[test]
fn uvicorn_asyncio() {
    require_bpf();
    let _alone = serial();
    check_by_pid(&Server::uvicorn("asyncio", "h11"));
}

#[test]
fn node() {
    require_bpf();
    let _alone = serial();
    check_by_pid(&Server::node());
}

/// It serves from a child that was there before the agent: found by its port.
#[test]
fn granian() {
    require_bpf();
    let _alone = serial();
    let server = Server::granian();
    let agent = Options::default().port(server.port()).start();
    check(&server, agent, Some(server.port()));
}

#[test]
fn unix_socket() {
    require_bpf();
    let _alone = serial();
    let server = Server::unix_app();
    let agent = Options::default().pid(server.id()).start();
    check(&server, agent, None);
}

/// Both hops are traced: nginx as a server and as a client, uvicorn as a server.
#[test]
fn behind_nginx() {
    require_bpf();
    let _alone = serial();
    let upstream = Server::uvicorn("uvloop", "httptools");
    let nginx = Server::nginx(&upstream);
    // The master listens before its worker is there.
    let worker =
        wait_for("nginx's worker", Duration::from_secs(10), || nginx.children().first().copied());
    let agent = Options::default().pid(worker).pid(upstream.id()).start();
    let records = load(&nginx.address, mix::requests(COUNT), 8);
    agent.wait_for_requests("client", COUNT);
    let metrics = agent.wait_for_requests("server", 2 * COUNT);
    let entries = agent.stop();
    assert_eq!(entries.len(), 3 * COUNT, "each request once at each end");
    let front = hop(&entries, "server", Some(nginx.port()));
    let middle = hop(&entries, "client", Some(upstream.port()));
    let back = hop(&entries, "server", Some(upstream.port()));
    assert!(front.iter().all(|entry| entry.pid == Some(worker)));
    assert!(middle.iter().all(|entry| entry.pid == Some(worker)));
    assert!(back.iter().all(|entry| entry.pid == Some(upstream.id())));
    for hop in [&front, &middle, &back] {
        assert_same(&records, hop);
    }
    assert_direct(&records, &front);
    assert_metrics(&metrics, "client", &records);
    assert_eq!(metrics.sum("llm_requests_total", &[("role", "server")]), 100.0);
}

/// With the proxy alone as the target, the upstream call is a client's and not counted as served.
#[test]
fn nginx_alone() {
    require_bpf();
    let _alone = serial();
    let upstream = Server::app(Model::Thread);
    let nginx = Server::nginx(&upstream);
    // The master is the target: its worker is a child that was there before.
    let agent = Options::default().pid(nginx.id()).start();
    let records = load(&nginx.address, mix::requests(COUNT), 8);
    agent.wait_for_requests("client", COUNT);
    let metrics = agent.wait_for_requests("server", COUNT);
    let entries = agent.stop();
    assert_eq!(entries.len(), 2 * COUNT);
    assert_same(&records, &hop(&entries, "server", Some(nginx.port())));
    assert_same(&records, &hop(&entries, "client", Some(upstream.port())));
    assert_metrics(&metrics, "server", &records);
    assert_metrics(&metrics, "client", &records);
}
