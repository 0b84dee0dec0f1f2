//! `llmtrace discover` against real servers under load, and without one.

use std::io::Write as _;
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use llmtrace_tests::agent::{require_bpf, serial};
use llmtrace_tests::client::{Request, load};
use llmtrace_tests::paths;
use llmtrace_tests::plan::{Ask, Plan};
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;
use serde_json::Value;

fn discover(args: &[&str]) -> String {
    let out = Command::new(paths::agent()).arg("discover").args(args).output().unwrap();
    let printed = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success(), "{printed}");
    String::from_utf8(out.stdout).unwrap()
}

fn find(servers: &Value, pid: u32) -> Option<&Value> {
    servers.as_array().unwrap().iter().find(|s| s["pid"] == pid)
}

#[test]
fn servers_by_command_line_libraries_and_traffic() {
    require_bpf();
    let _alone = serial();
    let (llama, app) = (Server::llama(), Server::app(Model::Thread));
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = [&llama, &app]
        .map(|server| (server.address.clone(), stop.clone()))
        .into_iter()
        .map(|(address, stop)| {
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    load(&address, vec![Request::new("discover", &Ask::default())], 1);
                }
            })
        })
        .collect();
    let servers: Value = serde_json::from_str(&discover(&["--json"])).unwrap();
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    for (server, engine) in [(&llama, Value::from("llama.cpp")), (&app, Value::Null)] {
        let found = find(&servers, server.id()).unwrap_or_else(|| panic!("{servers:#}"));
        assert_eq!(found["engine"], engine, "{found:#}");
        assert_eq!(found["listens"], serde_json::json!([server.port().to_string()]), "{found:#}");
        assert_eq!(found["models"], serde_json::json!(["tiny"]), "{found:#}");
        assert!(found["traffic"]["requests"].as_u64() > Some(0), "{found:#}");
        let endpoints = serde_json::json!(["/v1/chat/completions"]);
        assert_eq!(found["traffic"]["endpoints"], endpoints, "{found:#}");
    }

    // Without traffic only the engine that shows itself is one.
    let servers: Value = serde_json::from_str(&discover(&["--json", "--seconds", "0"])).unwrap();
    let found = find(&servers, llama.id()).unwrap_or_else(|| panic!("{servers:#}"));
    assert_eq!((&found["engine"], &found["traffic"]), (&Value::from("llama.cpp"), &Value::Null));
    assert!(find(&servers, app.id()).is_none(), "{servers:#}");
    let table = discover(&["--seconds", "0"]);
    let row = table.lines().find(|line| line.starts_with(&llama.id().to_string()));
    assert!(row.is_some_and(|row| row.contains("llama.cpp")), "{table}");
}

#[test]
fn requests_that_are_under_way_count() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let stop = Arc::new(AtomicBool::new(false));
    let (port, stopped) = (server.port(), stop.clone());
    // Streams that never end, one after the other: some begin while it watches.
    let clients = thread::spawn(move || {
        let plan = Plan { hang_after: Some(2), ..Plan::default() };
        let request = Request::new("discover", &Ask { plan, ..Ask::default() }).encode();
        let mut streams = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(&request).unwrap();
            streams.push(stream);
            thread::sleep(Duration::from_millis(200));
        }
    });
    let servers: Value = serde_json::from_str(&discover(&["--json"])).unwrap();
    stop.store(true, Ordering::Relaxed);
    clients.join().unwrap();
    let found = find(&servers, server.id()).unwrap_or_else(|| panic!("{servers:#}"));
    assert!(found["traffic"]["requests"].as_u64() > Some(0), "{found:#}");
}
