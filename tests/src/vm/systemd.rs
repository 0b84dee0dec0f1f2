//! The package under a systemd that is PID 1, inside a machine: installed, started, asked, reloaded,
//! upgraded, removed. What is wrong is in the report; each check goes on from where the last left.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::panic::catch_unwind;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::guest::{Sink, panic_text, uptime};
use super::report::Line;
use crate::bpf::tracing_programs;
use crate::client::{self, Request};
use crate::clock::{now, wait_for};
use crate::http;
use crate::metrics::Metrics;
use crate::net::free_port;
use crate::plan::Ask;
use crate::servers::app::Model;
use crate::stack::Server;

/// Where the machine has the package, and the same as a later version.
const PACKAGE: &str = "/opt/llmtrace.deb";
const LATER: &str = "/opt/later.deb";
const CONFIG: &str = "/etc/llmtrace/llmtrace.toml";
const DROP_IN: &str = "/etc/systemd/system/llmtrace.service.d/tls.conf";
const EXAMPLE: &str = "/usr/share/doc/llmtrace/examples/tls.conf";
/// Where `DynamicUser` has what `LogsDirectory` makes.
const LOGS: &str = "/var/log/private/llmtrace";
const UNIT: &str = "llmtrace.service";
const PORT: u16 = 9466;
/// An emulated processor takes its time to verify kernel programs.
const LIMIT: Duration = Duration::from_secs(120);
/// What `systemd-analyze security` may say at most, out of 10.
const MOST_EXPOSED: f64 = 2.7;
/// CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_PERFMON, CAP_BPF.
const FOUR: u64 = 1 << 2 | 1 << 19 | 1 << 38 | 1 << 39;
const SYS_ADMIN: u64 = 1 << 21;

/// A name, and what panics if something is wrong; what it says is for who reads the report.
type Check = (&'static str, fn() -> String);

/// One after the other.
pub const CHECKS: [Check; 10] = [
    ("installed and not started", installed),
    ("enabled and started", started),
    ("confined as the unit says", confined),
    ("a request is traced", traced),
    ("exposure", exposure),
    ("reload, and a bad file is refused", reloaded),
    ("killed and started again", killed),
    ("the drop-in for TLS", tls),
    ("upgrade", upgraded),
    ("stopped, removed, purged", gone),
];

/// Runs every check.
pub fn run(report: &Path) -> Result<()> {
    let mut report = Sink::open(report)?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    report.add(&Line::Booted { release, seconds: uptime() })?;
    for (name, check) in CHECKS {
        let begin = now();
        let (said, wrong) = match catch_unwind(check) {
            Ok(said) => (said, String::new()),
            Err(panic) => (String::new(), format!("{}\n{}", panic_text(&*panic), journal())),
        };
        let seconds = (now() - begin) as f64 / 1e9;
        let said = format!("{said} ({seconds:.1} s)");
        report.add(&Line::Check { name: name.into(), said, wrong })?;
    }
    report.add(&Line::Ended { seconds: uptime() })
}

/// Standard output and error of a command, and whether it succeeded.
#[track_caller]
fn say(program: &str, args: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
}

/// The same of a command that has to succeed.
#[track_caller]
fn must(program: &str, args: &[&str]) -> String {
    let (good, text) = say(program, args);
    assert!(good, "{program} {args:?}: {text}");
    text
}

/// A property of the unit, as systemd has it.
fn property(name: &str) -> String {
    must("systemctl", &["show", "--value", "--property", name, UNIT])
}

fn pid() -> u32 {
    property("MainPID").parse().expect("a number")
}

/// What the unit has written to the journal since the machine started.
fn journal() -> String {
    say("journalctl", &["--unit", UNIT, "--output", "cat", "--no-pager"]).1
}

/// How many lines of the journal have `text`.
fn said(text: &str) -> usize {
    journal().lines().filter(|line| line.contains(text)).count()
}

/// The agent says for the `count`th time that it captures, as the process of now.
#[track_caller]
fn ready(count: usize) -> String {
    wait_for("the agent's ready line in the journal", LIMIT, || {
        assert_ne!(property("ActiveState"), "failed");
        (said("ready backend=") >= count).then_some(())
    });
    assert_eq!(property("ActiveState"), "active");
    assert_eq!(http::get(PORT, "/readyz").expect("it answers").0, 200);
    journal().lines().rfind(|line| line.contains("ready backend=")).unwrap().to_owned()
}

#[track_caller]
fn metrics() -> Metrics {
    let (status, text) = http::get(PORT, "/metrics").expect("the agent answers");
    assert_eq!(status, 200);
    Metrics::parse(&text)
}

/// `count` requests to `server`, each of which is in `/metrics` as what the client saw.
#[track_caller]
fn trace(server: &Server, count: usize) -> Vec<client::Record> {
    let name = format!(":{}", server.port());
    let seen = || {
        let metrics = metrics();
        let labels = [("role", "server"), ("outcome", "success")];
        let of = metrics.select("llm_requests_total", &labels);
        of.filter(|s| s.labels["server"].ends_with(&name)).map(|s| s.value).sum::<f64>()
    };
    let before = seen();
    let requests = (0..count).map(|n| Request::new(format!("vm/{n}"), &Ask::default())).collect();
    let records = client::load(&server.address, requests, 1);
    assert!(records.iter().all(|record| record.outcome == "success"), "{records:#?}");
    wait_for("the requests in /metrics", LIMIT, || (seen() - before >= count as f64).then_some(()));
    assert_eq!(seen() - before, count as f64);
    records
}

/// Programs that trace, whoever holds them. systemd has some of other kinds, for devices.
fn attached() -> usize {
    tracing_programs().len()
}

fn installed() -> String {
    let systemd = must("systemctl", &["is-system-running", "--wait"]);
    must("dpkg", &["--install", PACKAGE]);
    must("dpkg", &["--verify", "llmtrace"]);
    assert_eq!(say("systemctl", &["is-enabled", UNIT]).1, "disabled");
    assert_eq!(property("ActiveState"), "inactive");
    assert_eq!(attached(), 0);
    format!("systemd as PID {} is {systemd}", fs::read_to_string("/proc/1/comm").unwrap().trim())
}

fn started() -> String {
    let (good, text) = say("systemctl", &["enable", "--now", UNIT]);
    assert!(good, "{text}");
    assert_eq!(must("systemctl", &["is-enabled", UNIT]), "enabled");
    ready(1)
}

/// A field of `/proc/PID/status`.
fn status(pid: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field}")).trim().to_owned()
}

#[track_caller]
fn assert_capabilities(pid: u32, allowed: u64) {
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        let caps = u64::from_str_radix(&status(pid, set), 16).unwrap();
        assert!(caps & FOUR == FOUR && caps & !allowed == 0, "{set}: {caps:x}");
    }
}

fn confined() -> String {
    let pid = pid();
    let users = status(pid, "Uid");
    // Of those that DynamicUser takes.
    let user: u32 = users.split_whitespace().next().unwrap().parse().unwrap();
    assert!((61184..=65519).contains(&user), "{users}");
    assert_capabilities(pid, FOUR);
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    assert_eq!(status(pid, "Seccomp"), "2");
    // The unit's, and its own on top.
    assert!(status(pid, "Seccomp_filters").parse::<u32>().unwrap() >= 2);
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    let options = root.split(' ').nth(5).unwrap();
    assert!(options.split(',').any(|option| option == "ro"), "ProtectSystem=strict: {root}");
    let mode = fs::metadata(LOGS).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o750, "LogsDirectoryMode");
    format!("user {user}, {} programs attached", attached())
}

fn traced() -> String {
    let server = Server::app(Model::Thread);
    let records = trace(&server, 5);
    let metrics = metrics();
    assert_eq!(metrics.sum("llmtrace_incomplete_exchanges_total", &[]), 0.0);
    let tokens: u64 = records.iter().filter_map(client::Record::output_tokens).sum();
    // This program has listened, too, so as a client it is traced as well.
    let output = [("type", "output"), ("role", "server")];
    assert_eq!(metrics.sum("llm_tokens_total", &output), tokens as f64);
    format!("{} requests, {tokens} tokens", records.len())
}

fn exposure() -> String {
    let text = must("systemd-analyze", &["security", "--no-pager", UNIT]);
    let line = text.lines().rfind(|line| line.contains("Overall exposure level")).unwrap();
    let level = line.split(": ").nth(1).unwrap().split(' ').next().unwrap();
    assert!(level.parse::<f64>().unwrap() <= MOST_EXPOSED, "{text}");
    level.to_owned()
}

/// Has the file read again, and waits for what is said of it.
#[track_caller]
fn reload(text: &str, answer: &str) {
    let before = said(answer);
    fs::write(CONFIG, text).unwrap();
    let pid = pid();
    must("systemctl", &["reload", UNIT]);
    wait_for(answer, LIMIT, || (said(answer) > before).then_some(()));
    assert_eq!(pid, self::pid(), "the same process");
    assert_eq!(property("ActiveState"), "active");
}

fn reloaded() -> String {
    let (a, b) = (free_port(), free_port());
    reload(&format!("port = [{a}]\n"), "reloaded: targets=port:");
    let (a, b) = (Server::app_on(a, Model::Thread), Server::app_on(b, Model::Thread));
    trace(&a, 2);
    reload("port = \"none\"\n", "not reloaded, everything stays as it was");
    reload(&format!("port = [{}]\nprot = [1]\n", b.port()), "not reloaded, everything stays");
    trace(&a, 2);
    let metrics = metrics();
    let reloads = |result| metrics.sum("llmtrace_config_reloads_total", &[("result", result)]);
    assert_eq!((reloads("ok"), reloads("failed")), (1.0, 2.0));
    // What the next starts read.
    fs::write(CONFIG, "# of the administrator\n").unwrap();
    journal().lines().rfind(|line| line.contains("not reloaded")).unwrap().to_owned()
}

fn killed() -> String {
    let before = pid();
    must("systemctl", &["kill", "--signal=KILL", UNIT]);
    ready(2);
    assert_ne!(pid(), before);
    assert_eq!(property("NRestarts"), "1");
    let server = Server::app(Model::Thread);
    trace(&server, 1);
    "NRestarts 1".into()
}

fn tls() -> String {
    fs::create_dir_all(Path::new(DROP_IN).parent().unwrap()).unwrap();
    fs::copy(EXAMPLE, DROP_IN).unwrap();
    must("systemctl", &["daemon-reload"]);
    let refused = said("TLS: not traced");
    must("systemctl", &["restart", UNIT]);
    ready(3);
    let pid = pid();
    assert_capabilities(pid, FOUR | SYS_ADMIN);
    // Starts without it may have been refused; this one may not.
    assert_eq!(said("TLS: not traced"), refused, "{}", journal());
    let caps = u64::from_str_radix(&status(pid, "CapEff"), 16).unwrap();
    let wanted = caps & SYS_ADMIN != 0;
    assert_eq!(refused > 0, wanted);
    fs::remove_file(DROP_IN).unwrap();
    must("systemctl", &["daemon-reload"]);
    if wanted {
        "this kernel wants CAP_SYS_ADMIN for uprobes, and the unit has it then".into()
    } else {
        "this kernel is content with CAP_PERFMON, and CAP_SYS_ADMIN is given up".into()
    }
}

fn upgraded() -> String {
    let (before, version) = (pid(), must("dpkg-query", &["-Wf", "${Version}", "llmtrace"]));
    must("dpkg", &["--install", LATER]);
    let now = must("dpkg-query", &["-Wf", "${Version}", "llmtrace"]);
    assert_ne!(now, version);
    ready(4);
    assert_ne!(pid(), before, "what runs is the new one");
    assert_eq!(must("systemctl", &["is-enabled", UNIT]), "enabled");
    assert_eq!(fs::read_to_string(CONFIG).unwrap(), "# of the administrator\n");
    // Without the drop-in again.
    assert_capabilities(pid(), FOUR);
    // Stopped, it stays so.
    must("systemctl", &["stop", UNIT]);
    must("dpkg", &["--install", PACKAGE]);
    assert_eq!(property("ActiveState"), "inactive");
    must("systemctl", &["start", UNIT]);
    ready(5);
    format!("{version} to {now}, and back while it was stopped")
}

fn gone() -> String {
    assert!(attached() > 0);
    let stops = said("stopped requests=");
    must("systemctl", &["stop", UNIT]);
    assert_eq!((property("Result"), property("ExecMainStatus")), ("success".into(), "0".into()));
    assert!(said("stopped requests=") > stops, "it drains and says so");
    assert_eq!(attached(), 0, "nothing is left in the kernel");
    assert!(http::get(PORT, "/metrics").is_err());

    must("systemctl", &["start", UNIT]);
    ready(6);
    let pid = pid();
    must("dpkg", &["--remove", "llmtrace"]);
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "removal stops it");
    assert_eq!(attached(), 0);
    assert!(!Path::new("/usr/bin/llmtrace").exists());
    let link = "/etc/systemd/system/multi-user.target.wants/llmtrace.service";
    assert!(fs::symlink_metadata(link).is_err(), "and disables it");
    assert!(Path::new(CONFIG).exists() && Path::new(LOGS).exists(), "what is the administrator's");
    must("dpkg", &["--purge", "llmtrace"]);
    for path in [CONFIG, "/etc/llmtrace", LOGS, "/var/log/llmtrace"] {
        assert!(fs::symlink_metadata(path).is_err(), "{path} is still there");
    }
    assert_eq!(property("LoadState"), "not-found");
    assert!(!must("dpkg-query", &["-Wf", "${Package}\n"]).lines().any(|name| name == "llmtrace"));
    "nothing is left".into()
}
