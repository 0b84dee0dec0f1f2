//! One server and model: windows, the last ten minutes, requests under way.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Style},
    text::{Line, Span},
    widgets::Row,
};

use super::{DIM, chart, micros, none, nothing, or_dash, right, streams, table};
use crate::top::{
    app::{App, WINDOWS},
    data::Quantiles,
    format::{number, percent, time},
};

pub fn draw(frame: &mut Frame<'_>, app: &App, area: Rect, of: (&str, &str, &str)) {
    let (role, server, model) = of;
    let found = app
        .data
        .servers
        .iter()
        .find(|r| (&*r.role, &*r.server, &*r.model) == (role, server, model));
    let Some(row) = found else {
        return nothing(frame, area, "nothing seen of it in the last ten minutes (esc goes back)");
    };
    let [title, windows, charts, running] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(4),
        Constraint::Length(4),
        Constraint::Min(2),
    ])
    .areas(area);
    let title_line = [
        Span::styled(server.to_owned(), Style::new().bold()),
        Span::raw(format!("  {}", or_dash(model))),
        Span::styled(format!("  as {role}, {} running", row.in_flight), DIM),
    ];
    frame.render_widget(Line::from(title_line.to_vec()), title);

    let head = [
        "", "REQ/S", "TOK/S", "TTFT p50", "p99", "ITL p50", "p99", "TOOK p50", "p99", "ERR",
        "ABORT",
    ];
    let widths: Vec<Constraint> =
        [4, 5, 6, 8, 7, 7, 7, 8, 7, 5, 5].into_iter().map(Constraint::Length).collect();
    let rows = WINDOWS.iter().filter_map(|window| {
        let rates = row.windows.get(*window)?;
        let pair = |q: Option<Quantiles>| {
            [q.map(|q| q.p50), q.map(|q| q.p99)].map(|v| right(v.map_or("-".into(), time)))
        };
        let [ttft, ttft99] = pair(rates.ttft);
        let [itl, itl99] = pair(rates.itl);
        let [e2e, e2e99] = pair(rates.e2e);
        Some(Row::new([
            right((*window).into()),
            right(number(rates.rps)),
            right(number(rates.tokens_per_second)),
            ttft,
            ttft99,
            itl,
            itl99,
            e2e,
            e2e99,
            right(rates.error_ratio.map_or("-".into(), percent)),
            right(number(rates.aborts as f64)),
        ]))
    });
    let head = head.map(|name| (name.to_owned(), false));
    table(frame, windows, head.into(), rows.collect(), &widths, None);

    let points = app.data.points(row).unwrap_or(none());
    let areas = Layout::horizontal([Constraint::Fill(1); 3]).spacing(2).split(charts);
    let last = |values: &[u64]| values.last().map_or("-".into(), |n| number(*n as f64));
    let tokens = ("tokens/s now", last(&points.output_tokens));
    chart(frame, areas[0], tokens, &points.output_tokens, Color::Green);
    let of_last =
        |values: &[Option<f64>]| values.iter().rev().find_map(|v| *v).map_or("-".into(), time);
    let ttft = ("TTFT p99 now", of_last(&points.ttft_p99));
    chart(frame, areas[1], ttft, &micros(&points.ttft_p99), Color::Blue);
    let in_flight = ("running", last(&points.in_flight));
    chart(frame, areas[2], in_flight, &points.in_flight, Color::Yellow);

    streams::draw(frame, app, running);
}
