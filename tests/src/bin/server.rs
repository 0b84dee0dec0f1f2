//! The test servers: `server app` does as each request asks, `server flood` writes all it can,
//! `server parrot` answers with what it was sent, `server cost` measures its own calls.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use llmtrace_tests::fork;
use llmtrace_tests::net::Stream;
use llmtrace_tests::process::raise_descriptor_limit;
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::servers::log::Log;
use llmtrace_tests::servers::openssl::Context;
use llmtrace_tests::servers::{app, cost, flood, parrot};
use llmtrace_tests::uring::Socket;

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
        /// Where to log each request, as JSON lines.
        #[arg(long)]
        log: Option<PathBuf>,
        /// Who serves a connection.
        #[arg(long, value_enum, default_value = "thread")]
        by: Model,
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
        Mode::App { port, host, unix, uring, log, by } => {
            let log = log.map(|path| Log::open(&path)).transpose()?;
            if by == Model::Fork {
                fork::ignore_children();
            }
            if let Some(path) = unix {
                let listener = UnixListener::bind(&path).context("bind")?;
                app::serve(|| Ok(Stream::Unix(listener.accept()?.0)), by, log)?;
            } else {
                let port = port.context("--port or --unix")?;
                let listener = TcpListener::bind((host, port)).context("bind")?;
                let accept = || {
                    let (stream, _) = listener.accept()?;
                    stream.set_nodelay(true)?;
                    Ok(if uring {
                        Stream::Uring(Box::new(Socket::new(stream)?))
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
        Mode::Cost { port } => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).context("bind")?;
            cost::serve(&listener)?;
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
