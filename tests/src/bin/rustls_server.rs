//! The test servers whose TLS is that of rustls: `rustls_server app` does as each request asks,
//! `rustls_server relay` ends TLS in front of another server.
//!
//! A program of its own, since the agent probes what has rustls in it, and each probe takes the kernel
//! a tenth of a second to take away: the tests of anything else need not wait for that.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use llmtrace_tests::ktls::Reads;
use llmtrace_tests::net::Stream;
use llmtrace_tests::process::raise_descriptor_limit;
use llmtrace_tests::servers::app::{self, Model};
use llmtrace_tests::servers::{relay, rust_tls};
use llmtrace_tests::tls;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Does what the `test` object of a request says.
    App {
        #[arg(long)]
        port: u16,
        #[arg(long)]
        certificate: PathBuf,
        #[arg(long)]
        key: PathBuf,
        /// Gives the kernel the keys, which then does the TLS
        #[arg(long)]
        kernel: bool,
        /// Reads the bodies of requests by splice
        #[arg(long, requires = "kernel")]
        splice: bool,
    },
    /// Ends TLS by tokio-rustls in front of another server.
    Relay(relay::Options),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    raise_descriptor_limit();
    match cli.mode {
        Mode::App { port, certificate, key, kernel, splice } => {
            let context = rust_tls::Context::new(&certificate, &key)?;
            let by: tls::Accept = Box::new(move |socket| {
                if kernel {
                    let splices = Reads::Splice { next: false };
                    let reads = if splice { splices } else { Reads::Recvmsg };
                    context.accept_for_kernel(socket, reads).map(Stream::KernelTls)
                } else {
                    context.accept(socket).map(Stream::Tls)
                }
            });
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).context("bind")?;
            app::serve(|| tls::accept(&listener, &by), Model::Thread, None)?;
        }
        Mode::Relay(options) => relay::serve(&options)?,
    }
    Ok(())
}
