//! Calls at the edges: as long as the copy limit and longer, and the last one of a connection. Both
//! ends are this process, so that it is told to the byte what each call moves.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use llmtrace_tests::agent::{Agent, Entry, Options, require_bpf, serial};
use llmtrace_tests::clock::wait_for;
use rustix::net::{RecvFlags, recv};

const BACKENDS: [&str; 4] = ["auto", "kprobe", "tracepoint", "syscall"];
/// Bytes of a long body.
const LONG: usize = 600 * 1024;
const LIMIT_KIB: usize = 32;

/// An agent per back end that this kernel has; `case` stops it.
fn each(options: impl Fn() -> Options, case: impl Fn(&str, Agent)) {
    require_bpf();
    let _alone = serial();
    let mut ran = 0;
    for backend in BACKENDS {
        let options = options().arg("--backend", backend).pid(std::process::id());
        if let Ok(agent) = options.try_start() {
            case(backend, agent);
            ran += 1;
        }
    }
    assert!(ran >= 2, "this kernel has more back ends than {ran}");
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    client.set_nodelay(true).unwrap();
    (client, server)
}

fn request(name: &str, prompt: usize) -> Vec<u8> {
    let body = format!(
        r#"{{"model":"edge","messages":[{{"role":"user","content":"{}"}}],"stream":false}}"#,
        "x".repeat(prompt)
    );
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nUser-Agent: edge/{name}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    (head + &body).into_bytes()
}

/// One chunk, and the end of all chunks.
fn response(text: usize) -> Vec<u8> {
    let body = format!(
        r#"{{"object":"chat.completion","model":"edge","choices":[{{"index":0,"finish_reason":"stop","message":{{"role":"assistant","content":"{}"}}}}],"usage":{{"prompt_tokens":3,"completion_tokens":7}}}}"#,
        "y".repeat(text)
    );
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).into_bytes()
}

/// `bytes` by one write and one read.
fn pass(from: &mut TcpStream, to: &TcpStream, bytes: &[u8]) {
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut all = vec![0; bytes.len()];
            let (_, n) = recv(to, all.as_mut_slice(), RecvFlags::WAITALL).unwrap();
            assert!(n == bytes.len() && all == bytes, "{n} of {}", bytes.len());
        });
        assert_eq!(from.write(bytes).unwrap(), bytes.len());
    });
}

/// What was traced, by the number in its name, as the server and as the client.
fn outcomes(entries: &[Entry], role: &str) -> Vec<String> {
    let mine =
        |e: &&Entry| e.role == role && e.user_agent.as_deref().unwrap_or("").starts_with("edge/");
    let mut found: Vec<_> = entries.iter().filter(mine).collect();
    found.sort_by_key(|entry| entry.user_agent.clone());
    found.iter().map(|entry| entry.outcome.clone()).collect()
}

/// Of a call of more than `--max-copy-kib`, head and tail are seen and the middle is a gap, which
/// is counted to the byte and spoils nothing but its exchange.
#[test]
fn longer_than_the_copy_limit() {
    let limit = LIMIT_KIB.to_string();
    each(
        || Options::default().arg("--max-copy-kib", &limit),
        |backend, agent| {
            let (mut client, mut server) = pair();
            let mut lost = 0;
            for (n, (prompt, text)) in
                [(LONG, 5), (5, 5), (5, LONG), (5, 5)].into_iter().enumerate()
            {
                let (request, response) = (request(&n.to_string(), prompt), response(text));
                for bytes in [&request, &response] {
                    // At both ends.
                    lost += 2 * bytes.len().saturating_sub(LIMIT_KIB * 1024);
                }
                pass(&mut client, &server, &request);
                pass(&mut server, &client, &response);
            }
            for role in ["server", "client"] {
                agent.wait_for_requests(role, 4);
            }
            wait_for("lost bytes to be counted", Duration::from_secs(5), || {
                let metrics = agent.metrics();
                let of = |layer| metrics.sum("llmtrace_lost_bytes_total", &[("layer", layer)]);
                let reason = metrics.sum("llmtrace_lost_bytes_total", &[("reason", "limit")]);
                (of("kernel") == lost as f64
                    && of("connection") == of("kernel")
                    && reason == of("kernel"))
                .then_some(())
            });
            let entries = agent.stop();
            for role in ["server", "client"] {
                let expected = ["incomplete", "success", "incomplete", "success"];
                assert_eq!(outcomes(&entries, role), expected, "{backend} {role}: {entries:#?}");
            }
            let edge = |e: &&Entry| e.user_agent.as_deref().unwrap_or("").starts_with("edge/");
            for entry in entries.iter().filter(edge) {
                // Named at the head of the request, which is seen.
                assert_eq!(entry.model.as_deref(), Some("edge"), "{backend}: {entry:#?}");
                if entry.outcome == "success" {
                    assert_eq!(entry.output_tokens, Some(7), "{backend}: {entry:#?}");
                }
            }
        },
    );
}

/// A read that takes the last bytes of a connection takes its end too, which the kernel counts as a
/// byte.
#[test]
fn the_last_bytes_with_the_end() {
    each(Options::default, |backend, agent| {
        for n in 0..3 {
            let (mut client, mut server) = pair();
            pass(&mut client, &server, &request(&n.to_string(), 5));
            let response = response(300);
            let cut = response.len() / 2;
            server.write_all(&response).unwrap();
            drop(server);
            // Until both the bytes and the end are there.
            thread::sleep(Duration::from_millis(30));
            let mut first = vec![0; cut];
            client.read_exact(&mut first).unwrap();
            let mut rest = vec![0; 1000];
            assert_eq!(client.read(&mut rest).unwrap(), response.len() - cut);
        }
        for role in ["server", "client"] {
            agent.wait_for_requests(role, 3);
        }
        let metrics = agent.metrics();
        assert_eq!(metrics.sum("llmtrace_lost_bytes_total", &[]), 0.0, "{backend}");
        let entries = agent.stop();
        for role in ["server", "client"] {
            assert_eq!(outcomes(&entries, role), ["success"; 3], "{backend} {role}: {entries:#?}");
        }
    });
}
