//! What the end-to-end tests start besides the agent: pinned Python and Node packages, nginx, and a
//! tiny model for llama.cpp. All of it lives under target/ except what is a Debian package.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::toolchain::on_path;
use crate::vm::debian;
use crate::{apt, dashboards, sh};

const FIXTURES: &str = "tests/fixtures";
/// Small enough to be made in seconds and to answer at thousands of tokens per second.
const MODEL: [&str; 8] = ["--dim", "64", "--layers", "2", "--ff", "128", "--vocab", "2048"];

pub fn ensure() -> Result<()> {
    python()?;
    litellm()?;
    rotel()?;
    triton()?;
    node()?;
    nginx()?;
    tls()?;
    captures()?;
    tmux()?;
    systemd()?;
    container()?;
    browser()?;
    dashboards::packages()?;
    dashboards::prometheus()?;
    model()
}

fn fixture(name: &str) -> PathBuf {
    sh::root().join(FIXTURES).join(name)
}

fn read(name: &str) -> Result<String> {
    let path = fixture(name);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Does `make` unless the stamp in `dir` says that it was done from these very inputs. The stamp is
/// written last, so what was interrupted is done again from the start.
pub fn once(dir: &Path, inputs: &str, make: impl FnOnce() -> Result<()>) -> Result<()> {
    let stamp = dir.join(".xtask-stamp");
    if fs::read_to_string(&stamp).is_ok_and(|made_from| made_from == inputs) {
        return Ok(());
    }
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    fs::create_dir_all(dir)?;
    make()?;
    fs::write(&stamp, inputs)?;
    Ok(())
}

fn python() -> Result<()> {
    let requirements = read("requirements.txt")?;
    let venv = sh::root().join("target/venv");
    let python = match find_python() {
        Some(python) => python,
        None => {
            if apt::available() {
                apt::ensure(&["python3", "python3-venv"], "servers and clients of the tests")?;
            }
            find_python().context(
                "the end-to-end tests need Python 3.11 or newer with its venv module (python3 on \
                 PATH): install it, then run this again",
            )?
        }
    };
    let version = sh::output(&mut sh::command(&python, ["-V"])).unwrap_or_default();
    once(&venv, &format!("{} {version}\n{requirements}", python.display()), || {
        sh::say(&format!("Python packages of the tests into target/venv ({version}, a minute)"));
        sh::quiet(sh::command(&python, ["-m", "venv"]).arg(&venv))?;
        sh::quiet(
            sh::command(
                venv.join("bin/python"),
                ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"],
            )
            .arg(fixture("requirements.txt")),
        )
        .context("pip could not install tests/fixtures/requirements.txt")
    })
}

/// Python packages of `tests/fixtures/NAME.txt` in a folder of their own, target/NAME, without what
/// they depend on. `then` is what else belongs into it.
fn packages(name: &str, what: &str, then: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let file = format!("{name}.txt");
    let requirements = read(&file)?;
    let dir = sh::root().join("target").join(name);
    once(&dir, &requirements, || {
        sh::say(&format!("{what} into target/{name}"));
        let quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        let mut pip = sh::command(venv_python(), quiet);
        pip.args(["--no-deps", "--no-compile", "--target"]).arg(&dir);
        sh::quiet(pip.arg("-r").arg(fixture(&file)))
            .with_context(|| format!("pip could not install tests/fixtures/{file}"))?;
        then(&dir)
    })?;
    Ok(dir)
}

fn venv_python() -> PathBuf {
    sh::root().join("target/venv/bin/python")
}

/// A gateway in Python, as large as all else together.
fn litellm() -> Result<()> {
    packages("litellm", "LiteLLM", |_| Ok(())).map(drop)
}

/// A collector of OpenTelemetry.
fn rotel() -> Result<()> {
    let dir = packages("rotel", "the OpenTelemetry collector Rotel", |_| Ok(()))?;
    with_libpython(&dir.join("rotel/rotel-agent"), "--version")
}

/// NVIDIA's Triton, with its back end in Python, whose helper there is one of for each Python.
fn triton() -> Result<()> {
    let helper = "triton_python_backend_stub";
    let backend = "pytriton/tritonserver/backends/python";
    let dir = packages("triton", "NVIDIA's Triton (a minute)", |dir| {
        let (stubs, to) = ("pytriton/tritonserver/python_backend_stubs", dir.join(backend));
        let from = dir.join(stubs).join(python_version()).join(helper);
        fs::copy(&from, to.join(helper)).with_context(|| format!("no {}", from.display()))?;
        for program in [to.join(helper), dir.join("pytriton/tritonserver/bin/tritonserver")] {
            fs::set_permissions(program, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    })?;
    with_libpython(&dir.join(backend).join(helper), "")
}

/// `3.11`, say.
fn python_version() -> String {
    const VERSION: &str = "import sys; print(f'{sys.version_info[0]}.{sys.version_info[1]}')";
    let version = sh::output(&mut sh::command(venv_python(), ["-c", VERSION])).unwrap_or_default();
    version.trim().to_owned()
}

/// Installs the library of Python if it is what `program` lacks. One that the linker cannot start ends
/// with 127; `arg` makes it end by itself.
fn with_libpython(program: &Path, arg: &str) -> Result<()> {
    let starts = || {
        let mut command = sh::command(program, [arg]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.code() != Some(127))
    };
    if starts() {
        return Ok(());
    }
    let library = format!("libpython{}", python_version());
    if apt::available() {
        apt::ensure(&[&library], "a program of the tests is linked to it")?;
    }
    if !starts() {
        bail!("{} does not start: it needs {library} and glibc 2.35", program.display());
    }
    Ok(())
}

/// numpy's pin wants 3.11; ensurepip is what Debian leaves out when python3-venv is missing.
fn find_python() -> Option<PathBuf> {
    const CHECK: &str = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))";
    [on_path("python3"), Some("/usr/bin/python3".into())]
        .into_iter()
        .flatten()
        .find(|python| sh::output(&mut sh::command(python, ["-c", CHECK])).is_some())
}

fn node() -> Result<()> {
    let (package, lock) = (read("package.json")?, read("package-lock.json")?);
    let dir = sh::root().join("target/node");
    node_programs()?;
    once(&dir, &format!("{package}{lock}"), || {
        sh::say("Node packages of the tests into target/node");
        fs::write(dir.join("package.json"), &package)?;
        fs::write(dir.join("package-lock.json"), &lock)?;
        let mut npm = sh::command("npm", ["ci", "--no-audit", "--no-fund", "--ignore-scripts"]);
        sh::quiet(npm.current_dir(&dir))
            .context("npm could not install tests/fixtures/package-lock.json")
    })
}

/// `node` and `npm`.
pub fn node_programs() -> Result<()> {
    if apt::available() {
        // Node's own packages bring npm along, Debian's do not.
        if on_path("node").is_none() {
            apt::ensure(&["nodejs"], "a server and clients of the tests")?;
        }
        if on_path("npm").is_none() {
            apt::ensure(&["npm"], "the Node SDKs of the tests")?;
        }
    }
    let version = sh::output(&mut sh::command("node", ["--version"])).unwrap_or_default();
    let major = version.trim_start_matches('v').split('.').next().and_then(|v| v.parse().ok());
    if major.is_none_or(|major: u32| major < 18) || on_path("npm").is_none() {
        bail!(
            "the end-to-end tests need Node 18 or newer with npm (found: {}): install it, then run \
             this again",
            if version.is_empty() { "none" } else { &version }
        );
    }
    Ok(())
}

fn nginx() -> Result<()> {
    let here = || on_path("nginx").is_some() || Path::new("/usr/sbin/nginx").exists();
    if here() {
        return Ok(());
    }
    if !apt::available() {
        bail!("the end-to-end tests need nginx: install it, then run this again");
    }
    apt::ensure(&["nginx-light"], "the proxy of the tests")?;
    // The package starts a server on port 80, which nobody asked for; the tests start their own.
    if Path::new("/run/systemd/system").exists() {
        sh::say("switching off the nginx service that the package has started");
        sh::quiet(sh::as_root("systemctl", &[])?.args(["disable", "--now", "nginx"]))?;
    }
    if !here() {
        bail!("nginx-light is installed but there is no nginx in PATH or /usr/sbin");
    }
    Ok(())
}

/// `(program, Debian package)` of what ends or begins TLS in the tests.
const TLS: &[(&str, &str)] = &[
    ("haproxy", "haproxy"),
    ("caddy", "caddy"),
    ("lighttpd", "lighttpd"),
    ("gnutls-cli", "gnutls-bin"),
    ("curl", "curl"),
    ("openssl", "openssl"),
];
/// lighttpd's own TLS is a package apart, without a program.
const LIGHTTPD_TLS: &str = "lighttpd-mod-gnutls";

fn tls() -> Result<()> {
    let here =
        |program: &str| on_path(program).is_some() || Path::new("/usr/sbin").join(program).exists();
    let absent = || TLS.iter().filter(|(program, _)| !here(program));
    let mut packages: Vec<&str> = absent().map(|(_, package)| *package).collect();
    if apt::available() {
        packages.extend(apt::missing(&[LIGHTTPD_TLS]));
        if packages.is_empty() {
            return Ok(());
        }
        apt::ensure(&packages, "TLS servers and clients of the tests")?;
        // Their packages start servers that nobody asked for; the tests start their own.
        if Path::new("/run/systemd/system").exists() {
            sh::say("switching off the services that the packages have started");
            for service in ["haproxy", "caddy", "lighttpd"] {
                if packages.contains(&service) {
                    sh::quiet(sh::as_root("systemctl", &[])?.args(["disable", "--now", service]))?;
                }
            }
        }
    }
    let missing: Vec<&str> = absent().map(|(program, _)| *program).collect();
    if !missing.is_empty() {
        bail!("the end-to-end tests need {}: install it, then run this again", missing.join(", "));
    }
    Ok(())
}

/// What reads our recordings, and what makes captures for us to read. editcap comes with tshark.
fn captures() -> Result<()> {
    let missing: Vec<_> = ["tshark", "editcap", "tcpdump"]
        .into_iter()
        .filter(|name| on_path(name).is_none() && !Path::new("/usr/sbin").join(name).exists())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !apt::available() {
        bail!("the end-to-end tests need {}: install it, then run this again", missing.join(", "));
    }
    apt::ensure(&["tshark", "tcpdump"], "recordings are checked against them")
}

/// The terminal that `llmtrace top` is tested in.
fn tmux() -> Result<()> {
    if on_path("tmux").is_some() {
        return Ok(());
    }
    if !apt::available() {
        bail!("the end-to-end tests need tmux: install it, then run this again");
    }
    apt::ensure(&["tmux"], "`llmtrace top` is tested in it")
}

/// What reads our unit; it need not be what started the machine.
fn systemd() -> Result<()> {
    if on_path("systemd-analyze").is_some() {
        return Ok(());
    }
    if !apt::available() {
        bail!("the tests of the systemd unit need systemd-analyze: install systemd");
    }
    apt::ensure(&["systemd"], "the unit is checked by it")
}

/// What builds and runs the container file, and what takes the place of its base image: the packages
/// that distroless' `cc` is made of.
fn container() -> Result<()> {
    const BASE: &str = "base-files,base-passwd,ca-certificates,libc6,libgcc-s1,tzdata";
    if !apt::available() {
        bail!("the test of the container file makes an image of Debian's packages: no apt is here");
    }
    // runc runs where there are cgroups of both versions, too.
    apt::ensure(&["buildah", "podman", "runc"], "the container file is built and run by them")?;
    let place = sh::root().join("target/container");
    once(&place, BASE, || {
        sh::say("a base image for the container file into target/container");
        debian::extract(BASE, &place.join("base.tar"))
    })
}

/// What looks at the agent's live page.
fn browser() -> Result<()> {
    if on_path("chromium").is_some() {
        return Ok(());
    }
    if !apt::available() {
        bail!("the end-to-end tests need chromium: install it, then run this again");
    }
    apt::ensure(&["chromium"], "the live page is looked at in it")
}

fn model() -> Result<()> {
    let script = read("mkmodel.py")?;
    let dir = sh::root().join("target/model");
    once(&dir, &format!("{}\n{script}", MODEL.join(" ")), || {
        sh::say("making the tiny models in target/model");
        let python = sh::root().join("target/venv/bin/python");
        let mut cmd = sh::command(python, [fixture("mkmodel.py")]);
        sh::quiet(cmd.arg(&dir).args(MODEL))?;
        for name in ["tiny.gguf", "rank.gguf"] {
            if !dir.join(name).exists() {
                bail!("tests/fixtures/mkmodel.py ended well but wrote no target/model/{name}");
            }
        }
        Ok(())
    })
}
