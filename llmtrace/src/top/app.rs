//! What the user looks at, and what keys do to it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::data::{Data, Row, Stream};

/// Windows that can be chosen.
pub const WINDOWS: [&str; 3] = ["10s", "60s", "600s"];

/// A column of the table of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    Server,
    Model,
    Requests,
    Tokens,
    Running,
    Ttft,
    Itl,
    Errors,
    Aborts,
}

impl Column {
    pub const ALL: [Self; 9] = [
        Self::Server,
        Self::Model,
        Self::Requests,
        Self::Tokens,
        Self::Running,
        Self::Ttft,
        Self::Itl,
        Self::Errors,
        Self::Aborts,
    ];
}

/// What fills the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Screen {
    Servers,
    /// One of them: role, server and model.
    Server(String, String, String),
    /// Requests under way.
    Streams,
    /// Those that went wrong or were slow.
    Ended,
    Help,
}

/// Everything that is not data.
#[derive(Debug)]
pub struct App {
    pub data: Data,
    pub source: String,
    pub screen: Screen,
    /// Index into [`WINDOWS`].
    pub window: usize,
    pub sort: Column,
    pub descending: bool,
    /// Only what contains this.
    pub filter: String,
    /// The filter is being typed.
    pub typing: bool,
    pub paused: bool,
    pub selected: usize,
    /// Why there are no newer data.
    pub problem: Option<String>,
    pub quit: bool,
}

impl App {
    pub fn new(source: String) -> Self {
        Self {
            data: Data::default(),
            source,
            screen: Screen::Servers,
            window: 0,
            sort: Column::Tokens,
            descending: true,
            filter: String::new(),
            typing: false,
            paused: false,
            selected: 0,
            problem: None,
            quit: false,
        }
    }

    pub fn window(&self) -> &'static str {
        WINDOWS[self.window % WINDOWS.len()]
    }

    /// The servers that are shown, in order.
    pub fn rows(&self) -> Vec<&Row> {
        let window = self.window();
        // What began before its model was known leaves a row behind in which nothing is left.
        let empty = |row: &Row| {
            let idle = row.windows.get(window).is_none_or(|rates| rates.requests == 0);
            row.model.is_empty() && row.in_flight == 0 && idle
        };
        let shown = |row: &&Row| self.takes(&[&row.server, &row.model]) && !empty(row);
        let mut rows: Vec<&Row> = self.data.servers.iter().filter(shown).collect();
        let number = |row: &Row| {
            let rates = row.windows.get(window);
            let of = |f: fn(&super::data::Rates) -> f64| rates.map_or(0.0, f);
            match self.sort {
                Column::Server | Column::Model => 0.0,
                Column::Requests => of(|r| r.rps),
                Column::Tokens => of(|r| r.tokens_per_second),
                Column::Running => row.in_flight as f64,
                Column::Ttft => of(|r| r.ttft.map_or(0.0, |q| q.p99)),
                Column::Itl => of(|r| r.itl.map_or(0.0, |q| q.p99)),
                Column::Errors => of(|r| r.error_ratio.unwrap_or(0.0)),
                Column::Aborts => of(|r| r.aborts as f64),
            }
        };
        rows.sort_by(|a, b| {
            let order = match self.sort {
                Column::Server => b.server.cmp(&a.server),
                Column::Model => b.model.cmp(&a.model),
                _ => number(a).total_cmp(&number(b)),
            };
            let order = if self.descending { order.reverse() } else { order };
            // So that equal ones stay where they are.
            order.then_with(|| (&a.server, &a.model, &a.role).cmp(&(&b.server, &b.model, &b.role)))
        });
        rows
    }

    /// The requests under way that are shown, the longest stall first.
    pub fn streams(&self) -> Vec<&Stream> {
        let of_server = |s: &&Stream| match &self.screen {
            Screen::Server(role, server, model) => {
                s.role == *role && s.server == *server && (s.model == *model || s.model.is_empty())
            }
            _ => self.takes(&[&s.server, &s.model, &s.client, &s.endpoint]),
        };
        self.data.streams.iter().filter(of_server).collect()
    }

    /// Whether the filter lets something through.
    pub fn takes(&self, texts: &[&String]) -> bool {
        let wanted = self.filter.to_lowercase();
        wanted.is_empty() || texts.iter().any(|text| text.to_lowercase().contains(&wanted))
    }

    /// How many lines there are to move through.
    pub fn lines(&self) -> usize {
        match &self.screen {
            Screen::Servers => self.rows().len(),
            Screen::Server(..) | Screen::Streams => self.streams().len(),
            Screen::Ended => self.data.ended.len(),
            Screen::Help => 0,
        }
    }

    /// Newer data.
    pub fn update(&mut self, data: Data) {
        self.problem = None;
        if !self.paused {
            self.data = data;
        }
        self.selected = self.selected.min(self.lines().saturating_sub(1));
    }

    pub fn key(&mut self, key: KeyEvent) {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            self.quit = true;
            return;
        }
        if self.typing {
            self.type_filter(key.code);
            return;
        }
        let last = self.lines().saturating_sub(1);
        match key.code {
            KeyCode::Char('q') => self.quit = true,
            KeyCode::Char('?' | 'h') => self.show(Screen::Help),
            KeyCode::Esc | KeyCode::Backspace => self.back(),
            KeyCode::Char('1') => self.show(Screen::Servers),
            KeyCode::Char('2' | 't') => self.show(Screen::Streams),
            KeyCode::Char('3' | 'e') => self.show(Screen::Ended),
            KeyCode::Char('w') => self.window = (self.window + 1) % WINDOWS.len(),
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('r') => self.descending = !self.descending,
            KeyCode::Char('s' | '>') | KeyCode::Right => self.sort_by(1),
            KeyCode::Char('<') | KeyCode::Left => self.sort_by(Column::ALL.len() - 1),
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.selected = (self.selected + 1).min(last),
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(10),
            KeyCode::PageDown => self.selected = (self.selected + 10).min(last),
            KeyCode::Home => self.selected = 0,
            KeyCode::End => self.selected = last,
            KeyCode::Enter => self.enter(),
            _ => {}
        }
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if self.filter.len() < 64 => self.filter.push(c),
            _ => {}
        }
        self.selected = 0;
    }

    fn show(&mut self, screen: Screen) {
        self.screen = screen;
        self.selected = 0;
    }

    fn back(&mut self) {
        if self.screen == Screen::Servers {
            self.filter.clear();
        }
        self.show(Screen::Servers);
    }

    fn enter(&mut self) {
        if self.screen == Screen::Servers
            && let Some(row) = self.rows().get(self.selected)
        {
            let screen = Screen::Server(row.role.clone(), row.server.clone(), row.model.clone());
            self.show(screen);
        }
    }

    fn sort_by(&mut self, step: usize) {
        let at = Column::ALL.iter().position(|c| *c == self.sort).unwrap_or(0);
        self.sort = Column::ALL[(at + step) % Column::ALL.len()];
    }
}
