//! The container file, built by buildah and run by podman: an agent in a container, with the flags
//! that the file names, traces a server outside of it.
//!
//! No registry is asked, so the base image is a stand-in: Debian's packages that distroless' `cc` is
//! made of (`cargo xtask setup --fixtures` unpacks them). The stages that compile are replaced by
//! what they leave behind, the agent under test. The last stage is built as it is written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use llmtrace_tests::agent::{require_bpf, serial};
use llmtrace_tests::client::{Request, load};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::http;
use llmtrace_tests::metrics::Metrics;
use llmtrace_tests::net::free_port;
use llmtrace_tests::paths::{self, TempDir};
use llmtrace_tests::plan::Ask;
use llmtrace_tests::process::Process;
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;
use serde_json::{Value, json};

const BASE: &str = "localhost/base";
const IMAGE: &str = "localhost/llmtrace";
const LIMIT: Duration = Duration::from_secs(60);
/// CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_PERFMON, CAP_BPF.
const FOUR: u64 = 1 << 2 | 1 << 19 | 1 << 38 | 1 << 39;

/// Images and containers of its own, gone when it is dropped.
struct Engine(TempDir);

impl Engine {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("--root").arg(self.0.join("images")).arg("--runroot").arg(self.0.join("run"));
        // The slow one that needs nothing of the kernel.
        command.args(["--storage-driver", "vfs"]);
        if program == "podman" {
            // No systemd is asked; runc, because crun does without cgroup v1.
            command.args(["--runtime", "runc", "--cgroup-manager", "cgroupfs"]);
        }
        command
    }

    #[track_caller]
    fn must(&self, program: &str, args: &[&str]) -> String {
        let output = self.command(program).args(args).current_dir(paths::root()).output();
        let Output { status, stdout, stderr } = output.unwrap_or_else(|e| panic!("{program}: {e}"));
        let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "{program} {args:?}: {out}{err}");
        out.trim().to_owned()
    }

    /// The flags that the container file names, on one line with `podman run`.
    fn flags() -> Vec<String> {
        let text = fs::read_to_string(file()).unwrap().replace("\\\n#", "");
        let line = text.lines().find_map(|line| line.strip_prefix("#   podman run "));
        let flags = line.expect("how to run it").split_whitespace().map(str::to_owned);
        let mut flags: Vec<_> = flags.collect();
        assert_eq!(flags.pop().as_deref(), Some("llmtrace"), "the image comes last");
        flags
    }

    /// A running container.
    fn run(&self, name: &str, args: &[&str]) -> Process {
        let mut command = self.command("podman");
        command.args(["run", "--name", name]).args(Self::flags());
        // Podman raises limits, which takes a capability that the tests may lack.
        command.args(["--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"]);
        Process::spawn(command.arg(IMAGE).args(args))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.command("podman").args(["rm", "--all", "--force", "--time", "0"]).output();
    }
}

fn file() -> PathBuf {
    paths::root().join("deploy/container/Containerfile")
}

/// What the stage `build` leaves behind.
fn built(dir: &Path) {
    for folder in ["out", "src"] {
        fs::create_dir_all(dir.join(folder)).unwrap();
    }
    let agent = dir.join("out/llmtrace");
    fs::copy(paths::agent(), &agent).unwrap();
    assert!(Command::new("strip").arg("--strip-debug").arg(agent).status().unwrap().success());
    for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
        fs::copy(paths::root().join(licence), dir.join("src").join(licence)).unwrap();
    }
}

#[test]
fn an_agent_in_a_container_traces_what_is_outside() {
    require_bpf();
    let _alone = serial();
    let engine = Engine(TempDir::new());
    let stage = engine.0.join("stage");
    built(&stage);
    let base = paths::container_base();
    engine.must("podman", &["import", "--quiet", base.to_str().unwrap(), BASE]);
    let file = file();
    engine.must(
        "buildah",
        &[
            "build",
            "--isolation=chroot",
            "--pull-never",
            &format!("--build-arg=BASE={BASE}"),
            &format!("--build-context=build={}", stage.display()),
            &format!("--tag={IMAGE}"),
            &format!("--file={}", file.display()),
            ".",
        ],
    );
    let image: Value =
        serde_json::from_str(&engine.must("podman", &["image", "inspect", IMAGE])).unwrap();
    let config = &image[0]["Config"];
    assert_eq!(config["User"], "0");
    assert_eq!(config["Entrypoint"], json!(["/usr/bin/llmtrace"]));
    assert_eq!(config["Cmd"], json!(["run", "--listen", "0.0.0.0:9466"]));

    let server = Server::app(Model::Thread);
    let (port, of) = (free_port(), server.port().to_string());
    let listen = format!("127.0.0.1:{port}");
    let mut agent = engine.run("agent", &["run", "--listen", &listen, "--port", &of]);
    wait_for("the agent's ready line", LIMIT, || {
        assert!(agent.try_wait().is_none(), "{}", agent.output().text());
        agent.output().find(|line| line.starts_with("ready "))
    });
    let pid = engine.must("podman", &["inspect", "--format", "{{.State.Pid}}", "agent"]);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert!(status.contains(&format!("{set}:\t{FOUR:016x}\n")), "{status}");
    }
    assert!(status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n"), "{status}");
    let requests = (0..5).map(|n| Request::new(format!("container/{n}"), &Ask::default()));
    let records = load(&server.address, requests.collect(), 1);
    let labels = [("role", "server"), ("outcome", "success"), ("endpoint", "/v1/chat/completions")];
    let name = format!("server:{of}");
    wait_for("the requests in /metrics", LIMIT, || {
        let (status, text) = http::get(port, "/metrics").expect("it answers");
        assert_eq!(status, 200);
        let metrics = Metrics::parse(&text);
        // By the name of a process that it sees because of --pid=host.
        let of = metrics.select("llm_requests_total", &labels);
        let sum: f64 = of.filter(|s| s.labels["server"] == name).map(|s| s.value).sum();
        (sum == records.len() as f64).then_some(())
    });
    engine.must("podman", &["stop", "--time", "30", "agent"]);
    let status = agent.wait(LIMIT);
    let printed = agent.finish_output();
    assert!(status.success(), "{status}: {printed}");
    let last = format!("stopped requests={} ", records.len());
    assert!(printed.contains(&last), "{printed}");
    assert!(!printed.contains("cannot give up privileges"), "{printed}");
}
