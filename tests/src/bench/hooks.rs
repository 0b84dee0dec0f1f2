//! (g) What a hook costs a call: nanoseconds of CPU time, with the agent less without.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_tcp_quickack;

use super::Effort;
use super::empty::Empty;
use super::report::{Table, median};
use crate::agent::Options;
use crate::stack::Server;

/// The agent watches every system call until reads that were under way at its start are over.
const SETTLE: Duration = Duration::from_secs(5);

/// What is attached during a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum With {
    /// Programs that do nothing, where the agent's would be.
    Empty,
    /// The agent, which traces another process.
    Bystander,
    /// The agent, which traces the process that calls.
    Traced,
}

/// A call, what asks the server for it, and what is attached.
const CASES: [(&str, &str, With); 8] = [
    ("getppid, empty hooks", "calls", With::Empty),
    ("getppid, not traced", "calls", With::Bystander),
    ("getppid, traced process", "calls", With::Traced),
    ("read and write of files, not traced", "files", With::Bystander),
    ("socket write, empty hooks", REQUEST, With::Empty),
    ("socket write, not traced", REQUEST, With::Bystander),
    ("socket write, traced but silenced (no HTTP)", "raw", With::Traced),
    ("socket write, captured (259 bytes)", REQUEST, With::Traced),
];
const REQUEST: &str = "POST /v1/chat/completions HTTP/1.1\r\n";

/// Back ends that this kernel takes; where `tracepoint` means system calls, it stands for both.
pub fn backends() -> Vec<&'static str> {
    let server = Server::cost(1);
    let takes = |backend: &str| {
        let probe = Options::default().pid(server.id()).arg("--backend", backend).try_start();
        probe.ok().map(|agent| {
            let syscalls = agent.printed().contains("hooks=syscalls");
            agent.kill();
            syscalls
        })
    };
    let mut backends = Vec::new();
    for backend in ["fentry", "kprobe", "tracepoint", "syscall"] {
        match takes(backend) {
            Some(syscalls) if syscalls && backend == "tracepoint" => {}
            Some(_) => backends.push(backend),
            None => {}
        }
    }
    backends
}

pub fn hooks(effort: Effort) -> Table {
    let backends = backends();
    let mut header = vec!["call", "ns without"];
    let titles: Vec<String> = backends.iter().map(|b| format!("{b}: ns added")).collect();
    header.extend(titles.iter().map(String::as_str));
    let mut table = Table::new("(g) Cost of a hook", &header);
    let server = Server::cost(effort.calls);
    let bystander = Server::cost(1);
    let mut without = vec![Vec::new(); CASES.len()];
    let mut added = vec![vec![Vec::new(); backends.len()]; CASES.len()];
    for _ in 0..effort.pairs {
        for (b, backend) in backends.iter().enumerate() {
            let base = CASES.map(|(_, line, _)| measure(server.port(), line));
            let mut calls = |with: With| {
                for (n, (_, line, _)) in CASES.iter().enumerate().filter(|(_, c)| c.2 == with) {
                    without[n].push(base[n]);
                    added[n][b].push(measure(server.port(), line) - base[n]);
                }
            };
            let empty = Empty::attach(backend);
            calls(With::Empty);
            drop(empty);
            for (with, target) in [(With::Bystander, &bystander), (With::Traced, &server)] {
                let options = Options::default().pid(target.id());
                let agent = options.arg("--backend", backend).start();
                thread::sleep(SETTLE);
                calls(with);
                agent.kill();
            }
        }
    }
    let mut figures = Vec::new();
    for (n, (name, ..)) in CASES.iter().enumerate() {
        let base = median(&without[n]);
        let mut row = vec![(*name).to_owned(), format!("{base:.0}")];
        for (backend, added) in backends.iter().zip(&added[n]) {
            let added = median(added);
            row.push(format!("{added:+.0} ({:+.1} %)", 100.0 * added / base));
            figures.push(serde_json::json!({
                "call": name, "backend": backend, "ns_without": base, "ns_added": added,
            }));
        }
        table.row(&row);
    }
    table.note(
        "CPU time of the calling thread, medians over interleaved rounds. Hooks on sockets cost \
         other calls nothing; those on system calls cost every call of the machine. Empty hooks \
         are programs that do nothing in the same places: what the kernel takes for calling them.",
    );
    table.figures = serde_json::Value::Array(figures);
    table
}

fn measure(port: u16, line: &str) -> f64 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    stream.write_all(format!("{line}\r\n\r\n").as_bytes()).expect("sent");
    let (mut tail, mut buf) = (Vec::new(), vec![0; 256 * 1024]);
    loop {
        // The server waits for its bytes to leave, and an acknowledgment may take 40 ms otherwise.
        set_tcp_quickack(&stream, true).expect("a socket");
        let n = stream.read(&mut buf).expect("an answer");
        if n == 0 {
            break;
        }
        tail.extend_from_slice(&buf[..n]);
        let keep = tail.len().saturating_sub(64);
        tail.drain(..keep);
    }
    let text = String::from_utf8_lossy(&tail);
    let ns = text.rsplit("ns=").next().and_then(|ns| ns.trim().parse().ok());
    ns.expect("the last line says what a call took")
}
