//! The captures: always the same requests in the same order, and the servers that they go to.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::expect::{self, Sight};
use crate::client::{Connection, Record, Request, load};
use crate::ktls;
use crate::mix;
use crate::net::Address;
use crate::plan::{Ask, Plan};
use crate::servers::app::Model;
use crate::stack::{Io, Server};

/// Every server of the scenarios, at addresses that are the same in every machine.
#[derive(Debug)]
pub struct Servers {
    tcp4: Server,
    tcp6: Server,
    unix: Server,
    split: Server,
    fork: Server,
    uring: Server,
    tls: Server,
    waitall: Server,
    waitall_msg: Server,
    rustls: Server,
    ktls: Server,
    ktls_splice: Server,
    ktls_openssl: Server,
}

impl Servers {
    #[track_caller]
    pub fn start() -> Self {
        let v4 = |port| Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let v6 = |port| Address::Tcp(SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
        let unix = Address::Unix(PathBuf::from("/tmp/vm.sock"));
        Self {
            tcp4: Server::app_at(v4(8001), Model::Thread, Io::Calls),
            tcp6: Server::app_at(v6(8002), Model::Thread, Io::Calls),
            unix: Server::app_at(unix, Model::Thread, Io::Calls),
            split: Server::app_at(v4(8003), Model::Split, Io::Calls),
            fork: Server::app_at(v4(8004), Model::Fork, Io::Calls),
            uring: Server::app_at(v4(8005), Model::Thread, Io::Uring),
            tls: Server::app_tls_on(8006),
            waitall: by_calls("waitall", 8011),
            waitall_msg: by_calls("waitall-msg", 8012),
            rustls: Server::app_rustls_on(8009),
            ktls: Server::app_tls_by("rustls_server", 8007, &["--kernel"]),
            ktls_splice: Server::app_tls_by("rustls_server", 8013, &["--kernel", "--splice"]),
            ktls_openssl: Server::app_tls_by("server", 8008, &["--kernel"]),
        }
    }

    pub fn pids(&self) -> [u32; 13] {
        let Self { tcp4, tcp6, unix, split, fork, uring, tls, rustls, .. } = self;
        let Self { waitall, waitall_msg, ktls, ktls_splice, ktls_openssl, .. } = self;
        [
            tcp4,
            tcp6,
            unix,
            split,
            fork,
            uring,
            tls,
            rustls,
            waitall,
            waitall_msg,
            ktls,
            ktls_splice,
            ktls_openssl,
        ]
        .map(Server::id)
    }
}

/// A server that reads by certain calls.
#[track_caller]
fn by_calls(calls: &str, port: u16) -> Server {
    let address = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    Server::app_with(address, &["--calls", calls])
}

/// Connections that are open before the agent starts.
#[derive(Debug)]
pub struct Early(Vec<Connection>);

impl Early {
    /// Each has had a request, which no agent saw.
    #[track_caller]
    pub fn open(servers: &Servers) -> Self {
        let addresses =
            [&servers.tcp4, &servers.tcp6, &servers.unix, &servers.split, &servers.fork];
        let connections = addresses.iter().enumerate().map(|(n, server)| {
            let mut connection = Connection::new(&server.address);
            let request = Request::new(format!("early/{n}"), &Ask::default());
            connection.send(&request).expect("the server answers");
            connection
        });
        Self(connections.collect())
    }
}

/// A set of requests. The user agent of each is `name/number`.
pub struct Scenario {
    pub name: &'static str,
    /// Sends them all and tells what came back.
    pub run: fn(&str, &Servers, &mut Early) -> Vec<Record>,
    /// What becomes of request `n` under a back end.
    pub sight: fn(chosen: &str, n: usize) -> Sight,
}

/// Threads that wait for their next request in a read, all at once. Kernels have a kretprobe for each
/// processor, or ten.
const WAITING: usize = 40;

const fn whole(name: &'static str, run: fn(&str, &Servers, &mut Early) -> Vec<Record>) -> Scenario {
    Scenario { name, run, sight: |_, _| Sight::Whole }
}

pub const SCENARIOS: &[Scenario] = &[
    whole("tcp4-streamed", |name, servers, _| {
        load(&servers.tcp4.address, asks(name, 20, &Ask::default()), 4)
    }),
    whole("tcp4-whole", |name, servers, _| {
        let ask = Ask { stream: false, ..Ask::default() };
        load(&servers.tcp4.address, asks(name, 12, &ask), 4)
    }),
    whole("tcp6", |name, servers, _| load(&servers.tcp6.address, mixed(name, 12), 3)),
    whole("unix", |name, servers, _| load(&servers.unix.address, mixed(name, 12), 3)),
    whole("keep-alive", |name, servers, _| load(&servers.tcp4.address, mixed(name, 20), 1)),
    whole("writev-4", |name, servers, _| {
        let ask = Ask { plan: Plan { batch: 1, ..Plan::default() }, ..Ask::default() };
        load(&servers.tcp4.address, asks(name, 10, &ask), 2)
    }),
    whole("writev-1000", |name, servers, _| {
        let plan = Plan { batch: 250, ..Plan::default() };
        let ask = Ask { max_tokens: 500, plan, ..Ask::default() };
        load(&servers.tcp4.address, asks(name, 2, &ask), 1)
    }),
    whole("body-5mb", |name, servers, _| {
        let ask = Ask { model: "last-key".into(), prompt: "x".repeat(5 << 20), ..Ask::default() };
        let failed = Ask { plan: Plan { status: Some(500), ..Plan::default() }, ..ask.clone() };
        load(&servers.tcp4.address, numbered(name, &[ask, failed]), 1)
    }),
    whole("errors", |name, servers, _| {
        let plans = [
            Plan { status: Some(500), ..Plan::default() },
            Plan { status: Some(429), ..Plan::default() },
            Plan { error_after: Some(3), ..Plan::default() },
            Plan { error_after: Some(0), ..Plan::default() },
            Plan::default(),
        ];
        let asks: Vec<_> = plans
            .into_iter()
            .flat_map(|plan| {
                [true, false].map(|stream| Ask { stream, plan: plan.clone(), ..Ask::default() })
            })
            .collect();
        load(&servers.tcp4.address, numbered(name, &asks), 1)
    }),
    // A read that the kernel continues: in one buffer, and from one buffer into another.
    whole("waitall", |name, servers, _| {
        let servers = [&servers.waitall, &servers.waitall_msg, &servers.waitall_msg];
        let connection =
            |server: &Server| Connection::new(&server.address).pause(Duration::from_millis(50));
        let numbered = servers.iter().enumerate();
        numbered.map(|(n, server)| send(&mut connection(server), &ask(name, n))).collect()
    }),
    // More reads under way than there are kretprobes for: on unix sockets the returns of most are
    // skipped, and found at the end of their system calls.
    whole("waiting-readers", |name, servers, _| {
        let servers = [&servers.tcp4, &servers.unix];
        let mut waiting: Vec<_> =
            (0..WAITING).map(|n| Connection::new(&servers[n % 2].address)).collect();
        let twice = (0..2 * WAITING).map(|n| send(&mut waiting[n % WAITING], &ask(name, n)));
        twice.collect()
    }),
    whole("aborts-tcp", |name, servers, _| aborts(name, &servers.tcp4, true)),
    whole("aborts-unix", |name, servers, _| aborts(name, &servers.unix, false)),
    whole("before-agent", |name, _, early| {
        let connections = early.0.iter_mut().enumerate();
        connections.map(|(n, connection)| send(connection, &ask(name, n))).collect()
    }),
    whole("two-threads", |name, servers, _| load(&servers.split.address, mixed(name, 12), 2)),
    whole("forked", |name, servers, _| load(&servers.fork.address, mixed(name, 12), 2)),
    Scenario {
        name: "io_uring",
        run: |name, servers, _| load(&servers.uring.address, mixed(name, 12), 2),
        sight: |chosen, _| expect::io_uring(chosen),
    },
    // By OpenSSL: plaintext, whatever sees the sockets.
    whole("tls", |name, servers, _| load(&servers.tls.address, mixed(name, 12), 3)),
    whole("tls-rustls", |name, servers, _| load(&servers.rustls.address, mixed(name, 12), 3)),
    whole("tls-rustls-aborts", |name, servers, _| aborts(name, &servers.rustls, true)),
    whole("tls-aborts", |name, servers, _| aborts(name, &servers.tls, true)),
    // By the kernel, with keys from a program that then sends plaintext: only those who see what
    // goes into the kernel's TLS.
    Scenario {
        name: "tls-kernel",
        run: |name, servers, _| with_ktls(|| load(&servers.ktls.address, mixed(name, 12), 3)),
        sight: |chosen, _| expect::ktls(chosen),
    },
    Scenario {
        name: "tls-kernel-aborts",
        run: |name, servers, _| with_ktls(|| aborts(name, &servers.ktls, true)),
        sight: |chosen, _| expect::ktls(chosen),
    },
    // By the kernel at both ends, and an alert before the first request.
    Scenario {
        name: "tls-kernel-alerts",
        run: |name, servers, _| {
            let address = servers.ktls.address.over_kernel_tls();
            with_ktls(|| load(&address, mixed(name, 12), 3))
        },
        sight: |chosen, _| expect::ktls(chosen),
    },
    // Bodies of requests that go into a pipe: one at a time, as each is a hole.
    Scenario {
        name: "tls-kernel-splice",
        run: |name, servers, _| {
            with_ktls(|| load(&servers.ktls_splice.address, asks(name, 3, &Ask::default()), 1))
        },
        sight: |chosen, _| match expect::ktls(chosen) {
            Sight::Whole => Sight::Holed,
            sight => sight,
        },
    },
    Scenario {
        name: "tls-kernel-sendfile",
        run: |name, servers, _| with_ktls(|| sendfile(name, &servers.ktls)),
        sight: |chosen, n| match expect::ktls(chosen) {
            Sight::Whole if n % 2 == 1 => expect::sendfile(chosen),
            sight => sight,
        },
    },
    // The same by OpenSSL, whose functions are called all the same: once, whatever sees the sockets.
    whole("tls-kernel-openssl", |name, servers, _| {
        with_ktls(|| load(&servers.ktls_openssl.address, mixed(name, 12), 3))
    }),
    Scenario {
        name: "tls-kernel-openssl-sendfile",
        run: |name, servers, _| with_ktls(|| sendfile(name, &servers.ktls_openssl)),
        sight: |chosen, n| if n % 2 == 1 { expect::sendfile(chosen) } else { Sight::Whole },
    },
    Scenario {
        name: "sendfile",
        // On one connection: what follows the hole is whole again.
        run: |name, servers, _| sendfile(name, &servers.tcp4),
        sight: |chosen, n| if n % 2 == 1 { expect::sendfile(chosen) } else { Sight::Whole },
    },
];

fn sendfile(name: &str, server: &Server) -> Vec<Record> {
    let plan = Plan { sendfile: Some(4), ..Plan::default() };
    let holed = Ask { plan, ..Ask::default() };
    let good = Ask::default;
    let asks = [good(), holed.clone(), good(), holed, good()];
    load(&server.address, numbered(name, &asks), 1)
}

/// How long an agent in a slow machine has to notice that the kernel does TLS. Once per machine.
const NOTICE: Duration = Duration::from_secs(15);
/// Modules of the kernel that runs, in the order of what needs what.
const MODULES: [&str; 6] = ["gf128mul", "ghash-generic", "crypto_null", "ctr", "gcm", "tls"];

/// Sends nothing where the kernel has no TLS. The first time, it is loaded, under an agent that runs
/// already.
fn with_ktls(send: impl FnOnce() -> Vec<Record>) -> Vec<Record> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let modules = PathBuf::from("/lib/modules").join(release.trim());
    if !modules.join("tls.ko").exists() {
        return Vec::new();
    }
    if !ktls::kernel_has_tls() {
        let modules = MODULES.map(|name| modules.join(name).with_extension("ko"));
        for module in modules.iter().filter(|module| module.exists()) {
            let status = Command::new("insmod").arg(module).status();
            assert!(status.is_ok_and(|status| status.success()), "insmod {}", module.display());
        }
        thread::sleep(NOTICE);
    }
    send()
}

fn numbered(name: &str, asks: &[Ask]) -> Vec<Request> {
    asks.iter().enumerate().map(|(n, ask)| Request::new(format!("{name}/{n}"), ask)).collect()
}

fn asks(name: &str, count: usize, ask: &Ask) -> Vec<Request> {
    numbered(name, &vec![ask.clone(); count])
}

fn ask(name: &str, n: usize) -> Request {
    Request::new(format!("{name}/{n}"), &Ask::default())
}

/// Both endpoints, streamed and not, with and without usage, errors.
fn mixed(name: &str, count: usize) -> Vec<Request> {
    let mut requests = mix::requests(count);
    for (n, request) in requests.iter_mut().enumerate() {
        request.user_agent = format!("{name}/{n}");
    }
    requests
}

#[track_caller]
fn send(connection: &mut Connection, request: &Request) -> Record {
    match connection.send(request) {
        Ok(record) => record,
        Err(error) => panic!("{}: {error}", request.user_agent),
    }
}

/// Every way to leave, each on a connection of its own; then a good request.
fn aborts(name: &str, server: &Server, tcp: bool) -> Vec<Record> {
    let mut requests = vec![
        mix::left_before_first_token("", false),
        mix::left_in_mid_stream("", false),
        mix::dropped_by_server(""),
        Request::new("", &Ask::default()),
    ];
    if tcp {
        requests.push(mix::left_before_first_token("", true));
        requests.push(mix::left_in_mid_stream("", true));
    }
    let numbered = requests.into_iter().enumerate();
    numbered
        .map(|(n, mut request)| {
            request.user_agent = format!("{name}/{n}");
            send(&mut Connection::new(&server.address), &request)
        })
        .collect()
}
