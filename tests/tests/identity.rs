//! Which connection bytes belong to, whoever holds its descriptor, by each back end that this kernel
//! has at the least.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use llmtrace_tests::agent::{Options, require_bpf, serial};
use llmtrace_tests::client::{Connection, Record, Request, load};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::compare::{assert_direct, assert_metrics, assert_same};
use llmtrace_tests::net::{Address, Stream, free_port};
use llmtrace_tests::pass::connect_from;
use llmtrace_tests::paths::{TempDir, own_bin};
use llmtrace_tests::plan::Ask;
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;
use rustix::thread::{UnshareFlags, unshare_unsafe};

const BACKENDS: [&str; 2] = ["tracepoint", "syscall"];

fn options(backend: &str) -> Options {
    Options::default().arg("--backend", backend)
}

fn requests(name: &str, count: usize) -> Vec<Request> {
    (0..count).map(|n| Request::new(format!("id/{name}-{n}"), &Ask::default())).collect()
}

/// What `send` sends to `server` is traced as the client saw it.
#[track_caller]
fn check(server: &Server, send: impl Fn() -> Vec<Record>) {
    for backend in BACKENDS {
        let agent = options(backend).pid(server.id()).start();
        let records = send();
        let metrics = agent.wait_for_requests("server", records.len());
        let entries = agent.stop();
        assert_same(&records, &entries);
        assert_direct(&records, &entries);
        assert_metrics(&metrics, "server", &records);
    }
}

#[test]
fn connections_from_before_the_agent() {
    require_bpf();
    let _alone = serial();
    for by in [Model::Thread, Model::Split, Model::Fork] {
        let server = Server::app(by);
        for backend in BACKENDS {
            let mut connections = [(); 4].map(|()| Connection::new(&server.address));
            for connection in &mut connections {
                connection.send(&requests("before", 1)[0]).unwrap();
            }
            let agent = options(backend).pid(server.id()).start();
            let records: Vec<_> = connections
                .iter_mut()
                .zip(requests("after", 4))
                .map(|(connection, request)| connection.send(&request).unwrap())
                .collect();
            agent.wait_for_requests("server", records.len());
            assert_same(&records, &agent.stop());
        }
    }
}

#[test]
fn descriptors_passed_to_another_process() {
    require_bpf();
    let _alone = serial();
    let server = Server::app_with(Address::loopback(free_port()), &["--pass"]);
    check(&server, || load(&server.address, requests("passed", 20), 4));
}

#[test]
fn fork_after_accept() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Fork);
    check(&server, || load(&server.address, requests("forked", 20), 4));
}

#[test]
fn workers_on_one_listener_and_on_one_port() {
    require_bpf();
    let _alone = serial();
    for flags in [&["--workers", "3"][..], &["--workers", "3", "--reuse-port"]] {
        let server = Server::app_with(Address::loopback(free_port()), flags);
        check(&server, || load(&server.address, requests("worker", 40), 8));
    }
}

#[test]
fn connections_one_after_the_other_on_one_descriptor() {
    require_bpf();
    let _alone = serial();
    let dir = TempDir::new();
    let unix = Address::Unix(dir.join("reuse.sock"));
    for address in [Address::loopback(free_port()), unix] {
        let server = Server::app_with(address, &[]);
        check(&server, || {
            let send = |request| Connection::new(&server.address).send(&request).unwrap();
            requests("reused", 300).into_iter().map(send).collect()
        });
    }
}

#[test]
fn a_restart_under_the_same_name_and_port() {
    require_bpf();
    let _alone = serial();
    let dir = TempDir::new();
    // A name that no other process has.
    let name = format!("llmid{}", std::process::id());
    let exe = dir.join(&name);
    fs::copy(own_bin("server"), &exe).unwrap();
    let port = free_port();
    for backend in BACKENDS {
        for by_port in [true, false] {
            let agent = options(backend);
            let agent = if by_port { agent.port(port) } else { agent.comm(&name) };
            let agent = agent.start();
            let mut records = Vec::new();
            for life in ["first", "second"] {
                let server = if by_port {
                    Server::app_on(port, Model::Thread)
                } else {
                    // The one before may be a target still.
                    wait_for("no target", Duration::from_secs(10), || {
                        let targets = agent.metrics().sum("llmtrace_targets", &[]);
                        (targets == 0.0).then_some(())
                    });
                    Server::app_from(&exe)
                };
                // A name is looked at when the process has started, a port before it is used.
                wait_for("the server to be a target", Duration::from_secs(10), || {
                    let targets = agent.metrics().sum("llmtrace_targets", &[]);
                    (by_port || targets == 1.0).then_some(())
                });
                records.extend(load(&server.address, requests(life, 10), 4));
            }
            agent.wait_for_requests("server", records.len());
            assert_same(&records, &agent.stop());
        }
    }
}

/// Two connections with the same four addresses at the same time, in two network namespaces.
#[test]
fn the_same_addresses_in_two_network_namespaces() {
    require_bpf();
    let _alone = serial();
    let (port, from) = (free_port(), SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let connect = || {
        let stream = connect_from(&from, &to).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection::new(&Address::Tcp(to)).over(Stream::Tcp(stream))
    };
    let here = Server::app_on(port, Model::Thread);
    let (started, start) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    let there = thread::spawn(move || {
        // SAFETY: NEWNET changes nothing that memory safety depends on.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        let server = Server::app_on(port, Model::Thread);
        let stream = connect_from(&from, &to).unwrap();
        stream.set_nodelay(true).unwrap();
        started.send((server.id(), stream)).unwrap();
        let _ = ended.recv();
    });
    let (id, stream) = start.recv().unwrap();
    let mut far = Connection::new(&Address::Tcp(to)).over(Stream::Tcp(stream));
    let mut near = connect();
    for backend in BACKENDS {
        let agent = options(backend).pid(here.id()).pid(id).start();
        let mut records = Vec::new();
        for (near_request, far_request) in requests("near", 5).iter().zip(requests("far", 5)) {
            records.push(near.send(near_request).unwrap());
            records.push(far.send(&far_request).unwrap());
        }
        assert!(records.iter().all(|record| record.local == Some(from)));
        agent.wait_for_requests("server", records.len());
        let entries = agent.stop();
        assert_same(&records, &entries);
        for entry in entries {
            let near = entry.user_agent.as_ref().unwrap().starts_with("id/near");
            assert_eq!(entry.pid, Some(if near { here.id() } else { id }), "{entry:?}");
        }
    }
    drop(end);
    there.join().unwrap();
}

/// Addresses are shown as the client has them, whatever the listener is bound to.
#[test]
fn ipv6_and_ipv4_over_ipv6() {
    require_bpf();
    let _alone = serial();
    for ip in [Ipv4Addr::LOCALHOST.into(), std::net::IpAddr::from(Ipv6Addr::LOCALHOST)] {
        let port = free_port();
        let server = Server::app_with(Address::Tcp((ip, port).into()), &["--host", "::"]);
        for backend in BACKENDS {
            let agent = options(backend).pid(server.id()).start();
            let records = load(&server.address, requests("six", 8), 2);
            agent.wait_for_requests("server", records.len());
            let entries = agent.stop();
            assert_same(&records, &entries);
            assert_direct(&records, &entries);
            assert!(entries.iter().all(|e| e.server == format!("server:{port}")), "{entries:?}");
        }
    }
}

#[test]
fn unix_sockets_by_path_by_abstract_name() {
    require_bpf();
    let _alone = serial();
    let dir = TempDir::new();
    let name = format!("@llmtrace-test-{}", std::process::id());
    for address in [Address::Unix(dir.join("id.sock")), Address::Unix(name.into())] {
        let server = Server::app_with(address, &[]);
        check(&server, || load(&server.address, requests("unix", 20), 4));
    }
}

/// A server whose only connection is its standard input, made by `socketpair`.
#[test]
fn a_socketpair() {
    require_bpf();
    let _alone = serial();
    for backend in BACKENDS {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut server = Command::new(own_bin("server"))
            .args(["app", "--stdin"])
            .stdin(OwnedFd::from(theirs))
            .spawn()
            .unwrap();
        let agent = options(backend).pid(server.id()).start();
        let unused = Address::loopback(1);
        let mut connection = Connection::new(&unused).over(Stream::Unix(ours));
        let records: Vec<_> =
            requests("pair", 5).iter().map(|r| connection.send(r).unwrap()).collect();
        drop(connection);
        server.wait().unwrap();
        agent.wait_for_requests("server", records.len());
        assert_same(&records, &agent.stop());
    }
}
