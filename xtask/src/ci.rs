//! `cargo xtask ci`: what has to pass before a change lands.

use std::time::Instant;

use anyhow::Result;

use crate::{build, fixtures, lint, setup, sh, test, vm};

/// Lint, the kernel matrix and tests, with the time of each step.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask ci")]
pub struct Args {}

pub fn run(_: &Args) -> Result<()> {
    let mut times = Vec::new();
    let mut step = |name: &str, work: &dyn Fn() -> Result<()>| -> Result<()> {
        sh::say(&format!("== {name}"));
        let start = Instant::now();
        let result = work();
        let time = format!("{name} {:.0} s", start.elapsed().as_secs_f64());
        sh::say(&format!("== {time}{}", if result.is_ok() { "" } else { ", failed" }));
        times.push(time);
        result
    };
    step("setup", &|| setup::kernel_toolchain().map(drop))?;
    step("lint", &|| lint::run(&lint::Args {}))?;
    step("fixtures", &fixtures::ensure)?;
    step("release build", &|| build::run(&build::Args { release: true }))?;
    step("test build", &test::build)?;
    step("vm", &|| vm::run(&vm::Args::default()))?;
    // Said before the tests: the runner's closing lines have to be the last thing in the log, and
    // they have the times of the tests.
    sh::say(&format!("== before the tests: {}", times.join(", ")));
    test::run(&test::Args::default())
}
