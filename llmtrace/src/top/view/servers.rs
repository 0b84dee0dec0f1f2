//! A line for each role, server and model.

use ratatui::{
    Frame,
    layout::{Constraint, Rect},
    style::{Color, Modifier, Style},
    widgets::{Cell, Row},
};

use super::{none, nothing, or_dash, right, spark, table, tail};
use crate::top::{
    app::{App, Column},
    data::{self, Rates},
    format::{number, percent, time},
};

/// From here on there is room for medians, aborts and the last seconds.
const WIDE: u16 = 110;
const SPARK: u16 = 16;

pub fn draw(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let rows = app.rows();
    if rows.is_empty() {
        let text = if app.filter.is_empty() {
            "no request of an LLM server seen so far"
        } else {
            "nothing matches the filter (esc clears it)"
        };
        return nothing(frame, area, text);
    }
    let wide = area.width >= WIDE;
    let server_width = if wide { 30 } else { 21 };
    let mut head = vec![
        ("SERVER", Column::Server),
        ("MODEL", Column::Model),
        ("REQ/S", Column::Requests),
        ("TOK/S", Column::Tokens),
        ("RUN", Column::Running),
        ("TTFT p99", Column::Ttft),
        ("ITL p99", Column::Itl),
        ("ERR", Column::Errors),
    ];
    let mut widths = vec![
        Constraint::Length(server_width),
        Constraint::Fill(1),
        Constraint::Length(6),
        Constraint::Length(7),
        Constraint::Length(5),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(5),
    ];
    if wide {
        head.push(("ABORTS", Column::Aborts));
        widths.extend([Constraint::Length(6), Constraint::Length(SPARK)]);
    }
    let mut head: Vec<(String, bool)> = head
        .into_iter()
        .map(|(name, column)| (sorted(name, column, app), column == app.sort))
        .collect();
    if wide {
        head.push(("TOKENS/S".into(), false));
    }
    let empty = Rates::default();
    let rows = rows.into_iter().map(|row| {
        let rates = row.windows.get(app.window()).unwrap_or(&empty);
        let mut cells = cells(row, rates, server_width.into());
        if wide {
            cells.push(right(number(rates.aborts as f64)));
            let points = app.data.points(row).unwrap_or(none());
            let spark = spark(&points.output_tokens, SPARK.into());
            cells.push(Cell::from(spark).style(Style::new().fg(Color::Green)));
        }
        Row::new(cells)
    });
    table(frame, area, head, rows.collect(), &widths, Some(app.selected));
    if wide {
        // Bars that are reversed look like their opposite.
        let sparks = Rect { x: area.right().saturating_sub(SPARK), width: SPARK, ..area };
        let buffer = frame.buffer_mut();
        sparks.positions().for_each(|at| buffer[at].modifier.remove(Modifier::REVERSED));
    }
}

fn sorted(name: &str, column: Column, app: &App) -> String {
    match (column == app.sort, app.descending) {
        (false, _) => name.into(),
        (true, true) => format!("{name}▾"),
        (true, false) => format!("{name}▴"),
    }
}

fn cells(row: &data::Row, rates: &Rates, server_width: usize) -> Vec<Cell<'static>> {
    // Where both ends are traced, the client's view is a line of its own.
    let server = match row.role.as_str() {
        "client" => format!("→ {}", row.server),
        _ => row.server.clone(),
    };
    let p99 = |q: Option<data::Quantiles>| right(q.map_or("-".into(), |q| time(q.p99)));
    let errors = rates.error_ratio.map_or("-".into(), percent);
    let bad = rates.errors > 0;
    vec![
        Cell::from(tail(&server, server_width)),
        Cell::from(or_dash(&row.model).to_owned()),
        right(number(rates.rps)),
        right(number(rates.tokens_per_second)),
        right(number(row.in_flight as f64)),
        p99(rates.ttft),
        p99(rates.itl),
        right(errors).style(if bad { Style::new().fg(Color::Red) } else { Style::new() }),
    ]
}
