//! Requests that went wrong or were slow, the newest first.

use ratatui::{
    Frame,
    layout::{Constraint, Rect},
    style::{Color, Style},
    widgets::{Cell, Row},
};

use super::{nothing, or_dash, right, table, tail};
use crate::top::{
    app::App,
    data::Ended,
    format::{clock, number, time},
};

pub fn draw(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let shown: Vec<&Ended> = app
        .data
        .ended
        .iter()
        .filter(|e| app.takes(&[&e.server, &e.model, &e.client, &e.outcome]))
        .collect();
    if shown.is_empty() {
        return nothing(frame, area, "no request has failed, was given up or was slow");
    }
    let head = ["AT (UTC)", "OUTCOME", "CODE", "TOOK", "TTFT", "TOKENS", "SERVER", "CLIENT"];
    let widths = [
        Constraint::Length(8),
        Constraint::Length(17),
        Constraint::Length(4),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Fill(1),
        Constraint::Length(15),
    ];
    let server_width = usize::from(area.width.saturating_sub(71));
    let rows = shown.into_iter().map(|ended| {
        let seconds = |ns: u64| time(ns as f64 / 1e9);
        // A success is there because it was slow.
        let outcome = if ended.outcome == "success" { "slow" } else { &ended.outcome };
        let color = match outcome {
            "slow" | "client_disconnect" | "incomplete" => Color::Yellow,
            _ => Color::Red,
        };
        Row::new([
            Cell::from(clock(ended.at)),
            Cell::from(outcome.to_owned()).style(Style::new().fg(color)),
            right(ended.status.map_or("-".into(), |status| status.to_string())),
            right(seconds(ended.end_ns.saturating_sub(ended.start_ns))),
            right(ended.ttft_ns.map_or("-".into(), seconds)),
            right(ended.output_tokens.map_or("-".into(), |n| number(n as f64))),
            Cell::from(tail(&ended.server, server_width)),
            Cell::from(tail(or_dash(&ended.client), 15)),
        ])
    });
    let head = head.map(|name| (name.to_owned(), false));
    table(frame, area, head.into(), rows.collect(), &widths, Some(app.selected));
}
