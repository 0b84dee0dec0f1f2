//! The thread that serves.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::{State, serve};

/// Serves HTTP on a thread of its own, until the process ends.
pub fn start(listen: SocketAddr, state: State) -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(listen).with_context(|| {
        format!("cannot listen on {listen}: choose another address with --listen")
    })?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("http".into()).spawn(move || {
        let result = runtime
            .block_on(async { serve(tokio::net::TcpListener::from_std(listener)?, state).await });
        if let Err(e) = result {
            log::error!("HTTP endpoint: {e}");
        }
    })?;
    Ok(address)
}
