//! `cargo xtask fuzz`: the parsers under libFuzzer, target after target.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::sh;

/// Of cargo-fuzz.
const VERSION: &str = "0.13.2";
/// An input that takes longer (seconds) or more memory (MiB) is a finding.
const TIMEOUT: u32 = 10;
const MEMORY: u32 = 2048;

/// Fuzzes the parsers with libFuzzer; a crash, a hang or too much memory fails the verb.
///
/// Installs cargo-fuzz under target/tools. What is found on the way stays in target/fuzz/corpus; what
/// fails, in llmtrace/fuzz/artifacts. docs/fuzzing.md says what to do with it.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask fuzz                      every target, a minute each
  cargo xtask fuzz h2 --seconds 3600
  cargo xtask fuzz sse --merge          and keep the inputs that add coverage")]
pub struct Args {
    /// Targets (llmtrace/fuzz/fuzz_targets); all of them by default
    targets: Vec<String>,
    /// How long each one runs
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Add what reached new code to llmtrace/fuzz/corpus, where every test run replays it
    #[arg(long)]
    merge: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let known = targets()?;
    if let Some(other) = args.targets.iter().find(|name| !known.contains(name)) {
        bail!("there is no target `{other}`; there are {}", known.join(", "));
    }
    let targets = if args.targets.is_empty() { known } else { args.targets.clone() };
    install()?;
    lock()?;
    for target in &targets {
        sh::run(cargo_fuzz("build").arg(target))?;
    }
    println!(
        "{:12} {:>12} {:>8} {:>7} {:>9} {:>9}",
        "target", "executions", "seconds", "cov", "features", "corpus"
    );
    let mut failed = Vec::new();
    for target in &targets {
        let (stats, good) = fuzz(target, args.seconds)?;
        println!("{target:12} {stats}");
        if !good {
            failed.push(target.as_str());
        }
        if args.merge && good {
            merge(target)?;
        }
    }
    if !failed.is_empty() {
        bail!(
            "findings in {}: see llmtrace/fuzz/artifacts and target/fuzz/*.log",
            failed.join(", ")
        );
    }
    Ok(())
}

fn folder() -> PathBuf {
    sh::root().join("llmtrace/fuzz")
}

fn built() -> PathBuf {
    sh::target_dir().join("fuzz")
}

fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder().join("fuzz_targets"))? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

fn program() -> PathBuf {
    sh::root().join("target/tools/bin/cargo-fuzz")
}

fn install() -> Result<()> {
    let version = sh::output(Command::new(program()).arg("--version"));
    if version.is_some_and(|text| text.ends_with(VERSION)) {
        return Ok(());
    }
    let mut cargo = sh::cargo();
    cargo.args(["install", "cargo-fuzz", "--version", VERSION, "--locked", "--force"]);
    cargo.arg("--root").arg(sh::root().join("target/tools"));
    cargo.arg("--target-dir").arg(sh::root().join("target/tools/build"));
    sh::say(&format!("building cargo-fuzz {VERSION}"));
    sh::quiet(&mut cargo).context("cargo-fuzz did not build")?;
    let _ = fs::remove_dir_all(sh::root().join("target/tools/build"));
    Ok(())
}

/// The fuzzers are no members of the workspace, but are built of the same versions.
fn lock() -> Result<()> {
    let own = folder().join("Cargo.lock");
    if !own.exists() {
        fs::copy(sh::root().join("Cargo.lock"), own)?;
    }
    Ok(())
}

fn cargo_fuzz(verb: &str) -> Command {
    let mut cmd = sh::command(program(), ["fuzz", verb]);
    cmd.arg("--fuzz-dir").arg(folder());
    cmd.arg("--target-dir").arg(built());
    // The sanitiser's flags are unstable ones; a stable compiler takes them as well.
    cmd.env("RUSTC_BOOTSTRAP", "1");
    cmd
}

/// What a run did, and whether it found nothing.
fn fuzz(target: &str, seconds: u32) -> Result<(String, bool)> {
    let found = built().join("corpus").join(target);
    fs::create_dir_all(&found)?;
    let log = built().join(format!("{target}.log"));
    let mut cmd = cargo_fuzz("run");
    cmd.arg(target).arg(&found).arg(folder().join("corpus").join(target)).arg("--");
    cmd.arg(format!("-max_total_time={seconds}"));
    cmd.arg(format!("-timeout={TIMEOUT}"));
    cmd.arg(format!("-rss_limit_mb={MEMORY}"));
    cmd.arg("-print_final_stats=1");
    cmd.stdout(Stdio::null()).stderr(File::create(&log)?);
    let status = cmd.status().context("cargo-fuzz does not start")?;
    let said = fs::read(&log)?;
    Ok((stats(&String::from_utf8_lossy(&said)).unwrap_or_default(), status.success()))
}

/// Keeps those of the found inputs that reach what the corpus does not.
fn merge(target: &str) -> Result<()> {
    let mut cmd = cargo_fuzz("run");
    cmd.arg(target)
        .arg(folder().join("corpus").join(target))
        .arg(built().join("corpus").join(target));
    // By code reached, not by how often: a tenth of the files.
    cmd.args(["--", "-merge=1", "-use_counters=0"]);
    sh::quiet(&mut cmd)
}

/// The last line of progress and the final count, as columns.
fn stats(log: &str) -> Option<String> {
    let field = |line: &str, name: &str| {
        let mut words = line.split_whitespace().skip_while(|word| *word != name);
        words.nth(1).map(str::to_owned)
    };
    let last =
        log.lines().rev().find(|line| line.contains(" cov: ") && line.contains(" corp: "))?;
    let done = log.lines().rev().find(|line| line.starts_with("Done "));
    let executions = field(
        log.lines().rev().find(|l| l.starts_with("stat::number_of_executed"))?,
        "stat::number_of_executed_units:",
    )?;
    let seconds = done.and_then(|line| field(line, "in")).unwrap_or_else(|| "-".to_owned());
    let [cov, features, corpus] =
        ["cov:", "ft:", "corp:"].map(|name| field(last, name).unwrap_or_default());
    Some(format!("{executions:>12} {seconds:>8} {cov:>7} {features:>9} {corpus:>9}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_libfuzzer_says() {
        let log = "INFO: seed corpus: files: 5\n\
            #6\tINITED cov: 300 ft: 310 corp: 5/1000b exec/s: 0 rss: 30Mb\n\
            #4096\tNEW    cov: 1234 ft: 5678 corp: 90/12Kb lim: 64 exec/s: 10 rss: 40Mb L: 1/1\n\
            Done 4097 runs in 61 second(s)\n\
            stat::number_of_executed_units: 4097\n";
        let words = stats(log).unwrap();
        let words: Vec<_> = words.split_whitespace().collect();
        assert_eq!(words, ["4097", "61", "1234", "5678", "90/12Kb"]);
        assert_eq!(stats("nothing"), None);
    }

    #[test]
    fn finds_the_targets() {
        let targets = targets().unwrap();
        assert!(targets.iter().any(|name| name == "h1"), "{targets:?}");
    }
}
