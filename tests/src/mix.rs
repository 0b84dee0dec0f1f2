//! The mix of requests that the tests send to every stack.

use crate::client::{AbortAt, Request};
use crate::plan::{Ask, Plan};

/// `count` requests that a server with our `test` object answers in every way that leaves the
/// connection open: streamed and not, both endpoints, with and without usage, errors.
pub fn requests(count: usize) -> Vec<Request> {
    (0..count)
        .map(|n| {
            let ask = ask(n);
            Request::new(format!("llmtrace-test/{n}"), &ask)
        })
        .collect()
}

fn ask(n: usize) -> Ask {
    let mut ask = Ask {
        prompt: "word ".repeat(1 + n * 7 % 40),
        max_tokens: 1 + (n as u64 * 5) % 30,
        completions: n % 3 == 2,
        include_usage: n % 4 != 1,
        stream: n % 5 != 4,
        ..Ask::default()
    };
    ask.plan = match n % 10 {
        3 => Plan { status: Some(if n % 20 == 3 { 500 } else { 429 }), ..Plan::default() },
        6 => Plan { error_after: Some(ask.max_tokens / 2), ..Plan::default() },
        7 => Plan { first_delay_ms: 20, interval_us: 2000, ..Plan::default() },
        _ => Plan::default(),
    };
    ask
}

/// `count` requests that a real LLM server answers too.
pub fn plain(count: usize) -> Vec<Request> {
    (0..count)
        .map(|n| {
            let ask = Ask { plan: Plan::default(), ..ask(n) };
            Request::new(format!("llmtrace-test/{n}"), &ask)
        })
        .collect()
}

/// A stream that says nothing after the head and the role chunk; its client leaves.
pub fn left_before_first_token(user_agent: &str, reset: bool) -> Request {
    let ask = Ask { plan: Plan { hang_after: Some(0), ..Plan::default() }, ..Ask::default() };
    Request::new(user_agent, &ask).abort(AbortAt::Events(1), reset)
}

/// A stream that hangs after five tokens; its client leaves.
pub fn left_in_mid_stream(user_agent: &str, reset: bool) -> Request {
    let ask = Ask { plan: Plan { hang_after: Some(5), ..Plan::default() }, ..Ask::default() };
    Request::new(user_agent, &ask).abort(AbortAt::Tokens(5), reset)
}

/// A stream whose server closes the connection after five tokens.
pub fn dropped_by_server(user_agent: &str) -> Request {
    let ask = Ask { plan: Plan { drop_after: Some(5), ..Plan::default() }, ..Ask::default() };
    Request::new(user_agent, &ask)
}
