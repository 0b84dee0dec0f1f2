//! LiteLLM between the SDKs and llama.cpp: a call is found at every hop, in the API that is spoken there.

use llmtrace_tests::agent::{Entry, Options, require_bpf, serial};
use llmtrace_tests::compare::hop;
use llmtrace_tests::post::post;
use llmtrace_tests::sdk::{Api, Call, Client, Language, Said, Wrong};
use llmtrace_tests::stack::Server;
use serde_json::json;

/// `(API of the client, stream, leave after, what is wrong, API of the server)`.
type Case = (Api, bool, u64, Option<Wrong>, Api);

const CASES: &[Case] = &[
    (Api::Chat, true, 0, None, Api::Chat),
    (Api::Chat, false, 0, None, Api::Chat),
    (Api::Completions, true, 0, None, Api::Completions),
    (Api::Embeddings, false, 0, None, Api::Embeddings),
    // Of Anthropic's Messages it makes OpenAI's Responses.
    (Api::Messages, true, 0, None, Api::Responses),
    (Api::Messages, false, 0, None, Api::Responses),
    (Api::Chat, true, 0, Some(Wrong::Body), Api::Chat),
    (Api::Messages, false, 0, Some(Wrong::Body), Api::Responses),
    (Api::Chat, true, LEAVE_AFTER, None, Api::Chat),
    (Api::Messages, true, LEAVE_AFTER, None, Api::Responses),
];
const LEAVE_AFTER: u64 = 3;
const LONG: u64 = 3500;
/// The fewest tokens that llama.cpp's Responses are given, whatever a client of Messages asks for.
const LEAST: u64 = 16;

/// What a hop and the SDK both say.
fn assert_same(what: &str, said: &Said, api: Api, stream: bool, entry: &Entry) {
    let what = format!("{what} at {} {}", entry.role, entry.server);
    assert_eq!((&*entry.endpoint, entry.status), (api.endpoint(), Some(said.status)), "{what}");
    if said.left {
        let outcome = (&*entry.outcome, entry.phase.as_deref());
        assert_eq!(outcome, ("client_disconnect", Some("mid_stream")), "{what}");
        assert!((said.deltas..LONG).contains(&entry.token_events), "{what}: {entry:?}");
        return;
    }
    let outcome = if said.status < 400 { "success" } else { "http_error" };
    assert_eq!((&*entry.outcome, entry.token_events), (outcome, said.deltas), "{what}");
    // An embedding has none, whatever a gateway says.
    let output = said.output.filter(|_| api != Api::Embeddings);
    assert_eq!((entry.prompt_tokens, entry.output_tokens), (said.prompt, output), "{what}");
    assert_eq!(entry.model.as_deref(), Some("tiny"), "{what}");
    if said.status < 400 {
        assert_eq!(entry.stream, stream, "{what}");
    }
}

#[test]
fn between_the_sdks_and_llama() {
    require_bpf();
    let _alone = serial();
    let llm = Server::llama_with(&["--embeddings", "--context", "4096"]);
    let litellm = Server::litellm(&llm);
    let calls: Vec<Call> = CASES
        .iter()
        .enumerate()
        .map(|(n, &(api, stream, leave_after, wrong, _))| Call {
            user_agent: format!("litellm/{n}"),
            url: format!("http://localhost:{}", litellm.port()),
            http2: false,
            api,
            stream,
            max_tokens: if leave_after > 0 { LONG } else { LEAST + n as u64 },
            leave_after,
            wrong,
        })
        .collect();
    let client = Client::start(Language::Python, &calls);
    let (own, theirs) = (litellm.id(), llm.id());
    let agent = Options::default().pid(client.id()).pid(own).pid(theirs).start();
    client.go();
    let said = client.finish();
    agent.wait_for_requests("client", 2 * calls.len());
    let metrics = agent.wait_for_requests("server", 2 * calls.len());
    let entries = agent.stop();
    let front = litellm.port();
    // Its own requests tell nothing of whose they are, but the calls were made one after the other.
    let in_order = |role, port| {
        let mut hop = hop(&entries, role, Some(port));
        hop.sort_by_key(|entry| entry.start_ns);
        assert_eq!(hop.len(), calls.len(), "each call once at {role} {port}");
        hop
    };
    let hops = [
        in_order("client", front),
        in_order("server", front),
        in_order("client", llm.port()),
        in_order("server", llm.port()),
    ];
    assert!(hops[1].iter().all(|e| e.server == format!("litellm:{front}") && e.pid == Some(own)));
    assert!(hops[2].iter().all(|e| e.pid == Some(own)));
    assert!(hops[3].iter().all(|e| e.pid == Some(theirs)));
    for (n, (said, &(api, stream, .., upstream))) in said.iter().zip(CASES).enumerate() {
        let what = format!("{api:?}/{n}");
        assert_eq!(said.status, CASES[n].3.map_or(200, Wrong::status), "{what}");
        assert_eq!(said.left, CASES[n].2 > 0, "{what}");
        for (h, hop) in hops.iter().enumerate() {
            let api = if h < 2 { api } else { upstream };
            if h < 2 {
                assert_eq!(hop[n].user_agent.as_deref(), Some(&*calls[n].user_agent), "{what}");
            }
            assert_same(&what, said, api, stream, &hop[n]);
        }
        // As each API names the reason.
        let finish = hops.each_ref().map(|hop| hop[n].finish_reason.as_deref());
        if said.status == 200 && !said.left && api != Api::Embeddings {
            let upstream = if upstream == Api::Responses { "completed" } else { "length" };
            let expected = said.finish.as_deref();
            assert_eq!(finish, [expected, expected, Some(upstream), Some(upstream)], "{what}");
        }
    }
    assert_eq!(metrics.sum("llmtrace_lost_records_total", &[]), 0.0, "lost records");
    assert_eq!(metrics.sum("llmtrace_incomplete_exchanges_total", &[]), 0.0, "incomplete");
}

/// APIs that no server here has of its own: LiteLLM speaks them to its clients.
#[test]
fn gemini_and_azure_of_litellm() {
    require_bpf();
    let _alone = serial();
    let llm = Server::llama();
    let litellm = Server::litellm(&llm);
    let agent = Options::default().pid(litellm.id()).start();
    let gemini = json!({
        "contents": [{"role": "user", "parts": [{"text": "word word"}]}],
        "generationConfig": {"maxOutputTokens": 21},
    });
    let azure = |stream: bool| {
        json!({
            "messages": [{"role": "user", "content": "word word"}], "max_tokens": 22,
            "stream": stream, "stream_options": stream.then(|| json!({"include_usage": true})),
        })
    };
    let (part, delta) = ("/candidates/0/content/parts/0/text", "/choices/0/delta/content");
    let gemini_counts = ["/usageMetadata/promptTokenCount", "/usageMetadata/candidatesTokenCount"];
    let openai_counts = ["/usage/prompt_tokens", "/usage/completion_tokens"];
    let deployment = "/openai/deployments/tiny/chat/completions?api-version=2024-10-21";
    let calls = [
        ("generateContent", "/v1beta/models/tiny:generateContent", gemini.clone(), part),
        ("alt=sse", "/v1beta/models/tiny:streamGenerateContent?alt=sse", gemini, part),
        ("azure", deployment, azure(false), delta),
        ("azure/stream", deployment, azure(true), delta),
    ];
    let answers = calls.map(|(who, path, body, text)| {
        let answer = post(&litellm.address, path, who, &body, None).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        (who, answer, text)
    });
    agent.wait_for_requests("server", answers.len());
    let entries = agent.stop();
    let served = hop(&entries, "server", Some(litellm.port()));
    assert_eq!(served.len(), answers.len(), "each call once: {served:#?}");
    for (who, answer, text) in &answers {
        let entry = served.iter().find(|e| e.user_agent.as_deref() == Some(who));
        let entry = entry.unwrap_or_else(|| panic!("{who} is traced"));
        let what = format!("{who}: {answer:?}\n{entry:?}");
        assert_eq!((&*entry.outcome, entry.model.as_deref()), ("success", Some("tiny")), "{what}");
        assert_eq!(entry.stream, answer.streamed, "{what}");
        let [prompt, output] = if *text == part { gemini_counts } else { openai_counts };
        assert!(answer.number(output) > Some(0), "{what}");
        assert_eq!(entry.prompt_tokens, answer.number(prompt), "{what}");
        assert_eq!(entry.output_tokens, answer.number(output), "{what}");
        let finish =
            if *text == part { "/candidates/0/finishReason" } else { "/choices/0/finish_reason" };
        assert_eq!(entry.finish_reason.as_deref(), answer.string(finish), "{what}");
        if answer.streamed {
            let times = answer.times(text);
            assert!(times.len() > 1, "{what}");
            assert_eq!(entry.token_events, times.len() as u64, "{what}");
            assert!(entry.ttft().expect("a first token") <= times[0] - answer.send_ns, "{what}");
        }
    }
}
