//! Real servers that end TLS: the applications of `stack`, and what a proxy is configured with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::net::{Address, free_port};
use crate::paths::{self, TempDir};
use crate::stack::Server;
use crate::tls::Files;

impl Server {
    /// Our threaded server, which ends TLS itself by the machine's OpenSSL.
    #[track_caller]
    pub fn app_tls_on(port: u16) -> Self {
        Self::app_tls_by("server", port, &[])
    }

    /// The same by rustls.
    #[track_caller]
    pub fn app_rustls_on(port: u16) -> Self {
        Self::app_tls_by("rustls_server", port, &[])
    }

    /// The same; `program` says by which library, and the flag `--kernel` that the kernel does it with
    /// its keys.
    #[track_caller]
    pub fn app_tls_by(program: &str, port: u16, flags: &[&str]) -> Self {
        let dir = TempDir::new();
        let files = Files::write(dir.path());
        let mut command = Command::new(paths::own_bin(program));
        command.args(["app", "--port"]).arg(port.to_string());
        command.args(flags);
        command.arg("--certificate").arg(&files.certificate).arg("--key").arg(&files.key);
        Self::start(&mut command, Address::loopback(port).over_tls(), dir)
    }

    /// The threaded server on OpenSSL, with a mount namespace of its own, in which alone `folder` has the
    /// library: as in a container.
    #[track_caller]
    pub fn app_tls_in_own_mounts(folder: &Path) -> Self {
        const SCRIPT: &str = "mount -t tmpfs none \"$1\" \
            && cp $(/sbin/ldconfig -p | awk '/lib(ssl|crypto)[.]so[.]3 / { print $NF }') \"$1\" \
            && export LD_LIBRARY_PATH=\"$1\" && shift && exec \"$@\"";
        let (port, dir) = (free_port(), TempDir::new());
        let files = Files::write(dir.path());
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", SCRIPT, "sh"]).arg(folder);
        command.arg(paths::own_bin("server")).args(["app", "--port"]).arg(port.to_string());
        command.arg("--certificate").arg(&files.certificate).arg("--key").arg(&files.key);
        Self::start(&mut command, Address::loopback(port).over_tls(), dir)
    }

    /// Our relay on tokio-rustls, with further arguments.
    #[track_caller]
    pub fn relay(upstream: &Self, arguments: &[&str]) -> Self {
        Self::relay_at(&paths::own_bin("rustls_server"), upstream, arguments)
    }

    /// The same, by another copy of its program.
    #[track_caller]
    pub fn relay_at(program: &Path, upstream: &Self, arguments: &[&str]) -> Self {
        let (port, dir) = (free_port(), TempDir::new());
        let files = Files::write(dir.path());
        let mut command = Command::new(program);
        command.args(["relay", "--port"]).arg(port.to_string()).args(arguments);
        command.arg("--upstream").arg(upstream.port().to_string());
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

    /// lighttpd with GnuTLS.
    #[track_caller]
    pub fn lighttpd_gnutls(upstream: &Self) -> Self {
        let port = free_port();
        let places = [
            ("@PORT@", port.to_string()),
            ("@UPSTREAM@", format!("127.0.0.1:{}", upstream.port())),
            ("@UPSTREAM_PORT@", upstream.port().to_string()),
        ];
        let (dir, conf) = configure("lighttpd.conf.in", &places);
        let mut command = Command::new("lighttpd");
        command.arg("-D").arg("-f").arg(conf);
        Self::start(&mut command, Address::loopback(port).over_tls(), dir)
    }
}

/// A folder with a certificate, its key, and a configuration that is made of a template.
#[track_caller]
pub(crate) fn configure(template: &str, places: &[(&str, String)]) -> (TempDir, PathBuf) {
    let dir = TempDir::new();
    let files = Files::write(dir.path());
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let own = [
        ("@DIR@", path(dir.path())),
        ("@CERT@", path(&files.certificate)),
        ("@KEY@", path(&files.key)),
        ("@BOTH@", path(&files.both)),
    ];
    let text = fs::read_to_string(paths::app(template)).expect("a fixture");
    let conf = own.iter().chain(places).fold(text, |text, (name, value)| text.replace(name, value));
    let path = dir.join(template.trim_end_matches(".in"));
    fs::write(&path, conf).expect("a temporary file");
    (dir, path)
}
