//! The Debian package in a machine of its own, where systemd is the first process: installed,
//! started, upgraded and removed as on anybody's. (`cargo xtask deb --boot`)

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::qemu::{Machine, Time};
use super::{PACKAGES, debian, dir, initramfs, kernels, qemu};
use crate::{apt, sh};

/// Of the matrix: which one is no matter here, but TLS takes a capability more on some.
const KERNEL: &str = "6.12";
/// The console, the report and the archive are called so.
const NAME: &str = "systemd";
const LIMIT: Duration = Duration::from_secs(20 * 60);
/// Runs the checks and switches the machine off, whatever came of them.
const UNIT: &str = "\
[Unit]
After=multi-user.target
SuccessAction=poweroff-immediate
FailureAction=poweroff-immediate

[Service]
Type=exec
ExecStart=/opt/vmtest package --report /dev/ttyS1
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
RuntimeMaxSec=900
";

/// Boots with the package at `deb`; the programs of the tests are in `bin`.
pub fn run(deb: &Path, bin: &Path) -> Result<()> {
    apt::ensure(&PACKAGES, "a virtual machine with systemd")?;
    let kernel = kernels::ensure(KERNEL, false)?;
    let system = debian::ensure()?;
    let extra = extra(deb, bin)?;
    let initrd = dir().join("systemd.cpio");
    let mut out = fs::File::create(&initrd)?;
    for part in [&system, &extra] {
        io::copy(&mut fs::File::open(part)?, &mut out)?;
    }
    out.flush()?;
    let report = dir().join(format!("{NAME}.jsonl"));
    let machine = Machine {
        name: NAME,
        report: &report,
        kernel: &kernel,
        initrd: &initrd,
        // No terminal to log in at, and nothing on the console but what the tests say.
        append: "systemd.getty_auto=no systemd.show_status=no loglevel=3",
        mib: 1536,
        // Two nanoseconds an instruction: about what it takes here.
        time: Time::Executed { shift: 1 },
    };
    qemu::boot(&machine, LIMIT)?;
    fs::remove_file(&initrd)?;
    let mut judge = sh::command(bin.join("vmtest"), ["judge-package", "--dir"]);
    sh::pass_on(judge.arg(dir()).arg(NAME))
}

/// What is not of Debian: the package in two versions, the programs of the tests, their unit.
fn extra(deb: &Path, bin: &Path) -> Result<PathBuf> {
    let root = dir().join("systemd.root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let opt = root.join("extra/opt");
    let units = root.join("extra/etc/systemd/system");
    let wanted = units.join("multi-user.target.wants");
    fs::create_dir_all(&opt)?;
    fs::create_dir_all(&wanted)?;
    for program in ["vmtest", "server"] {
        let from = bin.join(program);
        let to = opt.join(program);
        fs::copy(&from, &to).with_context(|| format!("{} is not built", from.display()))?;
        sh::quiet(sh::command("strip", ["--strip-debug"]).arg(&to))?;
    }
    fs::copy(deb, opt.join("llmtrace.deb"))
        .with_context(|| format!("{} is not built", deb.display()))?;
    later(deb, &opt.join("later.deb"))?;
    fs::write(units.join("vmtest.service"), UNIT)?;
    symlink("../vmtest.service", wanted.join("vmtest.service"))?;
    let archive = dir().join("systemd.extra.cpio");
    initramfs::pack(&root, &archive)?;
    fs::remove_dir_all(&root)?;
    Ok(archive)
}

/// The same package with a version that is higher, to upgrade to.
fn later(deb: &Path, to: &Path) -> Result<()> {
    let unpacked = dir().join("systemd.later");
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked)?;
    }
    sh::quiet(sh::command("dpkg-deb", ["--raw-extract"]).arg(deb).arg(&unpacked))?;
    let control = unpacked.join("DEBIAN/control");
    let text = fs::read_to_string(&control)?;
    let version = text.lines().find(|line| line.starts_with("Version: "));
    let version = version.context("the package has no version")?;
    fs::write(&control, text.replace(version, &format!("{version}+later")))?;
    let mut build = sh::command("dpkg-deb", ["--root-owner-group", "-Zgzip", "-z1", "--build"]);
    sh::quiet(build.arg(&unpacked).arg(to))?;
    Ok(fs::remove_dir_all(unpacked)?)
}
