//! `/metrics` of a thousand servers while the agent has all that it can do.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use llmtrace_tests::agent::{Agent, Options, require_bpf, serial};
use llmtrace_tests::bench::drive::{Load, drive};
use llmtrace_tests::client::{Connection, Request};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::paths;
use llmtrace_tests::plan::Ask;
use llmtrace_tests::process::raise_descriptor_limit;
use llmtrace_tests::stack::Server;

/// As many as have a label of their own.
const SERVERS: usize = 1_000;
const MODELS: usize = 50;
/// Each server has so many of the models.
const EACH: usize = 2;
const SCRAPES: usize = 5;
const SCRAPERS: usize = 2;
/// One of these for each server and model.
const SERIES: &str = "llm_time_to_first_token_seconds_count{";
const LIMIT: Duration = Duration::from_secs(1);

/// A scrape as Prometheus makes it: how long it took, and what came.
fn scrape(port: u16) -> io::Result<(Duration, Vec<u8>)> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: text/plain;version=0.0.4\r\n\
          Accept-Encoding: gzip\r\nConnection: close\r\n\r\n",
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let took = began.elapsed();
    let head = memchr::memmem::find(&answer, b"\r\n\r\n").expect("a head") + 4;
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer[..head]));
    Ok((took, answer.split_off(head)))
}

fn unpack(body: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(body).read_to_string(&mut text).expect("gzip");
    text
}

/// One after the other, by several at the same time; ascending.
fn scrapes(agent: &Agent) -> (Vec<Duration>, String) {
    let port = agent.port();
    let scrapers: Vec<_> = (0..SCRAPERS)
        .map(|_| {
            thread::spawn(move || {
                let all = (0..SCRAPES).map(|_| {
                    thread::sleep(Duration::from_millis(200));
                    scrape(port).expect("an answer")
                });
                all.collect::<Vec<_>>()
            })
        })
        .collect();
    let mut all: Vec<_> =
        scrapers.into_iter().flat_map(|scraper| scraper.join().expect("no panic")).collect();
    all.sort_by_key(|(took, _)| *took);
    let text = unpack(&all.last().expect("a scrape").1);
    (all.into_iter().map(|(took, _)| took).collect(), text)
}

/// How much longer than it should a thread takes for what it computes: 1 on a machine of our own.
fn contention() -> f64 {
    let cpu = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let (began, before) = (Instant::now(), cpu());
    while began.elapsed() < Duration::from_secs(1) {}
    (began.elapsed().as_secs_f64() / (cpu() - before).max(1e-3)).max(1.0)
}

#[test]
fn a_scrape_of_a_thousand_servers_while_the_pipeline_is_saturated() {
    require_bpf();
    let _alone = serial();
    raise_descriptor_limit();
    // An agent that is not optimised takes many times as long for each.
    let optimised = paths::agent().ancestors().any(|dir| dir.ends_with("release"));
    let servers = if optimised { SERVERS } else { SERVERS / 40 };
    let (crowd, addresses) = Server::crowd(servers);
    let flood = Server::flood();
    let agent = Options::default().pid(crowd.id()).pid(flood.id()).start();
    for pass in 0..EACH {
        for (n, address) in addresses.iter().enumerate() {
            let model = format!("model-{}", (n + pass) % MODELS);
            let ask = Ask { model, max_tokens: 3, ..Ask::default() };
            let record = Connection::new(address).send(&Request::new("crowd", &ask));
            assert_eq!(record.expect("an answer").outcome, "success");
        }
    }
    wait_for("all requests", Duration::from_secs(60), || {
        (agent.log_lines() == servers * EACH).then_some(())
    });
    let series = |text: &str| text.lines().filter(|line| line.starts_with(SERIES)).count();

    // What others leave of the machine, before the test itself takes all of it.
    let limit = LIMIT.mul_f64(contention());
    let (quiet, text) = scrapes(&agent);
    println!("idle: {} bytes, {} lines; {quiet:?}", text.len(), text.lines().count());
    // All that the machine can do, for longer than the scrapes take; then it stops by itself.
    let ask = Ask { max_tokens: 200_000, ..Ask::default() };
    let run = Duration::from_secs(10);
    let load = Load { connections: 2, ask, run, first_token: 1 };
    let address = flood.address.clone();
    let driving = thread::spawn(move || drive(&address, &load));
    thread::sleep(Duration::from_secs(1));
    let (busy, text) = scrapes(&agent);
    assert!(!driving.is_finished(), "the load was over before the scrapes");
    let driven = driving.join().expect("the load is answered");
    println!("under {:.0} events a second: {busy:?}", driven.events_per_second);
    assert!(series(&text) >= servers * EACH, "{}", series(&text));
    for took in quiet.iter().chain(&busy) {
        assert!(*took < limit, "{limit:?}: {quiet:?} {busy:?}");
    }
    agent.stop();
}
