//! Real servers that end TLS: the applications of `stack`, and proxies in front of them.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::net::{Address, free_port};
use crate::paths::{self, TempDir};
use crate::stack::Server;
use crate::tls::Files;

impl Server {
    /// Our threaded server, which ends TLS itself by the machine's OpenSSL.
    #[track_caller]
    pub fn app_tls_on(port: u16) -> Self {
        let dir = TempDir::new();
        let files = Files::write(dir.path());
        let mut command = Command::new(paths::own_bin("server"));
        command.args(["app", "--port"]).arg(port.to_string());
        command.arg("--certificate").arg(&files.certificate).arg("--key").arg(&files.key);
        Self::start(&mut command, Address::loopback(port).over_tls(), dir)
    }

    /// The ASGI application on uvicorn, which ends TLS itself through memory BIOs.
    #[track_caller]
    pub fn uvicorn_tls(event_loop: &str) -> Self {
        let (port, dir) = (free_port(), TempDir::new());
        let files = Files::write(dir.path());
        let mut command = Self::uvicorn_command("asgi:app", event_loop, "httptools", port);
        command.arg("--ssl-certfile").arg(&files.certificate);
        command.arg("--ssl-keyfile").arg(&files.key);
        Self::start(&mut command, Address::loopback(port).over_tls(), dir)
    }

    /// `node:https`: OpenSSL inside Node's own binary.
    #[track_caller]
    pub fn node_tls() -> Self {
        let (port, dir) = (free_port(), TempDir::new());
        let files = Files::write(dir.path());
        let mut command = Command::new("node");
        command.arg(paths::app("node.mjs")).arg(port.to_string());
        command.args([&files.certificate, &files.key]);
        Self::start(&mut command, Address::loopback(port).over_tls(), dir)
    }

    /// As many events over TLS, by OpenSSL, as the machine can move.
    #[track_caller]
    pub fn flood_tls() -> Self {
        let (port, dir) = (free_port(), TempDir::new());
        let files = Files::write(dir.path());
        let mut command = Command::new(paths::own_bin("server"));
        command.arg("flood").arg("--port").arg(port.to_string());
        command.arg("--certificate").arg(&files.certificate).arg("--key").arg(&files.key);
        Self::start(&mut command, Address::loopback(port).over_tls(), dir)
    }

    /// A proxy that ends TLS in front of `upstream`, run from a template of its configuration.
    #[track_caller]
    fn proxy(
        upstream: &Self,
        template: &str,
        command: impl FnOnce(&Path, &Path) -> Command,
    ) -> Self {
        let (port, dir) = (free_port(), TempDir::new());
        let files = Files::write(dir.path());
        let text = fs::read_to_string(paths::app(template)).expect("a fixture");
        let conf = text
            .replace("@DIR@", &dir.path().to_string_lossy())
            .replace("@PORT@", &port.to_string())
            .replace("@UPSTREAM@", &format!("127.0.0.1:{}", upstream.port()))
            .replace("@UPSTREAM_PORT@", &upstream.port().to_string())
            .replace("@CERT@", &files.certificate.to_string_lossy())
            .replace("@KEY@", &files.key.to_string_lossy())
            .replace("@BOTH@", &files.both.to_string_lossy());
        let path = dir.join(template.trim_end_matches(".in"));
        fs::write(&path, conf).expect("a temporary file");
        let mut command = command(dir.path(), &path);
        Self::start(&mut command, Address::loopback(port).over_tls(), dir)
    }

    /// nginx; serves from a worker process.
    #[track_caller]
    pub fn nginx_tls(upstream: &Self) -> Self {
        Self::proxy(upstream, "nginx-tls.conf.in", |dir, conf| {
            let mut command = Command::new("nginx");
            command.arg("-p").arg(dir).arg("-c").arg(conf).args(["-e", "stderr"]);
            command
        })
    }

    /// haproxy in the foreground, one process.
    #[track_caller]
    pub fn haproxy_tls(upstream: &Self) -> Self {
        Self::proxy(upstream, "haproxy.cfg.in", |_, conf| {
            let mut command = Command::new("haproxy");
            command.arg("-db").arg("-f").arg(conf);
            command
        })
    }

    /// Caddy: Go's `crypto/tls`.
    #[track_caller]
    pub fn caddy_tls(upstream: &Self) -> Self {
        Self::proxy(upstream, "Caddyfile.in", |dir, conf| {
            let mut command = Command::new("caddy");
            command.arg("run").arg("--adapter").arg("caddyfile").arg("--config").arg(conf);
            command.env("HOME", dir).env("XDG_DATA_HOME", dir).env("XDG_CONFIG_HOME", dir);
            command
        })
    }

    /// lighttpd with GnuTLS.
    #[track_caller]
    pub fn lighttpd_gnutls(upstream: &Self) -> Self {
        Self::proxy(upstream, "lighttpd.conf.in", |_, conf| {
            let mut command = Command::new("lighttpd");
            command.arg("-D").arg("-f").arg(conf);
            command
        })
    }

    /// Envoy: a stripped binary with BoringSSL inside.
    #[track_caller]
    pub fn envoy_tls(upstream: &Self) -> Self {
        Self::proxy(upstream, "envoy.yaml.in", |_, conf| {
            let mut command = Command::new(paths::envoy());
            command.arg("-c").arg(conf).args(["--concurrency", "1", "--log-level", "error"]);
            command.args(["--base-id", &free_port().to_string()]);
            command
        })
    }
}
