use super::*;
use crate::llm::{Finished, Outcome, Peer, Progress, Role};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn ask(at: std::net::SocketAddr, path: &str) -> String {
    let mut c = tokio::net::TcpStream::connect(at).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    c.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    c.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn routes() {
    let state = State {
        metrics: Metrics::default(),
        anomalies: Board::default(),
        web: web::Source::new(None).unwrap(),
        live: Live::new(1_000),
        ready: Arc::default(),
        last_tick: Arc::new(AtomicU64::new(5_000_000_001)),
        now: || 10_000_000_000,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, state.clone()));

    let text = ask(at, "/metrics").await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.contains("content-type: text/plain; version=0.0.4"), "{text}");
    assert!(text.contains("\nllmtrace_build_info{version="), "{text}");
    let text = ask(at, "/").await;
    assert!(text.contains("content-security-policy: default-src 'self';"), "{text}");
    assert!(text.contains("content-type: text/html") && text.contains("llmtrace"), "{text}");
    // Whether the page was built or not, it says where everything else is.
    assert!(text.contains("href=\"metrics\""), "{text}");
    let text = ask(at, "/api/v1/summary?history=60&streams=1&ended=1").await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.contains("content-type: application/json"), "{text}");
    let json: serde_json::Value =
        serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(json["windows"], serde_json::json!(["1s", "10s", "60s", "600s"]));
    assert_eq!((&json["now"], &json["running"]), (&10.000001.into(), &0.into()));
    assert_eq!(json["agent"]["version"], env!("CARGO_PKG_VERSION"));
    for wrong in ["window=2h", "history=601", "history=-1", "what=1", "streams=x"] {
        let text = ask(at, &format!("/api/v1/summary?{wrong}")).await;
        assert!(text.starts_with("HTTP/1.1 400") && text.contains("{\"error\":"), "{text}");
    }
    // As Prometheus asks, and what it then gets.
    let accept = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
                      encoding=delimited;q=0.6,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
    let mut c = tokio::net::TcpStream::connect(at).await.unwrap();
    let head = format!(
        "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nAccept-Encoding: gzip\r\n\
             Connection: close\r\n\r\n"
    );
    c.write_all(head.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    c.read_to_end(&mut bytes).await.unwrap();
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    assert!(head.contains("content-type: application/vnd.google.protobuf; proto=io."), "{head}");
    assert!(head.contains("content-encoding: gzip") && head.contains("vary: accept"), "{head}");
    let mut plain = Vec::new();
    let mut unpack = flate2::read::GzDecoder::new(&bytes[end..]);
    io::copy(&mut unpack, &mut plain).unwrap();
    let name = b"llmtrace_build_info";
    assert!(plain.windows(name.len()).any(|w| w == name));

    let text = ask(at, "/api/v1/anomalies").await;
    assert!(text.contains("content-type: application/json"), "{text}");
    assert!(text.ends_with("{\"active\":[],\"ended\":[]}\n"), "{text}");
    assert!(ask(at, "/nothing").await.starts_with("HTTP/1.1 404"));

    assert!(ask(at, "/healthz").await.starts_with("HTTP/1.1 200"));
    state.last_tick.store(5_000_000_000, Ordering::Relaxed);
    assert!(ask(at, "/healthz").await.starts_with("HTTP/1.1 503"));

    assert!(ask(at, "/readyz").await.starts_with("HTTP/1.1 503"));
    state.ready.store(true, Ordering::Relaxed);
    assert!(ask(at, "/readyz").await.starts_with("HTTP/1.1 200"));
    server.abort();
}

#[tokio::test]
async fn page_with_and_without_its_files() {
    const BUILT: &[(&str, &[u8])] = &[("index.html", b"<p>built"), ("app.js", b"let a")];
    for (files, index, script) in
        [(BUILT, "<p>built", "200"), (&[], "without the live page", "404")]
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let router: Router = page::routes_of(files);
        let server = tokio::spawn(async { axum::serve(listener, router).await });
        assert!(ask(at, "/").await.contains(index));
        let text = ask(at, "/app.js").await;
        assert!(text.starts_with(&format!("HTTP/1.1 {script}")), "{text}");
        assert_eq!(text.contains("content-type: text/javascript"), script == "200");
        server.abort();
    }
}

/// Processor time of this thread.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// A thousand series that were busy for a minute, while exchanges end as fast as they can.
#[tokio::test]
async fn summary_of_a_thousand_series_under_load() {
    const SECOND: u64 = 1_000_000_000;
    // Without optimisation it is twenty times as slow.
    const SERVERS: usize = if cfg!(debug_assertions) { 5 } else { 100 };
    const MODELS: usize = 10;
    let live = Live::new(0);
    let state = State {
        metrics: Metrics::default(),
        anomalies: Board::default(),
        web: web::Source::new(None).unwrap(),
        live: live.clone(),
        ready: Arc::default(),
        last_tick: Arc::default(),
        now: || 60 * SECOND,
    };
    let mut watch = live.watch();
    let peers: Vec<Peer> = (0..SERVERS)
        .map(|n| Peer {
            server: format!("server:{n}").into(),
            client: "127.0.0.1:1".into(),
            pid: 1,
            tls: false,
        })
        .collect();
    let mut random = 1u64;
    let mut finished = move |at: u64, model: usize| {
        let gaps: [u64; 30] = std::array::from_fn(|_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            20_000_000 + (random >> 33) % 5_000_000
        });
        let mut f = Finished::new(Role::Server, at - SECOND / 2);
        (f.outcome, f.status, f.stream) = (Outcome::Success, Some(200), true);
        (f.first_token, f.last_token) = (Some(at - SECOND / 3), Some(at - SECOND / 9));
        f.usage.output = Some(30);
        f.model = Some(format!("model-{model}").into());
        (f.end, f.progress) = (at, Progress::new(30, 31, &gaps));
        f.progress.first = true;
        f
    };
    for second in 1..60 {
        for (n, peer) in peers.iter().enumerate() {
            for model in 0..MODELS {
                watch.finished(&finished(second * SECOND + n as u64 * 1_000, model), peer);
            }
        }
        watch.tick((second + 1) * SECOND);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let flood = std::thread::spawn(move || {
        let mut n = 0_usize;
        while !stopped.load(Ordering::Relaxed) {
            watch.finished(&finished(60 * SECOND, n % MODELS), &peers[n / MODELS % SERVERS]);
            watch.tick(60 * SECOND);
            n += 1;
        }
        n
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, state.clone()));
    let text = ask(at, "/api/v1/summary").await;
    // Processor time, as other tests run beside this one: the same work, on this thread.
    let asked = api::Asked::default();
    let begin = cpu_ns();
    let body = api::body(&state, &asked, &crate::live::WINDOWS).unwrap();
    let took = (cpu_ns() - begin) as f64 / 1e9;
    stop.store(true, Ordering::Relaxed);
    let ended = flood.join().unwrap();
    server.abort();
    let json: serde_json::Value =
        serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(json["servers"].as_array().map(Vec::len), Some(SERVERS * MODELS));
    assert_eq!(json["servers"][7]["windows"]["10s"]["requests"], 10);
    eprintln!("{} bytes in {took:.3} s of CPU while {ended} exchanges ended", body.len());
    assert!(took < 0.5, "{took}");
    assert!(ended > 0);
}
