//! AWS Bedrock: Converse, whose events are named by their frames, and InvokeModel, whose chunks wrap
//! the events of whichever vendor made the model.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::note::{Note, say};
use super::request::ask;
use super::{Api as Dialect, OWN};
use crate::llm::json::slice::Cursor;
use crate::llm::json::stream::{Node, Paths, ROOT, Value};

const CONFIG: Node = OWN;
const TOOL_CONFIG: Node = OWN + 1;
const TOOLS: Node = OWN + 2;

const BLOCK: Node = OWN + 3;
const DELTA: Node = OWN + 4;
const REASONING: Node = OWN + 5;
const TOOL: Node = OWN + 6;
const STOP: Node = OWN + 7;
const METADATA: Node = OWN + 8;
const USAGE: Node = OWN + 9;
const MESSAGE: Node = OWN + 10;
const START_USAGE: Node = OWN + 11;
const METRICS: Node = OWN + 12;
const CHOICES: Node = OWN + 13;
const RESULTS: Node = OWN + 14;
const RESULT: Node = OWN + 15;
const OUTPUTS: Node = OWN + 16;
const OUTPUT: Node = OWN + 17;

pub struct Api;

impl Dialect for Api {
    const REQUEST: Paths = &[
        (ROOT, "inferenceConfig", CONFIG),
        (CONFIG, "maxTokens", ask::MAX_TOKENS),
        (CONFIG, "max_new_tokens", ask::MAX_TOKENS),
        (ROOT, "textGenerationConfig", CONFIG),
        (CONFIG, "maxTokenCount", ask::MAX_TOKENS),
        (ROOT, "max_tokens", ask::MAX_TOKENS),
        (ROOT, "max_gen_len", ask::MAX_TOKENS),
        (ROOT, "toolConfig", TOOL_CONFIG),
        (TOOL_CONFIG, "tools", TOOLS),
        (ROOT, "tools", TOOLS),
        (TOOLS, "[]", ask::TOOL),
    ];
    const RESPONSE: Paths = &[
        // Converse, and Nova.
        (ROOT, "contentBlockDelta", BLOCK),
        (BLOCK, "delta", DELTA),
        (ROOT, "delta", DELTA),
        (DELTA, "text", say::TEXT),
        (DELTA, "reasoningContent", REASONING),
        (REASONING, "text", say::TEXT),
        (DELTA, "toolUse", TOOL),
        (TOOL, "input", say::TEXT),
        (ROOT, "messageStop", STOP),
        (STOP, "stopReason", say::FINISH),
        (ROOT, "stopReason", say::FINISH),
        (ROOT, "metadata", METADATA),
        (METADATA, "usage", USAGE),
        (ROOT, "usage", USAGE),
        (USAGE, "inputTokens", say::FRESH),
        (USAGE, "cacheReadInputTokens", say::CACHED),
        (USAGE, "cacheWriteInputTokens", say::WRITTEN),
        (USAGE, "outputTokens", say::OUTPUT),
        // Anthropic.
        (ROOT, "type", say::KIND),
        (DELTA, "thinking", say::TEXT),
        (DELTA, "partial_json", say::TEXT),
        (DELTA, "stop_reason", say::FINISH),
        (ROOT, "stop_reason", say::FINISH),
        (USAGE, "input_tokens", say::FRESH),
        (USAGE, "cache_read_input_tokens", say::CACHED),
        (USAGE, "cache_creation_input_tokens", say::WRITTEN),
        (USAGE, "output_tokens", say::OUTPUT),
        (ROOT, "message", MESSAGE),
        (MESSAGE, "usage", START_USAGE),
        (START_USAGE, "input_tokens", say::FRESH),
        (START_USAGE, "cache_read_input_tokens", say::CACHED),
        (START_USAGE, "cache_creation_input_tokens", say::WRITTEN),
        // Llama.
        (ROOT, "generation", say::TEXT),
        (ROOT, "prompt_token_count", say::PROMPT),
        (ROOT, "generation_token_count", say::OUTPUT),
        // Titan.
        (ROOT, "outputText", say::TEXT),
        (ROOT, "completionReason", say::FINISH),
        (ROOT, "inputTextTokenCount", say::PROMPT),
        (ROOT, "totalOutputTextTokenCount", say::OUTPUT),
        (ROOT, "results", RESULTS),
        (RESULTS, "[]", RESULT),
        (RESULT, "tokenCount", say::OUTPUT),
        (RESULT, "completionReason", say::FINISH),
        // Mistral, and what speaks as OpenAI does.
        (ROOT, "outputs", OUTPUTS),
        (OUTPUTS, "[]", OUTPUT),
        (OUTPUT, "text", say::TEXT),
        (OUTPUT, "stop_reason", say::FINISH),
        (ROOT, "choices", CHOICES),
        (CHOICES, "[]", say::CHOICE),
        (say::CHOICE, "index", say::INDEX),
        (say::CHOICE, "finish_reason", say::FINISH),
        (say::CHOICE, "stop_reason", say::FINISH),
        (say::CHOICE, "delta", DELTA),
        (DELTA, "content", say::TEXT),
        (DELTA, "reasoning", say::TEXT),
        (USAGE, "prompt_tokens", say::PROMPT),
        (USAGE, "completion_tokens", say::OUTPUT),
        // Bedrock's own count, in the last chunk of any vendor.
        (ROOT, "amazon-bedrock-invocationMetrics", METRICS),
        (METRICS, "inputTokenCount", say::TIMED_FRESH),
        (METRICS, "cacheReadInputTokenCount", say::TIMED_CACHED),
        (METRICS, "outputTokenCount", say::TIMED_OUTPUT),
        (ROOT, "error", say::ERROR),
    ];

    fn say<'a>(node: Node, value: Value<'a>, note: &mut Note<'a>) {
        note.done |= matches!((node, value), (STOP | METRICS, Value::Container));
    }

    fn event_end(name: &[u8], note: &mut Note<'_>) {
        note.done |= name == b"messageStop" || note.kind == Some(b"message_stop");
    }
}

/// Memory for a decoded event that is kept for the next one.
const KEEP: usize = 1024;

/// The vendor's event in a chunk of InvokeModel; None if this is no such chunk.
pub fn unwrap<'a>(data: &[u8], out: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    out.clear();
    out.shrink_to(KEEP);
    let mut cursor = Cursor::new(data);
    if !cursor.object() {
        return None;
    }
    while let Some(key) = cursor.key() {
        if key == b"bytes" {
            // The alphabet has a slash, which some writers of JSON escape.
            let coded: Vec<u8> = cursor.string()?.iter().copied().filter(|&b| b != b'\\').collect();
            // No longer than the frame that it came in.
            STANDARD.decode_vec(coded, out).ok()?;
            return Some(out);
        }
        cursor.skip();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::unwrap;

    #[test]
    fn chunks() {
        let mut out = Vec::new();
        assert_eq!(
            unwrap(br#"{"p":"ab","bytes":"eyJhIjoxfQ=="}"#, &mut out),
            Some(&br#"{"a":1}"#[..])
        );
        assert_eq!(unwrap(br#"{"bytes":"Pz8\/"}"#, &mut out), Some(&b"???"[..]));
        assert_eq!(unwrap(br#"{"bytes":"!"}"#, &mut out), None);
        assert_eq!(unwrap(br#"{"delta":{"bytes":"eyJ9"}}"#, &mut out), None);
    }
}
