//! `cargo xtask deb`: the Debian package, by cargo-deb from `[package.metadata.deb]`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::toolchain::on_path;
use crate::{apt, build, sh, vm};

const CARGO_DEB_VERSION: &str = "3.8.0";
/// `(shell, file)` of what [`pages`] writes; the package's list of files names them.
const SHELLS: [(&str, &str); 3] =
    [("bash", "llmtrace.bash"), ("zsh", "_llmtrace"), ("fish", "llmtrace.fish")];

/// Builds target/deb/llmtrace.deb: agent, unit, configuration, manual pages, completions.
#[derive(clap::Args, Default)]
#[command(after_help = "\
Examples:
  cargo xtask deb && sudo dpkg -i target/deb/llmtrace.deb
  cargo xtask deb --boot

The machine is emulated (no KVM is needed), has no network, and lives in memory. Its console is in
target/vm/systemd.log, its report in target/vm/systemd.jsonl.")]
pub struct Args {
    /// Boot a Debian with systemd under qemu, and install, start, use, upgrade and remove the
    /// package there
    #[arg(long)]
    pub boot: bool,
    /// Boot with the package and the programs that are there
    #[arg(long, requires = "boot")]
    no_build: bool,
}

pub fn run(args: &Args) -> Result<()> {
    if !args.no_build {
        build::run(&build::Args { release: true })?;
        package(false)?;
    }
    if args.boot {
        boot()?;
    }
    Ok(())
}

/// Tries the package that is there, under systemd.
pub fn boot() -> Result<()> {
    vm::package::run(&folder().join("llmtrace.deb"), &sh::target_dir().join("release"))
}

/// The package of the release build that is there; `fast`: large, but made in no time.
pub fn package(fast: bool) -> Result<()> {
    let cargo_deb = cargo_deb()?;
    if apt::available() && on_path("dpkg-shlibdeps").is_none() {
        apt::ensure(&["dpkg-dev"], "it finds the libraries that the package needs")?;
    }
    pages()?;
    let mut command = sh::command(cargo_deb, ["--no-build", "--quiet", "--package", "llmtrace"]);
    if fast {
        command.arg("--fast");
    }
    command.arg("--output").arg(folder().join("llmtrace.deb"));
    sh::run(&mut command)
}

fn folder() -> PathBuf {
    sh::target_dir().join("deb")
}

/// Manual pages and completions, as the agent itself writes them.
fn pages() -> Result<()> {
    let dir = sh::root().join("target/deb");
    fs::create_dir_all(dir.join("completions"))?;
    let agent = sh::target_dir().join("release/llmtrace");
    sh::quiet(sh::command(&agent, ["man", "--dir"]).arg(dir.join("man")))?;
    for (shell, file) in SHELLS {
        let text = sh::output(&mut sh::command(&agent, ["completions", shell]))
            .with_context(|| format!("`llmtrace completions {shell}` failed"))?;
        sh::write(&dir.join("completions").join(file), &format!("{text}\n"))?;
    }
    Ok(())
}

/// Builds the tool once into target/tools. Without its default features it has no compressor of its
/// own and takes xz's, which every Debian has.
fn cargo_deb() -> Result<PathBuf> {
    let tools = sh::root().join("target/tools");
    let path = tools.join("bin/cargo-deb");
    let version = sh::output(&mut sh::command(&path, ["--version"]));
    if version.is_some_and(|version| version.contains(CARGO_DEB_VERSION)) {
        return Ok(path);
    }
    sh::say(&format!("building cargo-deb {CARGO_DEB_VERSION} (about a minute)"));
    let mut cargo = sh::cargo();
    cargo.args(["install", "cargo-deb", "--version", CARGO_DEB_VERSION, "--locked", "--force"]);
    cargo.arg("--no-default-features").arg("--root").arg(&tools);
    let build = tools.join("build");
    sh::quiet(cargo.arg("--target-dir").arg(&build)).context("cargo-deb did not build")?;
    let _ = fs::remove_dir_all(build);
    Ok(path)
}
