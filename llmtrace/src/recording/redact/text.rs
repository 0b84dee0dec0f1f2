//! The body of a message, by what it is a body of.

use super::FILLER;
use super::grpc::Grpc;
use super::json::Json;
use super::sse::Sse;
use crate::http::RequestHead;
use crate::llm::dialect::{Dialect, classify, grpc};

/// What a request calls.
#[derive(Clone, Copy, Debug)]
pub enum Calls {
    /// No LLM.
    Other,
    Llm,
    Grpc(grpc::Call),
}

impl Calls {
    pub fn of(head: &RequestHead<'_>) -> Self {
        match classify(head).map(|call| call.route.dialect) {
            None => Self::Other,
            Some(Dialect::Grpc(call)) => Self::Grpc(call),
            Some(_) => Self::Llm,
        }
    }
}

#[derive(Debug)]
pub enum Text {
    Json(Box<Json>),
    Sse(Box<Sse>),
    Grpc(Box<Grpc>),
    /// Coded, cut, or of no kind that is known: filled whole.
    Opaque,
}

impl Text {
    /// Of a call of an LLM the structure stays, of anything else nothing.
    pub fn of(content_type: Option<&str>, coding: Option<&str>, calls: Calls, asks: bool) -> Self {
        let essence = content_type.unwrap_or("").split(';').next().unwrap_or("").trim();
        let coded = coding.is_some_and(|v| !v.eq_ignore_ascii_case("identity"));
        match calls {
            Calls::Other => Self::Opaque,
            _ if coded => Self::Opaque,
            Calls::Grpc(call) if essence.starts_with("application/grpc") => {
                Self::Grpc(Box::new(Grpc::new(call.names_model(), asks, call.web)))
            }
            _ if essence.eq_ignore_ascii_case("text/event-stream") => Self::Sse(Box::default()),
            // What is no JSON is filled from its first byte on.
            _ => Self::Json(Box::new(Json::new(false))),
        }
    }

    pub fn redact(&mut self, bytes: &mut [u8]) {
        match self {
            Self::Json(json) => json.redact(bytes),
            Self::Sse(sse) => sse.redact(bytes),
            Self::Grpc(grpc) => grpc.redact(bytes),
            Self::Opaque => bytes.fill(FILLER),
        }
    }
}
