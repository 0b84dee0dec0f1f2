//! llama.cpp with the tiny model, by every API that it has besides OpenAI's chat: what is traced is
//! what the client read.

use llmtrace_tests::agent::{Entry, Options, require_bpf, serial};
use llmtrace_tests::post::{Answer, post};
use llmtrace_tests::stack::Server;
use serde_json::{Value, json};

/// Where an API says what the log says too. A pointer that an answer lacks stands for nothing.
struct Api {
    path: &'static str,
    endpoint: &'static str,
    body: fn(u64, bool) -> Value,
    /// Generated text of an event.
    text: &'static str,
    /// Parts of the prompt's count.
    prompt: &'static [&'static str],
    output: &'static [&'static str],
    cached: &'static str,
    finish: &'static [&'static str],
}

fn messages() -> Value {
    json!([{"role": "user", "content": "word word"}])
}

const APIS: &[Api] = &[
    Api {
        path: "/v1/responses",
        endpoint: "/v1/responses",
        body: |n, stream| json!({"model": "tiny", "input": "word word", "max_output_tokens": n, "stream": stream}),
        text: "/delta",
        prompt: &["/response/usage/input_tokens", "/usage/input_tokens"],
        output: &["/response/usage/output_tokens", "/usage/output_tokens"],
        cached: "/response/usage/input_tokens_details/cached_tokens",
        finish: &["/response/status", "/status"],
    },
    Api {
        path: "/v1/messages",
        endpoint: "/v1/messages",
        body: |n, stream| json!({"model": "tiny", "messages": messages(), "max_tokens": n, "stream": stream}),
        text: "/delta/text",
        prompt: &[
            "/message/usage/input_tokens",
            "/message/usage/cache_read_input_tokens",
            "/usage/input_tokens",
            "/usage/cache_read_input_tokens",
        ],
        output: &["/usage/output_tokens"],
        cached: "/message/usage/cache_read_input_tokens",
        finish: &["/delta/stop_reason", "/stop_reason"],
    },
    Api {
        path: "/completion",
        endpoint: "/completion",
        body: |n, stream| json!({"prompt": "word word", "n_predict": n, "stream": stream, "return_progress": true}),
        text: "/content",
        prompt: &["/tokens_evaluated"],
        output: &["/tokens_predicted"],
        cached: "/timings/cache_n",
        finish: &["/stop_type"],
    },
    Api {
        path: "/completions",
        endpoint: "/completions",
        body: |n, stream| json!({"prompt": "word word", "n_predict": n, "stream": stream}),
        text: "/content",
        prompt: &["/tokens_evaluated"],
        output: &["/tokens_predicted"],
        cached: "/timings/cache_n",
        finish: &["/stop_type"],
    },
    Api {
        path: "/infill",
        endpoint: "/infill",
        body: |n, stream| json!({"input_prefix": "word ", "input_suffix": " word", "n_predict": n, "stream": stream}),
        text: "/content",
        prompt: &["/tokens_evaluated"],
        output: &["/tokens_predicted"],
        cached: "/timings/cache_n",
        finish: &["/stop_type"],
    },
];

#[track_caller]
fn entry<'a>(entries: &'a [Entry], answer: &Answer) -> &'a Entry {
    let mut found = entries.iter().filter(|e| e.user_agent.as_deref() == Some(&*answer.user_agent));
    let entry = found.next().unwrap_or_else(|| panic!("{} is traced", answer.user_agent));
    assert!(found.next().is_none(), "{} is traced once", answer.user_agent);
    entry
}

#[track_caller]
fn assert_traced(api: &Api, answer: &Answer, entry: &Entry) {
    let what = &answer.user_agent;
    assert_eq!((entry.endpoint.as_str(), entry.status), (api.endpoint, Some(200)), "{what}");
    assert_eq!((entry.outcome.as_str(), entry.stream), ("success", answer.streamed), "{what}");
    assert_eq!(entry.model.as_deref(), Some("tiny"), "{what}");
    let sum = |pointers: &[&str]| -> u64 {
        pointers.iter().filter_map(|pointer| answer.number(pointer)).sum()
    };
    assert!(sum(api.prompt) > 0 && sum(api.output) > 0, "{what}: {answer:?}");
    assert_eq!(entry.prompt_tokens, Some(sum(api.prompt)), "{what}: prompt");
    assert_eq!(entry.output_tokens, Some(sum(api.output)), "{what}: output");
    if let Some(cached) = answer.number(api.cached) {
        assert_eq!(entry.cached_tokens, Some(cached), "{what}: cached");
    }
    let finish = api.finish.iter().find_map(|pointer| answer.string(pointer));
    assert!(finish.is_some(), "{what}");
    assert_eq!(entry.finish_reason.as_deref(), finish, "{what}: finish");
    if answer.streamed {
        let times = answer.times(api.text);
        assert!(!times.is_empty(), "{what}");
        assert_eq!(entry.token_events, times.len() as u64, "{what}: events with tokens");
        assert_eq!(entry.events, answer.texts.len() as u64, "{what}: events");
        let traced = entry.ttft().expect("a first token");
        assert!(traced <= times[0] - answer.send_ns, "{what}: traced before the client had it");
    } else {
        assert_eq!((entry.events, entry.first_token_ns), (0, None), "{what}");
    }
}

#[test]
fn llama_cpp_by_other_apis() {
    require_bpf();
    let _alone = serial();
    let server = Server::llama();
    let agent = Options::default().pid(server.id()).start();
    let mut answers = Vec::new();
    for (a, api) in APIS.iter().enumerate() {
        for n in 0..6 {
            let (stream, tokens) = (n % 3 != 2, 3 + 7 * n);
            let user_agent = format!("llmtrace-test/{a}-{n}");
            let body = (api.body)(tokens, stream);
            let answer = post(&server.address, api.path, &user_agent, &body, None);
            answers.push((api, answer.expect("an answer")));
        }
    }
    let refused = json!({"model": "tiny", "input": "it was not started for that"});
    let refused = post(&server.address, "/v1/embeddings", "refused", &refused, None);
    let refused = refused.expect("an answer");
    assert_eq!(refused.status, 501);
    // Not a generation, and nothing that /v1/messages could be taken for.
    let count = json!({"model": "tiny", "messages": messages(), "input": "word word"});
    for api in ["messages/count_tokens", "chat/completions/input_tokens", "responses/input_tokens"]
    {
        let path = format!("/v1/{api}");
        let counted = post(&server.address, &path, "count", &count, None).expect("an answer");
        assert!(counted.number("/input_tokens") > Some(0), "{api}: {counted:?}");
    }

    let metrics = agent.wait_for_requests("server", answers.len() + 1);
    let entries = agent.stop();
    assert_eq!(entries.len(), answers.len() + 1, "each call once: {entries:#?}");
    for (api, answer) in &answers {
        assert_traced(api, answer, entry(&entries, answer));
    }
    let refused = entry(&entries, &refused);
    assert_eq!((refused.outcome.as_str(), refused.status), ("http_error", Some(501)));
    // Counts per event: llama.cpp's own API tells them, Anthropic's does not.
    let gaps = |endpoint, source| {
        let labels = [("role", "server"), ("endpoint", endpoint), ("source", source)];
        metrics.sum("llm_inter_token_latency_seconds_count", &labels)
    };
    assert!(gaps("/completion", "usage") > 0.0 && gaps("/completion", "events") == 0.0);
    assert!(gaps("/v1/messages", "events") > 0.0 && gaps("/v1/messages", "usage") == 0.0);
    assert_eq!(metrics.sum("llm_requests_in_flight", &[("role", "server")]), 0.0);
}

#[test]
fn a_client_that_leaves_a_message() {
    require_bpf();
    let _alone = serial();
    let server = Server::llama();
    let agent = Options::default().pid(server.id()).start();
    // Long enough that the server is not done when the client is.
    let body = json!({"model": "tiny", "messages": messages(), "max_tokens": 900, "stream": true});
    let answer = post(&server.address, "/v1/messages", "leaves", &body, Some(12));
    let answer = answer.expect("an answer");
    let metrics = agent.wait_for_requests("server", 1);
    let entries = agent.stop();
    let entry = entry(&entries, &answer);
    assert_eq!(entry.outcome, "client_disconnect");
    assert_eq!(entry.phase.as_deref(), Some("mid_stream"));
    // message_start says 1 or 0, which is a placeholder: the events are counted.
    assert_eq!(entry.output_source.as_deref(), Some("events"));
    let seen = answer.times("/delta/text").len() as u64;
    assert!(seen > 0 && entry.output_tokens >= Some(seen), "{seen} {entry:?}");
    assert!(metrics.sum("llm_wasted_tokens_total", &[("role", "server")]) >= seen as f64);
}

#[test]
fn llama_cpp_embeddings() {
    require_bpf();
    let _alone = serial();
    let server = Server::llama_embeddings();
    let agent = Options::default().pid(server.id()).start();
    let body = json!({"model": "tiny", "input": ["word word", "word"]});
    let answer = post(&server.address, "/v1/embeddings", "embeds", &body, None).expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    let metrics = agent.wait_for_requests("server", 1);
    let entries = agent.stop();
    let entry = entry(&entries, &answer);
    assert_eq!((entry.endpoint.as_str(), entry.outcome.as_str()), ("/v1/embeddings", "success"));
    assert_eq!(entry.model.as_deref(), Some("tiny"));
    assert!(entry.prompt_tokens > Some(0));
    assert_eq!(entry.prompt_tokens, answer.number("/usage/prompt_tokens"));
    assert_eq!((entry.output_tokens, entry.stream), (None, false));
    // What has no output tokens is in none of their metrics.
    for name in ["llm_request_output_tokens_count", "llm_time_per_output_token_seconds_count"] {
        assert_eq!(metrics.sum(name, &[("endpoint", "/v1/embeddings")]), 0.0, "{name}");
    }
}

#[test]
fn llama_cpp_reranks() {
    require_bpf();
    let _alone = serial();
    let server = Server::llama_reranking();
    let agent = Options::default().pid(server.id()).start();
    let body = json!({"model": "rank", "query": "word", "documents": ["word word", "word"]});
    let paths = ["/v1/rerank", "/rerank", "/v1/reranking"];
    let answers = paths.map(|path| {
        let answer = post(&server.address, path, path, &body, None).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer
    });
    agent.wait_for_requests("server", answers.len());
    let entries = agent.stop();
    for answer in &answers {
        let entry = entry(&entries, answer);
        let what = &answer.user_agent;
        assert_eq!(entry.outcome, "success", "{what}");
        assert!(entry.endpoint.contains("rerank"), "{what}: {}", entry.endpoint);
        assert_eq!(entry.model.as_deref(), Some("rank"), "{what}");
        assert!(entry.prompt_tokens > Some(0), "{what}");
        assert_eq!(entry.prompt_tokens, answer.number("/usage/prompt_tokens"), "{what}");
        assert_eq!((entry.output_tokens, entry.stream), (None, false), "{what}");
    }
}
