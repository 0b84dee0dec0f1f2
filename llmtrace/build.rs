//! Compiles the kernel programs (llmtrace-ebpf) with their own toolchain and puts the object at
//! `$OUT_DIR/llmtrace.bpf.o`, from where `probe::object` embeds it. The live page, if `cargo xtask
//! build` has made it, goes into `$OUT_DIR/page.rs` for `serve::page`.

#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

use toolchain::Toolchain;

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it");
    let root = manifest.parent().expect("the crate is a folder of the workspace");

    page(&manifest.join("web/dist"), &out);
    for path in
        ["llmtrace-ebpf", "llmtrace-common", "xtask/src/toolchain.rs", "Cargo.toml", "Cargo.lock"]
    {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }

    let toolchain = match find(root) {
        Ok(toolchain) => toolchain,
        Err(missing) => {
            // Cargo prints this line and stops: no panic, no backtrace, nothing else to read.
            println!("cargo::error={missing}");
            return;
        }
    };
    println!("cargo::rerun-if-changed={}", toolchain.linker.display());

    // A target folder of its own: the outer cargo holds the lock of the usual one. All profiles and
    // clippy share it, because the kernel object is the same for each and takes a while to build.
    let target_dir = out
        .ancestors()
        .find(|dir| dir.ends_with("build"))
        .and_then(|build| build.parent()?.parent())
        .unwrap_or(&out)
        .join("kernel-object");
    let mut cargo = toolchain.cargo(root, "build", &target_dir, &arch);
    cargo.args(["--quiet", "--bin", "llmtrace-ebpf"]);
    compile(&mut cargo);

    let built = target_dir.join(toolchain::TARGET).join("release/llmtrace-ebpf");
    copy(&built, &out.join("llmtrace.bpf.o"));
}

/// Lists the files of the live page; without Node there are none.
fn page(dist: &Path, out: &Path) {
    println!("cargo::rerun-if-changed={}", dist.display());
    let mut list = String::from("const FILES: &[(&str, &[u8])] = &[\n");
    if dist.join("index.html").exists() {
        for name in ["index.html", "app.css", "app.js"] {
            copy(&dist.join(name), &out.join(name));
            list += &format!(
                "    ({name:?}, include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}\"))),\n"
            );
        }
    }
    list += "];\n";
    if let Err(error) = fs::write(out.join("page.rs"), list) {
        println!("cargo::error=cannot write {}: {error}", out.join("page.rs").display());
        exit(1);
    }
}

fn find(root: &Path) -> Result<Toolchain, String> {
    let missing = |what: &str| {
        format!("the kernel programs need {what}, which is not here: run `cargo xtask setup`")
    };
    Ok(Toolchain {
        compiler: toolchain::compiler()
            .ok_or_else(|| missing("a Rust compiler for bpfel-unknown-none"))?,
        linker: toolchain::linker(root).ok_or_else(|| missing("bpf-linker"))?,
    })
}

/// Runs the inner cargo; its warnings become warnings of this build, its errors go to the terminal.
fn compile(cargo: &mut Command) {
    let output = match cargo.output() {
        Ok(output) => output,
        Err(error) => {
            println!("cargo::error=cannot start {}: {error}", cargo.get_program().display());
            exit(1);
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        for line in said.lines().filter(|line| !line.is_empty()) {
            println!("cargo::warning={line}");
        }
    } else {
        eprintln!("{said}");
        eprintln!("The kernel programs (llmtrace-ebpf) did not build; see above.");
        exit(1);
    }
}

fn copy(from: &Path, to: &Path) {
    if let Err(error) = fs::copy(from, to) {
        println!("cargo::error=cannot copy {} to {}: {error}", from.display(), to.display());
        exit(1);
    }
}
