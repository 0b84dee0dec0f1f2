//! `llmtrace top`: the live windows in a terminal.

mod app;
mod data;
mod format;
mod source;
#[cfg(test)]
mod tests;
mod view;

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyEventKind},
};

use crate::{cli::TopArgs, probe::privileges};
use app::App;
use source::Source;

/// How often newer data are shown.
const EVERY: Duration = Duration::from_millis(500);

/// `llmtrace top`.
pub fn run(args: &TopArgs) -> Result<()> {
    if !std::io::stdout().is_terminal() {
        bail!(
            "`llmtrace top` needs a terminal; for programs there is /api/v1/summary (docs/api.md)"
        );
    }
    let source = match &args.connect {
        Some(url) => Source::other(url),
        None => {
            eprintln!("attaching...");
            privileges::keep_needed(&[]);
            Source::own(args.targets.wanted(), args.kernel.options())?
        }
    };
    let mut app = App::new(source.name());
    // The first answer shows whether there is anybody.
    app.update(source.get()?);
    // The screen is no place for it.
    log::set_max_level(log::LevelFilter::Off);
    let mut terminal = ratatui::init();
    let result = show(&mut terminal, &mut app, &source);
    ratatui::restore();
    result
}

fn show(terminal: &mut DefaultTerminal, app: &mut App, source: &Source) -> Result<()> {
    let mut next = Instant::now() + EVERY;
    loop {
        terminal.draw(|frame| view::draw(frame, app))?;
        let wait = next.saturating_duration_since(Instant::now());
        if event::poll(wait)? {
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                app.key(key);
            }
            if app.quit {
                return Ok(());
            }
        }
        if Instant::now() >= next {
            next = Instant::now() + EVERY;
            match source.get() {
                Ok(data) => app.update(data),
                // An agent that is restarted comes back.
                Err(e) => app.problem = Some(format!("{e:#}")),
            }
        }
    }
}
