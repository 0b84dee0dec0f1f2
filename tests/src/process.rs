//! Child processes that do not outlive their test, with what they printed.

use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{
    Pid, Resource, Signal, getrlimit, kill_process, kill_process_group, setrlimit,
};

use crate::clock;

/// Lets this process, and those that it starts, have as many descriptors as they may: a thousand
/// connections need more than the usual soft limit.
pub fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("a soft limit may be raised to the hard one");
}

/// How the kernel gives the processor to the calling thread, and to what it starts from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// A little for each: a thread may have to stop at any instruction.
    Usual,
    /// Until it waits. Threads of this policy never stop one another inside a system call, so no
    /// BPF program that runs there is stopped half-way either.
    Fifo,
}

impl Policy {
    /// # Panics
    /// If this is not allowed; root may.
    #[track_caller]
    pub fn set(self) {
        let (policy, sched_priority) = match self {
            Self::Usual => (libc::SCHED_OTHER, 0),
            Self::Fifo => (libc::SCHED_FIFO, 1),
        };
        let param = libc::sched_param { sched_priority };
        // SAFETY: `param` is valid for the call, which keeps no pointer to it.
        let result = unsafe { libc::sched_setscheduler(0, policy, &param) };
        assert_eq!(result, 0, "{self:?}: {}", std::io::Error::last_os_error());
    }
}

/// Lines that a process has printed so far.
#[derive(Clone, Debug, Default)]
pub struct Output(Arc<Mutex<Vec<String>>>);

impl Output {
    pub fn text(&self) -> String {
        self.0.lock().expect("no reader panics").join("\n")
    }

    /// The first line that `wanted` takes.
    pub fn find(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let lines = self.0.lock().expect("no reader panics");
        lines.iter().find(|line| wanted(line)).cloned()
    }

    fn follow(&self, from: impl Read + Send + 'static) -> JoinHandle<()> {
        let lines = Arc::clone(&self.0);
        std::thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while matches!(from.read_until(b'\n', &mut line), Ok(1..)) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                lines.lock().expect("no reader panics").push(text);
                line.clear();
            }
        })
    }
}

/// A child in a process group of its own. Dropping it kills the group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    output: Output,
    readers: Vec<JoinHandle<()>>,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; standard output and error are both kept.
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("{name}: {error}"),
        };
        let output = Output::default();
        let readers = vec![
            output.follow(child.stdout.take().expect("piped")),
            output.follow(child.stderr.take().expect("piped")),
        ];
        Self { child, name, output, readers, status: None }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn output(&self) -> &Output {
        &self.output
    }

    /// The exit status if the process is over.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("it is our child");
        }
        self.status
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// After `limit`, with what the process printed.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let end = clock::now() + limit.as_nanos() as u64;
        loop {
            if let Some(status) = self.try_wait() {
                return status;
            }
            assert!(
                clock::now() < end,
                "{} did not exit within {limit:?}; it printed:\n{}",
                self.name,
                self.output.text()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a signal to the process alone, not to its group.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            kill_process(self.pid(), signal).expect("it is our child");
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed()).expect("a child's id is not 0")
    }

    /// After the end: everything that was printed.
    pub fn finish_output(&mut self) -> String {
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        self.output.text()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The group outlives its leader if that one forked.
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} printed:\n{}\n---", self.name, self.output.text());
        }
    }
}
