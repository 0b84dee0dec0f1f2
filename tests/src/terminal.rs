//! A real terminal (tmux) with a program in it.

use std::process::Command;
use std::time::Duration;

use crate::clock::wait_for;

const LIMIT: Duration = Duration::from_secs(30);

/// A terminal with a command in it; dropping it ends both.
#[derive(Debug)]
pub struct Terminal(String);

impl Terminal {
    /// Of 80 by 24.
    #[track_caller]
    pub fn start(name: &str, command: &str) -> Self {
        Self::sized(name, command, 80, 24)
    }

    #[track_caller]
    pub fn sized(name: &str, command: &str, columns: u16, rows: u16) -> Self {
        let socket = format!("llmtrace-test-{}-{name}", std::process::id());
        let terminal = Self(socket);
        let (columns, rows) = (columns.to_string(), rows.to_string());
        terminal.tmux(&["new-session", "-d", "-x", &columns, "-y", &rows, command]);
        terminal
    }

    /// tmux with a server of its own.
    #[track_caller]
    fn tmux(&self, args: &[&str]) -> String {
        let out = Command::new("tmux").args(["-L", &self.0, "-f", "/dev/null"]).args(args).output();
        let out = out.expect("tmux is there: cargo xtask test installs it");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// What it shows, as text.
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// The same with the escape sequences of its colours.
    pub fn colours(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e"])
    }

    /// The process of its command.
    ///
    /// # Panics
    /// If tmux names none.
    pub fn id(&self) -> u32 {
        let pid = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        pid.trim().parse().expect("a process id")
    }

    pub fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    #[track_caller]
    pub fn wait_for(&self, texts: &[&str]) -> String {
        wait_for(&format!("{texts:?} on the screen"), LIMIT, || {
            let screen = self.screen();
            texts.iter().all(|text| screen.contains(text)).then_some(screen)
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}
