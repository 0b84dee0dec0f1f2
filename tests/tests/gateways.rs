//! Gateways in front of llama.cpp, with the OpenAI and Anthropic SDKs as clients: a call is found at
//! every hop, as what it is there, with the numbers that the SDK gave its caller.

use std::collections::{BTreeMap, HashSet};
use std::fmt::{Debug, Write as _};
use std::fs;
use std::time::Duration;

use llmtrace_tests::agent::{Agent, Entry, Options, require_bpf, serial};
use llmtrace_tests::client::Keep;
use llmtrace_tests::clock::{self, wait_for};
use llmtrace_tests::gateway::{Front, Gateway, Kind};
use llmtrace_tests::metrics::Metrics;
use llmtrace_tests::sdk::{Api, Call, Client, Language, Said, Wrong};
use llmtrace_tests::stack::Server;

use Language::{Node, Python};

/// How an SDK reaches a gateway.
struct Leg {
    language: Language,
    front: Front,
    http2: bool,
}

const fn leg(language: Language, front: Front, http2: bool) -> Leg {
    Leg { language, front, http2 }
}

/// undici has no prior knowledge of HTTP/2.
const LEGS: &[Leg] = &[
    leg(Python, Front::Plain, false),
    leg(Python, Front::H2c, true),
    leg(Python, Front::Tls, false),
    leg(Python, Front::Tls, true),
    leg(Node, Front::Plain, false),
    leg(Node, Front::Tls, false),
    leg(Node, Front::Tls, true),
];
/// In front of a server that speaks HTTP/2, where the gateway does so too.
const DEEP: &[Leg] = &[leg(Python, Front::Deep, true), leg(Node, Front::Deep, true)];

/// `(API, stream, leave after, what is wrong)`.
type Case = (Api, bool, u64, Option<Wrong>);

const CASES: &[Case] = &[
    (Api::Chat, true, 0, None),
    (Api::Chat, false, 0, None),
    (Api::Completions, true, 0, None),
    (Api::Responses, true, 0, None),
    (Api::Responses, false, 0, None),
    (Api::Messages, true, 0, None),
    (Api::Messages, false, 0, None),
    (Api::Embeddings, false, 0, None),
    (Api::Chat, true, 0, Some(Wrong::Path)),
    (Api::Chat, false, 0, Some(Wrong::Body)),
    (Api::Messages, true, 0, Some(Wrong::Body)),
    (Api::Chat, true, LEAVE_AFTER, None),
    (Api::Messages, true, LEAVE_AFTER, None),
];
const DEEP_CASES: &[Case] = &[
    (Api::Chat, true, 0, None),
    (Api::Chat, false, 0, None),
    (Api::Completions, true, 0, None),
    (Api::Chat, true, 0, Some(Wrong::Path)),
    (Api::Chat, true, LEAVE_AFTER, None),
];
const LEAVE_AFTER: u64 = 3;
/// So long an answer is never complete when its client leaves after three of its tokens.
const LONG: u64 = 3500;
const CONTEXT: &str = "4096";

/// The calls of some legs, with no two alike.
fn calls(
    gateway: &Gateway,
    legs: &[Leg],
    cases: &[Case],
    language: Language,
) -> Vec<(Front, Call)> {
    let mut calls = Vec::new();
    for (l, leg) in legs.iter().enumerate().filter(|(_, leg)| leg.language == language) {
        let scheme = if matches!(leg.front, Front::Plain | Front::H2c) { "http" } else { "https" };
        for (c, &(api, stream, leave_after, wrong)) in cases.iter().enumerate() {
            let version = if leg.http2 { "h2" } else { "h1" };
            let call = Call {
                user_agent: format!("{language:?}/{:?}/{version}/{api:?}/{c}", leg.front),
                url: format!("{scheme}://localhost:{}", gateway.port(leg.front)),
                http2: leg.http2,
                api,
                stream,
                max_tokens: if leave_after > 0 { LONG } else { 3 + (5 * c + 3 * l) as u64 % 30 },
                leave_after,
                wrong,
            };
            calls.push((leg.front, call));
        }
    }
    calls
}

/// A call that was made.
struct Made {
    call: Call,
    said: Said,
    front: Front,
    /// The SDK's process.
    pid: u32,
}

impl Made {
    /// Caddy 2.6 now and then gives an answer up in its middle, without an agent as well, and ends it
    /// for its client as if it were whole.
    fn was_given_up(&self) -> bool {
        let Said { status, ref finish, left, .. } = self.said;
        self.call.stream && status == 200 && finish.is_none() && !left
    }
}

#[derive(Clone, Copy)]
struct Process {
    name: &'static str,
    pid: u32,
}

struct Serving {
    port: u16,
    process: Process,
}

/// One end of a connection on a call's way.
struct Hop {
    role: &'static str,
    server: String,
    pid: u32,
    tls: bool,
}

/// The four ends on the way of a call.
fn hops(made: &Made, front: u16, proxy: Process, back: &Serving) -> [Hop; 4] {
    let tls = matches!(made.front, Front::Tls | Front::Deep);
    let client =
        |port, pid, tls| Hop { role: "client", server: format!("127.0.0.1:{port}"), pid, tls };
    let server = |port, process: Process, tls| {
        let server = format!("{}:{port}", process.name);
        Hop { role: "server", server, pid: process.pid, tls }
    };
    [
        client(front, made.pid, tls),
        server(front, proxy, tls),
        client(back.port, proxy.pid, false),
        server(back.port, back.process, false),
    ]
}

/// Which call, at which end.
fn key(user_agent: &str, role: &str, server: &str) -> String {
    format!("{user_agent} at {role} {server}")
}

/// The entries of each call at each end.
fn by_hop(entries: &[Entry]) -> BTreeMap<String, Vec<&Entry>> {
    let mut found: BTreeMap<_, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        let user_agent = entry.user_agent.as_deref().unwrap_or_default();
        found.entry(key(user_agent, &entry.role, &entry.server)).or_default().push(entry);
    }
    found
}

/// The process that serves: the first child, or the one that was started.
fn worker(children: &[u32], own: u32) -> u32 {
    children.first().copied().unwrap_or(own)
}

/// Whether the SDK was answered otherwise than the call is meant to be.
fn misanswered(call: &Call, said: &Said) -> bool {
    let tokens = call.stream && call.wrong.is_none();
    said.status != call.wrong.map_or(200, Wrong::status)
        || said.left != (call.leave_after > 0)
        || tokens != (said.deltas > 0)
        || (call.wrong.is_none() && !said.left && said.prompt.is_none())
}

/// What differs at one hop from what the SDK said.
fn differences(call: &Call, said: &Said, hop: &Hop, entry: &Entry, wrong: &mut String) {
    let who = key(&call.user_agent, hop.role, &hop.server);
    let mut check = |what: &str, sdk: &dyn Debug, traced: &dyn Debug| {
        let (sdk, traced) = (format!("{sdk:?}"), format!("{traced:?}"));
        if sdk != traced {
            let _ = writeln!(wrong, "{who}: {what}: expected {sdk}, traced {traced}");
        }
    };
    check("TLS", &hop.tls, &entry.tls);
    check("process", &Some(hop.pid), &entry.pid);
    check("endpoint", &call.api.endpoint(), &entry.endpoint.as_str());
    check("status", &Some(said.status), &entry.status);
    if said.left {
        check("outcome", &"client_disconnect", &entry.outcome.as_str());
        check("phase", &Some("mid_stream"), &entry.phase.as_deref());
        let traced = entry.token_events;
        check("whether as many deltas came", &true, &(said.deltas..LONG).contains(&traced));
        check("source of output tokens", &Some("events"), &entry.output_source.as_deref());
        return;
    }
    let outcome = if said.status < 400 { "success" } else { "http_error" };
    check("outcome", &outcome, &entry.outcome.as_str());
    check("prompt tokens", &said.prompt, &entry.prompt_tokens);
    check("output tokens", &said.output, &entry.output_tokens);
    check("deltas", &said.deltas, &entry.token_events);
    if said.status < 400 {
        check("stream", &call.stream, &entry.stream);
        check("model", &Some("tiny"), &entry.model.as_deref());
        check("finish reason", &said.finish, &entry.finish_reason);
        if said.cached.is_some() {
            check("cached tokens", &said.cached, &entry.cached_tokens);
        }
    }
}

/// Files in which these processes have OpenSSL, which Node has in itself.
fn openssl_files(pids: &[u32]) -> usize {
    let mut files = HashSet::new();
    for pid in pids {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        for line in maps.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let name = fields.get(5).and_then(|path| path.rsplit('/').next()).unwrap_or_default();
            if name.starts_with("libssl.so") || name == "node" {
                files.insert((fields[3].to_owned(), fields[4].to_owned()));
            }
        }
    }
    files.len()
}

/// Waits until the agent has found all of them.
#[track_caller]
fn wait_for_probes(agent: &Agent, openssl: usize, library: &str) {
    wait_for("probes of all TLS libraries", Duration::from_secs(60), || {
        let metrics = agent.metrics();
        let attached = |library| {
            let labels = [("library", library), ("state", "attached")];
            metrics.sum("llmtrace_tls_libraries", &labels) as usize
        };
        (attached("openssl") >= openssl && attached(library) >= 1).then_some(())
    });
}

#[track_caller]
fn check(kind: Kind) {
    require_bpf();
    let _alone = serial();
    let llm = Server::llama_with(&["--embeddings", "--context", CONTEXT]);
    let deep = (kind != Kind::Nginx).then(Server::granian);
    // llama.cpp closes a connection after a stream without a word of it before.
    let kept = (&llm, Keep::NotAfterStreams);
    let gateway = Gateway::before(kind, kept, deep.as_ref().unwrap_or(&llm));
    let mut clients = Vec::new();
    for language in [Python, Node] {
        let mut todo = calls(&gateway, LEGS, CASES, language);
        if deep.is_some() {
            todo.extend(calls(&gateway, DEEP, DEEP_CASES, language));
        }
        let (fronts, todo): (Vec<_>, Vec<_>) = todo.into_iter().unzip();
        clients.push((Client::start(language, &todo), fronts, todo));
    }
    let mut options = Options::default().pid(llm.id()).pid(gateway.id());
    for (client, ..) in &clients {
        options = options.pid(client.id());
    }
    if let Some(deep) = &deep {
        options = options.pid(deep.id());
    }
    let agent = options.start();
    let pids = [vec![gateway.id()], clients.iter().map(|(client, ..)| client.id()).collect()];
    wait_for_probes(&agent, openssl_files(&pids.concat()), kind.library());

    clients.iter().for_each(|(client, ..)| client.go());
    let mut all = Vec::new();
    for (client, fronts, todo) in clients {
        let (pid, said) = (client.id(), client.finish());
        let made = fronts.into_iter().zip(todo).zip(said);
        all.extend(made.map(|((front, call), said)| Made { call, said, front, pid }));
    }
    let count = all.len();
    let metrics = settled(&agent, 2 * count);
    let entries = agent.stop();

    let proxy = Process { name: kind.name(), pid: worker(&gateway.children(), gateway.id()) };
    let llm = Serving { port: llm.port(), process: Process { name: "llama", pid: llm.id() } };
    let deep = deep.map(|deep| Serving {
        port: deep.port(),
        process: Process { name: "granian", pid: worker(&deep.children(), deep.id()) },
    });
    let mut found = by_hop(&entries);
    let mut wrong = String::new();
    let mut given_up = 0;
    for made in &all {
        let back =
            if made.front == Front::Deep { deep.as_ref().expect("it is there") } else { &llm };
        let cut = kind == Kind::Caddy && made.was_given_up();
        given_up += usize::from(cut);
        if misanswered(&made.call, &made.said) && !cut {
            let _ = writeln!(wrong, "{:?} was answered by {:?}", made.call, made.said);
        }
        for hop in hops(made, gateway.port(made.front), proxy, back) {
            let key = key(&made.call.user_agent, hop.role, &hop.server);
            match found.remove(&key).unwrap_or_default()[..] {
                _ if cut => {}
                [entry] => differences(&made.call, &made.said, &hop, entry, &mut wrong),
                ref others => {
                    let _ = writeln!(wrong, "{key}: traced {} times", others.len());
                }
            }
        }
    }
    for key in found.keys() {
        let _ = writeln!(wrong, "{key}: traced, but no SDK sent it there");
    }
    assert!(wrong.is_empty(), "{} of {}:\n{wrong}", kind.name(), entries.len());
    assert!(given_up <= count / 10, "{given_up} of {count} were given up");
    if given_up == 0 {
        assert_counts(&metrics, &all);
    }
    assert_lossless(&metrics);
}

/// The metrics once there are `count` requests of either role, or once no more can be hoped for: what is
/// missing is told by name later.
fn settled(agent: &Agent, count: usize) -> Metrics {
    let end = clock::now() + Duration::from_secs(10).as_nanos() as u64;
    loop {
        let metrics = agent.metrics();
        let seen = |role| metrics.sum("llm_requests_total", &[("role", role)]) as usize;
        if seen("client").min(seen("server")) >= count || clock::now() > end {
            return metrics;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The counters say of all hops together what the SDKs say.
#[track_caller]
fn assert_counts(metrics: &Metrics, made: &[Made]) {
    let whole = made.iter().filter(|made| !made.said.left);
    let sum = |of: fn(&Said) -> Option<u64>| whole.clone().filter_map(|m| of(&m.said)).sum::<u64>();
    let lasting = made.iter().filter(|made| made.said.left).count() as f64;
    for role in ["server", "client"] {
        let seen = metrics.sum("llm_requests_total", &[("role", role)]);
        assert_eq!(seen, 2.0 * made.len() as f64, "llm_requests_total of {role}");
        let left = [("role", role), ("outcome", "client_disconnect")];
        assert_eq!(metrics.sum("llm_requests_total", &left), 2.0 * lasting, "left at {role}");
        // Nothing tells of a stream that was left how many tokens it would have had.
        let labels = [("role", role), ("type", "output"), ("source", "usage")];
        let seen = metrics.sum("llm_tokens_total", &labels);
        assert_eq!(seen, 2.0 * sum(|said| said.output) as f64, "output tokens at {role}");
        assert_eq!(metrics.sum("llm_requests_in_flight", &[("role", role)]), 0.0);
    }
}

#[track_caller]
fn assert_lossless(metrics: &Metrics) {
    assert_eq!(metrics.sum("llmtrace_lost_records_total", &[]), 0.0, "lost records");
    assert_eq!(metrics.sum("llmtrace_lost_bytes_total", &[]), 0.0, "lost bytes");
    assert_eq!(metrics.sum("llmtrace_incomplete_exchanges_total", &[]), 0.0, "incomplete");
}

#[test]
fn nginx() {
    check(Kind::Nginx);
}

#[test]
fn haproxy() {
    check(Kind::Haproxy);
}

#[test]
fn caddy() {
    check(Kind::Caddy);
}

#[test]
fn envoy() {
    check(Kind::Envoy);
}
