//! Gateways in front of llama.cpp, with the OpenAI and Anthropic SDKs as clients: a call is found at
//! every hop, as what it is there, with the numbers that the SDK gave its caller.

use std::collections::{BTreeMap, HashSet};
use std::fmt::{Debug, Write as _};
use std::fs;
use std::time::Duration;

use llmtrace_tests::agent::{Agent, Entry, Options, require_bpf, serial};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::gateway::{Front, Gateway, Kind};
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
fn calls(gateway: &Gateway, legs: &[Leg], cases: &[Case], language: Language) -> Vec<Call> {
    let mut calls = Vec::new();
    for (l, leg) in legs.iter().enumerate().filter(|(_, leg)| leg.language == language) {
        let scheme = if matches!(leg.front, Front::Plain | Front::H2c) { "http" } else { "https" };
        for (c, &(api, stream, leave_after, wrong)) in cases.iter().enumerate() {
            let version = if leg.http2 { "h2" } else { "h1" };
            calls.push(Call {
                user_agent: format!("{language:?}/{:?}/{version}/{api:?}/{c}", leg.front),
                url: format!("{scheme}://localhost:{}", gateway.port(leg.front)),
                http2: leg.http2,
                api,
                stream,
                max_tokens: if leave_after > 0 { LONG } else { 3 + (5 * c + 3 * l) as u64 % 30 },
                leave_after,
                wrong,
            });
        }
    }
    calls
}

/// One end of a leg.
struct Hop {
    role: &'static str,
    server: String,
    pid: u32,
    tls: bool,
}

/// What differs at one hop from what the SDK said.
fn differences(call: &Call, said: &Said, hop: &Hop, entry: &Entry, wrong: &mut String) {
    let who = format!("{} at {} {}", call.user_agent, hop.role, hop.server);
    let mut check = |what: &str, sdk: &dyn Debug, traced: &dyn Debug| {
        let (sdk, traced) = (format!("{sdk:?}"), format!("{traced:?}"));
        if sdk != traced {
            let _ = writeln!(wrong, "{who}: {what}: expected {sdk}, traced {traced}");
        }
    };
    check("TLS", &hop.tls, &entry.tls);
    check("process", &Some(hop.pid), &entry.pid);
    check("endpoint", &call.api.endpoint(), &entry.endpoint.as_str());
    let path = if call.wrong == Some(Wrong::Path) { "/nowhere" } else { "" };
    check("path", &format!("{path}{}", call.api.endpoint()), &entry.path);
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

/// Files in which these processes have a TLS library, which may be the program itself.
fn tls_files(pids: &[u32]) -> usize {
    const NAMES: [&str; 4] = ["libssl.so", "node", "caddy", "envoy"];
    let mut files = HashSet::new();
    for pid in pids {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        for line in maps.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let name = fields.get(5).and_then(|path| path.rsplit('/').next()).unwrap_or_default();
            if NAMES.iter().any(|known| name.starts_with(known)) {
                files.insert((fields[3].to_owned(), fields[4].to_owned()));
            }
        }
    }
    files.len()
}

#[track_caller]
fn wait_for_probes(agent: &Agent, files: usize) {
    wait_for("probes of all TLS libraries", Duration::from_secs(20), || {
        let attached = agent.metrics().sum("llmtrace_tls_libraries", &[("state", "attached")]);
        (attached >= files as f64).then_some(())
    });
}

#[track_caller]
fn check(kind: Kind) {
    require_bpf();
    let _alone = serial();
    let llm = Server::llama_with(&["--embeddings", "--context", CONTEXT]);
    let deep = (kind != Kind::Nginx).then(Server::granian);
    let gateway = Gateway::start(kind, &llm, deep.as_ref());
    let worker = |server: u32, children: Vec<u32>| children.first().copied().unwrap_or(server);
    let mut clients = Vec::new();
    for language in [Python, Node] {
        let mut todo = calls(&gateway, LEGS, CASES, language);
        if deep.is_some() {
            todo.extend(calls(&gateway, DEEP, DEEP_CASES, language));
        }
        clients.push((Client::start(language, &todo), todo));
    }
    let mut options = Options::default().pid(llm.id()).pid(gateway.id());
    for (client, _) in &clients {
        options = options.pid(client.id());
    }
    if let Some(deep) = &deep {
        options = options.pid(deep.id());
    }
    let agent = options.start();
    let pids = [vec![gateway.id()], clients.iter().map(|(client, _)| client.id()).collect()];
    wait_for_probes(&agent, tls_files(&pids.concat()));

    clients.iter().for_each(|(client, _)| client.go());
    let mut all = Vec::new();
    for (client, todo) in clients {
        let pid = client.id();
        all.extend(todo.into_iter().zip(client.finish()).map(|(call, said)| (pid, call, said)));
    }
    let count = all.len();
    let metrics = agent.wait_for_requests("client", 2 * count);
    let entries = agent.stop();
    for entry in &entries { println!("{} {} {} {:?} {:?} {} {:?} {} {}", entry.role, entry.server, entry.endpoint, entry.user_agent, entry.status, entry.outcome, entry.pid, entry.tls, entry.token_events); }
    let _ = (worker, &metrics);
    for n in ["llmtrace_incomplete_exchanges_total","llmtrace_lost_records_total","llmtrace_lost_bytes_total","llmtrace_parse_resyncs_total"] { for m in metrics.select(n, &[]) { if m.value > 0.0 { println!("METRIC {n} {:?} {}", m.labels, m.value); } } }
    let mut wrong = String::new();
    let _ = &mut wrong;
    let _ : BTreeMap<u8, u8> = BTreeMap::new();
    let _ = (differences as fn(&Call, &Said, &Hop, &Entry, &mut String), entries);
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
