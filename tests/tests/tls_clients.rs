//! Clients that speak TLS, traced at their end: what they got is what was found.

use std::fs;
use std::process::Command;
use std::time::Duration;

use llmtrace_tests::agent::{Options, require_bpf, serial};
use llmtrace_tests::client::{Record, Request, load};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::compare::{assert_same, hop};
use llmtrace_tests::http::{Body, head};
use llmtrace_tests::mix;
use llmtrace_tests::paths::{self, TempDir};
use llmtrace_tests::plan::Ask;
use llmtrace_tests::process::Process;
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;
use llmtrace_tests::tls::Files;
use serde::{Deserialize, Serialize};

const COUNT: usize = 30;
const LIMIT: Duration = Duration::from_secs(60);

/// A request as the client programs read it.
#[derive(Serialize)]
struct Wanted<'a> {
    user_agent: &'a str,
    path: &'a str,
    body: String,
}

/// What they say of one.
#[derive(Deserialize)]
struct Got {
    user_agent: String,
    status: u16,
    body: String,
}

/// The mix by a program that waits until it is traced.
#[track_caller]
fn check(library: &str, command: impl FnOnce(&str, &Files) -> Command) {
    let server = Server::uvicorn_tls("uvloop");
    let dir = TempDir::new();
    let files = Files::write(dir.path());
    let requests = mix::requests(COUNT);
    let wanted: Vec<_> = requests
        .iter()
        .map(|r| Wanted {
            user_agent: &r.user_agent,
            path: &r.path,
            body: String::from_utf8(r.body.clone()).unwrap(),
        })
        .collect();
    fs::write(dir.join("requests.json"), serde_json::to_vec(&wanted).unwrap()).unwrap();
    let mut command = command(&format!("https://localhost:{}", server.port()), &files);
    command.arg(dir.join("requests.json")).arg(dir.join("go"));
    let mut client = Process::spawn(&mut command);
    let agent = Options::default().pid(client.id()).start();
    agent.wait_for_library(library);
    fs::write(dir.join("go"), "").unwrap();
    assert!(client.wait(LIMIT).success(), "{}", client.finish_output());
    agent.wait_for_requests("client", COUNT);
    let entries = agent.stop();
    let records: Vec<Record> = client
        .finish_output()
        .lines()
        .map(|line| serde_json::from_str::<Got>(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .map(|got| {
            let request = requests.iter().find(|r| r.user_agent == got.user_agent).unwrap();
            Record::of(request, got.status, got.body.as_bytes())
        })
        .collect();
    assert_eq!((records.len(), entries.len()), (COUNT, COUNT), "each request once");
    let sent = hop(&entries, "client", Some(server.port()));
    assert!(sent.iter().all(|entry| entry.tls && entry.client.is_some()), "{sent:#?}");
    assert_same(&records, &sent);
}

#[track_caller]
fn check_python(kind: &str) {
    check("openssl", |url, files| {
        let mut command = Command::new(paths::python());
        command.arg(paths::app("client.py")).args([kind, url]).arg(&files.certificate);
        command
    });
}

/// OpenSSL reads and writes the socket by itself.
#[test]
fn python_sockets() {
    require_bpf();
    let _alone = serial();
    check_python("sync");
}

/// OpenSSL reads and writes memory, the event loop the socket.
#[test]
fn python_asyncio() {
    require_bpf();
    let _alone = serial();
    check_python("async");
}

#[test]
fn node() {
    require_bpf();
    let _alone = serial();
    check("openssl", |url, files| {
        let mut command = Command::new("node");
        command.arg(paths::app("client.mjs")).arg(url);
        command.env("NODE_EXTRA_CA_CERTS", &files.certificate);
        command
    });
}

/// Streamed requests by a program that begins at once, until one is found: the library is probed
/// when the first is under way.
#[track_caller]
fn check_short(run: impl Fn(u16, &Files, &Request) -> (u16, Vec<u8>)) {
    const TRIES: u32 = 5;
    let server = Server::uvicorn_tls("uvloop");
    let dir = TempDir::new();
    let files = Files::write(dir.path());
    let agent = Options::default().flag("--all").start();
    for n in 0..TRIES {
        let request = Request::new(format!("short/{n}"), &Ask::default());
        let (status, body) = run(server.port(), &files, &request);
        agent.wait_for_requests("server", 1);
        std::thread::sleep(Duration::from_millis(500));
        let mut found = hop(&agent.log(), "client", Some(server.port()));
        found.retain(|entry| entry.user_agent.as_ref() == Some(&request.user_agent));
        if !found.is_empty() {
            assert!(found[0].tls);
            assert_same(&[Record::of(&request, status, &body)], &found);
            agent.stop();
            return;
        }
    }
    panic!("none of {TRIES} requests was found at the client's end");
}

#[track_caller]
fn output(command: &mut Command) -> Vec<u8> {
    let output = command.output().expect("the program is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn curl() {
    require_bpf();
    let _alone = serial();
    check_short(|port, files, request| {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--http1.1", "--cacert"]).arg(&files.certificate);
        command.arg("--user-agent").arg(&request.user_agent);
        command.arg("--data").arg(String::from_utf8(request.body.clone()).unwrap());
        command.arg(format!("https://localhost:{port}{}", request.path));
        (200, output(&mut command))
    });
}

/// A program that sends what it reads from its standard input.
fn by_pipe(program: &str, request: &Request) -> (u16, Vec<u8>) {
    let text = String::from_utf8(request.encode()).unwrap();
    let text = text.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let dir = TempDir::new();
    fs::write(dir.join("request"), text).unwrap();
    // The input stays open until the answer has come.
    let script = format!("(cat {}; sleep 2) | {program}", dir.join("request").display());
    let bytes = output(Command::new("sh").arg("-c").arg(script));
    let start = memchr::memmem::find(&bytes, b"HTTP/1.1 ").expect("an answer");
    let (head, len) = head(&bytes[start..]).unwrap().expect("a whole head");
    let mut payload = Vec::new();
    let mut body = Body::new(&head);
    let rest = &bytes[start + len..];
    let end = memchr::memmem::find(rest, b"\r\n0\r\n\r\n").map_or(rest.len(), |at| at + 7);
    body.push(&rest[..end], &mut payload).unwrap();
    (head.status, payload)
}

#[test]
fn openssl_s_client() {
    require_bpf();
    let _alone = serial();
    check_short(|port, files, request| {
        let certificate = files.certificate.display();
        let program =
            format!("openssl s_client -quiet -CAfile {certificate} -connect localhost:{port}");
        by_pipe(&program, request)
    });
}

#[test]
fn gnutls_cli() {
    require_bpf();
    let _alone = serial();
    check_short(|port, files, request| {
        let certificate = files.certificate.display();
        let program = format!(
            "gnutls-cli --logfile=/dev/null --x509cafile {certificate} --port {port} localhost"
        );
        by_pipe(&program, request)
    });
}

/// rustls in a program without symbols, which nothing can be attached to: that is said, not ignored.
#[test]
fn what_cannot_be_probed_is_reported() {
    require_bpf();
    let _alone = serial();
    let dir = TempDir::new();
    let program = dir.join("stripped");
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(&program).arg(paths::own_bin("rustls_server"));
    assert!(strip.status().expect("binutils are there, as Rust links by them").success());
    let upstream = Server::app(Model::Thread);
    let server = Server::relay_at(&program, &upstream, &["--threads", "1"]);
    // The other has rustls linked in, with names, and none of what would encrypt: nothing to report.
    let agent = Options::default().pid(upstream.id()).pid(server.id()).start();
    wait_for("a report of rustls", Duration::from_secs(20), || {
        let labels = [("library", "rustls"), ("state", "no_functions")];
        (agent.metrics().sum("llmtrace_tls_libraries", &labels) == 1.0).then_some(())
    });
    let said = "stripped: not traced: it is linked in without its symbols";
    assert!(agent.printed().contains(said), "{}", agent.printed());
    assert_eq!(agent.printed().matches("not traced").count(), 1, "{}", agent.printed());
    // It works all the same, in the dark.
    let records = load(&server.address, mix::requests(1), 1);
    assert_eq!(records.len(), 1);
    let entries = agent.stop();
    assert!(hop(&entries, "server", Some(server.port())).is_empty(), "{entries:#?}");
}

/// A process that is a target before it has any TLS, and loads it when it runs.
#[test]
fn library_loaded_later() {
    require_bpf();
    let _alone = serial();
    let dir = TempDir::new();
    let script = "import os, sys, time\n\
                  while not os.path.exists(sys.argv[1]): time.sleep(0.01)\n\
                  import ssl; time.sleep(60)";
    let mut command = Command::new(paths::python());
    command.arg("-c").arg(script).arg(dir.join("go"));
    let python = Process::spawn(&mut command);
    let agent = Options::default().pid(python.id()).start();
    let labels = [("library", "openssl"), ("state", "attached")];
    assert_eq!(agent.metrics().sum("llmtrace_tls_libraries", &labels), 0.0);
    fs::write(dir.join("go"), "").unwrap();
    agent.wait_for_library("openssl");
    agent.stop();
}
