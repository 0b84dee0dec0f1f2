//! `/metrics` of a thousand servers while the agent has all that it can do.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use llmtrace_tests::agent::{Agent, Options, require_bpf, serial};
use llmtrace_tests::bench::drive::{Driven, Load, drive};
use llmtrace_tests::client::{Connection, Request};
use llmtrace_tests::metrics::Metrics;
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
/// Of a program that is optimised; one that is not takes ten times as long.
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

#[test]
fn a_scrape_of_a_thousand_servers_while_the_pipeline_is_saturated() {
    require_bpf();
    let _alone = serial();
    raise_descriptor_limit();
    let limit = if paths::agent().ancestors().any(|dir| dir.ends_with("release")) {
        LIMIT
    } else {
        10 * LIMIT
    };
    let (crowd, addresses) = Server::crowd(SERVERS);
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
    let metrics = agent.wait_for_requests("server", SERVERS * EACH);
    let series = metrics.select("llm_requests_total", &[]).count();
    assert!(series >= SERVERS * EACH, "{series}");

    let (quiet, text) = scrapes(&agent);
    println!("idle: {} bytes, {} lines; {quiet:?}", text.len(), text.lines().count());
    // All that the machine can do, for longer than the scrapes take; then it stops by itself.
    let ask = Ask { max_tokens: 200_000, ..Ask::default() };
    let run = Duration::from_secs(8);
    let load = Load { connections: 2, ask, run, first_token: 1 };
    let address = flood.address.clone();
    let driving = thread::spawn(move || drive(&address, &load));
    thread::sleep(Duration::from_secs(1));
    let (busy, text) = scrapes(&agent);
    assert!(!driving.is_finished(), "the load was over before the scrapes");
    let driven = driving.join().expect("the load is answered");
    let Driven { events_per_second, .. } = driven;
    println!("under {events_per_second:.0} events a second: {busy:?}");
    assert_eq!(
        Metrics::parse(&text).select("llm_time_to_first_token_seconds_count", &[]).count(),
        series
    );
    for took in quiet.iter().chain(&busy) {
        assert!(*took < limit, "{quiet:?} {busy:?}");
    }
    agent.stop();
}
