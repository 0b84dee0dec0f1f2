//! `cargo xtask dashboards`: the Grafana dashboards, from the code in dashboards/src; and what the tests
//! of dashboards/ run: Prometheus, Alertmanager and the packages that make the dashboards.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::fixtures::{node_programs, once};
use crate::toolchain::on_path;
use crate::{apt, sh};

const SOURCE: &str = "dashboards";
const MADE: &str = "dashboards/grafana/dashboards";
/// Where the packages are, and the compiled code.
const BUILD: &str = "target/dashboards";

/// Makes the Grafana dashboards of dashboards/src anew.
///
/// They are built with Grafana's own SDK, whose types are its schema: what Grafana does not know does
/// not compile.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask dashboards
  cargo xtask dashboards --check")]
pub struct Args {
    /// Only say whether what is committed is what the code makes
    #[arg(long)]
    check: bool,
}

pub fn run(args: &Args) -> Result<()> {
    packages()?;
    if args.check {
        return check();
    }
    let made = sh::root().join(MADE);
    fs::create_dir_all(&made)?;
    make(&made)?;
    sh::say(&format!("wrote {MADE}"));
    Ok(())
}

/// Whether what is committed is what the code makes.
pub fn check() -> Result<()> {
    let build = sh::root().join(BUILD).join("json");
    let committed = sh::root().join(MADE);
    let _ = fs::remove_dir_all(&build);
    fs::create_dir_all(&build)?;
    make(&build)?;
    if contents(&build)? != contents(&committed)? {
        bail!("{MADE} is not what {SOURCE}/src makes: run `cargo xtask dashboards`");
    }
    sh::say("the dashboards are what their code makes");
    Ok(())
}

fn contents(folder: &Path) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        all.push((name, fs::read_to_string(&path)?));
    }
    all.sort();
    Ok(all)
}

fn make(into: &Path) -> Result<()> {
    let build = sh::root().join(BUILD);
    let source = sh::root().join(SOURCE);
    // Where the packages are found from.
    for folder in ["src", "out"] {
        let _ = fs::remove_dir_all(build.join(folder));
    }
    fs::create_dir_all(build.join("src"))?;
    for (name, text) in contents(&source.join("src"))? {
        fs::write(build.join("src").join(name), text)?;
    }
    fs::copy(source.join("tsconfig.json"), build.join("tsconfig.json"))?;
    let tsc = build.join("node_modules/typescript/bin/tsc");
    let mut compile = sh::command("node", [tsc]);
    sh::quiet(compile.arg("--project").arg(&build))
        .context("dashboards/src does not compile against Grafana's types")?;
    sh::quiet(sh::command("node", [build.join("out/main.js")]).arg(into))
}

/// Grafana's SDK and a TypeScript compiler.
pub fn packages() -> Result<()> {
    node_programs()?;
    let source = sh::root().join(SOURCE);
    let package = fs::read_to_string(source.join("package.json"))?;
    let lock = fs::read_to_string(source.join("package-lock.json"))?;
    let dir = sh::root().join(BUILD);
    once(&dir, &format!("{package}{lock}"), || {
        sh::say("Grafana's SDK into target/dashboards");
        fs::write(dir.join("package.json"), &package)?;
        fs::write(dir.join("package-lock.json"), &lock)?;
        let mut npm = sh::command("npm", ["ci", "--no-audit", "--no-fund", "--ignore-scripts"]);
        sh::quiet(npm.current_dir(&dir))
            .context("npm could not install dashboards/package-lock.json")
    })
}

/// `(package, its programs)`.
const PROMETHEUS: [(&str, [&str; 2]); 2] = [
    ("prometheus", ["prometheus", "promtool"]),
    ("prometheus-alertmanager", ["prometheus-alertmanager", "amtool"]),
];

/// The real programs, taken out of Debian's packages: installing those would start two servers.
pub fn prometheus() -> Result<()> {
    let programs = || PROMETHEUS.iter().flat_map(|(_, programs)| programs);
    if programs().all(|program| on_path(program).is_some()) {
        return Ok(());
    }
    if !apt::available() {
        let names: Vec<_> = programs().copied().collect();
        bail!("the end-to-end tests need {} on PATH: install them", names.join(", "));
    }
    let packages = PROMETHEUS.map(|(package, _)| package);
    let dir = sh::root().join("target/prometheus");
    once(&dir, &packages.join(" "), || {
        if !packages.iter().all(|package| apt::offers(package)) {
            apt::update()?;
        }
        sh::say("Prometheus and Alertmanager into target/prometheus (nothing is installed)");
        download(&dir, &packages)?;
        for file in archives(&dir)? {
            sh::quiet(sh::command("dpkg-deb", ["-x"]).arg(&file).arg(&dir))?;
            fs::remove_file(file)?;
        }
        match programs().find(|program| !dir.join("usr/bin").join(program).exists()) {
            None => Ok(()),
            Some(program) => bail!("Debian's packages have no {program}"),
        }
    })
}

fn download(dir: &Path, packages: &[&str]) -> Result<()> {
    let get = || {
        let mut cmd = sh::command("apt-get", ["download", "-qq"]);
        // As another user apt could not write here, and says so.
        cmd.args(["-o", "APT::Sandbox::User=root"]).args(packages).current_dir(dir);
        sh::quiet(&mut cmd)
    };
    // Lists of last week name files that the mirror has dropped; fresh ones settle it.
    if let Err(first) = get() {
        apt::update().map_err(|_| first)?;
        get().context("Debian's packages of Prometheus could not be fetched")?;
    }
    Ok(())
}

fn archives(dir: &Path) -> Result<Vec<PathBuf>> {
    let files = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path()));
    let mut files: Vec<_> = files.collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    Ok(files)
}
