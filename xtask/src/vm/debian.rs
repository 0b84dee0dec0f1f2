//! A Debian system whose first process is systemd, as an archive that a machine unpacks into its
//! memory. It is made once, of the release that this machine has, so that programs which are built
//! here run there.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{dir, initramfs, kernels};
use crate::toolchain::on_path;
use crate::{apt, fixtures, sh};

/// Unpacks the system and starts its systemd.
const INIT: &str = include_str!("debian.sh");
/// Besides what every Debian has.
const PACKAGES: &str = "systemd,libssl3";
/// Nobody reads these there, and the machine holds them in memory.
const LEFT_OUT: [&str; 5] = [
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/share/i18n/*",
    "/usr/lib/x86_64-linux-gnu/gconv/*",
];

/// Debian packages as they are, unpacked and no more, in an archive (tar).
pub fn extract(packages: &str, archive: &Path) -> Result<()> {
    bootstrap("extract", packages, &[], &suite()?, archive)
}

fn bootstrap(
    variant: &str,
    packages: &str,
    options: &[String],
    suite: &str,
    archive: &Path,
) -> Result<()> {
    apt::ensure(&["mmdebstrap"], "Debian systems for machines and containers of the tests")?;
    let mirror = kernels::mirror()?;
    let mut command = sh::as_root("mmdebstrap", &[])?;
    command.args(["--quiet", "--variant", variant, "--include", packages]).args(options);
    sh::quiet(command.arg(suite).arg(archive).arg(mirror))
        .with_context(|| format!("mmdebstrap could not make {}", archive.display()))
}

/// The release of Debian that this machine has.
fn suite() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("what system is this?")?;
    let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(suite.context("/etc/os-release has no VERSION_CODENAME")?.to_owned())
}

/// The archive (cpio), from target/vm/debian or else made anew.
pub fn ensure() -> Result<PathBuf> {
    let suite = suite()?;
    let place = dir().join("debian");
    let archive = place.join("initrd.cpio");
    let inputs = format!("{suite} {PACKAGES} {LEFT_OUT:?}\n{INIT}");
    fixtures::once(&place, &inputs, || make(&suite, &place, &archive))?;
    Ok(archive)
}

fn make(suite: &str, place: &Path, archive: &Path) -> Result<()> {
    let folder = place.join("root");
    fs::create_dir_all(folder.join("bin"))?;
    sh::say(&format!("a Debian system of {suite} with systemd into target/vm/debian (a minute)"));
    let options = LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}"));
    bootstrap("essential", PACKAGES, &options, suite, &folder.join("system.tar"))?;
    fs::copy(on_path("busybox").context("busybox-static has no busybox on PATH")?, {
        folder.join("bin/busybox")
    })?;
    let init = folder.join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    initramfs::pack(&folder, archive)?;
    Ok(fs::remove_dir_all(folder)?)
}
