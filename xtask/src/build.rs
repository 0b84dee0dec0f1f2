//! `cargo xtask build`: the live page, the kernel object and the workspace.

use anyhow::Result;

use crate::{page, setup, sh};

/// Builds the live page (where there is Node), the kernel object and the workspace, after `setup`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask build --release")]
pub struct Args {
    /// With optimisations: what one runs and measures
    #[arg(long)]
    pub release: bool,
}

pub fn run(args: &Args) -> Result<()> {
    setup::kernel_toolchain()?;
    page::build()?;
    // llmtrace/build.rs compiles the kernel object, so the workspace build is all there is to do.
    let mut cargo = sh::cargo();
    cargo.args(["build", "--workspace", "--exclude", "llmtrace-ebpf"]);
    if args.release {
        cargo.arg("--release");
    }
    sh::run(&mut cargo)
}
