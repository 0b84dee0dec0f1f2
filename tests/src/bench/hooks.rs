//! (g) What a hook costs a call: nanoseconds of CPU time, with the agent less without.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::Effort;
use super::report::{Table, median};
use crate::agent::Options;
use crate::stack::Server;

/// A call, and whether its process is traced.
const CASES: [(&str, &str, bool); 6] = [
    ("getppid, not traced", "calls", false),
    ("read and write of files, not traced", "files", false),
    ("socket write, not traced", "POST /v1/chat/completions HTTP/1.1\r\n", false),
    ("getppid, traced process", "calls", true),
    ("socket write, traced but silenced (no HTTP)", "raw", true),
    ("socket write, captured (259 bytes)", "POST /v1/chat/completions HTTP/1.1\r\n", true),
];

/// Back ends that this kernel takes.
fn backends() -> Vec<&'static str> {
    let takes = |backend: &&str| {
        let server = Server::cost();
        let probe = Options::default().pid(server.id()).arg("--backend", backend).try_start();
        probe.map(crate::agent::Agent::kill).is_ok()
    };
    ["fentry", "kprobe", "tracepoint", "syscall"].into_iter().filter(takes).collect()
}

pub fn hooks(effort: Effort) -> Table {
    let backends = backends();
    let mut header = vec!["call", "ns without"];
    let titles: Vec<String> = backends.iter().map(|b| format!("{b}: ns added")).collect();
    header.extend(titles.iter().map(String::as_str));
    let mut table = Table::new("(g) Cost of a hook", &header);
    let server = Server::cost();
    let bystander = Server::cost();
    let rounds = effort.pairs.max(3);
    let mut figures = Vec::new();
    for (name, line, traced) in CASES {
        let target = if traced { server.id() } else { bystander.id() };
        let mut without = Vec::new();
        let mut added = vec![Vec::new(); backends.len()];
        for _ in 0..rounds {
            for (backend, added) in backends.iter().zip(&mut added) {
                let base = measure(server.port(), line);
                let agent = Options::default().pid(target).arg("--backend", backend).start();
                let with = measure(server.port(), line);
                agent.kill();
                without.push(base);
                added.push(with - base);
            }
        }
        let mut row = vec![name.to_owned(), format!("{:.0}", median(&without))];
        row.extend(added.iter().map(|added| format!("{:+.0}", median(added))));
        table.row(&row);
        for (backend, added) in backends.iter().zip(&added) {
            figures.push(serde_json::json!({
                "call": name, "backend": backend, "ns_without": median(&without),
                "ns_added": median(added),
            }));
        }
    }
    table.note(
        "CPU time of the calling thread, medians over interleaved rounds. Hooks on sockets cost \
         other calls nothing; those on system calls cost every call of the machine.",
    );
    table.figures = serde_json::Value::Array(figures);
    table
}

fn measure(port: u16, line: &str) -> f64 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    stream.write_all(format!("{line}\r\n\r\n").as_bytes()).expect("sent");
    let (mut tail, mut buf) = (Vec::new(), vec![0; 256 * 1024]);
    loop {
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
