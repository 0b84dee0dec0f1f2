//! The live page in a browser, against a real run.

use std::process::Command;
use std::thread;
use std::time::Duration;

use llmtrace_tests::agent::{Options, require_bpf, serial};
use llmtrace_tests::client::{Abort, AbortAt, Connection, Record, Request, load};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::paths::{self, TempDir};
use llmtrace_tests::plan::{Ask, Plan};
use llmtrace_tests::process::Process;
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;
use serde_json::Value;

fn ask(model: &str, max_tokens: u64, plan: Plan) -> Ask {
    Ask { model: model.into(), max_tokens, plan, ..Ask::default() }
}

/// 40 requests: 30 that succeed, 20 of one model and 10 of another; 4 that fail in two ways; 6 whose
/// client leaves.
fn requests() -> Vec<Request> {
    let paced = || Plan { first_delay_ms: 30, interval_us: 4_000, ..Plan::default() };
    (0..40)
        .map(|n| {
            let name = format!("page/{n}");
            match n {
                0..20 => Request::new(name, &ask("first", 20 + n, paced())),
                20..30 => Request::new(name, &ask("second", 12, paced())),
                30..32 => {
                    Request::new(name, &ask("first", 8, Plan { status: Some(503), ..paced() }))
                }
                32..34 => {
                    Request::new(name, &ask("first", 8, Plan { error_after: Some(3), ..paced() }))
                }
                _ => {
                    let abort = Abort { at: AbortAt::Tokens(5), reset: true };
                    Request { abort: Some(abort), ..Request::new(name, &ask("first", 90, paced())) }
                }
            }
        })
        .collect()
}

/// What the page shows, and what the agent answered then.
fn look(url: &str, requests: usize) -> Value {
    let dir = TempDir::new();
    let mut command = Command::new("node");
    command
        .arg(paths::app("page.mjs"))
        .args([url, &paths::chromium().display().to_string()])
        .arg(paths::node_modules())
        .arg(dir.join("profile"))
        .arg(requests.to_string());
    let mut process = Process::spawn(&mut command);
    let status = process.wait(Duration::from_secs(120));
    let printed = process.finish_output();
    assert!(status.success(), "{status}: {printed}");
    let line = printed.lines().find(|line| line.starts_with('{'));
    serde_json::from_str(line.unwrap_or_else(|| panic!("{printed}"))).expect("JSON")
}

fn raw(shown: &Value, tile: &str) -> f64 {
    let text = shown["tiles"][tile]["raw"].as_str().unwrap_or_default();
    text.parse().unwrap_or_else(|_| panic!("{tile}: {text:?} in {shown}"))
}

/// The cells of the rows of a table, the first of which are the headings.
fn rows<'a>(shown: &'a Value, table: &str) -> Vec<Vec<&'a str>> {
    let rows = shown[table].as_array().expect("a table");
    let cells = |row: &'a Value| -> Vec<&str> {
        row.as_array().expect("a row").iter().filter_map(Value::as_str).collect()
    };
    rows.iter().map(cells).collect()
}

/// A column of a table.
fn column<'a>(shown: &'a Value, table: &str, heading: &str) -> Vec<&'a str> {
    let rows = rows(shown, table);
    let at = rows[0].iter().position(|h| *h == heading);
    let at = at.unwrap_or_else(|| panic!("{table} has no {heading}: {rows:?}"));
    rows[1..].iter().map(|row| row[at]).collect()
}

fn count(records: &[Record], outcomes: &[&str]) -> f64 {
    records.iter().filter(|r| outcomes.contains(&r.outcome)).count() as f64
}

#[test]
fn the_page_shows_what_was_sent() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let agent = Options::default().pid(server.id()).start();
    let records = load(&server.address, requests(), 4);
    agent.wait_for_requests("server", records.len());

    // One more, which stands still until its client leaves with this test.
    let mut stuck = Connection::new(&server.address);
    let tokens = stuck.tokens();
    let hang = Plan { hang_after: Some(7), ..Plan::default() };
    let request = Request::new("page/stuck", &ask("second", 50, hang));
    let _stuck = thread::spawn(move || stuck.send(&request));
    wait_for("seven tokens", Duration::from_secs(10), || {
        (tokens.load(std::sync::atomic::Ordering::Relaxed) == 7).then_some(())
    });
    thread::sleep(Duration::from_millis(1_500));

    let url = format!("http://127.0.0.1:{}/", agent.port());
    let shown = look(&url, records.len());

    // What the clients know.
    let aborted = records.iter().filter(|r| r.outcome == "client_disconnect");
    let read_of_aborted: u64 = aborted.filter_map(Record::output_tokens).sum();
    let whole = records.iter().filter(|r| r.outcome != "client_disconnect");
    let told: u64 = whole.filter_map(Record::output_tokens).sum();
    let failed = count(&records, &["http_error", "stream_error"]);
    assert_eq!((count(&records, &["success"]), failed), (30.0, 4.0));
    assert_eq!(raw(&shown, "rps"), 40.0);
    assert_eq!(raw(&shown, "error_ratio"), failed);
    assert_eq!(raw(&shown, "aborts"), 6.0);
    assert_eq!(raw(&shown, "in_flight"), 1.0);
    // A server may have written more than a client that left has read: 90 each at the most.
    let output = raw(&shown, "tokens_per_second");
    let least = (told + read_of_aborted + 7) as f64;
    assert!((least..=(told + 6 * 90 + 7) as f64).contains(&output), "{output} of {least}");

    // What the agent answered at that moment.
    let total = &shown["answer"]["totals"][0]["windows"]["600s"];
    assert_eq!(total["requests"], 40);
    for (tile, value) in [
        ("tokens_per_second", &total["output_tokens"]),
        ("ttft", &total["ttft"]["p50"]),
        ("itl", &total["itl"]["p50"]),
        ("e2e", &total["e2e"]["p50"]),
    ] {
        assert_eq!(Some(raw(&shown, tile)), value.as_f64(), "{tile}");
    }
    let ttft = total["ttft"]["p50"].as_f64().expect("a number");
    assert!((0.03..0.5).contains(&ttft), "{ttft}");
    let text = shown["tiles"]["ttft"]["text"].as_str().expect("text");
    assert!(text.starts_with(&format!("{:.1}", ttft * 1e3)[..2]) && text.ends_with("ms"), "{text}");

    // The tables.
    assert_eq!(column(&shown, "servers", "Model"), ["first", "second"]);
    assert_eq!(column(&shown, "servers", "Requests"), ["30", "10"]);
    assert_eq!(column(&shown, "servers", "Aborts"), ["6", "0"]);
    assert_eq!(column(&shown, "servers", "Errors"), ["13 %", "0 %"]);
    assert_eq!(column(&shown, "servers", "In flight"), ["0", "1"]);
    assert_eq!(column(&shown, "streams", "Tokens"), ["7"]);
    let stall = column(&shown, "streams", "Since last token")[0];
    let stall: f64 = stall.strip_suffix(" s").and_then(|s| s.parse().ok()).expect("seconds");
    assert!((1.0..30.0).contains(&stall), "{stall}");
    assert_eq!(rows(&shown, "ended").len(), 1 + 10);
    assert!(column(&shown, "ended", "Why").contains(&"client left"));

    // By keyboard.
    assert_eq!((shown["sort"].as_str(), shown["chosen"].is_string()), (Some("Requests"), true));
    assert_eq!(column(&shown, "sorted", "Requests"), ["30", "10"]);
    assert_eq!(column(&shown, "filtered", "Model"), ["second"]);
    assert!(shown["chosen"].as_str().expect("text").contains("second"), "{}", shown["chosen"]);
    assert_eq!(shown["chosen_requests"], "10");

    // The system's dark, then light, then dark.
    let colours = shown["colours"].as_array().expect("colours");
    assert_eq!(colours[0], colours[2]);
    assert_ne!(colours[0], colours[1]);
    assert_eq!(shown["drawn"], serde_json::json!([true, true, true, true, true, true]));
    assert_eq!(shown["overflow"], 0, "the page is wider than a phone");
    assert_eq!(shown["unlabelled"], serde_json::json!([]));
    assert_eq!(shown["said"], serde_json::json!([]), "on the console");
    assert_eq!(shown["foreign"], serde_json::json!([]), "asked of others");
    drop(server);
    agent.stop();
}
