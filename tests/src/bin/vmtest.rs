//! The two ends of `cargo xtask vm`: `vmtest guest` runs inside each machine, `vmtest judge`
//! compares what they reported.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use llmtrace_tests::vm::judge::{Report, judge};
use llmtrace_tests::vm::{guest, report::Backend};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    end: End,
}

#[derive(Subcommand)]
enum End {
    /// Runs all scenarios under each back end and reports them as JSON lines.
    Guest {
        #[arg(long, value_enum, value_delimiter = ',', required = true)]
        backend: Vec<Backend>,
        #[arg(long)]
        report: PathBuf,
    },
    /// Reads KERNEL.jsonl of each kernel in a folder; fails if anything is not as expected.
    Judge {
        #[arg(long, value_enum, value_delimiter = ',', required = true)]
        backend: Vec<Backend>,
        #[arg(long)]
        dir: PathBuf,
        #[arg(required = true)]
        kernels: Vec<String>,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().end {
        End::Guest { backend, report } => {
            guest::run(&backend, &report)?;
            Ok(ExitCode::SUCCESS)
        }
        End::Judge { backend, dir, kernels } => {
            let reports: Vec<_> = kernels.iter().map(|kernel| Report::read(&dir, kernel)).collect();
            let verdict = judge(&reports, &backend);
            print!("{}\n{}\n{}", verdict.text(), verdict.notes, verdict.failures);
            println!("\n{} passed, {} failed", verdict.passed, verdict.failed);
            Ok(if verdict.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}
