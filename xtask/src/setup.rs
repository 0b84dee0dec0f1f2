//! `cargo xtask setup`: what the kernel object needs, found or installed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::toolchain::{self, Compiler, TARGET, on_path};
use crate::{apt, fixtures, sh};

/// Newest release that links with the LLVM of Debian's rustc.
const LINKER_VERSION: &str = "0.13.0";

/// Finds or installs the compiler and the linker of the kernel object.
///
/// On Debian: the packages rustc-web, cargo-web, libstd-rust-web-dev-bpf and llvm, and bpf-linker
/// built into target/tools. Elsewhere: rustup's nightly with rust-src, and bpf-linker. Installs only
/// what is missing (with sudo when not root) and says what.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask setup\n  cargo xtask setup --fixtures")]
pub struct Args {
    /// Also the Python, Node and nginx that the end-to-end tests start
    #[arg(long)]
    fixtures: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let toolchain = kernel_toolchain()?;
    let compiler = match &toolchain.compiler {
        Compiler::Prebuilt { rustc, .. } => rustc.display().to_string(),
        Compiler::Nightly { .. } => "rustup's nightly".to_owned(),
    };
    sh::say(&format!("kernel object: {compiler}, {}", toolchain.linker.display()));
    if args.fixtures {
        fixtures::ensure()?;
        sh::say("test fixtures: target/venv, target/node, target/model");
    }
    Ok(())
}

pub fn kernel_toolchain() -> Result<toolchain::Toolchain> {
    let compiler = match toolchain::compiler() {
        Some(compiler) => compiler,
        None => install_compiler()?,
    };
    if let Some(linker) = toolchain::linker(sh::root())
        && proven(&compiler, &linker)?
    {
        return Ok(toolchain::Toolchain { compiler, linker });
    }
    install_linker(&compiler)?;
    let Some(linker) = toolchain::linker(sh::root()) else {
        bail!(
            "bpf-linker was installed into target/tools but does not run: try target/tools/bin/bpf-linker --version"
        );
    };
    if !proven(&compiler, &linker)? {
        bail!("{} does not link what this compiler emits (see above)", linker.display());
    }
    Ok(toolchain::Toolchain { compiler, linker })
}

fn install_compiler() -> Result<Compiler> {
    const DEBIAN: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];
    if apt::available() {
        if !DEBIAN.iter().all(|package| apt::offers(package)) {
            apt::update()?;
        }
        if DEBIAN.iter().all(|package| apt::offers(package)) {
            apt::ensure(&DEBIAN, "a rustc with a core library for the kernel's BPF target")?;
            return toolchain::compiler().context(
                "Debian's rustc-web is installed but has no core for bpfel-unknown-none in its sysroot",
            );
        }
    }
    if on_path("rustup").is_none() {
        bail!(
            "the kernel object needs Debian's packages {} (this machine's apt has none) or a nightly \
             Rust with rust-src: install rustup, then run this again",
            DEBIAN.join(" ")
        );
    }
    sh::say("installing Rust nightly with rust-src");
    sh::run(&mut sh::command(
        "rustup",
        ["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"],
    ))?;
    toolchain::compiler().context("rustup's nightly has no rust-src after all")
}

fn install_linker(compiler: &Compiler) -> Result<()> {
    let mut cargo = sh::cargo();
    toolchain::clean(&mut cargo);
    cargo.args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"]);
    cargo.arg("--root").arg(sh::root().join("target/tools"));
    // A build folder of its own, so that nothing of it stays behind in ours.
    cargo.arg("--target-dir").arg(sh::root().join("target/tools/build"));

    let llvm = llvm_major(compiler)?;
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if apt::available() {
        let dev = format!("llvm-{llvm}-dev");
        if !apt::offers(&dev) {
            apt::update()?;
        }
        if apt::offers(&dev) {
            apt::ensure(&[&dev, "zlib1g-dev", "libzstd-dev", "g++"], "LLVM, for bpf-linker")?;
        }
    }
    if Path::new(&prefix).join("bin/llvm-config").exists() {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut path_with_llvm = std::ffi::OsString::from(format!("{prefix}/bin:"));
        path_with_llvm.push(path);
        cargo.env("LLVM_PREFIX", &prefix).env("PATH", path_with_llvm);
    }
    cargo.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
    sh::say(&format!("building bpf-linker {LINKER_VERSION} with LLVM {llvm} (about a minute)"));
    sh::quiet(&mut cargo).with_context(|| {
        format!(
            "bpf-linker did not build: it needs LLVM {llvm} with headers (llvm-config of that version \
             on PATH or under {prefix}); or put a working bpf-linker on PATH"
        )
    })?;
    let _ = fs::remove_dir_all(sh::root().join("target/tools/build"));
    Ok(())
}

/// The linker reads the compiler's bitcode, so its LLVM has to be at least the compiler's.
fn llvm_major(compiler: &Compiler) -> Result<u32> {
    let text = sh::output(rustc(compiler).arg("-vV")).context("rustc -vV failed")?;
    parse_llvm_major(&text).with_context(|| format!("rustc -vV names no LLVM version:\n{text}"))
}

fn parse_llvm_major(text: &str) -> Option<u32> {
    let version = text.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.trim().parse().ok()
}

fn rustc(compiler: &Compiler) -> Command {
    let mut cmd = match compiler {
        Compiler::Prebuilt { rustc, .. } => Command::new(rustc),
        Compiler::Nightly { rustup } => sh::command(rustup, ["run", "nightly", "rustc"]),
    };
    toolchain::clean(&mut cmd);
    cmd
}

/// Links a small program once per compiler and linker: a version number does not tell which LLVM a
/// bpf-linker has inside, and one that is too old fails only at the very end of a build.
fn proven(compiler: &Compiler, linker: &Path) -> Result<bool> {
    let Compiler::Prebuilt { .. } = compiler else {
        // Without a prebuilt core there is nothing to link quickly; the build itself will tell.
        return Ok(true);
    };
    let meta = fs::metadata(linker)?;
    let version = sh::output(rustc(compiler).arg("-vV")).unwrap_or_default();
    let key = format!("{} {} {}\n{version}\n", linker.display(), meta.size(), meta.mtime());
    let dir = sh::root().join("target/tools");
    let stamp = dir.join("linker-proven");
    if fs::read_to_string(&stamp).is_ok_and(|text| text == key) {
        return Ok(true);
    }
    fs::create_dir_all(&dir)?;
    let source = dir.join("probe.rs");
    fs::write(&source, PROBE)?;
    let mut cmd = rustc(compiler);
    cmd.args(["--edition=2021", "--crate-type=bin", "--target", TARGET, "-O"])
        .arg(format!("-Clinker={}", linker.display()))
        .args(["-Clink-arg=--btf", "-Cdebuginfo=2", "-Cpanic=abort", "-o"])
        .arg(dir.join("probe.o"))
        .arg(&source);
    let output = cmd.output().context("rustc for the kernel object does not start")?;
    if !output.status.success() {
        sh::say(&format!("{} does not work with this compiler:", linker.display()));
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        return Ok(false);
    }
    sh::write(&stamp, &key)?;
    Ok(true)
}

const PROBE: &str = r#"#![no_std]
#![no_main]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! { loop {} }
#[no_mangle]
#[link_section = "socket"]
pub extern "C" fn probe(len: u32) -> u32 { len }
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_llvm_version() {
        assert_eq!(parse_llvm_major("release: 1.96.0\nLLVM version: 22.1.8"), Some(22));
        assert_eq!(parse_llvm_major("release: 1.96.0"), None);
    }
}
