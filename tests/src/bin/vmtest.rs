//! The two ends of `cargo xtask vm`: `vmtest guest` runs inside each machine, `vmtest judge`
//! compares what they reported. `vmtest package` and `vmtest judge-package` are those of
//! `cargo xtask deb --boot`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use llmtrace_tests::vm::judge::{Report, Verdict, judge, judge_checks};
use llmtrace_tests::vm::{guest, report::Backend, systemd};

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
    /// Installs, runs and removes the package, under the machine's systemd.
    Package {
        #[arg(long)]
        report: PathBuf,
    },
    /// Reads NAME.jsonl in a folder; fails if anything is not as expected.
    JudgePackage {
        #[arg(long)]
        dir: PathBuf,
        name: String,
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
            println!("{}", verdict.text());
            Ok(say(&verdict))
        }
        End::Package { report } => {
            systemd::run(&report)?;
            Ok(ExitCode::SUCCESS)
        }
        End::JudgePackage { dir, name } => {
            let names = systemd::CHECKS.map(|(name, _)| name);
            Ok(say(&judge_checks(&Report::read(&dir, &name), &names)))
        }
    }
}

fn say(verdict: &Verdict) -> ExitCode {
    print!("{}\n{}", verdict.notes, verdict.failures);
    println!("\n{} passed, {} failed", verdict.passed, verdict.failed);
    if verdict.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
