//! Requests under way, the longest stall first.

use ratatui::{
    Frame,
    layout::{Constraint, Rect},
    widgets::{Cell, Row},
};

use super::{nothing, or_dash, right, stall_style, table, tail};
use crate::top::{
    app::App,
    format::{number, time},
};

pub fn draw(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let streams = app.streams();
    if streams.is_empty() {
        return nothing(frame, area, "no request is under way");
    }
    let head = ["STALL", "AGE", "TTFT", "TOKENS", "TOK/S", "SERVER", "MODEL", "CLIENT"];
    let widths = [
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Fill(1),
        Constraint::Length(12),
        Constraint::Length(15),
    ];
    let server_width = usize::from(area.width.saturating_sub(67));
    let rows = streams.into_iter().map(|stream| {
        let optional = |seconds: Option<f64>| right(seconds.map_or("-".into(), time));
        let stall = optional(stream.stall).style(stall_style(stream.stall.unwrap_or(0.0)));
        Row::new([
            stall,
            right(time(stream.age)),
            optional(stream.ttft),
            right(number(stream.tokens as f64)),
            right(stream.tokens_per_second.map_or("-".into(), number)),
            Cell::from(tail(&stream.server, server_width)),
            Cell::from(or_dash(&stream.model).to_owned()),
            Cell::from(tail(or_dash(&stream.client), 15)),
        ])
    });
    let head = head.map(|name| (name.to_owned(), name == "STALL"));
    table(frame, area, head.into(), rows.collect(), &widths, Some(app.selected));
}
