//! `llmtrace record`: an agent whose records also go to a file.

use std::{
    cell::{Cell, RefCell},
    fs::{self, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    agent::{Agent, Tap, open_log, wall_offset},
    cli::RecordArgs,
    logger,
    metrics::Metrics,
    probe::privileges,
    record::Record,
    recording::{
        Contents, Writer,
        redact::{Item, Redactor},
    },
    signals::{HangUp, Signals},
};

/// Bytes that are written to the file at once.
const BUFFER: usize = 1 << 20;
const MIB: u64 = 1 << 20;

/// What the loop wants to know of the file.
#[derive(Default)]
struct State {
    written: Cell<u64>,
    records: Cell<u64>,
    failed: RefCell<Option<io::Error>>,
}

struct File {
    writer: Writer<BufWriter<Box<dyn Write>>>,
    redactor: Option<Redactor>,
    state: Rc<State>,
}

impl File {
    fn item(&mut self, item: Item<'_>) {
        let Self { writer, redactor, state } = self;
        match redactor {
            Some(redactor) => redactor.push(item, |item| put(writer, item, state)),
            None => put(writer, &item, state),
        }
    }
}

/// Writes an item, unless writing has failed before.
fn put(writer: &mut Writer<impl Write>, item: &Item<'_>, state: &State) {
    if state.failed.borrow().is_some() {
        return;
    }
    let result = match item {
        Item::Record(record) => {
            state.records.set(state.records.get() + 1);
            writer.record(record)
        }
        Item::Name(pid, name) => writer.name(*pid, name),
        Item::Tick { now, lost, last } => {
            writer.tick(*now, *lost, *last).and_then(|()| writer.flush())
        }
    };
    state.written.set(writer.written());
    if let Err(e) = result {
        *state.failed.borrow_mut() = Some(e);
    }
}

impl Tap for File {
    fn record(&mut self, record: &Record<'_>) {
        self.item(Item::Record(record.clone()));
    }

    fn name(&mut self, pid: u32, name: &str) {
        self.item(Item::Name(pid, name.into()));
    }

    fn tick(&mut self, now: u64, lost: u64, last: bool) {
        self.item(Item::Tick { now, lost, last });
        if last {
            let Self { writer, redactor, state } = self;
            if let Some(redactor) = redactor {
                redactor.finish(|item| put(writer, item, state));
            }
        }
    }
}

/// `llmtrace record`.
pub fn run(args: &RecordArgs) -> Result<()> {
    logger::set(false, args.kernel.kernel_log);
    let wanted = args.targets.wanted();
    let described = wanted.describe();
    let mut log = args.request_log.as_deref().map(open_log).transpose()?;
    // One clock for both, so that a replay says the same.
    let offset = wall_offset();
    if let Some(log) = &mut log {
        log.set_wall_offset(offset);
    }
    let metrics = Metrics::default();
    let output = Output::open(&args.output)?;
    privileges::keep_needed(&[]);
    let signals = Signals::watch(HangUp::Ends)?;
    let mut agent = match Agent::start(wanted, &args.kernel.options(), metrics, log) {
        Ok(agent) => agent,
        Err(e) => {
            output.give_up();
            return Err(e.into());
        }
    };
    let contents = if args.payload { Contents::Payload } else { Contents::Redacted };
    let state = Rc::new(State::default());
    let out = BufWriter::with_capacity(BUFFER, output.begin()?);
    let writer = Writer::new(out, offset, contents).with_context(|| cannot(&args.output))?;
    let redactor = (contents == Contents::Redacted).then(Redactor::default);
    agent.tap(Box::new(File { writer, redactor, state: state.clone() }));
    let what = if args.payload { "payload" } else { "redacted" };
    let hooks = agent.chosen.hooks;
    eprintln!(
        "ready backend={} targets={described} output={} contents={what} hooks={}",
        hooks.backend(),
        args.output.display(),
        hooks.name()
    );
    let started = Instant::now();
    let limit = args.seconds.map(Duration::from_secs);
    let most = args.max_mib.map_or(u64::MAX, |n| n.saturating_mul(MIB));
    while !signals.stopped()
        && limit.is_none_or(|limit| started.elapsed() < limit)
        && state.written.get() < most
        && state.failed.borrow().is_none()
    {
        agent.step()?;
    }
    agent.stop();
    eprintln!("stopped records={} bytes={}", state.records.get(), state.written.get());
    match state.failed.take() {
        // Who reads a pipe may stop at any time.
        Some(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Some(e) => Err(e).with_context(|| cannot(&args.output)),
        None => Ok(()),
    }
}

fn cannot(path: &Path) -> String {
    format!("cannot write {}: choose another file with --output", path.display())
}

/// Where the recording goes. It is opened with the privileges of who asked for it, which are given up
/// before there is a kernel side; it becomes a file, and an older one is overwritten, only when there
/// is one.
struct Output {
    path: PathBuf,
    /// None is standard output.
    file: Option<fs::File>,
    /// There was no such file.
    new: bool,
}

impl Output {
    fn open(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        if path == Path::new("-") {
            return Ok(Self { path, file: None, new: false });
        }
        let mut options = OpenOptions::new();
        // Even redacted it says who talked to whom.
        options.write(true).mode(0o600);
        let (opened, new) = match options.clone().create_new(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => (options.open(&path), false),
            opened => (opened, true),
        };
        let file = opened.with_context(|| cannot(&path))?;
        Ok(Self { path, file: Some(file), new })
    }

    /// There is a kernel side.
    fn begin(self) -> Result<Box<dyn Write>> {
        let Some(file) = self.file else { return Ok(Box::new(io::stdout())) };
        // What an older recording has; a pipe has nothing.
        if file.metadata().is_ok_and(|meta| meta.is_file()) {
            file.set_len(0).with_context(|| cannot(&self.path))?;
        }
        Ok(Box::new(file))
    }

    /// There is none.
    fn give_up(self) {
        if self.new {
            let _ = fs::remove_file(self.path);
        }
    }
}
