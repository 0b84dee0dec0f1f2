//! Outside: the reports of all machines against what is expected, and against each other.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::expect::{self, Start};
use super::report::{Backend, Exchange, Line, NOTHING_ELSE, PREEMPTED_NAME, Said};
use super::scenarios::SCENARIOS;

/// So much of a console says why a machine did not get to its end.
const CONSOLE_LINES: usize = 30;

/// Lines of a failure that are shown: all of it is in the machine's report.
const FAILURE_HEAD: usize = 10;
const FAILURE_TAIL: usize = 30;

/// One machine's report.
#[derive(Debug)]
pub struct Report {
    /// The kernel as the matrix names it.
    pub kernel: String,
    pub lines: Vec<Line>,
    /// What is wrong with the report itself.
    pub broken: String,
}

impl Report {
    /// Reads `KERNEL.jsonl`; `KERNEL.log` is the console.
    pub fn read(dir: &Path, kernel: &str) -> Self {
        let text = fs::read_to_string(dir.join(format!("{kernel}.jsonl"))).unwrap_or_default();
        let console = fs::read_to_string(dir.join(format!("{kernel}.log"))).unwrap_or_default();
        let mut lines = Vec::new();
        let mut broken = String::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            match serde_json::from_str(line) {
                Ok(line) => lines.push(line),
                Err(error) => broken += &format!("report: {error}: {line}\n"),
            }
        }
        if !matches!(lines.last(), Some(Line::Ended { .. })) {
            broken += "the machine did not get to the end of its tests; its console:\n";
            let console: Vec<_> = console.lines().collect();
            for line in &console[console.len().saturating_sub(CONSOLE_LINES)..] {
                broken += &format!("  {}\n", line.trim_end());
            }
        }
        Self { kernel: kernel.to_owned(), lines, broken }
    }
}

/// The verdict on a report of checks that are of no back end: each of `names` was made, and well.
pub fn judge_checks(report: &Report, names: &[&str]) -> Verdict {
    let mut verdict = Verdict::default();
    for name in names {
        let made = report.lines.iter().find_map(|line| match line {
            Line::Check { name: of, said, wrong } if of == name => Some((said, wrong.as_str())),
            _ => None,
        });
        let wrong = made.map_or("was not done", |(_, wrong)| wrong);
        if verdict.check(name, wrong)
            && let Some((said, _)) = made
        {
            let _ = writeln!(verdict.notes, "ok {name}: {said}");
        }
    }
    verdict.check("report", &report.broken);
    verdict
}

/// The result: a table, what is worth a look, what failed, and the counts.
#[derive(Debug, Default)]
pub struct Verdict {
    pub table: Vec<[String; 7]>,
    pub notes: String,
    pub failures: String,
    pub passed: usize,
    pub failed: usize,
}

const HEAD: [&str; 7] =
    ["kernel", "release", "boot", "--backend", "start", "passed", "the agent said"];

impl Verdict {
    fn check(&mut self, what: &str, wrong: &str) -> bool {
        if wrong.is_empty() {
            self.passed += 1;
            return true;
        }
        self.failed += 1;
        let _ = writeln!(self.failures, "{what}:");
        let lines: Vec<_> = wrong.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            if n < FAILURE_HEAD || n + FAILURE_TAIL >= lines.len() {
                let _ = writeln!(self.failures, "  {line}");
            } else if n == FAILURE_HEAD {
                let _ = writeln!(self.failures, "  [...]");
            }
        }
        false
    }

    /// The table, for a terminal.
    pub fn text(&self) -> String {
        let rows: Vec<[&str; 7]> = std::iter::once(HEAD)
            .chain(self.table.iter().map(|row| row.each_ref().map(String::as_str)))
            .collect();
        let width = |column: usize| {
            rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
        };
        let widths: [usize; 6] = std::array::from_fn(width);
        let mut text = String::new();
        for row in rows {
            for (cell, width) in row.iter().zip(widths) {
                let _ = write!(text, "{cell:width$}  ");
            }
            let _ = writeln!(text, "{}", row[6]);
        }
        text
    }
}

/// Judges what `backends` did on all kernels.
pub fn judge(reports: &[Report], backends: &[Backend]) -> Verdict {
    let mut verdict = Verdict::default();
    // What the first good run of a scenario found: all others have to find the same.
    let mut first: BTreeMap<String, (String, Vec<Exchange>)> = BTreeMap::new();
    for report in reports {
        let kernel = &report.kernel;
        verdict.check(&format!("{kernel}: the machine"), &report.broken);
        for &backend in backends {
            of_backend(report, backend, backends, &mut first, &mut verdict);
        }
        let mut row = row(report, "no BTF");
        let (mut passed, mut all) = (0, 0);
        for line in &report.lines {
            if let Line::Check { name, said, wrong } = line {
                let right = verdict.check(&format!("{kernel}: {name}"), wrong);
                passed += usize::from(right);
                all += 1;
                row[6] = one_line(said);
            }
        }
        row[5] = format!("{passed}/{all}");
        verdict.table.push(row);
    }
    verdict
}

fn row(report: &Report, backend: &str) -> [String; 7] {
    let seconds = report.lines.iter().find_map(|line| match line {
        Line::Ended { seconds } => Some(format!(" of {seconds:.0} s")),
        _ => None,
    });
    let booted = report.lines.iter().find_map(|line| match line {
        Line::Booted { release, seconds } => Some((release.clone(), format!("{seconds:.1}"))),
        _ => None,
    });
    let (release, mut boot) = booted.unwrap_or_else(|| ("did not start".into(), "-".into()));
    boot += seconds.as_deref().unwrap_or(" s, no end");
    let mut row: [String; 7] = Default::default();
    row[..4].clone_from_slice(&[report.kernel.clone(), release, boot, backend.into()]);
    row
}

fn of_backend(
    report: &Report,
    backend: Backend,
    backends: &[Backend],
    first: &mut BTreeMap<String, (String, Vec<Exchange>)>,
    verdict: &mut Verdict,
) {
    let who = format!("{} {}", report.kernel, backend.name());
    let mut row = row(report, backend.name());
    let start = report.lines.iter().find_map(|line| match line {
        Line::Agent { backend: b, said, seconds } if *b == backend => Some((said, *seconds)),
        _ => None,
    });
    let Some(expected) = expect::start(&report.kernel, backend) else {
        verdict.check(&who, "tests/src/vm/expect.rs says nothing of it");
        return;
    };
    let (mut passed, mut all) = (0, 1);
    let mut chosen = "";
    if let Some((said, seconds)) = start {
        row[4] = format!("{seconds:.1} s");
        row[6] = match said {
            Said::Ready(_) => format!("ready: {}", said.chosen().unwrap_or("without a back end")),
            Said::Left { code: Some(code), printed } => {
                format!("exit {code}: {}", one_line(printed))
            }
            Said::Left { code: None, printed } => format!("killed: {}", one_line(printed)),
        };
        chosen = said.chosen().unwrap_or_default();
        passed += usize::from(verdict.check(&who, &expect::wrong_start(expected, said)));
    } else {
        verdict.check(&who, "the agent was not started");
    }
    if let Start::Runs(name) = expected
        && !backend.only_starts(if chosen.is_empty() { name } else { chosen }, backends)
    {
        let names = SCENARIOS.iter().map(|scenario| scenario.name);
        let names: Vec<_> = names.chain([PREEMPTED_NAME, NOTHING_ELSE]).collect();
        all += names.len();
        if chosen.is_empty() {
            // One cause, said once; each of them counts.
            let _ = writeln!(verdict.failures, "{who}: not run: {}", names.join(", "));
            verdict.failed += names.len();
        } else {
            for name in names {
                let wrong = scenario(report, backend, chosen, name, first, &mut verdict.notes);
                passed += usize::from(verdict.check(&format!("{who}: {name}"), &wrong));
            }
        }
    }
    row[5] = format!("{passed}/{all}");
    verdict.table.push(row);
}

/// What is wrong with one scenario: what the machine found itself, and what differs from others.
fn scenario(
    report: &Report,
    backend: Backend,
    chosen: &str,
    name: &str,
    first: &mut BTreeMap<String, (String, Vec<Exchange>)>,
    notes: &mut String,
) -> String {
    let found = report.lines.iter().find_map(|line| match line {
        Line::Scenario { backend: b, name: n, sent, wrong, note, exchanges }
            if *b == backend && n == name =>
        {
            Some((*sent, wrong, note, exchanges))
        }
        _ => None,
    });
    let Some((sent, wrong, note, exchanges)) = found else {
        return "was not run".into();
    };
    if !expect::applies(&report.kernel, name) && wrong.is_empty() {
        let right = sent == 0 && exchanges.is_empty();
        return if right { String::new() } else { format!("{sent} sent, which it cannot do") };
    }
    if sent == 0 && wrong.is_empty() && name != NOTHING_ELSE {
        return "nothing was sent".into();
    }
    let who = format!("{} {}", report.kernel, backend.name());
    if !note.is_empty() {
        let _ = writeln!(notes, "{who}: {name}: {note}");
    }
    if !wrong.is_empty() {
        // Nothing that others could be measured by.
        return wrong.clone();
    }
    let mut wrong = String::new();
    // Back ends that see different things are expected to differ: they are compared among those
    // that see the same.
    let sees = SCENARIOS.iter().find(|scenario| scenario.name == name);
    let sees = sees.map(|scenario| [0, 1].map(|n| (scenario.sight)(chosen, n)));
    let (other, theirs) =
        first.entry(format!("{name} {sees:?}")).or_insert_with(|| (who.clone(), exchanges.clone()));
    for exchange in exchanges.iter().filter(|exchange| !theirs.contains(exchange)) {
        wrong += &format!("not so under {other}: {exchange:?}\n");
    }
    for exchange in theirs.iter().filter(|exchange| !exchanges.contains(exchange)) {
        wrong += &format!("so only under {other}: {exchange:?}\n");
    }
    wrong
}

/// Long enough for a sentence; a verifier's log is in the failures.
fn one_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(160).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: [Backend; 1] = [Backend::Fentry];

    /// A machine where everything is as expected; both kernels of the tests have `fentry`.
    fn report(kernel: &str) -> Report {
        let scenario = |name: &str| Line::Scenario {
            backend: Backend::Fentry,
            name: name.into(),
            sent: 1,
            wrong: String::new(),
            note: String::new(),
            exchanges: vec![Exchange { user_agent: format!("{name}/0"), ..Exchange::default() }],
        };
        let mut lines = vec![
            Line::Booted { release: "1.2.3".into(), seconds: 2.0 },
            Line::Agent {
                backend: Backend::Fentry,
                said: Said::Ready("ready backend=fentry targets=all hooks=functions".into()),
                seconds: 1.0,
            },
        ];
        lines.extend(SCENARIOS.iter().map(|s| scenario(s.name)));
        lines.extend([PREEMPTED_NAME, NOTHING_ELSE].map(scenario));
        lines.push(Line::Check { name: "btf".into(), said: String::new(), wrong: String::new() });
        lines.push(Line::Ended { seconds: 9.0 });
        Report { kernel: kernel.into(), lines, broken: String::new() }
    }

    fn first_scenario(report: &mut Report) -> &mut Line {
        report.lines.iter_mut().find(|line| matches!(line, Line::Scenario { .. })).unwrap()
    }

    /// Changes one of two reports, and gives what is then said to be wrong.
    fn failures(change: impl FnOnce(&mut Report)) -> (usize, String) {
        let mut changed = report("7.2");
        change(&mut changed);
        let verdict = judge(&[report("6.12"), changed], &ONE);
        (verdict.failed, verdict.failures)
    }

    #[test]
    fn what_is_as_expected_passes() {
        let verdict = judge(&[report("6.12"), report("7.2")], &ONE);
        assert_eq!((verdict.failed, verdict.failures.as_str()), (0, ""));
        // Of each machine: itself, the agent's start, the scenarios, two more, the check.
        assert_eq!(verdict.passed, 2 * (1 + 1 + SCENARIOS.len() + 2 + 1));
        assert!(verdict.text().contains("1.2.3"));
    }

    #[test]
    fn a_difference_between_kernels_fails() {
        let (failed, text) = failures(|report| {
            if let Line::Scenario { exchanges, .. } = first_scenario(report) {
                exchanges[0].events = 7;
            }
        });
        assert_eq!(failed, 1, "{text}");
        assert!(text.contains("not so under 6.12 fentry"), "{text}");
        assert!(text.contains("so only under 6.12 fentry"), "{text}");
    }

    #[test]
    fn what_a_machine_found_wrong_fails() {
        let (failed, text) = failures(|report| {
            if let Line::Scenario { wrong, .. } = first_scenario(report) {
                *wrong = "traced twice".into();
            }
        });
        assert_eq!((failed, text.contains("traced twice")), (1, true), "{text}");
    }

    #[test]
    fn checks_have_to_be_made_and_good() {
        let check = |name: &str, wrong: &str| Line::Check {
            name: name.into(),
            said: "so".into(),
            wrong: wrong.into(),
        };
        let report = |lines: Vec<Line>, broken: &str| Report {
            kernel: "systemd".into(),
            lines,
            broken: broken.into(),
        };
        let counts = |report: &Report| {
            let verdict = judge_checks(report, &["a", "b"]);
            (verdict.passed, verdict.failed)
        };
        assert_eq!(counts(&report(vec![check("a", ""), check("b", "")], "")), (3, 0));
        assert_eq!(counts(&report(vec![check("a", ""), check("b", "no")], "")), (2, 1));
        assert_eq!(counts(&report(vec![check("a", "")], "hangs")), (1, 2));
    }

    #[test]
    fn what_was_not_run_fails() {
        let (failed, text) = failures(|report| {
            report
                .lines
                .retain(|line| !matches!(line, Line::Scenario { name, .. } if name == "unix"));
        });
        assert_eq!((failed, text.contains("was not run")), (1, true), "{text}");
    }

    #[test]
    fn an_agent_that_left_fails_with_all_that_it_should_have_done() {
        let (failed, text) = failures(|report| {
            report.lines.retain(|line| !matches!(line, Line::Scenario { .. }));
            for line in &mut report.lines {
                if let Line::Agent { said, .. } = line {
                    *said = Said::Left { code: Some(1), printed: "Too large".into() };
                }
            }
        });
        assert_eq!(failed, 1 + SCENARIOS.len() + 2, "{text}");
        assert!(text.contains("Too large"), "{text}");
    }

    #[test]
    fn a_machine_without_a_report_fails() {
        let dir = crate::paths::TempDir::new();
        fs::write(dir.join("7.2.log"), "Kernel panic\n").unwrap();
        let silent = Report::read(dir.path(), "7.2");
        assert!(silent.broken.contains("Kernel panic"), "{}", silent.broken);
        let verdict = judge(&[silent], &ONE);
        assert_eq!((verdict.passed, verdict.failed), (0, 2 + SCENARIOS.len() + 2));
    }

    #[test]
    fn back_ends_that_see_otherwise_are_compared_apart() {
        let scenario = SCENARIOS.iter().find(|scenario| scenario.name == "io_uring").unwrap();
        assert_ne!((scenario.sight)("syscalls", 0), (scenario.sight)("fentry", 0));
    }
}
