//! Real servers, each started with one of our small applications or the tiny model.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::clock::wait_for;
use crate::net::{Address, free_port};
use crate::paths::{self, TempDir};
use crate::process::Process;
use crate::servers::app::Model;
use crate::servers::log::{self, ServerRecord};

/// llama.cpp loads its model first, LiteLLM a thousand modules.
const START_LIMIT: Duration = Duration::from_secs(120);

/// A running server. Dropping it kills it with its children.
#[derive(Debug)]
pub struct Server {
    pub address: Address,
    process: Process,
    dir: TempDir,
}

impl Server {
    #[track_caller]
    pub(crate) fn start(command: &mut Command, address: Address, dir: TempDir) -> Self {
        command.env("LLMTRACE_APP_LOG", dir.join("app.jsonl"));
        let mut process = Process::spawn(command);
        wait_for("a server to accept", START_LIMIT, || {
            if let Some(status) = process.try_wait() {
                panic!("the server left: {status}\n{}", process.finish_output());
            }
            address.connect().ok()
        });
        Self { address, process, dir }
    }

    /// The process that was started: a worker may be another.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// # Panics
    /// If it is not a TCP server.
    pub fn port(&self) -> u16 {
        match &self.address {
            Address::Tcp(addr) | Address::Tls(addr) | Address::KernelTls(addr) => addr.port(),
            Address::Unix(path) => panic!("{} has no port", path.display()),
        }
    }

    /// Ids of the child processes.
    pub fn children(&self) -> Vec<u32> {
        let id = self.id();
        let text = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// What the application itself logged of each request so far.
    pub fn log(&self) -> Vec<ServerRecord> {
        log::read(&self.dir.join("app.jsonl"))
    }

    /// The same, when it has `count` entries.
    #[track_caller]
    pub fn wait_for_log(&self, count: usize) -> Vec<ServerRecord> {
        wait_for("the server's own log", Duration::from_secs(10), || {
            Some(self.log()).filter(|log| log.len() >= count)
        })
    }

    /// Our threaded Rust server; see [`app`](crate::servers::app).
    #[track_caller]
    pub fn app(by: Model) -> Self {
        Self::app_on(free_port(), by)
    }

    /// The same on a port that is known before.
    #[track_caller]
    pub fn app_on(port: u16, by: Model) -> Self {
        let dir = TempDir::new();
        let mut command = rust("app");
        command.arg("--port").arg(port.to_string());
        command.arg("--log").arg(dir.join("app.jsonl")).args(["--by", by_name(by)]);
        Self::start(&mut command, Address::loopback(port), dir)
    }

    /// The same at an address of the caller's choice, which may be a unix socket.
    #[track_caller]
    pub fn app_at(address: Address, by: Model, io: Io) -> Self {
        let dir = TempDir::new();
        let mut command = rust("app");
        match &address {
            // The application itself speaks no TLS: what is in front of it does.
            Address::Tcp(addr) | Address::Tls(addr) | Address::KernelTls(addr) => {
                command.arg("--host").arg(addr.ip().to_string());
                command.arg("--port").arg(addr.port().to_string());
            }
            Address::Unix(path) => {
                command.arg("--unix").arg(path);
            }
        }
        if io == Io::Uring {
            command.arg("--uring");
        }
        command.args(["--by", by_name(by)]).arg("--log").arg(dir.join("app.jsonl"));
        Self::start(&mut command, address, dir)
    }

    /// The same with flags of the caller's choice, at an address that may differ from the one that
    /// it listens on.
    #[track_caller]
    pub fn app_with(address: Address, flags: &[&str]) -> Self {
        let mut command = rust("app");
        match &address {
            Address::Tcp(addr) | Address::Tls(addr) | Address::KernelTls(addr) => {
                command.arg("--port").arg(addr.port().to_string());
            }
            Address::Unix(path) => {
                command.arg("--unix").arg(path);
            }
        }
        command.args(flags);
        Self::start(&mut command, address, TempDir::new())
    }

    /// The same, started by what `around` makes of the command.
    #[track_caller]
    pub fn app_by(around: impl FnOnce(&mut Command) -> Command) -> Self {
        let port = free_port();
        let mut command = rust("app");
        command.arg("--port").arg(port.to_string());
        Self::start(&mut around(&mut command), Address::loopback(port), TempDir::new())
    }

    /// The same from another executable.
    #[track_caller]
    pub fn app_from(exe: &Path) -> Self {
        let port = free_port();
        let mut command = Command::new(exe);
        command.args(["app", "--port"]).arg(port.to_string());
        Self::start(&mut command, Address::loopback(port), TempDir::new())
    }

    /// The same without a log, for benchmarks.
    #[track_caller]
    pub fn quiet_app() -> Self {
        let port = free_port();
        let mut command = rust("app");
        command.arg("--port").arg(port.to_string());
        Self::start(&mut command, Address::loopback(port), TempDir::new())
    }

    /// The same on a unix socket.
    #[track_caller]
    pub fn unix_app() -> Self {
        let dir = TempDir::new();
        let path = dir.join("app.sock");
        let mut command = rust("app");
        command.arg("--unix").arg(&path);
        command.arg("--log").arg(dir.join("app.jsonl"));
        Self::start(&mut command, Address::Unix(path), dir)
    }

    /// Sends back the body of a request, as it is, as a response.
    #[track_caller]
    pub fn parrot() -> Self {
        let port = free_port();
        let mut command = rust("parrot");
        command.arg("--port").arg(port.to_string());
        Self::start(&mut command, Address::loopback(port), TempDir::new())
    }

    /// As many events as the machine can move.
    #[track_caller]
    pub fn flood() -> Self {
        let port = free_port();
        let mut command = rust("flood");
        command.arg("--port").arg(port.to_string());
        Self::start(&mut command, Address::loopback(port), TempDir::new())
    }

    /// So many small servers in one process, and where they are. Each has any model.
    #[track_caller]
    pub fn crowd(servers: usize) -> (Self, Vec<Address>) {
        let mut command = rust("crowd");
        command.arg("--servers").arg(servers.to_string());
        let process = Process::spawn(&mut command);
        let addresses = wait_for("the ports of many servers", START_LIMIT, || {
            let line = process.output().find(|line| line.starts_with("ports "))?;
            let ports = line.split(' ').filter_map(|port| port.parse().ok());
            Some(ports.map(Address::loopback).collect::<Vec<_>>())
        });
        let address = addresses.first().expect("at least one").clone();
        (Self { address, process, dir: TempDir::new() }, addresses)
    }

    /// Measures what its own calls cost, over `calls` of them.
    #[track_caller]
    pub fn cost(calls: usize) -> Self {
        let port = free_port();
        let mut command = rust("cost");
        command.arg("--port").arg(port.to_string()).arg("--calls").arg(calls.to_string());
        Self::start(&mut command, Address::loopback(port), TempDir::new())
    }

    /// The ASGI application on uvicorn, with `loop` and `http` as its command line has them.
    #[track_caller]
    pub fn uvicorn(event_loop: &str, http: &str) -> Self {
        Self::uvicorn_of("asgi:app", event_loop, http)
    }

    /// The same behind content codings.
    #[track_caller]
    pub fn coded() -> Self {
        Self::uvicorn_of("coded:app", "uvloop", "httptools")
    }

    /// A Realtime API over WebSockets, on uvicorn.
    #[track_caller]
    pub fn realtime() -> Self {
        Self::uvicorn_of("realtime:app", "uvloop", "httptools")
    }

    /// The ASGI application on uvicorn, with small buffers for what it sends.
    #[track_caller]
    pub fn small_uvicorn() -> Self {
        Self::python("small_uvicorn.py", &[])
    }

    /// A threaded, blocking server with small buffers, which reads a request only `read_delay_ms`
    /// after it has come.
    #[track_caller]
    pub fn slow(read_delay_ms: u64) -> Self {
        Self::python("slow.py", &[&read_delay_ms.to_string()])
    }

    /// An application that is a program: it gets a port, and what else it takes.
    #[track_caller]
    fn python(app: &str, args: &[&str]) -> Self {
        let port = free_port();
        let mut command = Command::new(paths::python());
        command.arg(paths::app(app)).arg(port.to_string()).args(args);
        Self::start(&mut command, Address::loopback(port), TempDir::new())
    }

    #[track_caller]
    fn uvicorn_of(app: &str, event_loop: &str, http: &str) -> Self {
        let port = free_port();
        let mut command = Self::uvicorn_command(app, event_loop, http, port);
        Self::start(&mut command, Address::loopback(port), TempDir::new())
    }

    pub(crate) fn uvicorn_command(app: &str, event_loop: &str, http: &str, port: u16) -> Command {
        let mut command = Command::new(paths::python());
        command.args(["-m", "uvicorn", app, "--host", "127.0.0.1"]);
        command.args(["--log-level", "critical", "--no-access-log"]);
        command.args(["--timeout-keep-alive", "60"]);
        command.args(["--loop", event_loop, "--http", http]);
        command.arg("--port").arg(port.to_string());
        command.arg("--app-dir").arg(app_dir());
        command
    }

    /// The ASGI application on granian (Rust, hyper); serves from a worker process.
    #[track_caller]
    pub fn granian() -> Self {
        let port = free_port();
        let mut command = Command::new(paths::python_bin("granian"));
        command.args(["--interface", "asgi", "--host", "127.0.0.1"]);
        command.args(["--workers", "1", "--log-level", "critical"]);
        command.arg("--port").arg(port.to_string());
        command.arg("asgi:app").current_dir(app_dir());
        Self::start(&mut command, Address::loopback(port), TempDir::new())
    }

    /// The ASGI application on hypercorn, which goes from HTTP/1 to HTTP/2 if asked to.
    #[track_caller]
    pub fn hypercorn() -> Self {
        let port = free_port();
        let mut command = Command::new(paths::python_bin("hypercorn"));
        command.args(["--log-level", "critical", "--bind"]).arg(format!("127.0.0.1:{port}"));
        command.arg("asgi:app").current_dir(app_dir());
        Self::start(&mut command, Address::loopback(port), TempDir::new())
    }

    /// Plain `node:http`.
    #[track_caller]
    pub fn node() -> Self {
        let port = free_port();
        let mut command = Command::new("node");
        command.arg(paths::app("node.mjs")).arg(port.to_string());
        Self::start(&mut command, Address::loopback(port), TempDir::new())
    }

    /// The gRPC server of `fixtures/apps`, on gRPC's C core.
    #[track_caller]
    pub fn grpc() -> Self {
        Self::python("grpc_server.py", &[])
    }

    /// NVIDIA's Triton with a model in Python. Its gRPC listens one port further on.
    #[track_caller]
    pub fn triton() -> Self {
        let (port, folder) = (free_port(), paths::triton());
        let triton = folder.join("pytriton/tritonserver");
        let mut command = Command::new(triton.join("bin/tritonserver"));
        command
            .arg("--model-repository")
            .arg(paths::app("triton/tiny").parent().expect("a folder"));
        command.arg("--backend-directory").arg(triton.join("backends"));
        command.args(["--http-address", "127.0.0.1", "--http-port"]).arg(port.to_string());
        command.args(["--grpc-address", "127.0.0.1", "--grpc-port"]).arg((port + 1).to_string());
        command.args(["--allow-metrics", "false", "--log-info", "false"]);
        command.env("PYTHONPATH", folder);
        Self::start(&mut command, Address::loopback(port), TempDir::new())
    }

    /// llama.cpp with the tiny model.
    #[track_caller]
    pub fn llama() -> Self {
        Self::llama_with(&[])
    }

    /// The same, for embeddings too.
    #[track_caller]
    pub fn llama_embeddings() -> Self {
        Self::llama_with(&["--embeddings"])
    }

    /// llama.cpp with a tiny model that ranks documents.
    #[track_caller]
    pub fn llama_reranking() -> Self {
        let port = free_port();
        let mut command = Command::new(paths::python());
        command.arg(paths::app("llama.py")).arg(paths::rank_model()).arg("--reranking");
        command.arg("--port").arg(port.to_string());
        Self::llama_start(&mut command, Address::loopback(port), TempDir::new())
    }

    /// The same with flags of the caller's choice.
    #[track_caller]
    pub fn llama_with(flags: &[&str]) -> Self {
        let port = free_port();
        let mut command = llama();
        command.args(flags).arg("--port").arg(port.to_string());
        Self::llama_start(&mut command, Address::loopback(port), TempDir::new())
    }

    /// The same on a unix socket.
    #[track_caller]
    pub fn llama_unix() -> Self {
        let dir = TempDir::new();
        let path = dir.join("llama.sock");
        let mut command = llama();
        command.arg("--unix").arg(&path);
        Self::llama_start(&mut command, Address::Unix(path), dir)
    }

    /// It accepts before the model is loaded, and then answers 503.
    #[track_caller]
    fn llama_start(command: &mut Command, address: Address, dir: TempDir) -> Self {
        let server = Self::start(command, address, dir);
        wait_for("llama.cpp to load its model", START_LIMIT, || {
            let output = server.process.output();
            output.find(|line| line.starts_with("listening on"))
        });
        server
    }
}

/// How our Rust server reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// By system calls.
    Calls,
    Uring,
}

fn by_name(by: Model) -> &'static str {
    match by {
        Model::Thread => "thread",
        Model::Split => "split",
        Model::Fork => "fork",
    }
}

fn rust(mode: &str) -> Command {
    let mut command = Command::new(paths::own_bin("server"));
    command.arg(mode);
    command
}

fn llama() -> Command {
    let mut command = Command::new(paths::python());
    command.arg(paths::app("llama.py")).arg(paths::model());
    command
}

fn app_dir() -> PathBuf {
    let file = paths::app("asgi.py");
    file.parent().expect("a file is in a folder").to_path_buf()
}
