//! One virtual machine, emulated: no /dev/kvm is needed.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::dir;
use super::kernels::Kernel;
use crate::sh;

/// Lines of the console that are progress.
const PROGRESS: &str = "vm: ";

/// A machine.
pub struct Machine<'a> {
    /// The console goes to NAME.log, what the tests report (the second serial port) to NAME.jsonl.
    pub name: &'a str,
    pub kernel: &'a Kernel,
    pub initrd: &'a Path,
    /// After what every machine is told.
    pub append: &'a str,
    pub mib: u32,
    /// Of two processors, each on a thread and at the pace of the host; or of one whose clock counts
    /// what it executes and jumps while it waits, so that no limit is missed because the host is busy.
    pub own_time: bool,
}

/// Boots it and waits until it switches itself off, or for `limit`.
pub fn boot(machine: &Machine<'_>, limit: Duration) -> Result<()> {
    let Machine { name, kernel, initrd, append, mib, own_time } = machine;
    let report = dir().join(format!("{name}.jsonl"));
    fs::write(&report, "")?;
    let mut log = File::create(dir().join(format!("{name}.log")))?;
    let append = format!("console=ttyS0 quiet panic=-1 {append}");
    let mut cmd = sh::command("qemu-system-x86_64", ["-accel", "tcg", "-cpu", "max"]);
    cmd.args(["-m", &mib.to_string(), "-no-reboot", "-nic", "none"])
        .args(if *own_time {
            &["-smp", "1", "-icount", "shift=1,sleep=off"][..]
        } else {
            &["-smp", "2"]
        })
        .args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-serial"])
        .arg(format!("file:{}", report.display()))
        .arg("-kernel")
        .arg(&kernel.vmlinuz)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", &append]);
    sh::say(&format!("{name}: booting {}", kernel.package));
    let begin = Instant::now();
    cmd.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut qemu = cmd.spawn().context("cannot start qemu-system-x86_64")?;
    let console = qemu.stdout.take().context("qemu's output is piped")?;
    let errors = qemu.stderr.take().context("qemu's errors are piped")?;

    let (send, lines) = mpsc::channel();
    let copy = |from: Box<dyn std::io::Read + Send>| {
        let send = send.clone();
        thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while matches!(from.read_until(b'\n', &mut line), Ok(1..)) {
                if send.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
    };
    copy(Box::new(console));
    copy(Box::new(errors));
    drop(send);
    // Until both are closed, which qemu does when it ends.
    loop {
        let left = limit.saturating_sub(begin.elapsed());
        match lines.recv_timeout(left) {
            Ok(line) => {
                writeln!(log, "{line}")?;
                if let Some(text) = line.strip_prefix(PROGRESS) {
                    sh::say(&format!("{name}: {text}"));
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                writeln!(log, "{PROGRESS}killed after {} s", limit.as_secs())?;
                sh::say(&format!("{name}: still running after {} s: killed", limit.as_secs()));
                qemu.kill()?;
                break;
            }
        }
    }
    let status = qemu.wait()?;
    let seconds = begin.elapsed().as_secs_f64();
    sh::say(&format!("{name}: switched off after {seconds:.1} s ({status})"));
    Ok(())
}
