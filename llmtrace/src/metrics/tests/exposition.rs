//! The two forms say the same, and are there in time.

use std::time::{Duration, Instant};

use prometheus::TextEncoder;
use prometheus::proto::{MetricFamily, MetricType};
use protobuf::CodedInputStream;

use super::*;

fn parse(bytes: &[u8]) -> Vec<MetricFamily> {
    let mut input = CodedInputStream::from_bytes(bytes);
    let mut families = Vec::new();
    while !input.eof().unwrap() {
        families.push(input.read_message::<MetricFamily>().unwrap());
    }
    families
}

#[test]
fn protobuf_says_what_the_text_says() {
    let metrics = Metrics::default();
    for model in ["a", "b\"\\\n"] {
        tell(&metrics, &finished(model, Outcome::Success), &peer("s:1"));
    }
    let families = parse(&metrics.encode(Form::Protobuf, false));
    let text = metrics.encode_text();
    let names = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next());
    let found: Vec<_> = families.iter().map(|f| f.name().to_owned()).collect();
    assert_eq!(found, names.map(str::to_owned).collect::<Vec<_>>());
    let family = |name: &str| families.iter().find(|f| f.name() == name).unwrap();
    let ttft = family("llm_time_to_first_token_seconds");
    assert_eq!((ttft.type_(), ttft.metric.len()), (MetricType::HISTOGRAM, 2));
    let histogram = &ttft.metric[0].histogram;
    assert_eq!((histogram.sample_count(), histogram.sample_sum()), (1, 0.03));
    let within = histogram.bucket.iter().find(|b| b.upper_bound() >= 0.03).unwrap();
    assert_eq!((within.upper_bound(), within.cumulative_count()), (0.04, 1));
    let requests = family("llm_requests_total");
    let models: Vec<_> = (requests.metric.iter())
        .filter_map(|m| Some(m.label.iter().find(|l| l.name() == "model")?.value()))
        .collect();
    assert!(models.contains(&"a") && models.contains(&"b\"\\?"), "{models:?}");
    assert!(requests.metric.iter().all(|m| m.counter.value() == 1.0));

    // The crate's own encoder makes the same text of it, but for what changes from read to read.
    let same = |text: &str| -> Vec<String> {
        text.lines().filter(|l| !l.starts_with("process_")).map(str::to_owned).collect()
    };
    assert_eq!(same(&text), same(&TextEncoder::new().encode_to_string(&families).unwrap()));
}

#[test]
fn packed_is_the_same() {
    use std::io::Read as _;
    let metrics = Metrics::default();
    for n in 0..100 {
        tell(&metrics, &finished(&format!("m{n}"), Outcome::Success), &peer("s:1"));
    }
    for form in [Form::Text, Form::Protobuf] {
        let (plain, packed) = (metrics.encode(form, false), metrics.encode(form, true));
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).unwrap();
        assert!(packed.len() < plain.len() / 8, "{} of {}", packed.len(), plain.len());
        // Longer than a chunk; the figures of the process may have changed.
        assert!(plain.len() > 100_000 && unpacked.len().abs_diff(plain.len()) < 100);
        let whole = plain.len() * 9 / 10;
        assert!(plain[..whole] == unpacked[..whole], "{form:?}");
    }
}

/// A thousand servers and a hundred models, while requests go on ending: a scrape is there within a
/// second, and nobody who counts waits for it.
#[test]
fn a_scrape_of_everything_is_quick() {
    let metrics = Metrics::default();
    let models: Vec<_> = (0..100).map(|n| format!("model-{n}")).collect();
    let servers: Vec<_> = (0..1_000).map(|n| peer(&format!("server-{n}:8000"))).collect();
    for (n, server) in servers.iter().enumerate() {
        tell(&metrics, &finished(&models[n % models.len()], Outcome::Success), server);
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (slowest, scrape, bytes) = std::thread::scope(|scope| {
        let (stop, metrics, servers, models) = (&stop, &metrics, &servers, &models);
        let counting = scope.spawn(move || {
            let (mut slowest, mut n) = (Duration::ZERO, 0);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let model = &models[n % models.len()];
                let before = Instant::now();
                tell(metrics, &finished(model, Outcome::Success), &servers[n % servers.len()]);
                slowest = slowest.max(before.elapsed());
                n += 1;
            }
            slowest
        });
        let before = Instant::now();
        let bytes = metrics.encode_text().len();
        let scrape = before.elapsed();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        (counting.join().unwrap(), scrape, bytes)
    });
    println!("{bytes} bytes in {scrape:?}; counting one request took {slowest:?} at most");
    // The goal is a second for a program that is optimised; this one may not be.
    let goal = if cfg!(debug_assertions) { 30 } else { 1 };
    assert!(scrape < Duration::from_secs(goal), "{scrape:?}");
    assert!(bytes > 1_000_000, "{bytes}");
}
