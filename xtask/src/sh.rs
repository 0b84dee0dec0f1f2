//! Starting other programs: what is run is shown, and what fails stops the verb.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::LazyLock;

use anyhow::{Context, Result, bail};

/// A program that was asked to report its own failure did so with this exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(pub u8);

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}", self.0)
    }
}

impl std::error::Error for Exit {}

/// The workspace's root: xtask runs from anywhere inside it.
pub fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        // What cargo says now comes first: two checkouts that share a CARGO_TARGET_DIR share this
        // binary as well, and it was compiled in only one of them.
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        manifest.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
    });
    &ROOT
}

/// Where cargo puts what it builds: not always target/ (CARGO_TARGET_DIR).
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |dir| root().join(dir))
}

pub fn say(text: &str) {
    eprintln!("xtask: {text}");
}

/// The cargo that started us, so that `cargo +nightly xtask` stays with its toolchain.
pub fn cargo() -> Command {
    let mut cmd = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cmd.current_dir(root());
    cmd
}

pub fn command<I, S>(program: impl AsRef<OsStr>, args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut cmd = Command::new(program);
    cmd.args(args).current_dir(root());
    cmd
}

/// Runs and requires success; the failure names the command.
pub fn run(cmd: &mut Command) -> Result<()> {
    let status = status(cmd)?;
    if !status.success() {
        bail!("`{}` failed ({status})", show(cmd));
    }
    Ok(())
}

/// Runs and hands the exit code on without a word of our own.
pub fn pass_on(cmd: &mut Command) -> Result<()> {
    let status = status(cmd)?;
    if status.success() {
        return Ok(());
    }
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Err(Exit(u8::try_from(code).unwrap_or(1)).into())
}

/// Runs with its output kept, and shows it only if it fails.
pub fn quiet(cmd: &mut Command) -> Result<()> {
    let output = cmd.stdin(Stdio::null()).output().with_context(|| cannot_start(cmd))?;
    if !output.status.success() {
        eprint!("{}", String::from_utf8_lossy(&output.stdout));
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        bail!("`{}` failed ({})", show(cmd), output.status);
    }
    Ok(())
}

/// Standard output, or nothing when the program is missing or fails.
pub fn output(cmd: &mut Command) -> Option<String> {
    let output = cmd.stderr(Stdio::null()).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn status(cmd: &mut Command) -> Result<ExitStatus> {
    eprintln!("+ {}", show(cmd));
    cmd.status().with_context(|| cannot_start(cmd))
}

fn cannot_start(cmd: &Command) -> String {
    format!("cannot start `{}`", cmd.get_program().display())
}

/// The command as one would type it in the root folder.
fn show(cmd: &Command) -> String {
    let program = cmd.get_program();
    // The path that cargo gives for itself is long and says nothing.
    let cargo = std::env::var_os("CARGO").is_some_and(|cargo| cargo == program);
    let mut text = if cargo { "cargo".to_owned() } else { short(program) };
    for arg in cmd.get_args() {
        text.push(' ');
        text.push_str(&short(arg));
    }
    text
}

fn short(text: &OsStr) -> String {
    let text = text.to_string_lossy();
    let prefix = format!("{}/", root().display());
    let text = text.strip_prefix(&prefix).unwrap_or(&text);
    if text.contains(char::is_whitespace) { format!("'{text}'") } else { text.to_owned() }
}

pub fn is_root() -> bool {
    // The owner of /proc/self is the effective user; saves a dependency for geteuid.
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// The same program with root's rights; `keep` names the variables sudo has to let through.
pub fn as_root(program: impl AsRef<OsStr>, keep: &[&str]) -> Result<Command> {
    let mut cmd = if is_root() {
        Command::new(program)
    } else {
        if crate::toolchain::on_path("sudo").is_none() {
            bail!(
                "`{}` needs root's rights and sudo is not here: run this as root",
                program.as_ref().display()
            );
        }
        let mut cmd = Command::new("sudo");
        if !keep.is_empty() {
            cmd.arg(format!("--preserve-env={}", keep.join(",")));
        }
        cmd.arg("--").arg(program);
        cmd
    };
    cmd.current_dir(root());
    Ok(cmd)
}

/// Writes only what differs, so that timestamps mean something.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    if std::fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_differ_is_not_written() {
        let path = std::env::temp_dir().join(format!("xtask-write-{}", std::process::id()));
        let changed = || std::fs::metadata(&path).and_then(|meta| meta.modified()).unwrap();
        write(&path, "a").unwrap();
        let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
        std::fs::File::options().append(true).open(&path).unwrap().set_modified(long_ago).unwrap();
        write(&path, "a").unwrap();
        assert_eq!(changed(), long_ago);
        write(&path, "b").unwrap();
        assert!(changed() > long_ago);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "b");
        std::fs::remove_file(&path).unwrap();
    }
}
