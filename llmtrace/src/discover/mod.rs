//! `llmtrace discover`: the LLM servers of this host, by how they were started and by what they
//! say.

mod engine;
mod traffic;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
};

use anyhow::Result;
use serde::Serialize;

pub use engine::Engine;

use crate::{
    cli::DiscoverArgs,
    probe::{
        process,
        target::{self, Listener},
        tls::Inspector,
    },
};

/// An LLM server.
#[derive(Clone, Debug, Serialize)]
struct Server {
    pid: u32,
    name: String,
    /// By its command line or by what it has loaded; none if only its traffic gave it away.
    engine: Option<&'static str>,
    /// Where it listens: ports, and `unix` for unix sockets.
    listens: Vec<String>,
    /// As its traffic has it, else its command line.
    models: Vec<String>,
    container: Option<String>,
    /// TLS libraries, and whether their plaintext can be seen.
    tls: Vec<Tls>,
    /// What was seen of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    traffic: Option<traffic::Seen>,
}

#[derive(Clone, Debug, Serialize)]
struct Tls {
    library: &'static str,
    /// None if it can be probed.
    obstacle: Option<&'static str>,
}

/// `llmtrace discover`.
pub fn run(args: &DiscoverArgs) -> Result<()> {
    let (seen, note) = match traffic::watch(args.seconds) {
        Ok(seen) => (seen, None),
        Err(e) => (BTreeMap::new(), Some(format!("without traffic: {e:#}"))),
    };
    let servers = servers(seen);
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &servers)?;
        writeln!(out)?;
    } else {
        table(&mut out, &servers)?;
    }
    if let Some(note) = note {
        log::warn!("{note}");
    }
    Ok(())
}

fn servers(mut seen: BTreeMap<u32, traffic::Seen>) -> Vec<Server> {
    let mut inspector = Inspector::default();
    let mut servers = Vec::new();
    for Listener { pid, ports, unix } in target::listeners() {
        let traffic = seen.remove(&pid);
        let comm = process::comm(pid);
        let engine = engine::of(&comm, &process::arguments(pid)).or_else(|| loaded(pid));
        if engine.is_none() && traffic.is_none() {
            continue;
        }
        let mut models: BTreeSet<String> =
            traffic.iter().flat_map(|seen| seen.models.iter().cloned()).collect();
        if models.is_empty() {
            models.extend(engine.as_ref().and_then(|engine| engine.model.clone()));
        }
        let mut listens: Vec<String> = ports.iter().map(u16::to_string).collect();
        listens.extend(unix.then(|| "unix".to_owned()));
        servers.push(Server {
            pid,
            name: process::display_name(pid, &comm),
            engine: engine.map(|engine| engine.name),
            listens,
            models: models.into_iter().collect(),
            container: process::container(pid),
            tls: inspector
                .of(pid)
                .into_iter()
                .map(|(library, obstacle)| Tls { library, obstacle })
                .collect(),
            traffic,
        });
    }
    servers
}

/// An engine that is a library of something else.
fn loaded(pid: u32) -> Option<Engine> {
    const LIBRARIES: [(&str, &str); 3] =
        [("libllama.so", "llama.cpp"), ("xllamacpp", "llama.cpp"), ("libggml", "llama.cpp")];
    let files = process::mapped_files(pid);
    let (_, name) = LIBRARIES.iter().find(|(part, _)| {
        files.iter().any(|file| file.rsplit('/').next().is_some_and(|name| name.starts_with(part)))
    })?;
    Some(Engine { name, model: None })
}

fn table(out: &mut impl Write, servers: &[Server]) -> std::io::Result<()> {
    if servers.is_empty() {
        return writeln!(out, "no LLM server found (llmtrace discover --help says how it looks)");
    }
    let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let mut rows = vec![
        ["PID", "NAME", "ENGINE", "LISTENS", "MODEL", "CONTAINER", "TLS", "REQUESTS"]
            .map(String::from),
    ];
    for server in servers {
        let tls = server.tls.iter().map(|tls| match tls.obstacle {
            None => tls.library.to_owned(),
            Some(_) => format!("{} (not seen)", tls.library),
        });
        let requests = server.traffic.as_ref().map(|seen| seen.requests.to_string());
        rows.push([
            server.pid.to_string(),
            server.name.clone(),
            dash(server.engine.unwrap_or_default().to_owned()),
            dash(server.listens.join(",")),
            dash(server.models.join(",")),
            dash(
                server
                    .container
                    .as_deref()
                    .map(|id| id.chars().take(12).collect())
                    .unwrap_or_default(),
            ),
            dash(tls.collect::<Vec<_>>().join(",")),
            dash(requests.unwrap_or_default()),
        ]);
    }
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0))
        .collect();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    for server in servers {
        for tls in server.tls.iter().filter_map(|tls| Some((tls.library, tls.obstacle?))) {
            writeln!(out, "{}: the TLS of {} is not seen: {}", server.pid, tls.0, tls.1)?;
        }
    }
    Ok(())
}
