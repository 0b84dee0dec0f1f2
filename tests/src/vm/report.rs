//! What a virtual machine reports, as JSON lines.

use serde::{Deserialize, Serialize};

use crate::agent::Entry;

/// Scenarios that are not of the table: what is found where threads are preempted, and that the
/// others left nothing over.
pub const PREEMPTED_NAME: &str = "preempted";
pub const NOTHING_ELSE: &str = "nothing-else";

/// `--backend` of the agent.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    Auto,
    Fentry,
    Kprobe,
    Tracepoint,
    Syscall,
}

impl Backend {
    pub const ALL: [Self; 5] =
        [Self::Auto, Self::Fentry, Self::Kprobe, Self::Tracepoint, Self::Syscall];

    /// As the agent's command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
            Self::Syscall => "syscall",
        }
    }

    /// Whether it is enough that the agent starts, because what it chose is asked for by its own
    /// name as well, and does the scenarios there.
    pub fn only_starts(self, chosen: &str, asked: &[Self]) -> bool {
        let own = match chosen {
            "fentry" => Self::Fentry,
            "kprobe" => Self::Kprobe,
            "sockets" => Self::Tracepoint,
            "syscalls" => Self::Syscall,
            _ => return false,
        };
        self != own && asked.contains(&own)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "line")]
pub enum Line {
    /// The first: the kernel is up.
    Booted { release: String, seconds: f64 },
    /// What the agent said when it was started.
    Agent { backend: Backend, said: Said, seconds: f64 },
    /// One scenario under one back end.
    Scenario {
        backend: Backend,
        name: String,
        sent: usize,
        wrong: String,
        /// For the reader, whatever came out.
        note: String,
        exchanges: Vec<Exchange>,
    },
    /// A check that is none of a back end.
    Check { name: String, said: String, wrong: String },
    /// The last: nothing was left out.
    Ended { seconds: f64 },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// The `ready` line.
    Ready(String),
    /// It left.
    Left { code: Option<i32>, printed: String },
}

impl Said {
    /// What the `ready` line says of how it captures: the hooks (`sockets`, `syscalls`), or where
    /// these are functions the back end (`fentry`, `kprobe`).
    pub fn chosen(&self) -> Option<&str> {
        let Self::Ready(line) = self else { return None };
        let word = |key: &str| line.split_whitespace().find_map(|word| word.strip_prefix(key));
        match word("hooks=") {
            Some("functions") | None => word("backend="),
            hooks => hooks,
        }
    }
}

/// What of a traced exchange has to be the same whatever captured it: no times, no ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Exchange {
    pub user_agent: String,
    pub outcome: String,
    pub phase: Option<String>,
    pub role: String,
    pub server: String,
    pub method: String,
    pub endpoint: String,
    pub status: Option<u16>,
    pub stream: bool,
    pub model: Option<String>,
    pub finish_reason: Option<String>,
    pub prompt_tokens: Option<u64>,
    pub output_tokens: Option<u64>,
    pub output_source: Option<String>,
    pub events: u64,
    pub token_events: u64,
    pub tls: bool,
}

impl From<&Entry> for Exchange {
    fn from(entry: &Entry) -> Self {
        let entry = entry.clone();
        let user_agent = entry.user_agent.unwrap_or_default();
        if entry.outcome == "incomplete" {
            // How much of it was seen is not promised.
            return Self { user_agent, outcome: entry.outcome, ..Self::default() };
        }
        Self {
            user_agent,
            outcome: entry.outcome,
            phase: entry.phase,
            role: entry.role,
            server: entry.server,
            method: entry.method,
            endpoint: entry.endpoint,
            status: entry.status,
            stream: entry.stream,
            model: entry.model,
            finish_reason: entry.finish_reason,
            prompt_tokens: entry.prompt_tokens,
            output_tokens: entry.output_tokens,
            output_source: entry.output_source,
            events: entry.events,
            token_events: entry.token_events,
            tls: entry.tls,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_chosen_is_in_the_ready_line() {
        for (line, chosen) in [
            ("ready backend=kprobe targets=pid:7 listen=127.0.0.1:1 hooks=functions", "kprobe"),
            ("ready backend=tracepoint targets=all listen=127.0.0.1:1 hooks=sockets", "sockets"),
        ] {
            assert_eq!(Said::Ready(line.into()).chosen(), Some(chosen));
        }
        let left = Said::Left { code: Some(3), printed: "backend=none".into() };
        assert_eq!(left.chosen(), None);
    }
    #[test]
    fn the_scenarios_are_done_once_per_way_to_capture() {
        let all = Backend::ALL;
        assert!(Backend::Auto.only_starts("fentry", &all));
        assert!(Backend::Tracepoint.only_starts("syscalls", &all));
        assert!(!Backend::Tracepoint.only_starts("sockets", &all));
        assert!(!Backend::Fentry.only_starts("fentry", &all));
        assert!(!Backend::Auto.only_starts("fentry", &[Backend::Auto]));
    }
}
