//! Reverse proxies in front of LLM servers, each of which listens in every way that it can.

use std::process::Command;

use crate::client::Keep;
use crate::net::{Address, free_port};
use crate::paths;
use crate::stack::Server;
use crate::tls_stack::configure;

/// Which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Serves from a worker process.
    Nginx,
    Haproxy,
    /// Go's `crypto/tls` in a program without symbols.
    Caddy,
    /// A stripped binary with BoringSSL inside.
    Envoy,
}

/// Where a gateway listens, by what it takes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// HTTP/1 in the clear.
    Plain,
    /// HTTP/2 in the clear, with prior knowledge.
    H2c,
    /// TLS, with whichever of them the client prefers.
    Tls,
    /// The same, in front of a server that is spoken to by HTTP/2.
    Deep,
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    server: Server,
    ports: [u16; 4],
}

impl Kind {
    /// As the agent calls its TLS library.
    pub fn library(self) -> &'static str {
        match self {
            Self::Nginx | Self::Haproxy => "openssl",
            Self::Caddy => "go",
            Self::Envoy => "boringssl",
        }
    }

    /// As its processes are called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Caddy => "caddy",
            Self::Envoy => "envoy",
        }
    }
}

impl Gateway {
    /// In front of `llm`.
    #[track_caller]
    pub fn start(kind: Kind, llm: &Server) -> Self {
        Self::before(kind, (llm, Keep::Always), llm)
    }

    /// In front of `llm`, to which it keeps connections if that is safe, and of `deep`, which speaks
    /// HTTP/2.
    #[track_caller]
    pub fn before(kind: Kind, (llm, keep): (&Server, Keep), deep: &Server) -> Self {
        let ports = [(); 4].map(|()| free_port());
        let [plain, h2c, tls, front] = ports.map(|port| port.to_string());
        let deep = deep.port();
        let [connection, option, keepalive, requests] = match keep {
            Keep::Always => ["", "http-keep-alive", "2m", "1000000"],
            Keep::NotAfterStreams => ["close", "http-server-close", "off", "1"],
        };
        let places = [
            ("@PLAIN@", plain),
            ("@H2C@", h2c),
            ("@TLS@", tls),
            ("@DEEP@", front),
            ("@LLM@", format!("127.0.0.1:{}", llm.port())),
            ("@LLM_PORT@", llm.port().to_string()),
            ("@CONNECTION@", connection.to_owned()),
            ("@SERVER_OPTION@", option.to_owned()),
            ("@KEEPALIVE@", keepalive.to_owned()),
            ("@REQUESTS@", requests.to_owned()),
            ("@DEEP_LLM@", format!("127.0.0.1:{deep}")),
            ("@DEEP_LLM_PORT@", deep.to_string()),
        ];
        let template = match kind {
            Kind::Nginx => "nginx.conf.in",
            Kind::Haproxy => "haproxy.cfg.in",
            Kind::Caddy => "Caddyfile.in",
            Kind::Envoy => "envoy.yaml.in",
        };
        let (dir, conf) = configure(template, &places);
        let mut command;
        match kind {
            Kind::Nginx => {
                command = Command::new("nginx");
                command.arg("-p").arg(dir.path()).arg("-c").arg(conf).args(["-e", "stderr"]);
            }
            Kind::Haproxy => {
                command = Command::new("haproxy");
                command.arg("-db").arg("-f").arg(conf);
            }
            Kind::Caddy => {
                command = Command::new("caddy");
                command.arg("run").arg("--adapter").arg("caddyfile").arg("--config").arg(conf);
                for home in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
                    command.env(home, dir.path());
                }
            }
            Kind::Envoy => {
                command = Command::new(paths::envoy());
                command.arg("-c").arg(conf).args(["--concurrency", "1", "--log-level", "error"]);
                command.args(["--base-id", &free_port().to_string()]);
            }
        }
        let server = Server::start(&mut command, Address::loopback(ports[0]), dir);
        Self { server, ports }
    }

    pub fn id(&self) -> u32 {
        self.server.id()
    }

    /// Ids of its child processes.
    pub fn children(&self) -> Vec<u32> {
        self.server.children()
    }

    pub fn port(&self, front: Front) -> u16 {
        self.ports[front as usize]
    }

    /// The same by one of its addresses.
    #[must_use]
    pub fn at(mut self, front: Front) -> Server {
        let address = Address::loopback(self.port(front));
        self.server.address = match front {
            Front::Plain | Front::H2c => address,
            Front::Tls | Front::Deep => address.over_tls(),
        };
        self.server
    }
}

impl Server {
    /// LiteLLM in front of `upstream`: a gateway that speaks to its clients in other APIs than to the
    /// server.
    #[track_caller]
    pub fn litellm(upstream: &Self) -> Self {
        let port = free_port();
        let llm = ("@LLM@", format!("127.0.0.1:{}", upstream.port()));
        let (dir, conf) = configure("litellm.yaml.in", &[llm]);
        let mut command = Command::new(paths::python());
        command.arg(paths::litellm().join("bin/litellm")).arg("--config").arg(conf);
        command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        command.env("PYTHONPATH", paths::litellm());
        // Its list of prices would come from the network.
        command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
        command.env("LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY", "true");
        Self::start(&mut command, Address::loopback(port), dir)
    }

    /// nginx in front of `upstream`; serves from a worker process.
    #[track_caller]
    pub fn nginx(upstream: &Self) -> Self {
        Gateway::start(Kind::Nginx, upstream).at(Front::Plain)
    }
}
