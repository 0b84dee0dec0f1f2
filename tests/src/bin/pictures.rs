//! A real run, and a picture of what the dashboard says of it. `cargo xtask dashboards --picture` starts it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use llmtrace_tests::agent::Options;
use llmtrace_tests::monitoring::{Board, Prometheus, Traffic, file, text};
use llmtrace_tests::net::free_port;
use llmtrace_tests::paths::{self, TempDir};
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;
use serde_json::json;

/// Rows that have data without prices, targets and a GPU.
const ROWS: [&str; 5] =
    ["Health", "Traffic and errors", "Latency", "Aborts, stalls and waiting", "Load and quality"];
const CAPTION: &str = "Drawn from the dashboard's own queries by dashboards/picture, not by Grafana: a real run of llama.cpp and two scripted servers, traced by eBPF, scraped by Prometheus.";
const WIDTH: u32 = 1440;

#[derive(Parser)]
struct Cli {
    /// Where the picture goes
    picture: PathBuf,
    /// How long clients ask
    #[arg(long, default_value_t = 240)]
    seconds: u64,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let servers = [Server::app(Model::Thread), Server::app(Model::Thread), Server::llama()];
    let mut options = Options::default();
    for server in &servers {
        options = options.pid(server.id());
    }
    let agent = options.start();
    // There is no Alertmanager: alerts show on the panels all the same.
    let prometheus = Prometheus::start(agent.port(), free_port());
    let large = Traffic::app(&servers[0], "chat-70b", 9);
    let small = Traffic::app(&servers[1], "chat-8b", 6);
    let llama = Traffic::llama(&servers[2], 8);
    small.set_faults(false);

    let begin = Instant::now();
    let length = Duration::from_secs(cli.seconds);
    while begin.elapsed() < length {
        // Load that comes and goes, and some minutes in which one server fails.
        let part = begin.elapsed().as_secs_f64() / length.as_secs_f64();
        let wave = 0.5 - 0.5 * (part * 4.0 * std::f64::consts::PI).cos();
        large.set_clients(3 + (wave * 6.0) as usize);
        small.set_clients(2 + (part * 4.0) as usize);
        llama.set_clients(1 + (wave * 7.0) as usize);
        large.set_faults((0.45..0.7).contains(&part));
        sleep(Duration::from_millis(200));
    }
    picture(&prometheus, cli.seconds, &cli.picture)
}

fn picture(prometheus: &Prometheus, seconds: u64, out: &Path) -> Result<()> {
    let end = prometheus.now().floor();
    let run = json!({
        "board": Board::read("llmtrace-serving").json,
        "prometheus": format!("http://127.0.0.1:{}", prometheus.port()),
        // The first rates need a while.
        "start": end - seconds as f64 + 15.0,
        "end": end,
        "variables": {
            "__rate_interval": "12s", "role": "server", "server": ".*", "model": ".*", "job": "llmtrace",
        },
        "rows": ROWS,
        "caption": CAPTION,
        "width": WIDTH - 16,
    });
    let uplot = paths::root().join("target/dashboards/node_modules/uplot/dist");
    let page = text("picture/page.html")
        .replace("@UPLOT@", &format!("file://{}", uplot.display()))
        .replace("@PAGE@", &format!("file://{}", file("picture").display()))
        .replace("@RUN@", &run.to_string());
    let dir = TempDir::new();
    let html = dir.join("page.html");
    fs::write(&html, page)?;

    // Once to learn how high it is, once for the picture.
    let dom = chromium(&dir, &html, &["--dump-dom"])?;
    let title = dom.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>"));
    let title = title.map_or("", |(title, _)| title);
    let Some(height) = title.strip_prefix("done ").and_then(|h| h.parse::<u32>().ok()) else {
        bail!("the page says: {title}");
    };
    let shot = format!("--screenshot={}", std::path::absolute(out)?.display());
    chromium(
        &dir,
        &html,
        &[&format!("--window-size={WIDTH},{height}"), "--hide-scrollbars", &shot],
    )?;
    // A palette of 256 is enough for lines and text, and a third of the size.
    let mut quantise = Command::new("pngquant");
    quantise.args(["--force", "--strip", "--speed=1", "--output"]).args([
        out,
        Path::new("256"),
        out,
    ]);
    let status = quantise.status().context("pngquant")?;
    if !status.success() {
        bail!("pngquant: {status}");
    }
    let size = fs::metadata(out)?.len();
    println!("{}: {WIDTH} x {height}, {} KB", out.display(), size / 1000);
    Ok(())
}

fn chromium(dir: &TempDir, html: &Path, args: &[&str]) -> Result<String> {
    let profile = TempDir::new();
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        // Scripts and answers of Prometheus count as one page.
        .args(["--allow-file-access-from-files", "--virtual-time-budget=60000"])
        .args(args)
        .arg(format!("file://{}", html.display()))
        .current_dir(dir.path())
        .output()
        .context("chromium")?;
    if !output.status.success() {
        bail!("chromium: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
