//! `cargo xtask ci`: what has to pass before a change lands.

use std::time::Instant;

use anyhow::Result;

use crate::{build, fixtures, lint, setup, sh, test};

/// Lint and tests, with the time of each step.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask ci")]
pub struct Args {}

pub fn run(_: &Args) -> Result<()> {
    let mut times = Vec::new();
    let mut step = |name: &'static str, work: &dyn Fn() -> Result<()>| -> Result<()> {
        sh::say(&format!("== {name}"));
        let start = Instant::now();
        let result = work();
        times.push((name, start.elapsed().as_secs_f64()));
        result
    };
    step("setup", &|| setup::kernel_toolchain().map(drop))?;
    step("lint", &|| lint::run(&lint::Args {}))?;
    step("fixtures", &fixtures::ensure)?;
    step("build", &|| build::run(&build::Args { release: true }))?;
    let list: Vec<_> = times.iter().map(|(name, s)| format!("{name} {s:.0} s")).collect();
    // Printed before the tests: the runner's closing lines have to be the last thing in the log.
    sh::say(&format!("before the tests: {}", list.join(", ")));
    test::run(&test::Args::default())
}
