//! `cargo xtask test`: unit, property and end-to-end tests, the latter with real eBPF.

use std::process::Command;

use anyhow::Result;

use crate::{fixtures, sh};

/// Sets up, builds and runs all tests; those that attach eBPF run as root.
#[derive(clap::Args, Default)]
#[command(after_help = "\
Examples:
  cargo xtask test
  cargo xtask test llama            only tests whose name contains `llama`
  cargo xtask test --unit           no eBPF, no servers, no root
  LLMTRACE_TEST_THREADS=4 cargo xtask test")]
pub struct Args {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Only the tests that need no privileges, no Python and no Node
    #[arg(long)]
    unit: bool,
}

pub fn run(args: &Args) -> Result<()> {
    if args.unit {
        return unit(args);
    }
    fixtures::ensure()?;
    crate::dashboards::check()?;
    crate::build::run(&crate::build::Args { release: true })?;
    crate::deb::package(true)?;
    unit(args)?;
    end_to_end(args)
}

/// Compiles all tests and runs none.
pub fn build() -> Result<()> {
    sh::run(unit_tests().arg("--no-run"))?;
    sh::run(end_to_end_tests().arg("--no-run"))
}

fn unit_tests() -> Command {
    let mut cmd = sh::cargo();
    cmd.args(["test", "--workspace", "--exclude", "llmtrace-ebpf", "--exclude", "llmtrace-tests"]);
    cmd
}

fn end_to_end_tests() -> Command {
    let mut cmd = sh::cargo();
    cmd.args(["test", "--package", "llmtrace-tests"]);
    cmd
}

fn unit(args: &Args) -> Result<()> {
    sh::pass_on(unit_tests().args(&args.filter))
}

fn end_to_end(args: &Args) -> Result<()> {
    let mut cmd = end_to_end_tests();
    as_root(&mut cmd)?;
    cmd.args(&args.filter);
    // They share one kernel and two cores, and several of them assert times.
    let threads = std::env::var("LLMTRACE_TEST_THREADS").unwrap_or_else(|_| "1".to_owned());
    cmd.args(["--", &format!("--test-threads={threads}")]);
    cmd.env("LLMTRACE_BIN", sh::target_dir().join("release/llmtrace"));
    sh::pass_on(&mut cmd)
}

/// Cargo builds as the user and starts only the test binaries by sudo, so that target/ stays the
/// user's.
fn as_root(cargo: &mut Command) -> Result<()> {
    if sh::is_root() {
        return Ok(());
    }
    // Fails here, with a sentence, if there is no sudo.
    sh::as_root("true", &[])?;
    // sudo puts a PATH of its own, on which the user's node may not be; nginx lives in sbin.
    let path = format!("PATH={}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let runner = ["sudo", "--preserve-env", "--", "env", &path];
    cargo.args(["--config", &format!("target.\"cfg(unix)\".runner={runner:?}")]);
    Ok(())
}
