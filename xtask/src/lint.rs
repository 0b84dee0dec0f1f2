//! `cargo xtask lint`: formatting, clippy, the import flow, and the size of files.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::toolchain::{Compiler, Toolchain, on_path};
use crate::{apt, flow, setup, sh};

/// A file longer than this does more than one thing.
const MOST_LINES: usize = 700;

/// Checks formatting, clippy without warnings (kernel crate included), the import flow, file sizes.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask lint")]
pub struct Args {}

pub fn run(_: &Args) -> Result<()> {
    // The quick ones first: they need nothing installed.
    sources()?;
    sh::run(sh::cargo().args(["fmt", "--all", "--check"]))
        .context("run `cargo fmt --all` to format")?;
    let fuzz = sh::root().join("llmtrace/fuzz/Cargo.toml");
    if fuzz.exists() {
        // Not a member of the workspace, so --all does not reach it.
        sh::run(sh::cargo().args(["fmt", "--check", "--manifest-path"]).arg(&fuzz))
            .context("run `cargo fmt --manifest-path llmtrace/fuzz/Cargo.toml` to format")?;
    }
    let toolchain = setup::kernel_toolchain()?;
    kernel_clippy(&toolchain)?;
    let mut clippy = sh::cargo();
    clippy.args(["clippy", "--workspace", "--exclude", "llmtrace-ebpf", "--all-targets"]);
    sh::run(clippy.args(["--", "-D", "warnings"]))?;
    if on_path("cargo-deny").is_some() {
        sh::run(sh::cargo().args(["deny", "check", "bans", "licenses", "sources"]))?;
    }
    Ok(())
}

fn kernel_clippy(toolchain: &Toolchain) -> Result<()> {
    let verb = match &toolchain.compiler {
        Compiler::Prebuilt { .. } => {
            if apt::available() && apt::offers("rust-web-clippy") {
                apt::ensure(&["rust-web-clippy"], "clippy for the kernel programs")?;
            }
            // Without it a build that has no warnings is the next best.
            if std::path::Path::new("/usr/bin/cargo-clippy").exists() { "clippy" } else { "check" }
        }
        Compiler::Nightly { rustup } => {
            let clippy = ["run", "nightly", "cargo", "clippy", "--version"];
            if sh::output(&mut sh::command(rustup, clippy)).is_some() { "clippy" } else { "check" }
        }
    };
    let target_dir = sh::target_dir().join("kernel-object");
    sh::run(&mut toolchain.cargo(sh::root(), verb, &target_dir, std::env::consts::ARCH))
}

/// Everything that is checked by reading our own sources.
fn sources() -> Result<()> {
    let list = sh::output(&mut sh::command(
        "git",
        ["ls-files", "--cached", "--others", "--exclude-standard", "--", "*.rs"],
    ))
    .context(
        "`git ls-files` failed: lint needs a git checkout to tell our files from built ones",
    )?;
    let mut problems = Vec::new();
    let mut files = 0_usize;
    for file in list.lines() {
        // Deleted, but not yet from the index.
        let Ok(source) = fs::read_to_string(sh::root().join(file)) else {
            continue;
        };
        files += 1;
        let lines = source.lines().count();
        if lines > MOST_LINES {
            problems.push(format!("{file}: {lines} lines, at most {MOST_LINES}: split it"));
        }
        problems.extend(flow::check(file, &source).iter().map(ToString::to_string));
    }
    for problem in &problems {
        eprintln!("{problem}");
    }
    if !problems.is_empty() {
        bail!("{} problems of import flow or file size (see above)", problems.len());
    }
    sh::say(&format!("import flow and sizes of {files} files are fine"));
    Ok(())
}
