//! The screens.

mod ended;
mod help;
mod server;
mod servers;
mod streams;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row, Sparkline, Table, TableState},
};

use super::{
    app::{App, Screen},
    data::Points,
    format::{clock, number, percent, time},
};

/// Columns that are no numbers.
const WORDS: [&str; 5] = ["SERVER", "MODEL", "CLIENT", "OUTCOME", "AT "];

const DIM: Style = Style::new().fg(Color::DarkGray);
const HEAD: Style = Style::new().fg(Color::Cyan).add_modifier(Modifier::BOLD);
const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);

pub fn draw(frame: &mut Frame<'_>, app: &App) {
    let [title, totals, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(5),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_title(frame, app, title);
    draw_totals(frame, app, totals);
    match &app.screen {
        Screen::Servers => servers::draw(frame, app, body),
        Screen::Server(role, server, model) => {
            server::draw(frame, app, body, (role, server, model));
        }
        Screen::Streams => streams::draw(frame, app, body),
        Screen::Ended => ended::draw(frame, app, body),
        Screen::Help => help::draw(frame, body),
    }
    draw_foot(frame, app, foot);
}

fn draw_title(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let mut left = vec![
        Span::styled("llmtrace top", HEAD),
        Span::raw(format!("  {}", app.source)),
        Span::styled(format!("  last {}", app.window()), DIM),
    ];
    if app.paused {
        left.push("  PAUSED".yellow().bold());
    }
    if !app.filter.is_empty() && !app.typing {
        left.push(format!("  /{}", app.filter).yellow());
    }
    let agent = &app.data.agent;
    let mut right = Vec::new();
    if agent.lost_records > 0 {
        right.push(format!("lost {} records  ", number(agent.lost_records as f64)).red());
    }
    right.push(Span::raw(format!("{} UTC", clock(app.data.now))));
    if let Some(bytes) = agent.resident_bytes {
        right.push(Span::styled(format!("  agent {:.0} MiB", bytes / 1_048_576.0), DIM));
    }
    let left = Line::from(left);
    // What matters least goes first where there is no room for both.
    let room = usize::from(area.width).saturating_sub(left.width() + 2);
    while right.iter().map(Span::width).sum::<usize>() > room && !right.is_empty() {
        right.pop();
    }
    frame.render_widget(left, area);
    frame.render_widget(Line::from(right).right_aligned(), area);
}

/// Everything together: the servers' view if there is one, else the clients'.
fn draw_totals(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let total = app.data.totals.iter().find(|t| t.role == "server").or(app.data.totals.first());
    let rates = total.and_then(|t| t.windows.get(app.window())).cloned().unwrap_or_default();
    let points = total.and_then(|t| app.data.points(t)).cloned().unwrap_or_default();
    let [words, charts] =
        Layout::vertical([Constraint::Length(1), Constraint::Length(4)]).areas(area);
    let running = total.map_or(0, |t| t.in_flight);
    let mut line = Vec::new();
    let mut put = |name: &'static str, value: String, style: Style| {
        line.push(Span::styled(format!("{name} "), DIM));
        line.push(Span::styled(format!("{value}  "), style));
    };
    let plain = Style::new().add_modifier(Modifier::BOLD);
    put("req/s", number(rates.rps), plain);
    put("running", number(running as f64), plain);
    let errors = rates.error_ratio.unwrap_or(0.0);
    put("errors", percent(errors), if errors > 0.0 { plain.fg(Color::Red) } else { plain });
    put("aborts", number(rates.aborts as f64), plain);
    if let Some(ttft) = rates.ttft {
        put("TTFT p50", time(ttft.p50), plain);
    }
    if let Some(itl) = rates.itl {
        put("ITL p50", time(itl.p50), plain);
    }
    frame.render_widget(Line::from(line), words);
    let areas = Layout::horizontal([Constraint::Fill(1); 3]).spacing(2).split(charts);
    let tokens: Vec<u64> = points.output_tokens.clone();
    chart(frame, areas[0], ("tokens/s", number(rates.tokens_per_second)), &tokens, Color::Green);
    let p99 = |q: Option<super::data::Quantiles>| q.map_or("-".into(), |q| time(q.p99));
    let ttft = micros(&points.ttft_p99);
    chart(frame, areas[1], ("TTFT p99", p99(rates.ttft)), &ttft, Color::Blue);
    let itl = micros(&points.itl_p99);
    chart(frame, areas[2], ("ITL p99", p99(rates.itl)), &itl, Color::Magenta);
}

/// For a sparkline, which takes whole numbers.
fn micros(values: &[Option<f64>]) -> Vec<u64> {
    values.iter().map(|v| (v.unwrap_or(0.0) * 1e6) as u64).collect()
}

/// A name, a value and below it the last seconds, as many as fit.
fn chart(
    frame: &mut Frame<'_>,
    area: Rect,
    (name, value): (&str, String),
    points: &[u64],
    color: Color,
) {
    let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(area);
    let line = [Span::styled(format!("{name} "), DIM), Span::styled(value, Style::new().bold())];
    frame.render_widget(Line::from(line.to_vec()), head);
    let fit = points.len().saturating_sub(body.width.into());
    let shown = &points[fit..];
    // Newest at the right edge, whatever there is.
    let empty = usize::from(body.width).saturating_sub(shown.len());
    let mut padded = vec![0; empty];
    padded.extend(shown);
    frame.render_widget(Sparkline::default().data(&padded).style(Style::new().fg(color)), body);
}

fn draw_foot(frame: &mut Frame<'_>, app: &App, area: Rect) {
    if app.typing {
        frame.render_widget(Paragraph::new(format!("filter: {}_", app.filter)), area);
        return;
    }
    if let Some(problem) = &app.problem {
        frame.render_widget(Paragraph::new(problem.clone().red()), area);
        return;
    }
    let first: &[_] = match app.screen {
        Screen::Servers => &["enter open", "2 requests", "3 failed", "s sort"],
        _ => &["esc back", "1 servers", "2 requests", "3 failed"],
    };
    let keys = keys(first, area.width.into());
    frame.render_widget(Paragraph::new(Span::styled(keys, DIM)), area);
}

/// What keys do, as many as fit: how to leave and where the rest is said are always among them.
fn keys(first: &[&str], width: usize) -> String {
    const LAST: &str = "? help  q quit";
    let mut all = String::new();
    for key in first.iter().chain(&["w window", "/ filter", "p pause"]) {
        if all.len() + key.len() + LAST.len() + 2 <= width {
            all += key;
            all += "  ";
        }
    }
    all + LAST
}

/// A table with one line chosen.
fn table(
    frame: &mut Frame<'_>,
    area: Rect,
    head: Vec<(String, bool)>,
    rows: Vec<Row<'_>>,
    widths: &[Constraint],
    selected: Option<usize>,
) {
    let cells = head.into_iter().map(|(text, chosen)| {
        // Numbers stand at the right, and so do their names.
        let words = WORDS.iter().any(|word| text.starts_with(word));
        let cell = if words { Cell::from(text) } else { right(text) };
        cell.style(if chosen { HEAD.add_modifier(Modifier::UNDERLINED) } else { HEAD })
    });
    let table = Table::new(rows, widths)
        .header(Row::new(cells))
        .row_highlight_style(CHOSEN)
        .column_spacing(1);
    let mut state = TableState::default().with_selected(selected);
    frame.render_stateful_widget(table, area, &mut state);
}

/// What is said where there is nothing.
fn nothing(frame: &mut Frame<'_>, area: Rect, text: &str) {
    let [_, line, _] =
        Layout::vertical([Constraint::Length(1), Constraint::Length(2), Constraint::Min(0)])
            .areas(area);
    frame.render_widget(Paragraph::new(Span::styled(text.to_owned(), DIM)).centered(), line);
}

/// The last `n` seconds in one line of blocks.
fn spark(points: &[u64], n: usize) -> String {
    const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = &points[points.len().saturating_sub(n)..];
    // Wide enough for eight times whatever number of tokens a server tells.
    let most = u128::from(shown.iter().copied().max().unwrap_or(0).max(1));
    shown.iter().map(|p| BARS[(u128::from(*p) * 8).div_ceil(most).min(8) as usize]).collect()
}

/// A text in so many columns, its end kept.
fn tail(text: &str, width: usize) -> String {
    let n = text.chars().count();
    if n <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().skip(n - width.saturating_sub(1)).collect();
    format!("…{kept}")
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Line::from(text).right_aligned())
}

fn stall_style(seconds: f64) -> Style {
    match seconds {
        s if s >= 5.0 => Style::new().fg(Color::Red).bold(),
        s if s >= 1.0 => Style::new().fg(Color::Yellow),
        _ => Style::new(),
    }
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// Points of nothing.
fn none() -> &'static Points {
    static NONE: std::sync::LazyLock<Points> = std::sync::LazyLock::new(Points::default);
    &NONE
}
