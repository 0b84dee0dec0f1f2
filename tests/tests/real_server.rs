//! llama.cpp with the tiny model: everything that is traced is what the clients saw.

use llmtrace_tests::agent::{Options, require_bpf, serial};
use llmtrace_tests::client::{Keep, Record, load_keeping};
use llmtrace_tests::compare::{
    assert_direct, assert_metrics, assert_same, hop, quantile, ttft_overheads,
};
use llmtrace_tests::mix;
use llmtrace_tests::stack::Server;

const COUNT: usize = 50;
/// What a client on a busy machine of two cores adds, and more.
const OVERHEAD_LIMIT_NS: i64 = 20_000_000;

#[track_caller]
fn check(server: &Server, port: Option<u16>) {
    let agent = Options::default().pid(server.id()).start();
    let requests = mix::plain(COUNT);
    let records = load_keeping(&server.address, requests, 8, Keep::NotAfterStreams);
    assert_eq!(records.len(), COUNT);
    assert!(records.iter().all(|record| record.outcome == "success"));
    let streamed = records.iter().filter(|record| record.stream).count();
    assert!(streamed > 10 && streamed < COUNT, "both kinds are in the mix");
    let metrics = agent.wait_for_requests("server", COUNT);
    let entries = agent.stop();
    assert_eq!(entries.len(), COUNT, "each request once: {entries:#?}");
    let served = hop(&entries, "server", port);
    assert_same(&records, &served);
    assert_direct(&records, &served);
    assert_metrics(&metrics, "server", &records);

    let overheads = ttft_overheads(&records, &served);
    assert_eq!(overheads.len(), streamed);
    let (least, median, most) =
        (overheads[0], quantile(&overheads, 0.5), overheads[overheads.len() - 1]);
    let own = client_overhead(&records);
    println!(
        "client TTFT - traced TTFT: least {} us, median {} us, most {} us (client connect to send: {own} us)",
        least / 1000,
        median / 1000,
        most / 1000,
    );
    assert!(least >= 0, "a token was traced after the client had it: {least} ns");
    assert!(median < OVERHEAD_LIMIT_NS, "median {median} ns");
}

/// Median time from the first byte to the first token at the client, for the printed line.
fn client_overhead(records: &[Record]) -> u64 {
    let mut gaps: Vec<_> = records
        .iter()
        .filter_map(|record| Some(record.token_times_ns.first()? - record.first_byte_ns?))
        .collect();
    gaps.sort_unstable();
    quantile(&gaps, 0.5) / 1000
}

#[test]
fn llama_cpp() {
    require_bpf();
    let _alone = serial();
    let server = Server::llama();
    let port = server.port();
    check(&server, Some(port));
}

#[test]
fn llama_cpp_on_a_unix_socket() {
    require_bpf();
    let _alone = serial();
    check(&Server::llama_unix(), None);
}
