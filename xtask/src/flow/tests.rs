use super::*;

fn texts(file: &str, source: &str) -> Vec<String> {
    check(file, source).into_iter().map(|violation| violation.text).collect()
}

fn paths(source: &str, module: &[&str]) -> Vec<String> {
    let module: Vec<_> = module.iter().map(|name| (*name).to_owned()).collect();
    scan(source, &module)
        .into_iter()
        .filter_map(|found| match found.seen {
            Seen::Path(path) => Some(path.join("::")),
            Seen::Unsafe => None,
        })
        .collect()
}

#[test]
fn reads_use_trees() {
    assert_eq!(
        paths("use crate::{conn::{Table, peer as p}, http::*, record};", &[]),
        ["crate::conn::Table", "crate::conn::peer", "crate::http", "crate::record"]
    );
    assert_eq!(
        paths("use ::tokio; use {std::fs, aya::Ebpf as E};", &[]),
        ["tokio", "std::fs", "aya::Ebpf"]
    );
}

#[test]
fn reads_inline_paths() {
    assert_eq!(
        paths(
            "fn f(x: &crate::http::Head) -> Vec<u8> { Vec::<u8>::new(); tokio::select! {} }",
            &[]
        ),
        ["crate::http::Head", "Vec", "tokio::select"]
    );
}

#[test]
fn resolves_relative_paths() {
    assert_eq!(paths("use super::super::metrics::X;", &["http", "h1"]), ["crate::metrics::X"]);
    assert_eq!(
        paths("mod inner { use super::a; } use super::b; use self::c;", &["http", "h1"]),
        ["crate::http::h1::a", "crate::http::b", "crate::http::h1::c"]
    );
}

#[test]
fn ignores_comments_strings_and_tests() {
    let source = r##"
// crate::a::b
/* crate::a /* crate::b */ crate::c::d */
const S: &str = "crate::a::b \" crate::c::d"; const R: &str = r#"crate::"a"::b"#;
const C: [char; 3] = ['"', '\'', '\u{22}']; fn f<'a>(x: &'a crate::y::Z) {}
#[cfg(test)]
mod tests { use crate::pipeline::Pipeline; fn g() { unsafe {} } }
use crate::after::It;
"##;
    assert_eq!(paths(source, &[]), ["crate::y::Z", "crate::after::It"]);
    assert!(check("llmtrace/src/serve/mod.rs", source).is_empty());
}

#[test]
fn rejects_imports_against_the_flow() {
    assert_eq!(
        texts("llmtrace/src/conn/table.rs", "use crate::{http::Head, record::Record};"),
        ["conn must not use crate::http: it may use only record"]
    );
    assert_eq!(
        texts("llmtrace/src/http/h1/mod.rs", "use super::super::conn::Table;"),
        ["http must not use crate::conn: it may use no other module of the crate"]
    );
    assert_eq!(texts("llmtrace/src/metrics/mod.rs", "fn f(x: crate::http::Head) {}").len(), 1);
    assert_eq!(texts("llmtrace/src/export/mod.rs", "use crate::pipeline;").len(), 1);
    assert_eq!(texts("llmtrace/src/serve.rs", "use crate::pipeline::P;").len(), 1);
    assert_eq!(texts("llmtrace/src/probe/mod.rs", "use crate::conn::Table;").len(), 1);
    // Every module, whether it was there when the rules were written or not.
    assert_eq!(
        texts("llmtrace/src/http/head.rs", "use crate::{signals::Signals, top, logger};").len(),
        3
    );
}

#[test]
fn accepts_the_flow() {
    assert!(
        texts("llmtrace/src/llm/mod.rs", "use crate::http::Head; use crate::llm::X;").is_empty()
    );
    assert!(texts("llmtrace/src/export/mod.rs", "use crate::{llm, metrics};").is_empty());
    assert!(texts("llmtrace/src/run.rs", "use crate::{pipeline::P, probe};").is_empty());
    assert!(texts("llmtrace/src/main.rs", "use llmtrace::pipeline::P;").is_empty());
    assert!(texts("llmtrace/src/pipeline/mod.rs", "use crate::{conn, http, llm};").is_empty());
    assert!(texts("llmtrace/src/http/tests.rs", "use crate::pipeline::P;").is_empty());
    assert!(texts("llmtrace/src/probe/mod.rs", "use aya::Ebpf; unsafe fn f() {}").is_empty());
    assert!(texts("xtask/src/main.rs", "use crate::conn; unsafe {}").is_empty());
}

#[test]
fn keeps_the_outside_out() {
    assert_eq!(texts("llmtrace/src/run.rs", "use aya::Ebpf;"), ["run must not use aya"]);
    assert_eq!(texts("llmtrace/src/http/mod.rs", "use tokio::time;"), ["http must not use tokio"]);
    assert_eq!(
        texts("llmtrace/src/conn/mod.rs", "use std::{net::IpAddr, time::Instant};"),
        ["conn must not use std::time::Instant"]
    );
    assert_eq!(
        texts("llmtrace-common/src/lib.rs", "use std::fmt; use core::mem;"),
        ["llmtrace-common must not use std"]
    );
}

#[test]
fn keeps_unsafe_in_its_place() {
    let found = check("llmtrace/src/llm/json.rs", "fn f() {}\nfn g() { unsafe { f() } }");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].line, 2);
    assert_eq!(found[0].text, "llm must not use unsafe: only record and probe may");
    assert!(texts("llmtrace/src/lib.rs", "#![deny(unsafe_code)]").is_empty());
}
