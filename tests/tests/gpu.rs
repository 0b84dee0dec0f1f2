//! What targets use of GPUs, through NVML's own interface. The library is a fake: there is no GPU
//! where this runs.

use std::process::Command;
use std::time::Duration;

use llmtrace_tests::agent::{Options, require_bpf, serial};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::paths::{self, TempDir};
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;

const MEMORY: &str = "llmtrace_target_gpu_memory_bytes";
const UTILIZATION: &str = "llmtrace_target_gpu_utilization_ratio";

#[test]
fn memory_and_utilization_by_a_fake_nvml() {
    require_bpf();
    let _alone = serial();
    let dir = TempDir::new();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(dir.join("libnvidia-ml.so.1"))
        .arg(paths::root().join("tests/fixtures/fake_nvml.c"))
        .status();
    assert!(compiled.expect("a C compiler, which Rust links with").success());
    let server = Server::app(Model::Thread);
    let agent = Options::default()
        .pid(server.id())
        .env("LD_LIBRARY_PATH", &dir.path().to_string_lossy())
        .env("FAKE_NVML_PID", &server.id().to_string())
        .start();
    let pid = server.id().to_string();
    let labels = [("pid", &*pid), ("gpu", "0")];
    let metrics = wait_for("what the fake tells", Duration::from_secs(10), || {
        let metrics = agent.metrics();
        metrics.has(MEMORY).then_some(metrics)
    });
    assert_eq!(metrics.sum(MEMORY, &labels), f64::from(3 << 20) * 1024.0);
    assert_eq!(metrics.sum(UTILIZATION, &labels), 0.25);
    agent.stop();
}

#[test]
fn none_without_a_driver() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let agent = Options::default().pid(server.id()).start();
    let pid = server.id().to_string();
    let metrics = wait_for("what the target uses", Duration::from_secs(10), || {
        let metrics = agent.metrics();
        let resident = metrics.sum("llmtrace_target_resident_memory_bytes", &[("pid", &*pid)]);
        (resident > 0.0).then_some(metrics)
    });
    let driver = std::path::Path::new("/dev/nvidiactl").exists();
    assert!(driver || !metrics.has(MEMORY));
    assert!(!agent.printed().to_lowercase().contains("nvml"), "{}", agent.printed());
    agent.stop();
}
