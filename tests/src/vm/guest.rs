//! Inside the machine: every back end asked for, one after the other, does all scenarios.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::expect::{self, Sight};
use super::report::{Backend, Exchange, Line, NOTHING_ELSE, PREEMPTED_NAME, Said};
use super::scenarios::{Early, SCENARIOS, Scenario, Servers};
use crate::agent::{Agent, Entry, Options};
use crate::client::{self, Record, Request};
use crate::clock;
use crate::compare;
use crate::paths;
use crate::plan::Ask;
use crate::process::Policy;
use crate::stack::Server;

/// How long the agent's log may stand still before what it lacks counts as not traced.
const STILL: Duration = Duration::from_secs(10);
/// So many lines of each end of what a failed agent printed are kept: a verifier says why in its
/// last ones.
const LOG_LINES: usize = 60;
/// Requests by clients and a server that are scheduled in the usual way.
const PREEMPTED: usize = 40;

/// Where the report goes, and progress for who watches.
pub(super) struct Sink(File);

impl Sink {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::options().append(true).create(true).open(path);
        Ok(Self(file.with_context(|| path.display().to_string())?))
    }

    pub(super) fn add(&mut self, line: &Line) -> Result<()> {
        let (shown, wrong) = match line {
            Line::Booted { release, seconds } => (format!("{release} is up ({seconds:.1} s)"), ""),
            Line::Agent { backend, said, seconds } => {
                let said = match said {
                    Said::Ready(line) => line.clone(),
                    Said::Left { code, printed } => format!("left with {code:?}: {printed}"),
                };
                (format!("{}: {seconds:.1} s: {said}", backend.name()), "")
            }
            Line::Scenario { backend, name, sent, wrong, note, exchanges } => {
                let counts = format!("{sent} sent, {} traced", exchanges.len());
                let note = if note.is_empty() { &counts } else { note };
                (format!("{}: {name}: {note}", backend.name()), wrong.as_str())
            }
            Line::Check { name, said, wrong } => (format!("{name}: {said}"), wrong.as_str()),
            Line::Ended { seconds } => (format!("over after {seconds:.1} s"), ""),
        };
        // The runner shows lines that begin so.
        for text in shown.lines().take(6) {
            println!("vm: {text}");
        }
        for text in wrong.lines().take(20) {
            println!("vm:   wrong: {text}");
        }
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        self.0.write_all(&bytes).context("the report cannot be written")
    }
}

/// Runs everything; what is wrong is in the report, an error is a machine that cannot test.
pub fn run(backends: &[Backend], report: &Path) -> Result<()> {
    let mut report = Sink::open(report)?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    report.add(&Line::Booted { release, seconds: uptime() })?;
    // In the usual way, from here on only where it says so: see `Policy`.
    let preempted = Server::quiet_app();
    Policy::Fifo.set();
    let servers = Servers::start();
    for &backend in backends {
        under(backend, backends, (&servers, &preempted), &mut report)?;
    }
    report.add(&without_btf("btf-elsewhere", &[("LLMTRACE_BTF", "/nonexistent")]))?;
    mount(&["-t", "tmpfs", "none", "/sys/kernel/btf"])?;
    ensure!(!Path::new("/sys/kernel/btf/vmlinux").exists(), "the kernel's BTF is still there");
    report.add(&without_btf("btf-hidden", &[]))?;
    report.add(&Line::Ended { seconds: uptime() })
}

/// Seconds since the kernel started.
pub(super) fn uptime() -> f64 {
    clock::now() as f64 / 1e9
}

fn mount(args: &[&str]) -> Result<()> {
    let status = Command::new("mount").args(args).status().context("mount")?;
    ensure!(status.success(), "mount {args:?}: {status}");
    Ok(())
}

/// All scenarios under one back end, unless the agent refuses it or `auto` chose one that is asked
/// for by itself too.
fn under(
    backend: Backend,
    asked: &[Backend],
    (servers, preempted): (&Servers, &Server),
    report: &mut Sink,
) -> Result<()> {
    let begin = clock::now();
    let early = Early::open(servers);
    let options = Options::default().arg("--backend", backend.name()).pid(preempted.id());
    let options = options.env("LLMTRACE_VERIFIER_LOG", "1");
    let options = servers.pids().into_iter().fold(options, Options::pid);
    let started = catch_unwind(AssertUnwindSafe(|| options.try_start()));
    let seconds = (clock::now() - begin) as f64 / 1e9;
    let left = match started {
        Ok(Ok(agent)) => {
            let printed = agent.printed();
            let ready = printed.lines().find(|line| line.starts_with("ready "));
            let said = Said::Ready(ready.context("no ready line")?.to_owned());
            let chosen = said.chosen().unwrap_or_default().to_owned();
            report.add(&Line::Agent { backend, said, seconds })?;
            if backend.only_starts(&chosen, asked) {
                agent.kill();
                return Ok(());
            }
            return capture((backend, &chosen), agent, early, (servers, preempted), report);
        }
        Ok(Err(left)) => Said::Left { code: left.status.code(), printed: ends(&left.printed) },
        // It did not get ready in time: the other back ends have their turn all the same.
        Err(panic) => Said::Left { code: None, printed: panic_text(&*panic) },
    };
    report.add(&Line::Agent { backend, said: left, seconds })
}

/// The beginning and the end of what may be a verifier's log.
fn ends(printed: &str) -> String {
    let lines: Vec<_> = printed.lines().collect();
    if lines.len() <= 2 * LOG_LINES {
        return printed.to_owned();
    }
    let (first, last) = (&lines[..LOG_LINES], &lines[lines.len() - LOG_LINES..]);
    format!("{}\n[...]\n{}", first.join("\n"), last.join("\n"))
}

/// All scenarios under a running agent, which is stopped in the end.
fn capture(
    (backend, chosen): (Backend, &str),
    agent: Agent,
    mut early: Early,
    (servers, preempted): (&Servers, &Server),
    report: &mut Sink,
) -> Result<()> {
    let done: Vec<_> =
        SCENARIOS.iter().map(|scenario| send(scenario, servers, &mut early)).collect();
    let expected = SCENARIOS.iter().zip(&done).map(|(scenario, done)| {
        let seen = |n: &usize| (scenario.sight)(chosen, *n) != Sight::None;
        (0..done.records.len()).filter(seen).count()
    });
    let expected = expected.sum();
    wait_for_log(&agent, expected);
    let before = losses(&agent);
    let crowd = send_preempted(preempted);
    wait_for_log(&agent, expected + crowd.records.len());
    let losses_after = losses(&agent);

    let without = refused_programs(&agent.printed());
    let ended = catch_unwind(AssertUnwindSafe(|| agent.stop()));
    let (entries, panic) = match ended {
        Ok(entries) => (entries, String::new()),
        Err(panic) => (Vec::new(), panic_text(&*panic)),
    };
    for (scenario, done) in SCENARIOS.iter().zip(done) {
        report.add(&judge(backend, scenario, chosen, done, &entries))?;
    }
    let lost = lost_since(&before, &losses_after);
    report.add(&judge_preempted(backend, crowd, &entries, &lost))?;
    report.add(&nothing_else((backend, chosen), &entries, &before, panic + &without))
}

/// What the clients of a scenario know.
struct Done {
    records: Vec<Record>,
    wrong: String,
}

fn send(scenario: &Scenario, servers: &Servers, early: &mut Early) -> Done {
    let sent = catch_unwind(AssertUnwindSafe(|| (scenario.run)(scenario.name, servers, early)));
    match sent {
        Ok(records) => Done { records, wrong: String::new() },
        Err(panic) => Done { records: Vec::new(), wrong: panic_text(&*panic) },
    }
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked: {}\n", text.unwrap_or("without words"))
}

/// Until the log has `count` lines or nothing comes any more.
fn wait_for_log(agent: &Agent, count: usize) {
    let (mut lines, mut since) = (0, clock::now());
    while lines < count && clock::now() - since < STILL.as_nanos() as u64 {
        thread::sleep(Duration::from_millis(50));
        let now = agent.log_lines();
        if now > lines {
            (lines, since) = (now, clock::now());
        }
    }
}

/// The scenario that a traced request is of, and its number there.
fn origin(entry: &Entry) -> Option<(&str, usize)> {
    let (name, n) = entry.user_agent.as_deref()?.split_once('/')?;
    Some((name, n.parse().ok()?))
}

fn of_scenario(name: &str, entries: &[Entry]) -> Vec<Entry> {
    let mine = |entry: &&Entry| origin(entry).is_some_and(|(of, _)| of == name);
    entries.iter().filter(mine).cloned().collect()
}

fn judge(
    backend: Backend,
    scenario: &Scenario,
    chosen: &str,
    done: Done,
    entries: &[Entry],
) -> Line {
    let Done { mut records, mut wrong } = done;
    let sent = records.len();
    let mut entries = of_scenario(scenario.name, entries);
    let mut exchanges: Vec<_> = entries.iter().map(Exchange::from).collect();
    exchanges.sort();
    for n in 0..sent {
        let user_agent = format!("{}/{n}", scenario.name);
        match (scenario.sight)(chosen, n) {
            Sight::Whole => {}
            Sight::None => records.retain(|record| record.user_agent != user_agent),
            Sight::Holed => {
                let mine = |entry: &Entry| entry.user_agent.as_deref() == Some(&user_agent);
                let outcomes: Vec<_> =
                    entries.iter().filter(|e| mine(e)).map(|e| e.outcome.as_str()).collect();
                if outcomes != ["incomplete"] {
                    wrong += &format!("{user_agent}: expected incomplete, traced {outcomes:?}\n");
                }
                entries.retain(|entry| !mine(entry));
                records.retain(|record| record.user_agent != user_agent);
            }
        }
    }
    wrong += &compare::wrong(&records, &entries);
    let encrypted = scenario.name.starts_with("tls");
    for entry in entries.iter().filter(|entry| entry.tls != encrypted) {
        wrong += &format!("taken for TLS or not: {entry:?}\n");
    }
    let note = String::new();
    Line::Scenario { backend, name: scenario.name.into(), sent, wrong, note, exchanges }
}

/// Many clients at once, and threads that the kernel takes the processor from at any instruction.
fn send_preempted(server: &Server) -> Done {
    Policy::Usual.set();
    let ask = Ask { max_tokens: 30, ..Ask::default() };
    let requests =
        (0..PREEMPTED).map(|n| Request::new(format!("{PREEMPTED_NAME}/{n}"), &ask)).collect();
    let sent = catch_unwind(AssertUnwindSafe(|| client::load(&server.address, requests, 8)));
    Policy::Fifo.set();
    match sent {
        Ok(records) => Done { records, wrong: String::new() },
        Err(panic) => Done { records: Vec::new(), wrong: panic_text(&*panic) },
    }
}

/// A kernel that preempts a BPF program does not run it again for another thread meanwhile: such a
/// call is lost, and counted (`missed_run`). Without a loss everything has to be as it was sent.
/// With one, what is traced still has to be, unless it is said to be incomplete: the end of a
/// connection tells where its streams stood, so an answer that was missed whole is a hole as well.
fn judge_preempted(backend: Backend, done: Done, entries: &[Entry], lost: &Losses) -> Line {
    let Done { mut records, mut wrong } = done;
    let sent = records.len();
    let mut entries = of_scenario(PREEMPTED_NAME, entries);
    let traced = entries.len();
    let incomplete = entries.iter().filter(|entry| entry.outcome == "incomplete").count();
    if !lost.is_empty() {
        entries.retain(|entry| entry.outcome != "incomplete");
        let whole = |record: &Record| {
            entries.iter().any(|entry| entry.user_agent.as_deref() == Some(&record.user_agent))
        };
        records.retain(whole);
    }
    wrong += &compare::wrong(&records, &entries);
    let whole = entries.len();
    let note = format!(
        "{sent} sent, {traced} traced, {whole} of them whole, {incomplete} incomplete; lost: {lost:?}"
    );
    let exchanges = Vec::new();
    Line::Scenario { backend, name: PREEMPTED_NAME.into(), sent, wrong, note, exchanges }
}

/// Records that the agent counts as lost, by reason.
type Losses = BTreeMap<String, u64>;

fn losses(agent: &Agent) -> Losses {
    // Its own counts follow within a beat.
    thread::sleep(Duration::from_millis(500));
    let scraped = catch_unwind(AssertUnwindSafe(|| agent.metrics()));
    let Ok(metrics) = scraped else {
        return Losses::from([("its metrics cannot be scraped".into(), 1)]);
    };
    let mut losses = Losses::new();
    for sample in metrics.select("llmtrace_lost_records_total", &[]) {
        if sample.value != 0.0 {
            let reason = sample.labels.get("reason").cloned().unwrap_or_default();
            *losses.entry(reason).or_default() += sample.value as u64;
        }
    }
    losses
}

/// What was lost between two scrapes.
fn lost_since(before: &Losses, after: &Losses) -> Losses {
    let more = after.iter().filter_map(|(reason, n)| {
        let more = n.saturating_sub(before.get(reason).copied().unwrap_or_default());
        (more > 0).then(|| (reason.clone(), more))
    });
    more.collect()
}

/// Programs that this kernel should take and does not: the agent does without them, and says so.
fn refused_programs(printed: &str) -> String {
    let refused = printed.split_inclusive('\n').filter(|line| line.contains(": without "));
    refused.collect()
}

/// Nothing was traced that nobody sent, nothing was lost that is not expected, and the agent ended
/// as it should.
fn nothing_else(
    (backend, chosen): (Backend, &str),
    entries: &[Entry],
    losses: &Losses,
    panic: String,
) -> Line {
    let mut wrong = panic;
    for (reason, n) in losses {
        let expected = expect::lost(chosen, reason);
        if *n > expected {
            wrong += &format!("lost {n} records ({reason}), at most {expected} expected\n");
        }
    }
    for entry in entries {
        let known = origin(entry).is_some_and(|(name, _)| {
            name == PREEMPTED_NAME || SCENARIOS.iter().any(|scenario| scenario.name == name)
        });
        if !known {
            wrong += &format!("traced, but of no scenario: {entry:?}\n");
        }
    }
    let (name, note) = (NOTHING_ELSE.into(), String::new());
    Line::Scenario { backend, name, sent: 0, wrong, note, exchanges: Vec::new() }
}

/// The agent without type information: exit code 3 and a sentence that says so.
fn without_btf(name: &str, env: &[(&str, &str)]) -> Line {
    let mut command = Command::new(paths::agent());
    command.args(["run", "--all", "--listen", "127.0.0.1:0"]).stdin(Stdio::null());
    let output = command.envs(env.iter().copied()).output();
    let (said, wrong) = match output {
        Err(error) => (String::new(), error.to_string()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let right = output.status.code() == Some(3)
                && said.contains("no type information")
                && said.contains("CONFIG_DEBUG_INFO_BTF");
            let status = output.status;
            (said, if right { String::new() } else { format!("left with {status}\n") })
        }
    };
    Line::Check { name: name.into(), said, wrong }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(line: Line) -> String {
        let Line::Scenario { wrong, .. } = line else { panic!("{line:?}") };
        wrong
    }

    fn preempted(outcome: &str, tokens: u64, lost: &Losses) -> String {
        let user_agent = format!("{PREEMPTED_NAME}/0");
        let record =
            Record { user_agent: user_agent.clone(), outcome: "success", ..Record::default() };
        let entry = Entry {
            user_agent: Some(user_agent),
            outcome: outcome.into(),
            token_events: tokens,
            ..Entry::default()
        };
        let done = Done { records: vec![record], wrong: String::new() };
        wrong(judge_preempted(Backend::Syscall, done, &[entry], lost))
    }

    #[test]
    fn where_calls_are_lost_what_is_traced_as_whole_has_to_be() {
        let none = Losses::new();
        let some = Losses::from([("missed_run".into(), 3)]);
        assert_eq!(preempted("success", 0, &none), "");
        assert_ne!(preempted("incomplete", 0, &none), "");
        assert_eq!(preempted("incomplete", 0, &some), "");
        assert_ne!(preempted("client_disconnect", 0, &some), "");
        assert_ne!(preempted("http_error", 0, &some), "");
        assert_ne!(preempted("success", 1, &some), "");
    }

    #[test]
    fn only_expected_losses_pass() {
        let check = |reason: &str, n| {
            let losses = Losses::from([(reason.to_owned(), n)]);
            wrong(nothing_else((Backend::Kprobe, "kprobe"), &[], &losses, String::new()))
        };
        assert_eq!(check("opaque", 9), "");
        assert_ne!(check("opaque", 10), "");
        assert_ne!(check("ring_full", 1), "");
    }

    #[test]
    fn what_was_lost_before_is_not_lost_since() {
        let before = Losses::from([("opaque".into(), 2)]);
        let after = Losses::from([("opaque".into(), 2), ("missed_run".into(), 1)]);
        assert_eq!(lost_since(&before, &after), Losses::from([("missed_run".into(), 1)]));
    }

    #[test]
    fn a_long_log_keeps_its_ends() {
        let text = (0..1000).map(|n| n.to_string()).collect::<Vec<_>>().join("\n");
        let kept = ends(&text);
        assert!(kept.starts_with("0\n") && kept.ends_with("\n999"), "{kept}");
        assert_eq!(kept.lines().count(), 2 * LOG_LINES + 1);
        assert_eq!(ends("short"), "short");
    }
}
