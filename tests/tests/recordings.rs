//! Recordings and replays: real servers, real eBPF, real tshark and tcpdump.

use std::fs;
use std::path::Path;

use llmtrace_tests::agent::{require_bpf, serial};
use llmtrace_tests::client::{Keep, Record, load, load_keeping};
use llmtrace_tests::compare::{assert_same, hop};
use llmtrace_tests::mix;
use llmtrace_tests::recording::{
    Recorder, Recording, Tcpdump, replay, replay_entries, tshark,
};
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;

const COUNT: usize = 50;

/// Records the mix on a server.
#[track_caller]
fn record(server: &Server, more: &[&str]) -> (Vec<Record>, Recording) {
    let pid = server.id().to_string();
    let mut args = vec!["--pid", &pid];
    args.extend(more);
    let recorder = Recorder::start(&args);
    let records = load(&server.address, mix::requests(COUNT), 8);
    (records, recorder.stop_after(COUNT))
}

/// Whether any of `words` is in a file.
fn contains(file: &Path, word: &str) -> bool {
    let bytes = fs::read(file).expect("the recording");
    memchr::memmem::find(&bytes, word.as_bytes()).is_some()
}

#[test]
fn a_replay_is_the_run_again() {
    require_bpf();
    let _alone = serial();
    for more in [&["--payload"][..], &["--redact"]] {
        let server = Server::app(Model::Thread);
        let (records, recording) = record(&server, more);
        assert_eq!(recording.log.len(), COUNT);
        assert_same(&records, &hop(&recording.entries(), "server", Some(server.port())));
        // Every field of every line, times in nanoseconds.
        assert_eq!(replay(&recording.file()), recording.log, "{more:?}");
        assert_eq!(contains(&recording.file(), "word word"), more == ["--payload"]);
    }
}

#[test]
fn a_replay_of_uvicorn_and_of_llama_cpp_is_the_run_again() {
    require_bpf();
    let _alone = serial();
    let server = Server::uvicorn("uvloop", "httptools");
    let (records, recording) = record(&server, &[]);
    assert_same(&records, &hop(&recording.entries(), "server", Some(server.port())));
    assert_eq!(replay(&recording.file()), recording.log);
    assert!(!contains(&recording.file(), "word word"));

    let server = Server::llama();
    let recorder = Recorder::start(&["--pid", &server.id().to_string()]);
    let requests = mix::plain(COUNT);
    let records = load_keeping(&server.address, requests, 8, Keep::NotAfterStreams);
    let recording = recorder.stop_after(COUNT);
    assert_same(&records, &hop(&recording.entries(), "server", Some(server.port())));
    assert_eq!(replay(&recording.file()), recording.log);
    assert!(!contains(&recording.file(), "word word"));
}

#[test]
fn a_replay_of_a_unix_socket_and_of_clients_that_leave_is_the_run_again() {
    require_bpf();
    let _alone = serial();
    let server = Server::unix_app();
    let (_, recording) = record(&server, &[]);
    assert_eq!(replay(&recording.file()), recording.log);

    let server = Server::app(Model::Thread);
    let recorder = Recorder::start(&["--pid", &server.id().to_string()]);
    let requests = vec![
        mix::left_before_first_token("left/0", false),
        mix::left_in_mid_stream("left/1", false),
        mix::left_in_mid_stream("left/2", true),
        mix::dropped_by_server("left/3"),
    ];
    let records = load(&server.address, requests, 4);
    let recording = recorder.stop_after(4);
    assert_same(&records, &hop(&recording.entries(), "server", Some(server.port())));
    assert_eq!(replay(&recording.file()), recording.log);
}

#[test]
fn tshark_reads_the_same_messages() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let (_, recording) = record(&server, &[]);
    let file = recording.file();
    let port = server.port();
    let fields = ["http.request.method", "http.request.uri", "http.user_agent"];
    let mut requests = tshark(&file, "http.request", &fields);
    let traced = recording.entries();
    let mut expected: Vec<_> = traced
        .iter()
        .map(|e| vec![e.method.clone(), e.path.clone(), e.user_agent.clone().unwrap()])
        .collect();
    requests.sort();
    expected.sort();
    assert_eq!(requests, expected);
    let mut statuses = tshark(&file, "http.response", &["http.response.code"]);
    let mut expected: Vec<_> =
        traced.iter().map(|e| vec![e.status.expect("a status").to_string()]).collect();
    statuses.sort();
    expected.sort();
    assert_eq!(statuses, expected);
    // Nothing is missing, nothing malformed, checksums are right.
    let bad = "tcp.analysis.lost_segment or tcp.analysis.retransmission or _ws.malformed \
               or tcp.analysis.out_of_order or tcp.analysis.ack_lost_segment";
    assert_eq!(tshark(&file, bad, &["frame.number"]), Vec::<Vec<String>>::new());
    let hands = tshark(&file, "tcp.flags.syn == 1 and tcp.flags.ack == 0", &["tcp.dstport"]);
    assert!(!hands.is_empty() && hands.iter().all(|row| row[0] == port.to_string()), "{hands:?}");
    let comments = tshark(&file, "frame.comment", &["frame.comment"]);
    assert!(comments.iter().all(|row| row[0].contains(&format!("pid {}", server.id()))));
    assert_eq!(comments.len(), hands.len());
}

/// The same requests by tcpdump and by the client.
#[track_caller]
fn captured(server: &Server, args: &[&str], requests: Vec<llmtrace_tests::client::Request>, keep: Keep) {
    let count = requests.len();
    let tcpdump = Tcpdump::start(args, &format!("tcp port {}", server.port()));
    let records = load_keeping(&server.address, requests, 8, keep);
    let (file, _dir) = tcpdump.stop();
    let entries = replay_entries(&file);
    assert_eq!(entries.len(), count, "{args:?}");
    assert_same(&records, &entries);
    for entry in &entries {
        assert_eq!(entry.role, "server");
        assert_eq!(entry.server, format!("127.0.0.1:{}", server.port()));
        let (ttft, end) = (entry.ttft(), entry.end_ns.unwrap() - entry.start_ns.unwrap());
        assert!(ttft.is_none_or(|ttft| ttft <= end));
        assert!(end < 60_000_000_000);
    }
}

#[test]
fn what_tcpdump_captured_is_what_the_clients_saw() {
    let _alone = serial();
    let server = Server::uvicorn("uvloop", "httptools");
    captured(&server, &["-i", "lo"], mix::requests(COUNT), Keep::Always);
    // Linux cooked v2 (each packet twice: in and out), v1, nanoseconds.
    captured(&server, &["-i", "any"], mix::requests(COUNT), Keep::Always);
    captured(&server, &["-i", "any", "-y", "LINUX_SLL"], mix::requests(COUNT), Keep::Always);
    let nanos = ["-i", "lo", "--time-stamp-precision=nano"];
    captured(&server, &nanos, mix::requests(COUNT), Keep::Always);

    let server = Server::llama();
    captured(&server, &["-i", "lo"], mix::plain(COUNT), Keep::NotAfterStreams);
}
