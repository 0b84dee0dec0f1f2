//! The project's own commands. CI, the README and CONTRIBUTING name only these.

mod apt;
mod bench;
mod build;
mod ci;
mod dashboards;
mod deb;
mod demo;
mod fixtures;
mod flow;
mod fuzz;
mod lint;
mod page;
mod pictures;
mod setup;
mod sh;
mod test;
mod toolchain;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, tests and runs llmtrace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Setup(setup::Args),
    Build(build::Args),
    Demo(demo::Args),
    Test(test::Args),
    Lint(lint::Args),
    Bench(bench::Args),
    Vm(vm::Args),
    Fuzz(fuzz::Args),
    Dashboards(dashboards::Args),
    Pictures(pictures::Args),
    Deb(deb::Args),
    Ci(ci::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Setup(args) => setup::run(&args),
        Verb::Build(args) => build::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Lint(args) => lint::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Vm(args) => vm::run(&args),
        Verb::Fuzz(args) => fuzz::run(&args),
        Verb::Dashboards(args) => dashboards::run(&args),
        Verb::Pictures(args) => pictures::run(&args),
        Verb::Deb(args) => deb::run(&args),
        Verb::Ci(args) => ci::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // What ran has said why on its own; a second message would only bury it.
        Err(error) if error.is::<sh::Exit>() => {
            let sh::Exit(code) = error.downcast_ref().copied().unwrap_or(sh::Exit(1));
            ExitCode::from(code)
        }
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
