//! `cargo xtask vm`: the same captures on several kernels, each in a virtual machine.

pub mod debian;
mod initramfs;
mod kernels;
pub mod package;
mod qemu;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{apt, build, sh};
use kernels::Kernel;
use qemu::{Machine, Time};

/// The machines, what is in them besides what is built here (`openssl` for its libssl, which has
/// another package in each release), and what unpacks modules and strips programs.
const PACKAGES: [&str; 6] =
    ["qemu-system-x86", "busybox-static", "cpio", "openssl", "xz-utils", "binutils"];
/// A machine that takes longer is switched off; its own limit (init.sh) is a little shorter. A good
/// one takes a minute or two: this is for one where the agent hangs under each back end.
const LIMIT: Duration = Duration::from_secs(14 * 60);

/// Boots Debian's kernels under qemu and traces the same requests on each, by every back end.
///
/// Fetches the kernels once (target/vm/kernels), from the archive that this machine's apt uses.
/// Prints a table, what was otherwise than expected, and `N passed, N failed`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask vm
  cargo xtask vm --kernel 6.1,6.12 --backend tracepoint
  cargo xtask vm --refresh          newer kernels, if Debian has them
  cargo xtask vm --costs            instructions that each back end adds to a system call

Each machine's console is in target/vm/KERNEL.log, its report in target/vm/KERNEL.jsonl.")]
pub struct Args {
    /// Kernels to boot
    #[arg(long, value_enum, value_delimiter = ',', default_value = "all")]
    kernel: Vec<KernelArg>,
    /// Back ends of the agent to test
    #[arg(long, value_enum, value_delimiter = ',', default_value = "all")]
    backend: Vec<BackendArg>,
    /// Look for newer packages of the kernels
    #[arg(long)]
    refresh: bool,
    /// Machines at a time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Test the debug build of the agent
    #[arg(long)]
    debug: bool,
    /// Instead of the tests, count the instructions that each back end adds to system calls
    #[arg(long, conflicts_with = "debug")]
    costs: bool,
}

/// What the machines do.
#[derive(Clone, Debug)]
enum Task {
    /// The scenarios, under back ends.
    Scenarios { backends: String },
    /// Costs of system calls, each measured over so many. A nanosecond is an instruction there.
    Costs { calls: usize },
}

impl Task {
    fn report(&self, kernel: &Kernel) -> PathBuf {
        dir().join(match self {
            Self::Scenarios { .. } => format!("{}.jsonl", kernel.name),
            Self::Costs { .. } => format!("{}-costs.md", kernel.name),
        })
    }

    /// What a machine is told, and its time.
    fn of_machine(&self) -> (String, Time) {
        match self {
            Self::Scenarios { backends } => (format!("vmtest.backend={backends}"), Time::Host),
            Self::Costs { calls } => (format!("vmtest.calls={calls}"), Time::Executed { shift: 0 }),
        }
    }
}

/// Calls of one measurement with `--costs`: instructions are counted, and hardly vary.
const CALLS: usize = 3200;

impl Default for Args {
    fn default() -> Self {
        Self {
            kernel: vec![KernelArg::All],
            backend: vec![BackendArg::All],
            refresh: false,
            jobs: 2,
            debug: false,
            costs: false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KernelArg {
    /// Debian bullseye
    #[value(name = "5.10")]
    V5_10,
    /// Debian bookworm
    #[value(name = "6.1")]
    V6_1,
    /// Debian trixie
    #[value(name = "6.12")]
    V6_12,
    /// Debian sid: the newest that it has, whatever its number is
    #[value(name = "7.2")]
    V7_2,
    All,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BackendArg {
    /// What the agent chooses by itself
    Auto,
    Fentry,
    Kprobe,
    /// On sockets if the kernel has such, else on system calls
    Tracepoint,
    /// Tracepoints on system calls
    Syscall,
    All,
}

/// The names of those chosen, `all` being every other one; in the order of the declaration.
fn names<T: ValueEnum + PartialEq>(chosen: &[T], all: &T) -> Vec<String> {
    T::value_variants()
        .iter()
        .filter(|v| *v != all && (chosen.contains(v) || chosen.contains(all)))
        .filter_map(|v| Some(v.to_possible_value()?.get_name().to_owned()))
        .collect()
}

pub fn run(args: &Args) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the machines run what is built here, and their kernels are x86_64: not on this one");
    }
    if !apt::available() {
        bail!("the kernels are Debian's packages: this needs a machine with apt");
    }
    let backends = names(&args.backend, &BackendArg::All).join(",");
    apt::ensure(&PACKAGES, "virtual machines for the kernel matrix")?;
    let kernels = names(&args.kernel, &KernelArg::All)
        .iter()
        .map(|name| kernels::ensure(name, args.refresh))
        .collect::<Result<Vec<_>>>()?;
    build::run(&build::Args { release: !args.debug })?;
    let bin = sh::target_dir().join(if args.debug { "debug" } else { "release" });
    let initrd = initramfs::build(&bin, &kernels)?;
    let task = if args.costs {
        Task::Costs { calls: CALLS }
    } else {
        Task::Scenarios { backends: backends.clone() }
    };
    boot_all(&kernels, &initrd, &task, args.jobs.max(1))?;
    if args.costs {
        return print_costs(&kernels, &task);
    }

    let mut judge = sh::command(bin.join("vmtest"), ["judge", "--backend", &backends, "--dir"]);
    judge.arg(dir()).args(kernels.iter().map(|kernel| kernel.name.as_str()));
    sh::pass_on(&mut judge)
}

/// The tables of all kernels. One that has none did not get to its end.
fn print_costs(kernels: &[Kernel], task: &Task) -> Result<()> {
    let mut failed = Vec::new();
    for kernel in kernels {
        let report = fs::read_to_string(task.report(kernel))?.replace('\r', "");
        println!("\n{}: instructions, as nanoseconds\n{report}", kernel.package);
        if !report.contains("captured") {
            failed.push(kernel.name.as_str());
        }
    }
    if !failed.is_empty() {
        bail!("no table of {}: see target/vm/KERNEL.log", failed.join(", "));
    }
    Ok(())
}

/// Where everything of this verb is.
fn dir() -> PathBuf {
    sh::root().join("target/vm")
}

/// A machine that fails is not an error here: its report says so, or lacks its end.
fn boot_all(kernels: &[Kernel], initrd: &Path, task: &Task, jobs: usize) -> Result<()> {
    let queue = Mutex::new(kernels.iter());
    let errors = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(kernels.len()) {
            scope.spawn(|| {
                loop {
                    // The guard must not live through the boot.
                    let next = queue.lock().map(|mut queue| queue.next());
                    let Ok(Some(kernel)) = next else { return };
                    let report = task.report(kernel);
                    let (append, time) = task.of_machine();
                    let machine = Machine {
                        name: &kernel.name,
                        report: &report,
                        kernel,
                        initrd,
                        append: &append,
                        mib: 1024,
                        time,
                    };
                    if let Err(error) = qemu::boot(&machine, LIMIT)
                        && let Ok(mut errors) = errors.lock()
                    {
                        errors.push(error.context(format!("kernel {}", kernel.name)));
                    }
                }
            });
        }
    });
    match errors.into_inner().ok().and_then(|mut errors| errors.pop()) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_every_other_one() {
        let every = ["5.10", "6.1", "6.12", "7.2"];
        assert_eq!(names(&[KernelArg::All], &KernelArg::All), every);
        assert_eq!(names(&[KernelArg::V6_1, KernelArg::All], &KernelArg::All), every);
        let two = [KernelArg::V7_2, KernelArg::V5_10];
        assert_eq!(names(&two, &KernelArg::All), ["5.10", "7.2"]);
    }
}
