//! Screens as text, in a terminal of 80 by 24 and in a wide one.

use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
};
use serde_json::json;

use super::{app::App, data::Data, view};

fn row(role: &str, server: &str, model: &str, rps: f64) -> serde_json::Value {
    let q =
        |p50: f64| json!({"count": 9, "mean": p50, "p50": p50, "p95": p50 * 2.0, "p99": p50 * 3.0});
    let rates = json!({
        "seconds": 10, "requests": 42, "rps": rps, "errors": 1, "error_ratio": 0.024, "aborts": 2,
        "output_tokens": 2100, "tokens_per_second": rps * 50.0,
        "ttft": q(0.08), "itl": q(0.0125), "tpot": q(0.012), "e2e": q(1.5),
    });
    json!({"role": role, "server": server, "model": model, "in_flight": 3,
           "windows": {"10s": rates, "60s": rates, "600s": rates}})
}

fn data() -> Data {
    let points = |role: &str, server: &str, model: &str| {
        json!({"role": role, "server": server, "model": model,
               "requests": [1, 2, 3], "output_tokens": [10, 200, 400], "in_flight": [1, 2, 3],
               "ttft_p99": [null, 0.1, 0.2], "itl_p99": [0.01, 0.02, 0.01]})
    };
    serde_json::from_value(json!({
        "now": 1_764_112_345.6,
        "totals": [row("server", "", "", 6.5)],
        "servers": [
            row("server", "llama-server:8080", "tiny", 4.2),
            row("server", "vllm.entrypoints.openai.api_server:8000", "Qwen3", 2.3),
            row("client", "10.0.0.7:443", "gpt", 0.1),
        ],
        "history": {"totals": [points("server", "", "")],
                    "series": [points("server", "llama-server:8080", "tiny")]},
        "running": 2,
        "streams": [
            {"role": "server", "server": "llama-server:8080", "model": "tiny", "endpoint": "/v1/x",
             "client": "127.0.0.1:50000", "age": 12.5, "ttft": 0.09, "tokens": 120,
             "tokens_per_second": 9.7, "stall": 6.2},
            {"role": "server", "server": "vllm:8000", "model": "", "endpoint": "/v1/x",
             "client": "127.0.0.1:50001", "age": 0.4, "ttft": null, "tokens": 0,
             "tokens_per_second": null, "stall": null},
        ],
        "ended": [
            {"at": 1_764_112_340.0, "role": "server", "server": "llama-server:8080", "model": "tiny",
             "why": "failed", "outcome": "http_error", "status": 503, "endpoint": "/v1/x",
             "client": "127.0.0.1:50002", "start_ns": 0, "end_ns": 1_500_000, "ttft_ns": null,
             "output_tokens": null},
        ],
        "agent": {"lost_records": 7, "resident_bytes": 33_554_432.0},
    }))
    .unwrap()
}

fn app() -> App {
    let mut app = App::new("targets auto".into());
    app.update(data());
    app
}

fn press(app: &mut App, keys: &str) {
    for c in keys.chars() {
        let code = match c {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            c => KeyCode::Char(c),
        };
        app.key(KeyEvent::new(code, KeyModifiers::NONE));
    }
}

fn screen(app: &App, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, app)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(|y| format!("{}\n", line(y).trim_end())).collect()
}

/// The first words of the table's rows.
fn servers(text: &str) -> Vec<String> {
    let rows = text.lines().skip_while(|line| !line.starts_with("SERVER")).skip(1);
    rows.take_while(|line| !line.is_empty()).map(|line| line[..12].trim().to_owned()).collect()
}

#[test]
fn servers_fit_into_80_by_24() {
    let text = screen(&app(), 80, 24);
    for said in ["llama-server:8080", "tiny", "4.2", "210", "240ms", "37.5ms", "2.4%", "lost 7"] {
        assert!(text.contains(said), "{said}\n{text}");
    }
}

#[test]
fn every_screen_fits_into_any_terminal() {
    for keys in ["", "\n", "2", "3", "?"] {
        let mut app = app();
        press(&mut app, keys);
        for (width, height) in [(80, 24), (200, 60), (40, 12), (20, 5), (1, 1)] {
            screen(&app, width, height);
        }
        insta::assert_snapshot!(
            match keys {
                "" => "screen-servers",
                "\n" => "screen-server",
                "2" => "screen-requests",
                "3" => "screen-failed",
                _ => "screen-help",
            },
            screen(&app, 80, 24)
        );
    }
}

#[test]
fn wide_terminals_show_the_last_seconds() {
    let text = screen(&app(), 160, 24);
    assert!(text.contains("ABORTS") && text.contains("▁▄█"), "{text}");
}

#[test]
fn sorted_filtered_and_turned() {
    let mut app = app();
    let order = |app: &App| servers(&screen(app, 80, 24));
    assert_eq!(order(&app)[0], "llama-server");
    press(&mut app, "r");
    assert_eq!(order(&app)[0], "→ 10.0.0.7");
    press(&mut app, "r/QWEN\n");
    assert_eq!(order(&app).len(), 1, "by model, in any case");
    press(&mut app, "\x1b");
    assert_eq!(order(&app).len(), 3);
}

#[test]
fn a_server_shows_its_own_streams_and_esc_goes_back() {
    let mut app = app();
    press(&mut app, "\n");
    let text = screen(&app, 80, 24);
    assert!(text.contains("6.2s") && text.contains("as server, 3 running"), "{text}");
    assert!(!text.contains("vllm:8000"), "{text}");
    press(&mut app, "\x1b");
    assert!(screen(&app, 80, 24).contains("SERVER"));
}

#[test]
fn paused_means_paused() {
    let mut app = app();
    press(&mut app, "p");
    app.update(Data::default());
    let text = screen(&app, 80, 24);
    assert!(text.contains("PAUSED") && text.contains("llama-server"), "{text}");
    press(&mut app, "p");
    app.update(Data::default());
    assert!(!screen(&app, 80, 24).contains("llama-server"));
}

#[test]
fn what_is_missing_in_an_answer_is_nothing() {
    let data: Data = serde_json::from_str("{}").unwrap();
    let mut app = App::new("x".into());
    app.update(data);
    assert!(screen(&app, 80, 24).contains("no request of an LLM server seen so far"));
}
