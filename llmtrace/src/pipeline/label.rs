//! How the two ends of a connection are called.

use std::sync::Arc;

use super::Sink;
use crate::llm::{MAX_LABEL, Peer, Role};
use crate::record::{Address, Open};

/// Names both ends.
pub(super) fn peer<K: Sink>(role: Role, open: Option<&Open>, pid: u32, sink: &mut K) -> Peer {
    let Some(open) = open else {
        let server = match role {
            Role::Server => label(&sink.name(pid, "unknown")),
            Role::Client => "unknown".into(),
        };
        return Peer { server, client: "".into(), pid, tls: false };
    };
    let (server, client) = match role {
        Role::Server => {
            let name = sink.name(pid, &open.comm);
            let server = match &open.local {
                Address::Ip(a) => format!("{name}:{}", a.port()),
                Address::Unix(path) => format!("{name}:{path}"),
                Address::Unknown => match sink.port(pid) {
                    Some(port) => format!("{name}:{port}"),
                    None => name.to_string(),
                },
            };
            (label(&server), &open.remote)
        }
        Role::Client => {
            let named = sink.remote(&open.remote);
            (named.map_or_else(|| remote(open), |n| label(&n)), &open.local)
        }
    };
    let client = match client {
        Address::Ip(a) => a.to_string().into(),
        Address::Unix(path) => label(path),
        Address::Unknown => "".into(),
    };
    Peer { server, client, pid, tls: open.tls }
}

fn remote(open: &Open) -> Arc<str> {
    match (&open.remote, &open.local) {
        (Address::Ip(a), _) => a.to_string().into(),
        (Address::Unknown, _) => "unknown".into(),
        // A unix socket has one path, whichever end has it.
        (Address::Unix(path), _) | (_, Address::Unix(path)) if !path.is_empty() => label(path),
        _ => "unix".into(),
    }
}

/// A label that can be shown anywhere: bounded, without control characters.
fn label(text: &str) -> Arc<str> {
    let clean: String = text.chars().map(|c| if c.is_control() { '_' } else { c }).collect();
    let mut end = clean.len().min(MAX_LABEL);
    while !clean.is_char_boundary(end) {
        end -= 1;
    }
    clean[..end].into()
}
