//! Connections, through TLS if the file says so.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

use super::file::Source;

/// A handshake that takes longer is given up.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at the same time; further connections wait in the socket's backlog.
const MAX_HANDSHAKES: usize = 64;
/// After a failure to accept, which is one of file descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// What connections may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// So many at the same time; more wait in the socket's backlog, where they cost the agent neither
    /// memory nor descriptors.
    pub connections: usize,
    /// One on which nothing comes or goes for so long is given up. Whoever meant to keep it makes
    /// another.
    pub quiet: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 128, quiet: Duration::from_secs(120) }
    }
}

#[derive(Debug)]
enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection, plain or encrypted.
#[derive(Debug)]
pub struct Stream {
    io: Io,
    limit: Duration,
    quiet: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Stream {
    fn new(io: Io, limit: Duration, place: OwnedSemaphorePermit) -> Self {
        let quiet = Box::pin(tokio::time::sleep(limit));
        Self { io, limit, quiet, _place: place }
    }

    /// What became of a read or a write.
    fn moved<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.quiet.as_mut().reset(Instant::now() + self.limit);
        }
        self.waited(cx, done)
    }

    /// What has to wait does so for as long as the connection may be quiet.
    fn waited<T>(
        &mut self,
        cx: &mut Context<'_>,
        done: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if done.is_pending() {
            ready!(self.quiet.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        done
    }
}

/// Accepts connections; handshakes go on beside each other, so that a slow one holds up nobody.
pub struct Listener {
    ready: mpsc::Receiver<(Stream, SocketAddr)>,
    address: SocketAddr,
}

impl Listener {
    /// Accepts from here on, on a task of the current runtime.
    pub fn new(listener: TcpListener, source: Source) -> io::Result<Self> {
        Self::with(listener, source, Limits::default())
    }

    pub(super) fn with(listener: TcpListener, source: Source, limits: Limits) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (send, ready) = mpsc::channel(MAX_HANDSHAKES);
        tokio::spawn(accept(listener, source, send, limits));
        Ok(Self { ready, address })
    }
}

async fn accept(
    listener: TcpListener,
    source: Source,
    send: mpsc::Sender<(Stream, SocketAddr)>,
    Limits { connections, quiet }: Limits,
) {
    let places = Arc::new(Semaphore::new(connections));
    loop {
        // Room first: whoever cannot be handed on waits outside.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok(room) = send.clone().reserve_owned().await else { return };
        let (tcp, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match source.get().tls {
            None => drop(room.send((Stream::new(Io::Plain(tcp), quiet, place), peer))),
            Some(acceptor) => drop(tokio::spawn(async move {
                // One that fails is the client's affair.
                if let Ok(Ok(tls)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)).await {
                    room.send((Stream::new(Io::Tls(Box::new(tls)), quiet, place), peer));
                }
            })),
        }
    }
}

impl axum::serve::Listener for Listener {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            // The other task has ended: the runtime is about to.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let done = match &mut this.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Io::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        };
        this.moved(cx, done)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = match &mut this.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Io::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        };
        this.moved(cx, done)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let done = match &mut this.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Io::Tls(tls) => Pin::new(tls).poll_flush(cx),
        };
        this.waited(cx, done)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let done = match &mut this.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Io::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        };
        this.waited(cx, done)
    }
}
