//! A real run, and pictures of what the dashboard, the live page and `top` show of it. `cargo xtask pictures`
//! starts it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use llmtrace_tests::agent::{Agent, Options};
use llmtrace_tests::monitoring::{Board, Prometheus, Traffic, file, text};
use llmtrace_tests::net::free_port;
use llmtrace_tests::paths::{self, TempDir};
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;
use llmtrace_tests::terminal::Terminal;
use serde_json::{Value, json};

/// Rows that have data without prices, targets and a GPU.
const ROWS: [&str; 5] =
    ["Health", "Traffic and errors", "Latency", "Aborts, stalls and waiting", "Load and quality"];
const CAPTION: &str = "Drawn from the dashboard's own queries by dashboards/picture, not by Grafana: a real run of llama.cpp and two scripted servers, traced by eBPF, scraped by Prometheus.";
const WIDTH: u32 = 1440;
/// Of the live page.
const PAGE: (u32, u32) = (1280, 1010);
/// Of the terminal, in characters.
const TERMINAL: (u16, u16) = (110, 18);

#[derive(Parser)]
struct Cli {
    /// The folder of the pictures
    folder: PathBuf,
    /// How long clients ask
    #[arg(long, default_value_t = 240)]
    seconds: u64,
}

fn main() -> Result<()> {
    let mut cli = Cli::parse();
    cli.folder = std::path::absolute(&cli.folder)?;
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
    // As large models answer: what else this machine does is then small against it.
    for traffic in [&large, &small, &llama] {
        traffic.set_pace(6);
    }

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
    // While clients still ask.
    top(&agent, &cli.folder.join("top.png"))?;
    page(&agent, &cli.folder)?;
    dashboard(&prometheus, cli.seconds, &cli.folder.join("dashboard.png"))
}

/// The live page, by day and by night.
fn page(agent: &Agent, folder: &Path) -> Result<()> {
    let files =
        ["light", "dark"].map(|colours| (colours, folder.join(format!("page-{colours}.png"))));
    let shots: Vec<_> =
        files.iter().map(|(colours, file)| json!({ "colours": colours, "file": file })).collect();
    shoot(&json!({
        "url": format!("http://127.0.0.1:{}/", agent.port()),
        "width": PAGE.0,
        "height": PAGE.1,
        "wait": "#servers tbody tr:nth-child(3)",
        "shots": shots,
    }))?;
    files.iter().try_for_each(|(_, file)| finish(file))
}

/// `llmtrace top` in tmux, whose screen is drawn by xterm.js.
fn top(agent: &Agent, out: &Path) -> Result<()> {
    let connect = format!("top --connect http://127.0.0.1:{}", agent.port());
    let command = format!("{} {connect}", paths::agent().display());
    let (columns, rows) = TERMINAL;
    let terminal = Terminal::sized("pictures", &command, columns, rows);
    terminal.wait_for(&["chat-70b", "chat-8b", "tiny"]);
    // Until its sparklines are full.
    sleep(Duration::from_secs(70));
    let screen = terminal.colours();
    let xterm = paths::node_modules().join("@xterm/xterm");
    let html = text("picture/terminal.html")
        .replace("@XTERM@", &format!("file://{}", xterm.display()))
        .replace("@COLUMNS@", &columns.to_string())
        .replace("@ROWS@", &rows.to_string())
        .replace(
            "@SCREEN@",
            &json!(screen.trim_end_matches('\n').replace('\n', "\r\n")).to_string(),
        );
    let dir = TempDir::new();
    let file = dir.join("terminal.html");
    fs::write(&file, html)?;
    shoot(&json!({
        "url": format!("file://{}", file.display()),
        "width": WIDTH,
        "height": 900,
        "wait": "#terminal.done",
        "shots": [{ "colours": "dark", "file": out, "selector": "#terminal" }],
    }))?;
    finish(out)
}

fn shoot(job: &Value) -> Result<()> {
    let profile = TempDir::new();
    let mut node = Command::new("node");
    node.arg(paths::app("shots.mjs")).arg(paths::chromium()).arg(paths::node_modules());
    let output = node.arg(profile.path()).arg(job.to_string()).output().context("node")?;
    if !output.status.success() {
        bail!("shots.mjs: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn dashboard(prometheus: &Prometheus, seconds: u64, out: &Path) -> Result<()> {
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
    let shot = format!("--screenshot={}", out.display());
    chromium(
        &dir,
        &html,
        &[&format!("--window-size={WIDTH},{height}"), "--hide-scrollbars", &shot],
    )?;
    finish(out)
}

fn finish(out: &Path) -> Result<()> {
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
    println!("{}: {} KB", out.display(), size / 1000);
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
