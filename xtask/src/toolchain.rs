//! Finds the compiler and the linker of the kernel object, and starts cargo with them.
//!
//! Shared by xtask and by llmtrace/build.rs (which includes this file by `#[path]`), so that `cargo
//! build` and `cargo xtask` can never disagree about what is usable. Standard library only.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

pub const TARGET: &str = "bpfel-unknown-none";

/// The first bpf-linker with the BTF that aya-ebpf 0.2 maps rely on and LLVM 20 or newer.
const OLDEST_LINKER: (u32, u32) = (0, 10);

pub enum Compiler {
    /// A distribution's rustc whose sysroot holds a `core` for the BPF target (Debian's rustc-web).
    Prebuilt { rustc: PathBuf, cargo: PathBuf },
    /// A rustup nightly with rust-src, which builds `core` itself.
    Nightly { rustup: PathBuf },
}

pub struct Toolchain {
    pub compiler: Compiler,
    pub linker: PathBuf,
}

pub fn compiler() -> Option<Compiler> {
    prebuilt().or_else(nightly)
}

fn prebuilt() -> Option<Compiler> {
    // Fixed paths: what PATH finds first is usually rustup's proxy, which never has this target.
    let (rustc, cargo) = (PathBuf::from("/usr/bin/rustc"), PathBuf::from("/usr/bin/cargo"));
    if !cargo.exists() {
        return None;
    }
    let lib = sysroot(Command::new(&rustc))?.join("lib/rustlib").join(TARGET).join("lib");
    // Debian updates change the hash in the file name, so look for any core.
    let core = lib.read_dir().ok()?.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libcore-") && name.ends_with(".rlib")
    });
    core.then_some(Compiler::Prebuilt { rustc, cargo })
}

fn nightly() -> Option<Compiler> {
    let rustup = on_path("rustup")?;
    let mut rustc = Command::new(&rustup);
    rustc.args(["run", "nightly", "rustc"]);
    let core = sysroot(rustc)?.join("lib/rustlib/src/rust/library/core/src/lib.rs");
    core.exists().then_some(Compiler::Nightly { rustup })
}

fn sysroot(mut rustc: Command) -> Option<PathBuf> {
    clean(&mut rustc);
    let output = rustc.args(["--print", "sysroot"]).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(path.trim()))
}

/// Our own build first: `cargo xtask setup` puts one there when the one on PATH cannot link.
pub fn linker(root: &Path) -> Option<PathBuf> {
    let own = root.join("target/tools/bin/bpf-linker");
    [Some(own), on_path("bpf-linker")].into_iter().flatten().find(|path| recent_enough(path))
}

fn recent_enough(linker: &Path) -> bool {
    let Ok(output) = Command::new(linker).arg("--version").output() else {
        return false;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    output.status.success() && linker_version(&text).is_some_and(|v| v >= OLDEST_LINKER)
}

fn linker_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split_whitespace().nth(1)?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

impl Toolchain {
    /// A cargo command line for the kernel crate: `verb` is build, check or clippy; the latter two
    /// are there for lint and take warnings for errors.
    pub fn cargo(&self, root: &Path, verb: &str, target_dir: &Path, arch: &str) -> Command {
        let mut cmd = match &self.compiler {
            Compiler::Prebuilt { rustc, cargo } => {
                // Debian's cargo-clippy has to be named: cargo would find rustup's proxy first.
                let cargo =
                    if verb == "clippy" { Path::new("/usr/bin/cargo-clippy") } else { cargo };
                let mut cmd = Command::new(cargo);
                clean(&mut cmd);
                // aya-ebpf uses unstable features; this compiler calls itself stable.
                cmd.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1").arg(verb);
                if verb == "clippy" {
                    cmd.env("CARGO", "/usr/bin/cargo");
                }
                cmd
            }
            Compiler::Nightly { rustup } => {
                let mut cmd = Command::new(rustup);
                clean(&mut cmd);
                cmd.args(["run", "nightly", "cargo", verb, "-Z", "build-std=core"]);
                cmd
            }
        };
        cmd.current_dir(root)
            .args(["--package", "llmtrace-ebpf", "--release", "--locked", "--target", TARGET])
            .arg("--target-dir")
            .arg(target_dir);
        let mut flags = OsString::from("-Clinker=");
        flags.push(&self.linker);
        for flag in [
            "-Clink-arg=--btf",
            "-Cdebuginfo=2",
            // aya-ebpf's register layouts follow the machine that runs the programs, not the target.
            &format!("--cfg=bpf_target_arch=\"{arch}\""),
        ] {
            flags.push("\x1f");
            flags.push(flag);
        }
        if verb != "build" {
            flags.push("\x1f-Dwarnings");
        }
        cmd.env("CARGO_ENCODED_RUSTFLAGS", flags);
        // The agent's profile asks for fat LTO; bpf-linker does that job and needs the debug info of
        // every crate for BTF.
        cmd.env("CARGO_PROFILE_RELEASE_LTO", "off");
        cmd
    }
}

/// Takes away what an outer cargo or rustup has set and an inner one of another version would obey.
pub fn clean(cmd: &mut Command) {
    const KEEP: [&str; 7] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
        "CARGO_MAKEFLAGS", // the outer cargo's job tokens: both together use no more cores
    ];
    const DROP: [&str; 9] = [
        "RUSTC",
        "RUSTFLAGS",
        "RUSTDOC",
        "RUSTUP_TOOLCHAIN",
        "RUST_RECURSION_COUNT",
        "LD_LIBRARY_PATH", // rustup's libraries, next to a compiler that is not rustup's
        "CARGO",
        "OUT_DIR",
        "TARGET",
    ];
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let starts = |list: &[&str]| list.iter().any(|prefix| text.starts_with(prefix));
        if starts(&DROP) && !starts(&KEEP) {
            cmd.env_remove(&name);
        }
    }
}
