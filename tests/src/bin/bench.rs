//! The benchmark of `cargo xtask bench`.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Parser, ValueEnum};
use llmtrace_tests::agent::require_bpf;
use llmtrace_tests::bench::report::{self, Table};
use llmtrace_tests::bench::{Effort, accuracy, flood, hooks, memory, paced};
use llmtrace_tests::paths;

/// Sections, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// The flood of a minimal server, with the agent and without
    A,
    /// uvicorn at its maximum
    U,
    /// 100 streams x 50 events/s
    B,
    /// Accuracy against a server's own times
    D,
    /// Memory
    E,
    /// The flood over TLS
    F,
    /// Cost of a hook, per back end
    G,
}

/// Measures what the agent costs and how right it is; writes bench.md and bench.json.
#[derive(Parser)]
struct Cli {
    /// Only these sections
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Section>,
    /// Fewer and shorter runs: a look, not a measurement
    #[arg(long)]
    quick: bool,
    /// Pairs of runs with and without the agent
    #[arg(long)]
    pairs: Option<usize>,
    /// Calls of each measurement of section g
    #[arg(long)]
    calls: Option<usize>,
    /// How fast the servers of section a are by themselves, and nothing else; needs no privileges
    #[arg(long)]
    bare: bool,
    /// Another build of the agent: sections a and u are measured with both, in turn, and no other
    /// section is
    #[arg(long, value_name = "PROGRAM")]
    against: Option<PathBuf>,
    /// Where to write the report
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let mut effort = if cli.quick { Effort::QUICK } else { Effort::FULL };
    effort.calls = cli.calls.unwrap_or(effort.calls).max(64);
    effort.pairs = cli.pairs.unwrap_or(effort.pairs).max(1);
    if cli.bare {
        println!("{}", flood::bare(effort).markdown());
        return Ok(());
    }
    if cli.against.is_some() && cli.only.iter().any(|only| !matches!(only, Section::A | Section::U))
    {
        bail!("--against measures sections a and u only: leave the others out of --only");
    }
    require_bpf();
    let machine = report::machine();
    println!("{machine}\n");
    let mut tables = Vec::new();
    let mut add = |table: Table| {
        println!("{}", table.markdown());
        tables.push(table);
    };
    for section in Section::value_variants() {
        if !cli.only.is_empty() && !cli.only.contains(section) {
            continue;
        }
        if let Some(other) = &cli.against {
            match section {
                Section::A => add(flood::flood_against(effort, other)),
                Section::U => add(flood::uvicorn_against(effort, other)),
                _ => {}
            }
            continue;
        }
        match section {
            Section::A => flood::flood(effort).into_iter().for_each(&mut add),
            Section::U => add(flood::uvicorn(effort)),
            Section::B => add(paced::paced(effort)),
            Section::F => add(flood::flood_tls(effort)),
            Section::D => add(accuracy::accuracy(effort)),
            Section::E => add(memory::memory(effort)),
            Section::G => add(hooks::hooks(effort)),
        }
    }
    let dir = cli.out.unwrap_or_else(|| paths::root().join("target"));
    report::write(&dir, &machine, &tables)?;
    println!("written to {} and bench.json", dir.join("bench.md").display());
    Ok(())
}
