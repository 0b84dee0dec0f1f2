//! The OpenAI and Anthropic SDKs as clients, in programs of their own languages.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::wait_for;
use crate::paths::{self, TempDir};
use crate::process::Process;
use crate::tls::Files;

/// Importing both SDKs takes seconds on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(180);
const LIMIT: Duration = Duration::from_secs(180);

/// The language of the SDKs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Python,
    Node,
}

/// A method of an SDK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    Chat,
    Completions,
    Responses,
    Embeddings,
    /// Anthropic's.
    Messages,
}

impl Api {
    /// Where it is, as the agent names it.
    pub fn endpoint(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Responses => "/v1/responses",
            Self::Embeddings => "/v1/embeddings",
            Self::Messages => "/v1/messages",
        }
    }
}

/// In what a call is one that the server refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wrong {
    /// The server has no such path.
    Path,
    /// A parameter is of the wrong type.
    Body,
}

impl Wrong {
    pub fn status(self) -> u16 {
        match self {
            Self::Path => 404,
            Self::Body => 400,
        }
    }
}

/// One call.
#[derive(Clone, Debug, Serialize)]
pub struct Call {
    /// Tells it apart at every hop.
    pub user_agent: String,
    pub url: String,
    /// HTTP/2, where a plain URL means prior knowledge.
    pub http2: bool,
    pub api: Api,
    pub stream: bool,
    pub max_tokens: u64,
    /// Closes the stream after so many deltas with text in them; 0: never.
    pub leave_after: u64,
    pub wrong: Option<Wrong>,
}

/// What the SDK gave its caller.
#[derive(Clone, Debug, Deserialize)]
pub struct Said {
    pub user_agent: String,
    pub status: u16,
    /// Events with generated text.
    pub deltas: u64,
    pub finish: Option<String>,
    /// Tokens of the prompt, those from a cache included.
    pub prompt: Option<u64>,
    pub output: Option<u64>,
    pub cached: Option<u64>,
    /// It closed the stream.
    pub left: bool,
}

/// A program that is ready to make its calls.
#[derive(Debug)]
pub struct Client {
    process: Process,
    dir: TempDir,
    calls: usize,
}

impl Client {
    #[track_caller]
    pub fn start(language: Language, calls: &[Call]) -> Self {
        let dir = TempDir::new();
        let files = Files::write(dir.path());
        fs::write(dir.join("calls.json"), serde_json::to_vec(calls).expect("plain values"))
            .expect("a temporary file");
        let mut command = match language {
            Language::Python => {
                let mut command = Command::new(paths::python());
                command.arg(paths::app("sdk.py"));
                command
            }
            Language::Node => {
                let mut command = Command::new("node");
                command.arg("--no-warnings").arg(paths::app("sdk.mjs")).arg(paths::node());
                command
            }
        };
        command.arg(&files.certificate).arg(dir.join("calls.json")).arg(dir.join("go"));
        let mut process = Process::spawn(&mut command);
        wait_for("an SDK to be imported", START_LIMIT, || {
            assert_eq!(process.try_wait(), None, "{}", process.output().text());
            process.output().find(|line| line == "ready")
        });
        Self { process, dir, calls: calls.len() }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Lets it begin.
    pub fn go(&self) {
        fs::write(self.dir.join("go"), "").expect("a temporary file");
    }

    /// What it says of each call, in their order.
    #[track_caller]
    pub fn finish(mut self) -> Vec<Said> {
        let status = self.process.wait(LIMIT);
        let printed = self.process.finish_output();
        assert!(status.success(), "{printed}");
        let said: Vec<Said> = printed
            .lines()
            .filter(|line| *line != "ready")
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect();
        assert_eq!(said.len(), self.calls, "{printed}");
        said
    }
}
