//! Recordings and replays: real servers, real eBPF, real tshark and tcpdump.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use llmtrace_tests::agent::{Entry, require_bpf, serial};
use llmtrace_tests::client::{Keep, Record, load, load_keeping};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::compare::{assert_same, hop};
use llmtrace_tests::h2::Connection;
use llmtrace_tests::mix;
use llmtrace_tests::paths::TempDir;
use llmtrace_tests::process::Process;
use llmtrace_tests::recording::{
    Recorder, Recording, Tcpdump, output, replay, replay_entries, tshark,
};
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;
use rustix::process::Signal;

const COUNT: usize = 50;
const LIMIT: Duration = Duration::from_secs(30);

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

/// Frames and header blocks stay what they are to each other, whatever goes of them.
#[test]
fn a_redacted_recording_of_http2_is_the_run_again() {
    require_bpf();
    let _alone = serial();
    let server = Server::granian();
    let recorder = Recorder::start(&["--port", &server.port().to_string()]);
    let records = Connection::new(&server.address).load(mix::requests(COUNT));
    let recording = recorder.stop_after(COUNT);
    assert_same(&records, &hop(&recording.entries(), "server", Some(server.port())));
    assert_eq!(replay(&recording.file()), recording.log);
    assert!(!contains(&recording.file(), "word word"));
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

/// What Wireshark's tools make of a recording, without what is ours in it, is a capture as any.
#[test]
fn a_recording_without_its_records_is_a_capture() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let (records, recording) = record(&server, &[]);
    let plain = recording.file().with_extension("pcap");
    let file = recording.file();
    let form = ["-F", "nsecpcap"].map(OsStr::new);
    output("editcap", &[form[0], form[1], file.as_os_str(), plain.as_os_str()]);
    let mut entries = replay_entries(&plain);
    assert_same(&records, &entries);
    // Reads are stamped at their end and writes at their beginning, as the agent measures.
    let mut traced = recording.entries();
    let key = |e: &Entry| e.user_agent.clone();
    entries.sort_by_key(key);
    traced.sort_by_key(key);
    let offset = entries[0].start_ns.unwrap() - traced[0].start_ns.unwrap();
    for (entry, traced) in entries.iter().zip(&traced) {
        for (a, b) in [
            (entry.start_ns, traced.start_ns),
            (entry.first_byte_ns, traced.first_byte_ns),
            (entry.first_token_ns, traced.first_token_ns),
            (entry.last_token_ns, traced.last_token_ns),
            (entry.end_ns, traced.end_ns),
        ] {
            assert_eq!(a, b.map(|b| b + offset), "{entry:?} {traced:?}");
        }
    }
}

#[test]
fn tshark_sees_a_unix_socket_and_what_is_missing() {
    require_bpf();
    let _alone = serial();
    let server = Server::unix_app();
    let (_, recording) = record(&server, &[]);
    let file = recording.file();
    assert_eq!(tshark(&file, "http.request", &["http.user_agent"]).len(), COUNT);
    assert_eq!(tshark(&file, "http.response", &["http.response.code"]).len(), COUNT);
    let comments = tshark(&file, "frame.comment", &["frame.comment"]);
    assert!(comments[0][0].contains("app.sock"), "{comments:?}");
    assert!(tshark(&file, "tcp.analysis.lost_segment", &["frame.number"]).is_empty());

    // More in one write than the kernel side copies: the rest shows as missing.
    let server = Server::parrot();
    let recorder = Recorder::start(&["--payload", "--pid", &server.id().to_string()]);
    let big =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}", 3 << 20, "x".repeat(3 << 20));
    let request = llmtrace_tests::client::Request {
        user_agent: "big".into(),
        method: "POST",
        path: "/v1/completions".into(),
        body: big.into_bytes(),
        stream: false,
        abort: None,
        traceparent: None,
        tracestate: None,
    };
    load(&server.address, vec![request], 1);
    let recording = recorder.stop_after(1);
    assert_eq!(recording.entries()[0].outcome, "incomplete");
    assert_eq!(replay(&recording.file()), recording.log);
    let missing = tshark(&recording.file(), "tcp.analysis.lost_segment", &["frame.number"]);
    assert!(!missing.is_empty());
}

/// A capture of `bytes` at least, of streams that are all alike, in one file.
fn generate(path: &Path, bytes: u64) -> u64 {
    let corpus = llmtrace_tests::paths::root().join("llmtrace/fuzz/corpus/capture/payload.pcapng");
    let one = fs::read(corpus).expect("the corpus");
    let mut file = std::io::BufWriter::new(fs::File::create(path).expect("a temporary file"));
    let times = bytes.div_ceil(one.len() as u64);
    for _ in 0..times {
        // A file is a section, and sections may follow each other.
        std::io::Write::write_all(&mut file, &one).expect("a temporary file");
    }
    times
}

#[test]
fn a_large_file_takes_little_memory() {
    let bytes = std::env::var("LLMTRACE_LARGE_MIB").map_or(300, |n| n.parse().expect("MiB")) << 20;
    let dir = TempDir::new();
    let file = dir.join("large.pcapng");
    let times = generate(&file, bytes);
    let mut command = std::process::Command::new(llmtrace_tests::paths::agent());
    command.arg("replay").arg(&file).arg("--summary");
    let mut process = Process::spawn(&mut command);
    let mut most = 0;
    let status = loop {
        if let Some(kib) = resident_kib(process.id()) {
            most = most.max(kib);
        }
        if let Some(status) = process.try_wait() {
            break status;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let printed = process.finish_output();
    assert!(status.success(), "{printed}");
    assert!(printed.contains(&format!("success {}", 2 * times)), "{printed}");
    println!("{} MiB, {times} sections: {most} KiB resident at most", bytes >> 20);
    assert!(most > 0 && most < 64 * 1024, "{most} KiB");
}

/// The most that a process ever had in memory, in KiB.
fn resident_kib(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn what_cannot_be_replayed_is_1_and_says_what_to_do() {
    let dir = TempDir::new();
    let text = dir.join("text");
    fs::write(&text, "no capture, whatever its name says").unwrap();
    let none = dir.join("none.pcapng");
    for (file, says) in [
        (text.as_path(), "not a pcap or pcapng file"),
        (none.as_path(), "cannot read"),
        (dir.path(), "is a folder"),
    ] {
        let mut command = std::process::Command::new(llmtrace_tests::paths::agent());
        let mut process = Process::spawn(command.arg("replay").arg(file));
        let status = process.wait(Duration::from_secs(10));
        let printed = process.finish_output();
        assert_eq!(status.code(), Some(1), "{printed}");
        assert!(printed.contains(says), "{printed}");
    }
    for args in [&["replay"][..], &["record"], &["record", "--redact", "--payload", "-o", "x"]] {
        let mut command = std::process::Command::new(llmtrace_tests::paths::agent());
        let mut process = Process::spawn(command.args(args));
        let status = process.wait(Duration::from_secs(10));
        assert_eq!(status.code(), Some(2), "{args:?}: {}", process.finish_output());
    }
}

/// `llmtrace replay FILE --listen`, once it listens; SIGHUP as `env` is told.
fn replay_that_serves(file: &Path, env: &str) -> Process {
    let mut command = std::process::Command::new("env");
    command.arg(env).arg(llmtrace_tests::paths::agent()).arg("replay").arg(file);
    let process = Process::spawn(command.args(["--listen", "127.0.0.1:0"]));
    wait_for("a replay that serves", LIMIT, || {
        process.output().find(|line| line.starts_with("ready listen="))
    });
    process
}

/// A pcap file without a packet.
fn empty_capture() -> Vec<u8> {
    let words: [u32; 6] = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 101];
    words.map(u32::to_le_bytes).as_flattened().to_vec()
}

#[test]
fn a_terminal_that_goes_is_the_end_unless_nohup_says_otherwise() {
    let dir = TempDir::new();
    let file = dir.join("empty.pcap");
    fs::write(&file, empty_capture()).unwrap();
    let mut process = replay_that_serves(&file, "--default-signal=HUP");
    process.signal(Signal::HUP);
    assert!(process.wait(LIMIT).success(), "{}", process.finish_output());

    let mut process = replay_that_serves(&file, "--ignore-signal=HUP");
    process.signal(Signal::HUP);
    thread::sleep(Duration::from_millis(300));
    assert!(process.try_wait().is_none(), "{}", process.finish_output());
    process.signal(Signal::TERM);
    assert!(process.wait(LIMIT).success(), "{}", process.finish_output());
}

#[test]
fn a_replay_of_what_does_not_end_ends_by_a_signal() {
    let dir = TempDir::new();
    let pipe = dir.join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let to = pipe.clone();
    // As tcpdump would: a packet now and then, until nobody reads.
    let writer = thread::spawn(move || {
        let mut pipe = fs::File::options().write(true).open(to).unwrap();
        let packet = [[0; 4], [0; 4], [4, 0, 0, 0], [4, 0, 0, 0], [0; 4]];
        let mut next = empty_capture();
        while pipe.write_all(&next).is_ok() {
            next = packet.as_flattened().to_vec();
            thread::sleep(Duration::from_millis(10));
        }
    });
    let mut process = replay_that_serves(&pipe, "--default-signal=HUP");
    process.signal(Signal::TERM);
    let status = process.wait(LIMIT);
    assert!(status.success(), "{}", process.finish_output());
    writer.join().unwrap();
}

/// The same requests by tcpdump and by the client.
#[track_caller]
fn captured(
    server: &Server,
    args: &[&str],
    requests: Vec<llmtrace_tests::client::Request>,
    keep: Keep,
) {
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
