//! `cargo xtask pictures`: the pictures of the documents, from a real run.

use std::fs;

use anyhow::{Result, bail};

use crate::toolchain::on_path;
use crate::{apt, build, fixtures, sh};

const FOLDER: &str = "docs/img";

/// Traces servers for some minutes and draws what the dashboard, the live page and `llmtrace top` show of them.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask pictures
  cargo xtask pictures --seconds 600    the live page shows ten minutes at most

It runs as root and writes docs/img/*.png: look at each before it is committed.")]
pub struct Args {
    /// How long clients ask
    #[arg(long, default_value_t = 300)]
    seconds: u64,
}

pub fn run(args: &Args) -> Result<()> {
    fixtures::ensure()?;
    if on_path("pngquant").is_none() {
        if !apt::available() {
            bail!("the pictures need pngquant: install it, then run this again");
        }
        apt::ensure(&["pngquant"], "the pictures are packed by it")?;
    }
    build::run(&build::Args { release: true })?;
    sh::run(sh::cargo().args(["build", "--package", "llmtrace-tests", "--bins"]))?;
    let folder = sh::root().join(FOLDER);
    fs::create_dir_all(&folder)?;
    let bin = sh::target_dir().join("debug/pictures");
    let mut pictures = sh::as_root(bin, &["PATH"])?;
    sh::run(pictures.arg("--seconds").arg(args.seconds.to_string()).arg(folder))
}
