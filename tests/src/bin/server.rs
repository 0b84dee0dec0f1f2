//! The test servers: `server app` does as each request asks, `server flood` writes all it can,
//! `server parrot` answers with what it was sent, `server cost` measures its own calls.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use llmtrace_tests::calls::{Calls, Socket};
use llmtrace_tests::net::{self, Stream};
use llmtrace_tests::process::raise_descriptor_limit;
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::servers::log::Log;
use llmtrace_tests::servers::openssl::{self, Context};
use llmtrace_tests::servers::{app, cost, flood, parrot};
use llmtrace_tests::{fork, pass, tls, uring};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Does what the `test` object of a request says.
    App {
        #[arg(long, conflicts_with = "unix")]
        port: Option<u16>,
        /// The loopback address to listen on.
        #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
        host: IpAddr,
        #[arg(long)]
        unix: Option<PathBuf>,
        /// Read and write connections by io_uring.
        #[arg(long, conflicts_with = "unix")]
        uring: bool,
        /// Read and write connections by these system calls.
        #[arg(long, value_enum, conflicts_with = "uring")]
        calls: Option<Calls>,
        /// Processes that accept, forked after the listener was made.
        #[arg(long)]
        workers: Option<u32>,
        /// Each of the workers has a listener of its own, by `SO_REUSEPORT`.
        #[arg(long, requires = "workers")]
        reuse_port: bool,
        /// Pass each connection to a child, which serves it.
        #[arg(long, conflicts_with_all = ["workers", "unix"])]
        pass: bool,
        /// Serve one connection: the descriptor 0.
        #[arg(long, conflicts_with_all = ["port", "unix"])]
        stdin: bool,
        /// Where to log each request, as JSON lines.
        #[arg(long)]
        log: Option<PathBuf>,
        /// Who serves a connection.
        #[arg(long, value_enum, default_value = "thread")]
        by: Model,
        /// Speak TLS by OpenSSL
        #[arg(long, requires = "key", conflicts_with_all = ["unix", "uring", "calls"])]
        certificate: Option<PathBuf>,
        #[arg(long)]
        key: Option<PathBuf>,
        /// Gives the kernel the keys, which then does the TLS; OpenSSL is called all the same
        #[arg(long, requires = "certificate")]
        kernel: bool,
    },
    /// Answers with the request's body as the raw bytes of a response, and closes.
    Parrot {
        #[arg(long)]
        port: u16,
    },
    /// Measures what its own calls cost.
    Cost {
        #[arg(long)]
        port: u16,
        /// Of one measurement
        #[arg(long, default_value_t = 100_000)]
        calls: usize,
    },
    /// Many servers in one process, each on a port of its own, which it prints.
    Crowd {
        #[arg(long)]
        servers: usize,
    },
    /// One write per event, unpaced.
    Flood {
        #[arg(long)]
        port: u16,
        /// Speak TLS by OpenSSL
        #[arg(long, requires = "key")]
        certificate: Option<PathBuf>,
        #[arg(long)]
        key: Option<PathBuf>,
    },
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    raise_descriptor_limit();
    match cli.mode {
        Mode::App {
            port,
            host,
            unix,
            uring,
            calls,
            workers,
            reuse_port,
            pass,
            stdin,
            log,
            by,
            certificate,
            key,
            kernel,
        } => {
            let log = log.map(|path| Log::open(&path)).transpose()?;
            if by == Model::Fork {
                fork::ignore_children();
            }
            let by_calls =
                |fd: OwnedFd| Stream::Calls(Socket::new(fd, calls.unwrap_or(Calls::Read)));
            if stdin {
                app::connection(by_calls(io::stdin().as_fd().try_clone_to_owned()?), log.as_ref())?;
            } else if let Some(path) = unix {
                let listener = UnixListener::bind_addr(&net::unix(&path)?).context("bind")?;
                let accept = || {
                    let (stream, _) = listener.accept()?;
                    Ok(if calls.is_some() { by_calls(stream.into()) } else { Stream::Unix(stream) })
                };
                app::serve(accept, by, log)?;
            } else {
                let port = port.context("--port or --unix")?;
                let addr = SocketAddr::from((host, port));
                let mut listener = if reuse_port {
                    pass::shared_listener(&addr).context("bind")?
                } else {
                    TcpListener::bind(addr).context("bind")?
                };
                let mut parent = true;
                for _ in 0..workers.unwrap_or(0) {
                    if fork::is_child()? {
                        parent = false;
                        if reuse_port {
                            listener = pass::shared_listener(&addr).context("bind")?;
                        }
                        break;
                    }
                }
                if parent && workers.is_some() {
                    if reuse_port {
                        // Or connections would wait here for nobody.
                        drop(listener);
                    }
                    loop {
                        std::thread::park();
                    }
                }
                if pass {
                    let (ours, theirs) = UnixStream::pair()?;
                    if fork::is_child()? {
                        let accept = || Ok(Stream::Tcp(pass::receive(&theirs)?.into()));
                        return Ok(app::serve(accept, by, log)?);
                    }
                    loop {
                        pass::send(&ours, &listener.accept()?.0.into())?;
                    }
                }
                let files = certificate.zip(key);
                let openssl = files.map(|(certificate, key)| acceptor(&certificate, &key, kernel));
                let openssl = openssl.transpose()?;
                let accept = || {
                    if let Some(openssl) = &openssl {
                        return tls::accept(&listener, openssl);
                    }
                    let (stream, _) = listener.accept()?;
                    stream.set_nodelay(true)?;
                    Ok(if uring {
                        Stream::Uring(Box::new(uring::Socket::new(stream)?))
                    } else if calls.is_some() {
                        by_calls(stream.into())
                    } else {
                        Stream::Tcp(stream)
                    })
                };
                app::serve(accept, by, log)?;
            }
        }
        Mode::Parrot { port } => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).context("bind")?;
            parrot::serve(&listener)?;
        }
        Mode::Cost { port, calls } => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).context("bind")?;
            cost::serve(&listener, calls)?;
        }
        Mode::Crowd { servers } => {
            let listeners: Vec<_> = (0..servers)
                .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
                .collect::<io::Result<_>>()?;
            let ports = listeners.iter().map(|l| Ok(l.local_addr()?.port().to_string()));
            println!("ports {}", ports.collect::<io::Result<Vec<_>>>()?.join(" "));
            flood::crowd(listeners)?;
        }
        Mode::Flood { port, certificate, key } => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).context("bind")?;
            match certificate.zip(key) {
                Some((certificate, key)) => {
                    flood::serve_tls(&listener, Context::new(&certificate, &key)?)?;
                }
                None => flood::serve(&listener)?,
            }
        }
    }
    Ok(())
}

/// TLS by OpenSSL.
fn acceptor(certificate: &Path, key: &Path, kernel: bool) -> io::Result<tls::Accept> {
    let context = if kernel {
        Context::for_kernel(certificate, key)?
    } else {
        Context::new(certificate, key)?
    };
    let context = Arc::new(context);
    Ok(Box::new(move |socket| openssl::Shared::new(context.accept(socket)?).map(Stream::OpenSsl)))
}
