//! The import flow: data goes one way through the agent, and so do its imports.
//!
//! The table below is the rule; ARCHITECTURE.md has the reasons. What is checked are the paths that
//! the source text names (`use` trees, inline paths, `super::` chains), not what macros expand to.

mod scan;

use std::fmt;
use std::path::Path;

pub use scan::{Found, Seen, scan};

/// One module of llmtrace/src: what else of the crate it may name, and what of the outside it may not.
struct Rule {
    module: &'static str,
    may_use: Option<&'static [&'static str]>,
    must_not: &'static [&'static str],
}

/// Modules that are given time and bytes and must get nothing by themselves.
const SANS_IO: &[&str] = &[
    "aya",
    "tokio",
    "std::env",
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::os::unix::net",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
];
const NO_AYA: &[&str] = &["aya", "aya_obj"];

const RULES: &[Rule] = &[
    Rule { module: "probe", may_use: Some(&["config", "record"]), must_not: &[] },
    Rule { module: "record", may_use: Some(&[]), must_not: SANS_IO },
    Rule { module: "conn", may_use: Some(&["record"]), must_not: SANS_IO },
    Rule {
        module: "recording",
        may_use: Some(&["record", "conn", "http", "llm"]),
        must_not: SANS_IO,
    },
    Rule { module: "http", may_use: Some(&[]), must_not: SANS_IO },
    Rule { module: "llm", may_use: Some(&["http"]), must_not: SANS_IO },
    Rule { module: "live", may_use: Some(&["llm"]), must_not: SANS_IO },
    Rule { module: "metrics", may_use: Some(&["llm"]), must_not: NO_AYA },
    Rule { module: "anomaly", may_use: Some(&["config", "llm"]), must_not: SANS_IO },
    Rule { module: "export", may_use: Some(&["anomaly", "llm", "metrics"]), must_not: NO_AYA },
];

/// The end of the flow: only what starts the agent may name it.
const SINK: &str = "pipeline";
const MAY_USE_SINK: [&str; 7] = ["agent", "run", "replay", "demo", "main", "lib", "tests"];

const MAY_BE_UNSAFE: [&str; 2] = ["record", "probe"];

/// The other crates of the kernel side, by their folder.
const CRATES: &[(&str, &[&str])] = &[
    ("llmtrace-common/src/", &["std", "alloc", "aya", "aya_ebpf", "serde"]),
    ("llmtrace-ebpf/src/", &["std", "alloc", "llmtrace"]),
];

#[derive(Debug, PartialEq, Eq)]
pub struct Violation {
    pub file: String,
    pub line: usize,
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.text)
    }
}

/// Checks one file; `file` is its path from the workspace's root, with forward slashes.
pub fn check(file: &str, source: &str) -> Vec<Violation> {
    let violation = |line: usize, text: String| Violation { file: file.to_owned(), line, text };
    if let Some((folder, must_not)) = CRATES.iter().find(|(folder, _)| file.starts_with(folder)) {
        let found = scan(source, &[]);
        let outside = found.into_iter().filter_map(|Found { line, seen }| {
            let Seen::Path(path) = seen else { return None };
            let denied = denied(&path, must_not)?;
            let name = folder.trim_end_matches("/src/");
            Some(violation(line, format!("{name} must not use {denied}")))
        });
        return outside.collect();
    }
    let Some(modules) = modules(file) else {
        return Vec::new();
    };
    let module = modules.first().map_or("lib", String::as_str).to_owned();
    // A test may read files, keep time and name the whole pipeline.
    if modules.iter().any(|name| name == "tests" || name.ends_with("_tests")) {
        return Vec::new();
    }
    scan(source, &modules)
        .into_iter()
        .filter_map(|Found { line, seen }| {
            let text = match seen {
                Seen::Unsafe => unsafe_text(&module),
                Seen::Path(path) => path_text(&module, &path),
            };
            text.map(|text| violation(line, text))
        })
        .collect()
}

fn unsafe_text(module: &str) -> Option<String> {
    (!MAY_BE_UNSAFE.contains(&module))
        .then(|| format!("{module} must not use unsafe: only {} may", MAY_BE_UNSAFE.join(" and ")))
}

fn path_text(module: &str, path: &[String]) -> Option<String> {
    let rule = RULES.iter().find(|rule| rule.module == module);
    let own = matches!(path.first().map(String::as_str), Some("crate" | "llmtrace"));
    if !own {
        let must_not = match (rule, module) {
            (Some(rule), _) => rule.must_not,
            // aya is named in one place, so that the rest builds and is tested without a kernel.
            (None, _) => NO_AYA,
        };
        return denied(path, must_not).map(|name| format!("{module} must not use {name}"));
    }
    let used = path.get(1)?.as_str();
    if used == module {
        return None;
    }
    if used == SINK && !MAY_USE_SINK.contains(&module) {
        return Some(format!("{module} must not use crate::{SINK}: data flows into it, not out"));
    }
    let may_use = rule?.may_use?;
    // Modules begin in lower case, with or without a rule of their own; anything else is an item of
    // lib.rs's.
    let is_module = used.starts_with(|c: char| c.is_ascii_lowercase());
    (is_module && !may_use.contains(&used)).then(|| {
        let may = if may_use.is_empty() {
            "no other module of the crate".to_owned()
        } else {
            format!("only {}", may_use.join(" and "))
        };
        format!("{module} must not use crate::{used}: it may use {may}")
    })
}

fn denied<'a>(path: &[String], must_not: &[&'a str]) -> Option<&'a str> {
    must_not.iter().copied().find(|name| {
        let mut parts = name.split("::");
        let mut path = path.iter();
        parts.all(|part| path.next().is_some_and(|segment| segment == part))
    })
}

/// The module path of a file of llmtrace/src: `http/h1/mod.rs` is [http, h1].
fn modules(file: &str) -> Option<Vec<String>> {
    let inside = file.strip_prefix("llmtrace/src/")?;
    let mut modules: Vec<String> =
        Path::new(inside).with_extension("").iter().map(|s| s.to_string_lossy().into()).collect();
    if modules.last().is_some_and(|name| name == "mod") || modules == ["lib"] {
        modules.pop();
    }
    Some(modules)
}

#[cfg(test)]
mod tests;
