//! Servers and clients that speak TLS: their plaintext is traced as if there were none.

use std::fs;
use std::thread;
use std::time::Duration;

use llmtrace_tests::agent::{Entry, Options, require_bpf, serial};
use llmtrace_tests::client::{Connection, Record, Request, load};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::compare::{assert_direct, assert_metrics, assert_same, hop};
use llmtrace_tests::gateway::{Front, Gateway, Kind};
use llmtrace_tests::mix;
use llmtrace_tests::net::{Address, free_port};
use llmtrace_tests::paths::TempDir;
use llmtrace_tests::plan::Ask;
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;

const COUNT: usize = 50;

/// The mix over eight kept connections, every way in which a client leaves, and the server's own.
#[track_caller]
fn check(server: &Server, library: &str) {
    let agent = Options::default().pid(server.id()).start();
    agent.wait_for_library(library);
    let records = load(&server.address, mix::requests(COUNT), 8);
    assert_eq!(records.len(), COUNT);
    let metrics = agent.wait_for_requests("server", COUNT);
    assert_metrics(&metrics, "server", &records);
    let left = leave(server);
    assert_eq!(left[4].outcome, "server_disconnect");
    agent.wait_for_requests("server", COUNT + left.len());
    let entries = agent.stop();
    let (served, all) = (hop(&entries, "server", Some(server.port())), [records, left].concat());
    assert_eq!(entries.len(), all.len(), "each request once");
    assert!(served.iter().all(|entry| entry.tls), "{served:#?}");
    assert_same(&all, &served);
    assert_direct(&all, &served);
}

/// One connection each, and a good request at last.
#[track_caller]
fn leave(server: &Server) -> Vec<Record> {
    let cases = [
        (mix::left_before_first_token("abort/before-fin", false), "before_first_token"),
        (mix::left_before_first_token("abort/before-rst", true), "before_first_token"),
        (mix::left_in_mid_stream("abort/mid-fin", false), "mid_stream"),
        (mix::left_in_mid_stream("abort/mid-rst", true), "mid_stream"),
    ];
    let send = |request: &Request| Connection::new(&server.address).send(request).unwrap();
    let mut records = Vec::new();
    for (request, phase) in &cases {
        let record = send(request);
        assert_eq!((record.outcome, record.phase), ("client_disconnect", Some(*phase)));
        records.push(record);
    }
    // Some proxies end the answer properly when their upstream does not: the client knows.
    records.push(send(&mix::dropped_by_server("abort/server")));
    let last = send(&Request::new("abort/none", &Ask::default()));
    assert_eq!(last.outcome, "success");
    records.push(last);
    records
}

/// By RST, behind proxies that go on for a client that has only closed its side, and that sometimes
/// end an answer by themselves (Caddy 2.6, without an agent as well): until it has been left.
#[track_caller]
fn leave_by_reset(server: &Server) -> Vec<Record> {
    const TRIES: usize = 8;
    let left = |what: &str, make: fn(&str, bool) -> Request| {
        let send = |n| {
            let request = make(&format!("abort/{what}/{n}"), true);
            Connection::new(&server.address).send(&request).unwrap()
        };
        let mut records = (0..TRIES).map(send);
        records.find(|r| r.outcome == "client_disconnect").expect("no answer was left")
    };
    vec![left("before", mix::left_before_first_token), left("mid", mix::left_in_mid_stream)]
}

#[test]
fn uvicorn_asyncio() {
    require_bpf();
    let _alone = serial();
    check(&Server::uvicorn_tls("asyncio"), "openssl");
}

#[test]
fn uvicorn_uvloop() {
    require_bpf();
    let _alone = serial();
    check(&Server::uvicorn_tls("uvloop"), "openssl");
}

/// The library is where only the server's own mounts have it, as in a container.
#[test]
fn library_in_a_mount_namespace() {
    require_bpf();
    let _alone = serial();
    let folder = TempDir::new();
    let server = Server::app_tls_in_own_mounts(folder.path());
    let maps = fs::read_to_string(format!("/proc/{}/maps", server.id())).unwrap();
    let library = folder.join("libssl.so.3");
    assert!(maps.contains(&*library.to_string_lossy()), "{maps}");
    assert!(!library.exists(), "it is to be seen from outside");
    check(&server, "openssl");
}

/// Handshakes on one thread, connections on others.
#[test]
fn rustls_threads() {
    require_bpf();
    let _alone = serial();
    check(&Server::app_rustls_on(free_port()), "rustls");
}

#[test]
fn node() {
    require_bpf();
    let _alone = serial();
    check(&Server::node_tls(), "openssl");
}

/// A proxy that ends TLS, and the server behind it, which is mostly spoken to in the clear: the mix
/// once at each end.
#[track_caller]
fn check_proxy(
    upstream: &Server,
    proxy: &Server,
    library: &str,
    leave: fn(&Server) -> Vec<Record>,
    faithful: bool,
) {
    let tls = usize::from(matches!(upstream.address, Address::Tls(_))) * COUNT;
    let agent = Options::default().pid(proxy.id()).pid(upstream.id()).start();
    agent.wait_for_library(library);
    let records = load(&proxy.address, mix::requests(COUNT), 8);
    agent.wait_for_requests("client", COUNT);
    agent.wait_for_requests("server", 2 * COUNT);
    let left = leave(proxy);
    let of_left = |entries: &[Entry]| {
        let mut front = hop(entries, "server", Some(proxy.port()));
        front.retain(|entry| left.iter().any(|r| Some(&r.user_agent) == entry.user_agent.as_ref()));
        front
    };
    wait_for("the proxy's end of the requests that were left", Duration::from_secs(10), || {
        (of_left(&agent.log()).len() == left.len()).then_some(())
    });
    let mut entries = agent.stop();
    assert_same(&left, &of_left(&entries));
    entries.retain(|e| e.user_agent.as_ref().is_some_and(|who| !who.starts_with("abort/")));
    assert_eq!(entries.len(), 3 * COUNT, "each request once at each end");
    let front = hop(&entries, "server", Some(proxy.port()));
    let middle = hop(&entries, "client", Some(upstream.port()));
    let back = hop(&entries, "server", Some(upstream.port()));
    let encrypted = |hop: &[Entry]| hop.iter().filter(|entry| entry.tls).count();
    assert_eq!([encrypted(&front), encrypted(&middle), encrypted(&back)], [COUNT, tls, tls]);
    assert_same(&records, &front);
    if faithful {
        assert_same(&records, &middle);
        assert_same(&records, &back);
    }
    assert_direct(&records, &front);
}

#[track_caller]
fn check_gateway(kind: Kind, leave: fn(&Server) -> Vec<Record>, faithful: bool) {
    let upstream = Server::app(Model::Thread);
    let proxy = Gateway::start(kind, &upstream).at(Front::Tls);
    check_proxy(&upstream, &proxy, kind.library(), leave, faithful);
}

#[test]
fn nginx_in_front() {
    require_bpf();
    let _alone = serial();
    check_gateway(Kind::Nginx, leave, true);
}

#[test]
fn haproxy_in_front() {
    require_bpf();
    let _alone = serial();
    check_gateway(Kind::Haproxy, leave, true);
}

/// Go's own TLS, in a program without symbols. Caddy 2.6 now and then closes the connection to its
/// upstream in mid-answer, without an agent as well; so behind it only the number is known.
#[test]
fn caddy_in_front() {
    require_bpf();
    let _alone = serial();
    check_gateway(Kind::Caddy, leave_by_reset, false);
}

#[test]
fn lighttpd_with_gnutls_in_front() {
    require_bpf();
    let _alone = serial();
    let upstream = Server::app(Model::Thread);
    check_proxy(&upstream, &Server::lighttpd_gnutls(&upstream), "gnutls", leave_by_reset, true);
}

#[test]
fn envoy_in_front() {
    require_bpf();
    let _alone = serial();
    check_gateway(Kind::Envoy, leave, true);
}

/// tokio-rustls, with all connections on one thread and on several.
#[test]
fn tokio_rustls_in_front() {
    require_bpf();
    let _alone = serial();
    let upstream = Server::app(Model::Thread);
    for arguments in [["--threads", "1"].as_slice(), &["--threads", "4", "--tls12"]] {
        check_proxy(&upstream, &Server::relay(&upstream, arguments), "rustls", leave, true);
    }
}

/// A connection that is older than the agent: under its keys something has been sent already. What is
/// sent first after that is for a socket that is not known until it is sent.
#[test]
fn tokio_rustls_in_mid_connection() {
    require_bpf();
    let _alone = serial();
    let upstream = Server::app(Model::Thread);
    let relay = Server::relay(&upstream, &["--threads", "2"]);
    let mut connection = Connection::new(&relay.address);
    let mut send = |who: &str| connection.send(&Request::new(who, &Ask::default())).unwrap();
    send("before");
    let agent = Options::default().pid(relay.id()).start();
    agent.wait_for_library("rustls");
    let mut records: Vec<_> = ["first", "second", "third"].into_iter().map(&mut send).collect();
    agent.wait_for_requests("server", records.len());
    let entries = agent.stop();
    let mut served = hop(&entries, "server", Some(relay.port()));
    let first = served.remove(0);
    assert_eq!(
        (first.user_agent.as_deref(), first.outcome.as_str()),
        (Some("first"), "incomplete")
    );
    assert!(first.tls);
    records.remove(0);
    assert_same(&records, &served);
}

/// The serving and the asking end of rustls in one process, and on the same threads.
#[test]
fn tokio_rustls_at_both_ends() {
    require_bpf();
    let _alone = serial();
    let upstream = Server::app_tls_on(free_port());
    for arguments in [["--threads", "1", "--tls12"].as_slice(), &["--threads", "4"]] {
        let arguments = [arguments, &["--upstream-tls"]].concat();
        check_proxy(&upstream, &Server::relay(&upstream, &arguments), "rustls", leave, true);
    }
}

/// A connection for each request, many at a time, at both ends: the memory of keys is used again and
/// again, and each time by another connection.
#[test]
fn tokio_rustls_with_short_connections() {
    const CLIENTS: usize = 16;
    const EACH: usize = 12;
    require_bpf();
    let _alone = serial();
    let upstream = Server::app_rustls_on(free_port());
    let relay = Server::relay(&upstream, &["--threads", "3", "--upstream-tls"]);
    let agent = Options::default().pid(relay.id()).pid(upstream.id()).start();
    agent.wait_for_library("rustls");
    let client = |client: usize| {
        let send = |request: &Request| Connection::new(&relay.address).send(request).unwrap();
        let who = |n| format!("short/{client}/{n}");
        (0..EACH).map(|n| send(&Request::new(who(n), &Ask::default()))).collect::<Vec<_>>()
    };
    let records: Vec<Record> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || client(n))).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    agent.wait_for_requests("client", records.len());
    agent.wait_for_requests("server", 2 * records.len());
    let entries = agent.stop();
    assert_eq!(entries.len(), 3 * records.len(), "each request once at each end");
    assert!(entries.iter().all(|entry| entry.tls));
    assert_same(&records, &hop(&entries, "server", Some(relay.port())));
    assert_same(&records, &hop(&entries, "client", Some(upstream.port())));
    assert_same(&records, &hop(&entries, "server", Some(upstream.port())));
}
