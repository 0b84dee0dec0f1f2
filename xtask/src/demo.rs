//! `cargo xtask demo`: from a fresh clone to real captured traffic.

use anyhow::Result;

use crate::{build, sh};

/// Sets up, builds and runs `llmtrace demo`: a streaming server and clients, traced by eBPF.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask demo --seconds 10")]
pub struct Args {
    /// How long the clients send requests
    #[arg(long, default_value_t = 10)]
    seconds: u32,
}

pub fn run(args: &Args) -> Result<()> {
    build::run(&build::Args { release: true })?;
    let agent = sh::target_dir().join("release/llmtrace");
    let mut cmd = sh::as_root(&agent, &["RUST_BACKTRACE"])?;
    cmd.args(["demo", "--seconds", &args.seconds.to_string()]);
    sh::pass_on(&mut cmd)
}
