//! Containers by their cgroups, and their names from a kubelet. The cgroups are real and named as
//! containerd names them; the kubelet is a `fake_kubelet`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use llmtrace_tests::agent::{Options, require_bpf, serial};
use llmtrace_tests::client::{Request, load};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::compare::assert_same;
use llmtrace_tests::fake_kubelet::{FakeKubelet, one_pod, token_file};
use llmtrace_tests::paths::TempDir;
use llmtrace_tests::plan::Ask;
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;
use llmtrace_tests::tls::Files;

const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.for-tests.only";
const IMAGE: &str = "docker.io/vllm/vllm-openai:v0.11.0";

/// The cgroup of a container, as the kubelet and containerd make it with the systemd driver.
struct Container {
    id: String,
    /// From the outermost on.
    folders: Vec<PathBuf>,
}

impl Container {
    fn new(number: u32) -> Self {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let root = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(path))
        });
        // Of this process alone, whatever else is tested on the machine.
        let id = format!("{:08x}{number:08x}{}", std::process::id(), "5a".repeat(24));
        let mut path = root.expect("a cgroup v2 hierarchy is mounted");
        let uid = format!("{:08x}_0000_4000_8000_{number:012x}", std::process::id());
        let mut folders = Vec::new();
        for part in [
            format!("llmtrace-test-{}-{number}-kubepods.slice", std::process::id()),
            format!("kubepods-burstable-pod{uid}.slice"),
            format!("cri-containerd-{id}.scope"),
        ] {
            path.push(part);
            folders.push(path.clone());
        }
        fs::create_dir_all(&path).unwrap();
        Self { id, folders }
    }

    fn path(&self) -> &Path {
        self.folders.last().unwrap()
    }

    fn take(&self, pid: u32) {
        fs::write(self.path().join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        for path in self.folders.iter().rev() {
            wait_for("the cgroup to be empty", Duration::from_secs(5), || {
                fs::remove_dir(path).ok()
            });
        }
    }
}

fn requests(name: &str) -> Vec<Request> {
    (0..5).map(|n| Request::new(format!("{name}/{n}"), &Ask::default())).collect()
}

#[test]
fn a_server_is_called_by_its_pod() {
    require_bpf();
    let _alone = serial();
    let dir = TempDir::new();
    let files = Files::write(dir.path());
    let container = Container::new(1);
    let kubelet = FakeKubelet::start(
        &files,
        TOKEN,
        one_pod("models", "llama-0", "vllm", IMAGE, &container.id),
    );
    let (inside, outside) = (Server::app(Model::Thread), Server::app(Model::Thread));
    container.take(inside.id());
    let agent = Options::default()
        .pid(inside.id())
        .pid(outside.id())
        .arg("--kubelet", kubelet.url())
        .arg("--kubelet-token-file", token_file(dir.path(), TOKEN))
        .arg("--kubelet-ca-file", &files.certificate)
        .start();
    let mut records = load(&inside.address, requests("pod"), 1);
    records.extend(load(&outside.address, requests("none"), 1));
    let metrics = agent.wait_for_requests("server", records.len());
    let server = format!("llama-0/vllm:{}", inside.port());
    assert_eq!(metrics.sum("llm_requests_total", &[("server", &*server)]), 5.0);
    let what = "llmtrace_target_info of the target in the pod, and of no other";
    wait_for(what, Duration::from_secs(10), || {
        let metrics = agent.metrics();
        let labels = [
            ("pid", &*inside.id().to_string()),
            ("container", "vllm"),
            ("pod", "llama-0"),
            ("namespace", "models"),
            ("image", IMAGE),
        ];
        let one = metrics.sum("llmtrace_target_info", &labels) == 1.0;
        (one && metrics.sum("llmtrace_target_info", &[]) == 1.0).then_some(())
    });
    assert_eq!(kubelet.refused(), 0);
    let entries = agent.stop();
    assert_same(&records, &entries);
    let of = |port| entries.iter().filter(move |entry| entry.serves(port));
    assert!(of(inside.port()).all(|entry| entry.server == server));
    assert!(of(outside.port()).all(|entry| !entry.server.contains('/')));
    drop((inside, outside));
}

/// Neither a certificate that nobody vouches for nor a wrong token keeps the agent from tracing.
#[test]
fn without_the_kubelet_processes_keep_their_names() {
    require_bpf();
    let _alone = serial();
    let dir = TempDir::new();
    let files = Files::write(dir.path());
    let container = Container::new(2);
    let kubelet = FakeKubelet::start(
        &files,
        TOKEN,
        one_pod("models", "llama-0", "vllm", IMAGE, &container.id),
    );
    let server = Server::app(Model::Thread);
    container.take(server.id());
    // Another authority than that of the kubelet's certificate.
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let stranger = dir.join("stranger.pem");
    fs::write(&stranger, made.cert.pem()).unwrap();
    for (ca, token, says) in
        [(&stranger, TOKEN, "certificate"), (&files.certificate, "wrong", "401")]
    {
        let agent = Options::default()
            .pid(server.id())
            .arg("--kubelet", kubelet.url())
            .arg("--kubelet-token-file", token_file(dir.path(), token))
            .arg("--kubelet-ca-file", ca)
            .start();
        let records = load(&server.address, requests(says), 1);
        agent.wait_for_requests("server", records.len());
        let printed = agent.printed();
        let complaint = printed.lines().find(|line| line.contains("pods have no names"));
        assert!(complaint.is_some_and(|line| line.contains(says)), "{printed}");
        let entries = agent.stop();
        assert_same(&records, &entries);
        assert!(entries.iter().all(|entry| !entry.server.contains('/')), "{entries:#?}");
    }
    // Unless that is what one wants.
    let agent = Options::default()
        .pid(server.id())
        .arg("--kubelet", kubelet.url())
        .arg("--kubelet-token-file", token_file(dir.path(), TOKEN))
        .arg("--kubelet-ca-file", &stranger)
        .flag("--kubelet-insecure")
        .start();
    load(&server.address, requests("insecure"), 1);
    agent.wait_for_requests("server", 5);
    let entries = agent.stop();
    assert!(entries.iter().all(|e| e.server.starts_with("llama-0/vllm:")), "{entries:#?}");
    drop(server);
}

#[test]
fn by_the_beginning_of_a_containers_id() {
    require_bpf();
    let _alone = serial();
    let (one, other) = (Container::new(3), Container::new(4));
    let (inside, outside) = (Server::app(Model::Thread), Server::app(Model::Thread));
    one.take(inside.id());
    other.take(outside.id());
    // Ids of these containers differ in their second half of 16 letters.
    let agent = Options::default().arg("--container", &one.id[..20]).start();
    load(&outside.address, requests("outside"), 1);
    let records = load(&inside.address, requests("inside"), 1);
    agent.wait_for_requests("server", records.len());
    assert_same(&records, &agent.stop());

    let left = Options::default().arg("--container", &one.id[..10]).try_start().unwrap_err();
    assert_eq!(left.status.code(), Some(1), "{}", left.printed);
    assert!(left.printed.contains("several containers"), "{}", left.printed);
    let left = Options::default().arg("--container", "feedfeedfeed").try_start().unwrap_err();
    assert!(left.printed.contains("is it running here"), "{}", left.printed);
    drop((inside, outside));
}
