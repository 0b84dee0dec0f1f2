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
    /// The console goes to NAME.log.
    pub name: &'a str,
    /// Where what the tests report goes (the second serial port).
    pub report: &'a Path,
    pub kernel: &'a Kernel,
    pub initrd: &'a Path,
    /// After what every machine is told.
    pub append: &'a str,
    pub mib: u32,
    pub time: Time,
}

/// What time is in a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// The host's, for two processors.
    Host,
    /// Of one processor, whose clock counts what it executes, so many nanoseconds (a power of two)
    /// an instruction, and jumps while it waits: no limit is missed because the host is busy.
    Executed { shift: u8 },
}

/// Boots it and waits until it switches itself off, or for `limit`.
pub fn boot(machine: &Machine<'_>, limit: Duration) -> Result<()> {
    let Machine { name, report, kernel, initrd, append, mib, time } = machine;
    fs::write(report, "")?;
    let mut log = File::create(dir().join(format!("{name}.log")))?;
    let append = format!("console=ttyS0 quiet panic=-1 {append}");
    // One thread for both processors: with one each, a processor now and then runs code that the
    // other has patched meanwhile, which no real one does, and a kernel that patches itself (for its
    // static keys, for kprobes) dies of it: "Oops: int3".
    let accel = ["-accel", "tcg,thread=single", "-cpu", "max"];
    let mut cmd = sh::command("qemu-system-x86_64", accel);
    match time {
        Time::Host => cmd.args(["-smp", "2"]),
        Time::Executed { shift } => {
            cmd.args(["-smp", "1", "-icount"]).arg(format!("shift={shift},sleep=off"))
        }
    };
    cmd.args(["-m", &mib.to_string(), "-no-reboot", "-nic", "none"])
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
