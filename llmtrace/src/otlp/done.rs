//! What is exported of an exchange.

use std::sync::Arc;

use crate::llm::{Finished, Ns, Operation, Outcome, Peer, Role, Usage};

#[derive(Clone, Debug)]
pub(super) struct Done {
    pub(super) role: Role,
    pub(super) method: Box<str>,
    pub(super) endpoint: &'static str,
    pub(super) operation: Operation,
    pub(super) asked_model: Option<Box<str>>,
    pub(super) model: Option<Box<str>>,
    pub(super) max_tokens: Option<u64>,
    pub(super) choices: Option<u64>,
    pub(super) stream: bool,
    pub(super) status: Option<u16>,
    pub(super) outcome: Outcome,
    pub(super) finish_reason: Option<Box<str>>,
    pub(super) start: Ns,
    /// None as well if the client did not stay for it.
    pub(super) first_token: Option<Ns>,
    per_token: Option<Ns>,
    pub(super) end: Ns,
    pub(super) usage: Usage,
    pub(super) output_tokens: Option<u64>,
    pub(super) user_agent: Option<Box<str>>,
    pub(super) traceparent: Option<Box<str>>,
    pub(super) tracestate: Option<Box<str>>,
    pub(super) server: Arc<str>,
    pub(super) client: Arc<str>,
    pub(super) pid: u32,
}

impl Done {
    pub(super) fn new(f: &Finished, peer: &Peer) -> Self {
        Self {
            role: f.role,
            method: f.method.clone(),
            endpoint: f.endpoint,
            operation: f.operation,
            // It is not told twice if the answer named none.
            asked_model: f.asked.model.clone().or_else(|| f.model.clone()),
            model: f.model.clone(),
            max_tokens: f.asked.max_tokens,
            choices: f.asked.n,
            stream: f.stream,
            status: f.status,
            outcome: f.outcome,
            finish_reason: f.finish_reason.clone(),
            start: f.start,
            first_token: f.first_token.filter(|_| f.time_to_first_token().is_some()),
            per_token: f.per_output_token(),
            end: f.end,
            usage: f.usage,
            output_tokens: f.output_tokens().map(|(n, _)| n),
            user_agent: f.user_agent.clone(),
            traceparent: f.traceparent.clone(),
            tracestate: f.tracestate.clone(),
            server: peer.server.clone(),
            client: peer.client.clone(),
            pid: peer.pid,
        }
    }

    fn since(&self, at: Ns) -> f64 {
        at.saturating_sub(self.start) as f64 / 1e9
    }

    /// Seconds.
    pub(super) fn duration(&self) -> f64 {
        self.since(self.end)
    }

    /// Seconds.
    pub(super) fn ttft(&self) -> Option<f64> {
        self.first_token.map(|t| self.since(t))
    }

    /// Seconds per output token after the first event's.
    pub(super) fn per_token(&self) -> Option<f64> {
        self.per_token.map(|t| t as f64 / 1e9)
    }

    /// `error.type`: the status, or how it ended.
    pub(super) fn error(&self) -> Option<String> {
        match (self.outcome, self.status) {
            (Outcome::Success, _) => None,
            (Outcome::HttpError, Some(status)) => Some(status.to_string()),
            (outcome, _) => Some(crate::metrics::labels::outcome(outcome).to_owned()),
        }
    }

    /// Whether a server answered with success: only then its models are believed.
    pub(super) fn accepted(&self) -> bool {
        self.outcome == Outcome::Success && self.status.is_some_and(|s| s / 100 == 2)
    }

    /// Whose API is spoken, by the path: `gen_ai.provider.name`.
    pub(super) fn provider(&self) -> &'static str {
        match self.endpoint {
            "/v1/messages" => "anthropic",
            "/v2/chat" | "/v2/embed" => "cohere",
            path if path.starts_with("/model/{model}/") => "aws.bedrock",
            path if path.starts_with("/v1/publishers/") => "gcp.vertex_ai",
            path if path.starts_with("/v1beta/models/") => "gcp.gemini",
            path if path.starts_with("/v1/") => "openai",
            _ => "_OTHER",
        }
    }
}
