//! Debian packages: looked up without apt, installed with one apt-get call.

use anyhow::{Context, Result};

use crate::sh;
use crate::toolchain::on_path;

pub fn available() -> bool {
    on_path("apt-get").is_some()
}

pub fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    packages.iter().copied().filter(|name| !installed(name)).collect()
}

fn installed(package: &str) -> bool {
    let status = sh::output(&mut sh::command("dpkg-query", ["-W", "-f", "${Status}", package]));
    status.is_some_and(|text| text.ends_with(" installed"))
}

/// Whether the machine's package lists offer it; only meaningful after `update`.
pub fn offers(package: &str) -> bool {
    let policy = sh::output(&mut sh::command("apt-cache", ["policy", package]));
    policy.is_some_and(|text| {
        text.lines().any(|line| {
            line.trim_start().strip_prefix("Candidate:").is_some_and(|v| v.trim() != "(none)")
        })
    })
}

pub fn update() -> Result<()> {
    sh::say("reading Debian's package lists");
    sh::quiet(sh::as_root("apt-get", &[])?.args(["update", "-qq"])).context(
        "apt-get update failed: check the network and /etc/apt/sources.list, then run this again",
    )
}

/// Installs what is not there; does nothing, and asks nothing of the network, when all of it is.
pub fn ensure(packages: &[&str], why: &str) -> Result<()> {
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    if !missing.iter().all(|package| offers(package)) {
        update()?;
    }
    sh::say(&format!("installing {} ({why})", missing.join(" ")));
    let mut cmd = sh::as_root("env", &[])?;
    cmd.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq"])
        .arg("--no-install-recommends")
        .args(&missing);
    // Lists of last week name files that the mirror has dropped; fresh ones settle it.
    if let Err(first) = sh::quiet(&mut cmd) {
        update().map_err(|_| first)?;
        sh::quiet(&mut cmd).context("installing Debian packages failed")?;
    }
    Ok(())
}
