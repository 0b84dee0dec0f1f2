//! OpenAI chat completions and completions, as OpenAI, vLLM, SGLang, llama.cpp, LMDeploy, TGI,
//! Azure and gateways serve them.

mod body;
mod event;

pub(super) use body::Api;
pub use event::Decoder;

use crate::llm::json::slice::Cursor;
use crate::llm::outcome::Usage;

/// Whether an event has the list of choices that is this dialect's mark.
pub(super) fn has_choices(data: &[u8]) -> bool {
    let mut cursor = Cursor::new(data);
    if !cursor.object() {
        return false;
    }
    while let Some(key) = cursor.key() {
        if key == b"choices" {
            return true;
        }
        cursor.skip();
    }
    false
}

/// `prompt_n` leaves out what came from the cache.
fn from_timings(prompt: Option<u64>, cached: Option<u64>, output: Option<u64>) -> Usage {
    let prompt = prompt.map(|n| n.saturating_add(cached.unwrap_or(0)));
    Usage { prompt, output, cached, reasoning: None }
}
