//! What is told of exchanges that are under way.

use super::*;

/// Model, token events, and tokens and gaps since the last look, of each.
fn look(b: &mut Bench) -> Vec<(Option<String>, u64, u64, usize)> {
    let mut seen = Vec::new();
    b.pipeline.running(|r, peer| {
        assert!(!peer.server.is_empty() && r.stream && r.endpoint == "/v1/chat/completions");
        let new = &r.progress;
        seen.push((r.model.map(Into::into), r.token_events, new.tokens, new.gaps().len()));
    });
    seen
}

#[test]
fn a_stream_is_told_as_it_comes_and_no_more_when_it_is_over() {
    let mut b = Bench::new();
    assert_eq!(look(&mut b), []);
    b.read(&request());
    let model = || Some("m".to_owned());
    assert_eq!(look(&mut b), [(model(), 0, 0, 0)], "the request names it");
    b.write(HEAD);
    b.write(&token("a"));
    b.write(&token("b"));
    assert_eq!(look(&mut b), [(model(), 2, 2, 1)]);
    assert_eq!(look(&mut b), [(model(), 2, 0, 0)], "told once");
    b.write(&token("c"));
    b.write(&done());
    assert_eq!(look(&mut b), []);
    let f = &b.log.finished[0].0;
    assert_eq!((f.progress.tokens, f.progress.gaps().len(), f.token_events), (1, 1, 3));
    assert_eq!((f.progress.told, f.progress.first), (2, false), "the first was in the first look");
}

#[test]
fn other_http_is_not_told() {
    let mut b = Bench::new();
    b.read("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(look(&mut b), []);
}
