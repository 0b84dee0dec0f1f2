//! All that the machines have: busybox, the agent, the test programs, and the libraries of these.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::dir;
use super::kernels::Kernel;
use crate::sh;
use crate::toolchain::on_path;

/// The first program: mounts what a kernel offers, runs the tests, and switches the machine off.
const INIT: &str = include_str!("init.sh");
const PROGRAMS: [&str; 5] = ["llmtrace", "server", "rustls_server", "vmtest", "bench"];

const OPENSSL: &str = "libssl.so.3";
/// Where Debian has its libraries.
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";

/// Builds the archive from the programs in `bin`, with the modules of all `kernels`.
pub fn build(bin: &Path, kernels: &[Kernel]) -> Result<PathBuf> {
    let root = dir().join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for folder in ["bin", "dev", "proc", "sys", "tmp"] {
        fs::create_dir_all(root.join(folder))?;
    }
    let busybox = on_path("busybox").context("busybox-static has no busybox on PATH")?;
    fs::copy(&busybox, root.join("bin/busybox"))?;
    for program in PROGRAMS {
        let from = bin.join(program);
        if !from.exists() {
            bail!("{} is not built", from.display());
        }
        for library in libraries(&from)? {
            copy_into(&root, &library)?;
        }
        let to = root.join("bin").join(program);
        fs::copy(&from, &to)?;
        // Debug information is most of a program, and the machine holds it in memory.
        sh::quiet(sh::command("strip", ["--strip-debug"]).arg(&to))?;
    }
    // Loaded by name, by the server that speaks TLS.
    let library = Path::new(LIBRARIES).join(OPENSSL);
    for library in libraries(&library)?.iter().chain([&library]) {
        copy_into(&root, library)?;
    }
    for kernel in kernels {
        for (release, module) in kernel.modules()? {
            let folder = root.join("lib/modules").join(release);
            fs::create_dir_all(&folder)?;
            fs::copy(&module, folder.join(module.file_name().context("a module is a file")?))?;
        }
    }
    let init = root.join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    // Not compressed: an emulated processor takes longer to unpack it than qemu to load it.
    let archive = dir().join("initrd.cpio");
    pack(&root, &archive)?;
    Ok(archive)
}

/// All of a folder as root's, in the form that the kernel unpacks.
pub fn pack(folder: &Path, archive: &Path) -> Result<()> {
    let script = "find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 > \"$0\"";
    sh::quiet(sh::command("sh", ["-c", script]).arg(archive).current_dir(folder))
}

/// The shared libraries of a program, its loader among them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let text = sh::output(&mut sh::command("ldd", [program]))
        .with_context(|| format!("ldd {} failed", program.display()))?;
    if let Some(missing) = text.lines().find(|line| line.contains("not found")) {
        bail!("{}: {}", program.display(), missing.trim());
    }
    Ok(parse_ldd(&text))
}

/// `NAME => PATH (ADDRESS)`, or only `PATH (ADDRESS)`; what has no path is the kernel's own.
fn parse_ldd(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

/// Puts a file where it is here.
fn copy_into(root: &Path, file: &Path) -> Result<()> {
    let to = root.join(file.strip_prefix("/")?);
    fs::create_dir_all(to.parent().context("a file is in a folder")?)?;
    fs::copy(file, &to).with_context(|| format!("cannot copy {}", file.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007ff9)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 \
                    (0x00007ff9)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007ff9)";
        let found = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse_ldd(text), found.map(PathBuf::from));
        assert_eq!(parse_ldd("\tstatically linked"), Vec::<PathBuf>::new());
    }
}
