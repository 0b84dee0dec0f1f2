//! The `llmtrace` command.

use std::{io, process::ExitCode};

use llmtrace::{
    cli::{self, Command},
    demo, discover, doctor, logger,
    probe::ProbeError,
    recorder, replay, run, top,
};

fn main() -> ExitCode {
    logger::init();
    let cli = cli::parse_from(std::env::args_os().collect()).unwrap_or_else(|e| e.exit());
    let result = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Discover(args) => discover::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Record(args) => recorder::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Completions(args) => cli::pages::completions(&args),
        Command::Man(args) => cli::pages::man(&args),
        Command::Demo(args) => demo::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_reader_gone(&error) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error:#}");
            // 3: another argument would not help; the kernel or the privileges have to change.
            let unsupported =
                error.downcast_ref::<ProbeError>().is_some_and(ProbeError::is_unsupported);
            ExitCode::from(if unsupported { 3 } else { 1 })
        }
    }
}

/// Whether somebody who reads what is printed has seen enough, as `head` has.
fn is_reader_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
