//! The thread that serves, and waits for the signals that end the agent.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result};

use super::{State, serve};

/// Serves HTTP on a thread of its own, which also waits for the signals that end the agent.
pub fn start(listen: SocketAddr, state: State, stop: Arc<AtomicBool>) -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(listen).with_context(|| {
        format!("cannot listen on {listen}: choose another address with --listen")
    })?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut terminate = {
        let _in = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?
    };
    std::thread::Builder::new().name("http".into()).spawn(move || {
        runtime.block_on(async move {
            let serving = async {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => serve(listener, state).await,
                    Err(e) => Err(e),
                }
            };
            tokio::select! {
                result = serving => {
                    if let Err(e) = result {
                        eprintln!("llmtrace: HTTP endpoint: {e}");
                    }
                }
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            stop.store(true, Ordering::Release);
        });
    })?;
    Ok(address)
}
