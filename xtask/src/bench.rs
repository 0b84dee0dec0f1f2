//! `cargo xtask bench`: throughput, cost, accuracy and memory, measured.

use std::ffi::OsString;

use anyhow::{Result, bail};

use crate::{build, sh};

/// Builds for release and runs the benchmarks; they write their table to a file under target/.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask bench\n  cargo xtask bench -- --help")]
pub struct Args {
    /// Passed on to the benchmark program
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

pub fn run(args: &Args) -> Result<()> {
    build::run(&build::Args { release: true })?;
    // Section (c), the pipeline alone on one core: it needs neither privileges nor a server.
    if args.args.is_empty() {
        let mut cargo = sh::cargo();
        cargo.args(["bench", "--package", "llmtrace", "--bench", "pipeline"]);
        sh::run(&mut cargo)?;
    }
    let bench = sh::target_dir().join("release/bench");
    if !bench.exists() {
        bail!("{} is not there: the tests crate has no binary `bench`", bench.display());
    }
    // Started as a program and not by `cargo run`: root may have neither cargo nor our files.
    let mut cmd = sh::as_root(&bench, &["CARGO_TARGET_DIR", "RUST_BACKTRACE"])?;
    cmd.args(&args.args);
    sh::pass_on(&mut cmd)
}
