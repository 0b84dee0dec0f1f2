//! From the path of a request to a dialect. Prefixes are as many as there are gateways, so the end
//! of the path decides.

use super::Dialect;
use crate::http::RequestHead;

/// What a path says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub dialect: Dialect,
    /// Normalised, such as `/v1/chat/completions`.
    pub endpoint: &'static str,
    pub operation: Operation,
    /// The response is a stream unless the request says otherwise.
    pub streams: bool,
    /// Whether the path alone proves that this is a call of an LLM.
    pub sure: bool,
}

/// What kind of work a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Chat,
    Completion,
    Embeddings,
    /// Reranking, scores, pooling, classification.
    Rank,
    /// Audio to text.
    Transcription,
}

impl Operation {
    /// As OpenTelemetry's `gen_ai.operation.name` has it, where it has one.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completion => "text_completion",
            Self::Embeddings => "embeddings",
            Self::Rank => "rank",
            Self::Transcription => "transcription",
        }
    }
}

/// A request that is, or may be, a call of an LLM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call<'a> {
    pub route: Route,
    /// The model, if the path names it; percent-encoded.
    pub model: Option<&'a str>,
}

pub(super) const fn route(dialect: Dialect, operation: Operation, endpoint: &'static str) -> Route {
    Route { dialect, endpoint, operation, streams: false, sure: true }
}

impl Route {
    const fn unsure(self) -> Self {
        Self { sure: false, ..self }
    }

    pub(super) const fn streams(self) -> Self {
        Self { streams: true, ..self }
    }
}

/// None: not a call of an LLM.
pub fn classify<'a>(head: &'a RequestHead<'_>) -> Option<Call<'a>> {
    use Dialect::*;
    use Operation::*;
    if head.method != "POST" && head.method != "PUT" {
        return None;
    }
    let path = head.path();
    let path = path.strip_suffix('/').unwrap_or(path);
    let (dir, last) = if path.is_empty() { ("", "") } else { path.rsplit_once('/')? };
    if head.method == "PUT" && last != "generate" {
        return None;
    }
    let call = |route| Some(Call { route, model: None });
    let azure = |route| Some(Call { route, model: between(dir, "/deployments/") });
    match last {
        "completions" if ends(dir, "/chat") => azure(route(OpenAi, Chat, "/v1/chat/completions")),
        // llama.cpp's own, or OpenAI's without its prefix: the first event tells.
        "completions" if dir.is_empty() => call(route(LlamaCpp, Completion, "/completions")),
        "completions" => azure(route(OpenAi, Completion, "/v1/completions")),
        "responses" if ends(dir, "/v1") || ends(dir, "/openai") => {
            call(route(Responses, Chat, "/v1/responses"))
        }
        "responses" if dir.is_empty() => call(route(Responses, Chat, "/v1/responses").unsure()),
        "messages" if ends(dir, "/v1") => call(route(Anthropic, Chat, "/v1/messages").unsure()),
        "transcriptions" if ends(dir, "/audio") => {
            azure(route(Audio, Transcription, "/v1/audio/transcriptions"))
        }
        "translations" if ends(dir, "/audio") => {
            azure(route(Audio, Transcription, "/v1/audio/translations"))
        }
        "generate" if ends(dir, "/api") => {
            call(route(Ollama, Completion, "/api/generate").streams().unsure())
        }
        "chat" if ends(dir, "/api") => call(route(Ollama, Chat, "/api/chat").streams().unsure()),
        "chat" if ends(dir, "/v2") => call(route(Cohere, Chat, "/v2/chat").unsure()),
        "embed" if ends(dir, "/api") => call(route(Vectors, Embeddings, "/api/embed").unsure()),
        "embeddings" if ends(dir, "/api") => {
            call(route(Vectors, Embeddings, "/api/embeddings").unsure())
        }
        "embed" if ends(dir, "/v2") || ends(dir, "/v1") => {
            call(route(Vectors, Embeddings, "/v2/embed").unsure())
        }
        "embeddings" => azure(route(Vectors, Embeddings, "/v1/embeddings")),
        "embedding" if dir.is_empty() => call(route(Vectors, Embeddings, "/embedding").unsure()),
        "rerank" | "reranking" => call(route(Vectors, Rank, "/rerank").unsure()),
        "score" => call(route(Vectors, Rank, "/score").unsure()),
        "pooling" => call(route(Vectors, Rank, "/pooling").unsure()),
        "completion" if dir.is_empty() => call(route(LlamaCpp, Completion, "/completion").unsure()),
        "infill" if dir.is_empty() => call(route(LlamaCpp, Completion, "/infill").unsure()),
        "generate" | "generate_stream" if between(dir, "/v2/models/").is_some() => {
            let endpoint = match last {
                "generate" => route(Triton, Completion, "/v2/models/{model}/generate"),
                _ => route(Triton, Completion, "/v2/models/{model}/generate_stream").streams(),
            };
            Some(Call { route: endpoint, model: between(dir, "/v2/models/") })
        }
        "generate" if ends(dir, "/api/v1") || ends(dir, "/api/latest") => {
            call(route(Kobold, Completion, "/api/v1/generate").unsure())
        }
        "stream" if ends(dir, "/api/extra/generate") => {
            call(route(Kobold, Completion, "/api/extra/generate/stream").streams().unsure())
        }
        "generate" => call(route(Generate, Completion, "/generate").unsure()),
        "generate_stream" => {
            call(route(Generate, Completion, "/generate_stream").streams().unsure())
        }
        "" if dir.is_empty() => call(route(Generate, Completion, "/").unsure()),
        "invocations" if dir.is_empty() => {
            call(route(Invocations, Completion, "/invocations").unsure())
        }
        "vertex" if dir.is_empty() => call(route(Generate, Completion, "/vertex").unsure()),
        _ => bedrock(dir, last).or_else(|| google(dir, last)),
    }
}

/// Whether the path before the last segment ends with `suffix`.
fn ends(dir: &str, suffix: &str) -> bool {
    dir.ends_with(suffix)
}

/// The segment after `prefix`, wherever that is.
fn between<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = &path[path.find(prefix)? + prefix.len()..];
    rest.split('/').next().filter(|segment| !segment.is_empty())
}

fn bedrock<'a>(dir: &'a str, last: &str) -> Option<Call<'a>> {
    use Operation::{Chat, Completion};
    let bedrock = |operation, endpoint| route(Dialect::Bedrock, operation, endpoint);
    let route = match last {
        "invoke" => bedrock(Completion, "/model/{model}/invoke"),
        "invoke-with-response-stream" => {
            bedrock(Completion, "/model/{model}/invoke-with-response-stream").streams()
        }
        "converse" => bedrock(Chat, "/model/{model}/converse"),
        "converse-stream" => bedrock(Chat, "/model/{model}/converse-stream").streams(),
        _ => return None,
    };
    let (before, model) = dir.rsplit_once('/')?;
    before.ends_with("/model").then_some(Call { route, model: Some(model) })
}

/// Gemini's and Vertex AI's `models/{model}:verb`.
fn google<'a>(dir: &'a str, last: &'a str) -> Option<Call<'a>> {
    use Operation::{Chat, Embeddings};
    let (model, verb) = last.rsplit_once(':')?;
    if !dir.ends_with("/models") || model.is_empty() {
        return None;
    }
    let vertex = between(dir, "/publishers/");
    let gemini = |endpoints: [&'static str; 2]| {
        route(Dialect::Gemini, Chat, endpoints[usize::from(vertex.is_some())])
    };
    // What others' models speak there.
    let raw = match vertex {
        Some("anthropic") => Dialect::Anthropic,
        _ => Dialect::OpenAi,
    };
    let route = match verb {
        "generateContent" => gemini([
            "/v1beta/models/{model}:generateContent",
            "/v1/publishers/{publisher}/models/{model}:generateContent",
        ]),
        "streamGenerateContent" => gemini([
            "/v1beta/models/{model}:streamGenerateContent",
            "/v1/publishers/{publisher}/models/{model}:streamGenerateContent",
        ])
        .streams(),
        "rawPredict" if vertex.is_some() => {
            route(raw, Chat, "/v1/publishers/{publisher}/models/{model}:rawPredict")
        }
        "streamRawPredict" if vertex.is_some() => {
            route(raw, Chat, "/v1/publishers/{publisher}/models/{model}:streamRawPredict").streams()
        }
        "embedContent" | "batchEmbedContents" => {
            route(Dialect::Vectors, Embeddings, "/v1beta/models/{model}:embedContent")
        }
        _ => return None,
    };
    Some(Call { route, model: Some(model) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head;

    fn of(method: &str, path: &str) -> Option<(Dialect, &'static str, bool, Option<String>)> {
        let text = format!("{method} {path} HTTP/1.1\r\n\r\n");
        let (head, _) = head::request(text.as_bytes()).expect("a head").expect("a whole head");
        classify(&head).map(|call| {
            let Route { dialect, endpoint, sure, .. } = call.route;
            (dialect, endpoint, sure, call.model.map(str::to_owned))
        })
    }

    #[test]
    fn paths() {
        use Dialect::*;
        let table: &[(&str, Dialect, &str, bool, Option<&str>)] = &[
            ("/v1/chat/completions", OpenAi, "/v1/chat/completions", true, None),
            ("/gw/x/chat/completions/", OpenAi, "/v1/chat/completions", true, None),
            (
                "/openai/deployments/d-1/chat/completions?api-version=1",
                OpenAi,
                "/v1/chat/completions",
                true,
                Some("d-1"),
            ),
            ("/v1/completions", OpenAi, "/v1/completions", true, None),
            ("/completions", LlamaCpp, "/completions", true, None),
            ("/v1/responses", Responses, "/v1/responses", true, None),
            ("/openai/responses?api-version=p", Responses, "/v1/responses", true, None),
            ("/responses", Responses, "/v1/responses", false, None),
            ("/v1/messages", Anthropic, "/v1/messages", false, None),
            ("/anthropic/v1/messages?beta=true", Anthropic, "/v1/messages", false, None),
            ("/v1/embeddings", Vectors, "/v1/embeddings", true, None),
            ("/v1/rerank", Vectors, "/rerank", false, None),
            ("/score", Vectors, "/score", false, None),
            ("/v1/audio/transcriptions", Audio, "/v1/audio/transcriptions", true, None),
            (
                "/openai/deployments/w/audio/translations",
                Audio,
                "/v1/audio/translations",
                true,
                Some("w"),
            ),
            ("/api/chat", Ollama, "/api/chat", false, None),
            ("/api/generate", Ollama, "/api/generate", false, None),
            ("/api/embed", Vectors, "/api/embed", false, None),
            ("/completion", LlamaCpp, "/completion", false, None),
            ("/generate", Generate, "/generate", false, None),
            ("/", Generate, "/", false, None),
            (
                "/v2/models/ens/generate_stream",
                Triton,
                "/v2/models/{model}/generate_stream",
                true,
                Some("ens"),
            ),
            (
                "/v2/models/ens/versions/1/generate",
                Triton,
                "/v2/models/{model}/generate",
                true,
                Some("ens"),
            ),
            (
                "/model/anthropic.claude-v1%3A0/converse-stream",
                Bedrock,
                "/model/{model}/converse-stream",
                true,
                Some("anthropic.claude-v1%3A0"),
            ),
            ("/v2/chat", Cohere, "/v2/chat", false, None),
            ("/api/latest/generate", Kobold, "/api/v1/generate", false, None),
            ("/api/extra/generate/stream", Kobold, "/api/extra/generate/stream", false, None),
            (
                "/v1beta/models/gemini-2.0:streamGenerateContent?alt=sse",
                Gemini,
                "/v1beta/models/{model}:streamGenerateContent",
                true,
                Some("gemini-2.0"),
            ),
            (
                "/v1/projects/p/locations/l/publishers/google/models/g:generateContent",
                Gemini,
                "/v1/publishers/{publisher}/models/{model}:generateContent",
                true,
                Some("g"),
            ),
            (
                "/v1/projects/p/locations/l/publishers/anthropic/models/c@1:streamRawPredict",
                Anthropic,
                "/v1/publishers/{publisher}/models/{model}:streamRawPredict",
                true,
                Some("c@1"),
            ),
        ];
        for (path, dialect, endpoint, sure, model) in table {
            let expected = (*dialect, *endpoint, *sure, model.map(str::to_owned));
            assert_eq!(of("POST", path), Some(expected), "{path}");
            assert_eq!(of("GET", path), None);
        }
        assert!(of("PUT", "/generate").is_some() && of("PUT", "/v1/completions").is_none());
        for other in [
            "/health",
            "/mcp",
            "/messages?sessionId=1",
            "/v1/messages/count_tokens",
            "/x/invoke",
            "/v1/completions/x",
            "/index.html",
            "/v1/models/a:countTokens",
            "/:generateContent",
            "/chat",
            "/tokenize",
            "*",
            "/v1/audio/speech",
            "/v2/models/m/infer",
        ] {
            assert_eq!(of("POST", other), None, "{other}");
        }
    }
}
