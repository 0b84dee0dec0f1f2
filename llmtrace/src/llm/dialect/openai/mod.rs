//! OpenAI chat completions and completions, as OpenAI, vLLM, SGLang, llama.cpp, LMDeploy, TGI,
//! Azure and gateways serve them.

mod body;
mod event;

pub use body::{Request, Whole};
pub use event::Decoder;

use super::{Dialect, Route};
use crate::http::RequestHead;
use crate::llm::outcome::Usage;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// Prefixes are as many as there are gateways, so the end of the path decides.
pub fn classify(head: &RequestHead<'_>) -> Option<Route> {
    if head.method != "POST" {
        return None;
    }
    let path = head.path();
    let path = path.strip_suffix('/').unwrap_or(path);
    let endpoint = if path.ends_with("/chat/completions") {
        CHAT
    } else if path.ends_with("/completions") {
        COMPLETIONS
    } else {
        return None;
    };
    Some(Route { dialect: Dialect::OpenAi, endpoint })
}

/// `prompt_n` leaves out what came from the cache.
fn from_timings(prompt: Option<u64>, cached: Option<u64>, output: Option<u64>) -> Usage {
    let prompt = prompt.map(|n| n.saturating_add(cached.unwrap_or(0)));
    Usage { prompt, output, cached, reasoning: None }
}
