//! A line per exchange, for people.

use std::io::{self, Write};

use crate::{
    export::request_log::rfc3339,
    llm::{Finished, Ns, Peer},
    metrics::labels,
};

#[derive(Debug)]
pub struct Table<W: Write> {
    out: W,
    wall_offset: i64,
    begun: bool,
}

impl<W: Write> Table<W> {
    pub fn new(out: W) -> Self {
        Self { out, wall_offset: 0, begun: false }
    }

    pub fn set_wall_offset(&mut self, wall_offset: i64) {
        self.wall_offset = wall_offset;
    }

    pub fn row(&mut self, f: &Finished, peer: &Peer) -> io::Result<()> {
        if !std::mem::replace(&mut self.begun, true) {
            writeln!(
                self.out,
                "{:<24} {:<24} {:<22} {:<20} {:>6} {:<17} {:>7} {:>7} {:>9} {:>9} {:>10}",
                "start",
                "server",
                "endpoint",
                "model",
                "status",
                "outcome",
                "prompt",
                "output",
                "TTFT ms",
                "TPOT ms",
                "total ms"
            )?;
        }
        let start = rfc3339(i128::from(f.start) + i128::from(self.wall_offset));
        let number = |n: Option<u64>| n.map_or_else(|| "-".into(), |n| n.to_string());
        let output = f.output_tokens().map(|(n, _)| n);
        writeln!(
            self.out,
            "{start:<24} {:<24} {:<22} {:<20} {:>6} {:<17} {:>7} {:>7} {:>9} {:>9} {:>10}",
            short(&peer.server, 24),
            short(f.endpoint, 22),
            short(f.model.as_deref().unwrap_or("-"), 20),
            number(f.status.map(u64::from)),
            labels::outcome(f.outcome),
            number(f.usage.prompt),
            number(output),
            ms(f.time_to_first_token()),
            ms(f.per_output_token()),
            ms(Some(f.end.saturating_sub(f.start))),
        )
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn ms(ns: Option<Ns>) -> String {
    ns.map_or_else(|| "-".into(), |ns| format!("{:.3}", ns as f64 / 1e6))
}

/// At most `width` characters, none that a terminal obeys.
fn short(text: &str, width: usize) -> String {
    let clean = |c: char| if c.is_control() { '_' } else { c };
    match text.chars().count() > width {
        true => text.chars().take(width - 1).map(clean).chain(['~']).collect(),
        false => text.chars().map(clean).collect(),
    }
}
