//! Debian's kernel packages, fetched by apt and unpacked, without a change to the machine's own apt.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::dir;
use crate::{apt, sh};

/// Which packages of which suite have a kernel: a prefix, numbers, a suffix. The first that the
/// suite has is taken, and of it the newest.
struct Source {
    name: &'static str,
    suite: &'static str,
    packages: &'static [(&'static str, &'static str)],
}

const SOURCES: [Source; 4] = [
    Source {
        name: "5.10",
        suite: "bullseye",
        packages: &[
            ("linux-image-5.10.0-", "-cloud-amd64-unsigned"),
            ("linux-image-5.10.0-", "-cloud-amd64"),
        ],
    },
    Source {
        name: "6.1",
        suite: "bookworm",
        packages: &[
            ("linux-image-6.1.0-", "-cloud-amd64-unsigned"),
            ("linux-image-6.1.0-", "-cloud-amd64"),
        ],
    },
    Source {
        name: "6.12",
        suite: "trixie",
        packages: &[
            ("linux-image-6.12.", "-cloud-amd64-unsigned"),
            ("linux-image-6.12.", "-cloud-amd64"),
        ],
    },
    // Sid moves on: the newest that it has, which is in `linux-binary-*` there.
    Source {
        name: "7.2",
        suite: "sid",
        packages: &[("linux-binary-", "-cloud-amd64"), ("linux-image-", "-cloud-amd64-unsigned")],
    },
];

/// A kernel that can be booted.
#[derive(Debug)]
pub struct Kernel {
    /// As the matrix names it.
    pub name: String,
    pub vmlinuz: PathBuf,
    /// Package, version and checksum that it is from.
    pub package: String,
}

/// What TLS in the kernel takes, of the modules that kernels may have.
const MODULES: [&str; 6] = ["tls", "gcm", "ctr", "ghash-generic", "gf128mul", "crypto_null"];

impl Kernel {
    /// Files of modules, each with the release of the kernel that it is for.
    pub fn modules(&self) -> Result<Vec<(String, PathBuf)>> {
        let mut found = Vec::new();
        let place = self.vmlinuz.with_file_name("modules");
        for release in fs::read_dir(&place).with_context(|| place.display().to_string())? {
            let release = release?;
            for module in fs::read_dir(release.path())? {
                found.push((release.file_name().to_string_lossy().into_owned(), module?.path()));
            }
        }
        Ok(found)
    }
}

/// The kernel of that name, from target/vm/kernels or else from the archive.
pub fn ensure(name: &str, refresh: bool) -> Result<Kernel> {
    let source = SOURCES.iter().find(|source| source.name == name);
    let source = source.with_context(|| format!("no suite is known for kernel {name}"))?;
    let place = dir().join("kernels").join(name);
    if refresh || !place.join("package").exists() || !place.join("modules").exists() {
        fetch(source, &place).with_context(|| {
            format!("kernel {name}, of Debian's suite {}, cannot be had", source.suite)
        })?;
    }
    let package = fs::read_to_string(place.join("package"))?.trim().to_owned();
    sh::say(&format!("kernel {name}: {package}"));
    Ok(Kernel { name: name.to_owned(), vmlinuz: place.join("vmlinuz"), package })
}

fn fetch(source: &Source, place: &Path) -> Result<()> {
    let apt = Apt::new(source.suite)?;
    sh::say(&format!("reading the package list of {}", source.suite));
    sh::quiet(apt.command("apt-get").arg("update"))
        .with_context(|| format!("{} gives no package list of it", apt.mirror))?;
    let names = sh::output(apt.command("apt-cache").args(["pkgnames", "linux-"]));
    let names = names.context("apt-cache pkgnames failed")?;
    let newest = source.packages.iter().find_map(|(prefix, suffix)| newest(&names, prefix, suffix));
    let Some(package) = newest else {
        let (prefix, suffix) = source.packages[0];
        bail!("{} has no package {prefix}*{suffix} in {}", apt.mirror, source.suite);
    };
    let unpacked = apt.dir.join("unpacked");
    let deb = download(&apt, package, &unpacked)?;
    // Where the kernel is in a package of its own, so are its modules.
    let modules = package.replace("linux-binary-", "linux-modules-");
    if modules != package {
        download(&apt, &modules, &unpacked)?;
    }
    let vmlinuz = find_vmlinuz(&unpacked)?
        .with_context(|| format!("{package} has no vmlinuz in boot/ or usr/lib/modules/*/"))?;
    let sum = sh::output(&mut sh::command("sha256sum", [&deb])).context("sha256sum failed")?;
    let sum = sum.split_whitespace().next().unwrap_or_default();
    let version = sh::output(sh::command("dpkg-deb", ["-f"]).arg(&deb).arg("Version"));
    let version = version.context("dpkg-deb -f failed")?;
    // The description goes last: a kernel without it is fetched again.
    if place.exists() {
        fs::remove_dir_all(place)?;
    }
    fs::create_dir_all(place)?;
    fs::rename(&vmlinuz, place.join("vmlinuz"))?;
    keep_modules(&unpacked, &place.join("modules"))?;
    fs::write(place.join("package"), format!("{package} {version} sha256:{sum}\n"))?;
    fs::remove_dir_all(&apt.dir)?;
    Ok(())
}

/// Fetches and unpacks a package. Returns where its file is.
fn download(apt: &Apt, package: &str, unpacked: &Path) -> Result<PathBuf> {
    sh::say(&format!("fetching {package}"));
    let folder = apt.dir.join(package);
    fs::create_dir_all(&folder)?;
    // apt refuses what does not have the checksum of the package list, and a list that is not signed.
    sh::quiet(apt.command("apt-get").args(["download", package]).current_dir(&folder))?;
    let deb = only_file(&folder, "deb")?;
    sh::quiet(sh::command("dpkg-deb", ["-x"]).arg(&deb).arg(unpacked))?;
    Ok(deb)
}

/// Keeps those modules that are wanted, by release, uncompressed. A kernel need not have them.
fn keep_modules(unpacked: &Path, place: &Path) -> Result<()> {
    fs::create_dir_all(place)?;
    // Debian has moved them.
    for root in ["usr/lib/modules", "lib/modules"] {
        let Ok(releases) = fs::read_dir(unpacked.join(root)) else { continue };
        for release in releases {
            let release = release?;
            let folder = place.join(release.file_name());
            let mut files = Vec::new();
            all_files(&release.path(), &mut files)?;
            for file in files {
                let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let Some((module, packed)) = name.split_once(".ko") else { continue };
                if !MODULES.contains(&module) {
                    continue;
                }
                fs::create_dir_all(&folder)?;
                let to = folder.join(format!("{module}.ko{packed}"));
                fs::copy(&file, &to)?;
                if packed == ".xz" {
                    sh::quiet(sh::command("xz", ["--decompress", "--force"]).arg(&to))?;
                }
            }
        }
    }
    Ok(())
}

fn all_files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => all_files(&entry.path(), found)?,
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    Ok(())
}

/// The package whose middle, between prefix and suffix, is the highest number.
fn newest<'a>(names: &'a str, prefix: &str, suffix: &str) -> Option<&'a str> {
    let middle = |name: &'a str| name.strip_prefix(prefix)?.strip_suffix(suffix);
    names
        .lines()
        .filter(|name| middle(name).is_some_and(|m| m.starts_with(|c: char| c.is_ascii_digit())))
        .max_by_key(|name| numbers(middle(name).unwrap_or_default()))
}

/// `6.12.117+deb13` is 6, 12, 117, 13.
fn numbers(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

fn only_file(dir: &Path, extension: &str) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    match <[PathBuf; 1]>::try_from(found) {
        Ok([path]) => Ok(path),
        Err(found) => bail!("{} has {} .{extension} files", dir.display(), found.len()),
    }
}

fn find_vmlinuz(unpacked: &Path) -> Result<Option<PathBuf>> {
    let mut folders = vec![unpacked.join("boot")];
    if let Ok(modules) = fs::read_dir(unpacked.join("usr/lib/modules")) {
        for entry in modules {
            folders.push(entry?.path());
        }
    }
    for folder in folders {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in entries {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("vmlinuz") {
                return Ok(Some(entry.path()));
            }
        }
    }
    Ok(None)
}

/// An apt that knows one suite, with lists and cache of its own. The archive, keys and proxies are
/// those of the machine's.
struct Apt {
    dir: PathBuf,
    mirror: String,
}

impl Apt {
    fn new(suite: &str) -> Result<Self> {
        let mirror = mirror()?;
        let dir = dir().join("apt").join(suite);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(dir.join("lists/partial"))?;
        fs::create_dir_all(dir.join("cache/archives/partial"))?;
        fs::write(dir.join("status"), "")?;
        let source = format!(
            "Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\nArchitectures: amd64\n\
             Targets: Packages\n"
        );
        fs::write(dir.join("suite.sources"), source)?;
        Ok(Self { dir, mirror })
    }

    fn command(&self, program: &str) -> Command {
        let mut cmd = sh::command(program, ["-qq"]);
        let file = |name: &str| self.dir.join(name).display().to_string();
        for option in [
            format!("Dir::Etc::sourcelist={}", file("suite.sources")),
            "Dir::Etc::sourceparts=/dev/null".into(),
            format!("Dir::State::lists={}", file("lists")),
            format!("Dir::State::status={}", file("status")),
            format!("Dir::Cache={}", file("cache")),
            // apt's own user may not reach this folder.
            "APT::Sandbox::User=root".into(),
        ] {
            cmd.arg("-o").arg(option);
        }
        cmd
    }
}

/// The address of Debian's archive among the machine's own sources.
pub fn mirror() -> Result<String> {
    if let Some(mirror) = first_debian() {
        return Ok(mirror);
    }
    // apt names the sources only when it has their lists.
    apt::update()?;
    first_debian().context(
        "apt has no source of Debian's own archive on this machine, and the kernels are from there",
    )
}

fn first_debian() -> Option<String> {
    let format = "$(LABEL) $(REPO_URI)";
    let args = ["indextargets", "--format", format, "Created-By: Packages"];
    let sources = sh::output(&mut sh::command("apt-get", args))?;
    sources.lines().find_map(|line| Some(line.strip_prefix("Debian ")?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &str = "\
linux-image-6.1.0-9-cloud-amd64-unsigned
linux-image-6.1.0-50-cloud-amd64-unsigned
linux-image-6.1.0-50-cloud-amd64
linux-image-6.1.0-50-cloud-amd64-dbg
linux-image-cloud-amd64
linux-binary-unsigned-7.2.13+deb14-cloud-amd64
linux-binary-7.2.13+deb14-cloud-amd64
linux-binary-7.10.1+deb14-cloud-amd64";

    #[test]
    fn the_highest_number_is_the_newest() {
        let found = newest(NAMES, "linux-image-6.1.0-", "-cloud-amd64-unsigned");
        assert_eq!(found, Some("linux-image-6.1.0-50-cloud-amd64-unsigned"));
        let found = newest(NAMES, "linux-binary-", "-cloud-amd64");
        assert_eq!(found, Some("linux-binary-7.10.1+deb14-cloud-amd64"));
    }

    #[test]
    fn meta_and_debug_packages_are_none() {
        assert_eq!(newest("linux-image-cloud-amd64", "linux-image-", "cloud-amd64"), None);
        let debug = "linux-image-6.1.0-50-cloud-amd64-dbg";
        assert_eq!(newest(debug, "linux-image-6.1.0-", "-cloud-amd64"), None);
    }
}
