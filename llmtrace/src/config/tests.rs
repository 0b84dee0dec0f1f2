use std::{ffi::OsString, io::Write, path::PathBuf, time::Duration};

use clap::Parser;

use super::*;
use crate::cli::{self, Cli, Command};

fn file(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("llmtrace-config-{}-{name}", std::process::id()));
    fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    path
}

/// Parses `llmtrace ARGS --config FILE`.
fn parse(name: &str, args: &[&str], text: &str) -> Result<cli::RunArgs, String> {
    let path = file(name, text);
    let argv = ["llmtrace", "run"].iter().chain(args).map(OsString::from);
    let argv: Vec<_> = argv.chain(["--config".into(), path.clone().into()]).collect();
    let parsed = cli::parse_from(argv).map_err(|e| e.to_string());
    fs::remove_file(path).unwrap();
    match parsed?.command {
        Command::Run(args) => Ok(args),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_says_what_the_command_line_does_not() {
    let text = "listen = '127.0.0.1:1'\npid = [7, 8]\ncomm = 'vllm*'\nall = false\nring_mib = 16\n";
    let args = parse("says", &["--pid", "9"], text).unwrap();
    assert_eq!(args.targets.pid, [9], "the command line's replace the file's");
    assert_eq!(args.targets.comm, ["vllm*"]);
    assert_eq!(args.listen, "127.0.0.1:1".parse().unwrap());
    assert_eq!(args.kernel.ring_mib, 16);
    assert!(!args.targets.all);
}

#[test]
fn flags_of_other_commands_are_no_mistake() {
    assert!(parse("other", &[], "payload = true\n").is_ok());
}

#[test]
fn mistakes_are_told() {
    for (name, text, told) in [
        ("unknown", "lissten = 'x'\n", "unknown field `lissten`"),
        ("syntax", "listen = \n", "line 1"),
        ("value", "listen = 'nowhere'\n", "--listen"),
        ("type", "all = 3\n", "`all` is true or false"),
        ("config", "config = 'x'\n", "unknown field `config`"),
        ("slo", "[[slo]]\nmodel = 'm'\n", "none of ttft, tpot, e2e"),
        ("time", "[[slo]]\nttft = 'soon'\n", "no duration such as 500ms"),
        ("buckets", "[buckets]\nttft = [2, 1]\n", "ascending"),
        ("price", "[cost]\ngpu-hour = -1.0\n", "cannot be -1"),
        ("signal", "[anomaly]\nsignals = ['x']\n", "is none of ttft, itl"),
        ("interval", "[anomaly]\ninterval = '0s'\n", "anomaly.interval has to be from 1s"),
        ("window", "[anomaly]\ninterval = '1s'\nwindow = '1h'\n", "more than 1000 intervals"),
        ("factor", "[anomaly]\nmin-change = 1.0\n", "min-change has to be more than 1"),
        ("share", "[anomaly]\nquantile = 1.0\n", "quantile has to be between 0 and 1"),
        ("raise", "[anomaly]\nraise = 6\n", "raise <= raise-of"),
        ("url", "[notify]\nalertmanager = 'am:9093'\n", "no URL such as"),
        ("source", "[notify]\ngenerator-url = 'grafana'\n", "generator-url is no URL such as"),
        ("patience", "[notify]\ntimeout = 0\n", "timeout has to be from 100ms to 1h"),
        ("secret", "[notify]\nusername = 'a'\n", "go together"),
        ("label", "[notify]\nlabels = { 1a = 'x' }\n", "no name of a label"),
        ("otlp", "[otlp]\ninterval = '1ms'\n", "from 100ms to 1h"),
        ("sample", "[otlp]\nsample = 'some'\n", "unknown variant `some`"),
        ("field", "[cost]\ngpuhour = 1.0\n", "unknown field `gpuhour`"),
    ] {
        // Tables are read by who needs them, and at the start.
        let path = file(name, text);
        let both =
            parse(name, &[], text).err().or_else(|| sections(&path).err().map(|e| e.to_string()));
        let error = both.unwrap_or_else(|| panic!("{name} went through"));
        assert!(error.contains(told), "{name}: {error}");
        let _ = fs::remove_file(path);
    }
    let missing = sections(Path::new("/nowhere.toml")).unwrap_err().to_string();
    assert!(missing.contains("/nowhere.toml") && missing.contains("No such file"), "{missing}");
}

#[test]
fn the_annotated_example() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/llmtrace.toml");
    let text = fs::read_to_string(&path).unwrap();
    sections(&path).unwrap();
    // Every line that is commented out is an example, too: without its mark it has to be right.
    let all: String = text
        .lines()
        .map(|line| match line.strip_prefix("#") {
            Some(example) if !example.starts_with([' ', '#']) && !example.is_empty() => example,
            _ => line,
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let path = file("example", &all);
    let read = sections(&path).unwrap_or_else(|e| panic!("{e}\n{all}"));
    assert_eq!(read.slo[0].ttft, Some(Duration::from_millis(500)));
    assert!(read.cost.is_some());
    // What it shows of these are the defaults.
    assert_eq!(read.anomaly, Anomaly::default());
    assert_eq!(read.notify.labels.len(), 1);
    let shown = Otlp {
        endpoint: None,
        compression: None,
        headers: [].into(),
        resource: [].into(),
        ..read.otlp
    };
    assert_eq!(shown, Otlp::default());
    let argv = ["llmtrace", "run", "--config"].map(OsString::from);
    let argv = argv.into_iter().chain([path.clone().into()]).collect();
    cli::parse_from(argv).unwrap();
    fs::remove_file(path).unwrap();
    // And it names every flag of `run`.
    let command = cli::command();
    let run = command.find_subcommand("run").unwrap();
    for arg in run.get_arguments().filter(|arg| !arg.is_hide_set()) {
        let long = arg.get_long().unwrap();
        // A dot in a key means a table.
        let key = long.replace('.', "-");
        let there = all.lines().any(|line| line.starts_with(&format!("{key} = ")));
        assert!(there || ["config", "help", "version"].contains(&long), "{long} is not in it");
    }
}

#[test]
fn without_a_file_nothing_changes() {
    let argv = ["llmtrace", "run", "--pid", "3"].map(OsString::from).to_vec();
    let Command::Run(args) = cli::parse_from(argv).unwrap().command else { panic!() };
    assert_eq!(args.targets.pid, [3]);
    assert!(Cli::try_parse_from(["llmtrace", "run", "--pid", "x"]).is_err());
}
