//! Connections of daemons and clients, counted: the server exits once they are closed.
//!
//! A Go client that sees the end of the connection and an answer at once takes either (ttrpc's client.go, dispatch): an
//! answer that is followed too soon by the end is lost, and RemovePodSandbox fails with "ttrpc: closed". So nothing
//! follows the last answer until the client hangs up, which is what daemons do next.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{self, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::frames::{Budget, Frames};

/// The open connections. Each holds a sender, on which nothing is ever sent.
#[derive(Debug)]
pub struct Connections {
    open: mpsc::Sender<Infallible>,
    gone: mpsc::Receiver<Infallible>,
}

impl Connections {
    /// Creates an empty set.
    pub fn new() -> Connections {
        let (open, gone) = mpsc::channel(1);
        Connections { open, gone }
    }

    /// Accepts connections of this user's processes; others are closed (the socket's mode keeps them out already), as
    /// are those that arrive while the server waits for the last ones to close.
    pub fn accept(&self, listener: UnixListener) -> impl Stream<Item = io::Result<Connection>> + Send + use<> {
        let budget = Budget::new();
        stream::unfold((listener, self.open.downgrade(), budget), |(listener, open, budget)| async {
            loop {
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(error) => return Some((Err(error), (listener, open, budget))),
                };
                let ours = rustix::process::geteuid().as_raw();
                match stream.peer_cred() {
                    Ok(peer) if peer.uid() == ours || peer.uid() == 0 => {
                        if let Some(counted) = open.upgrade() {
                            let connection =
                                Connection { stream, frames: Frames::new(budget.clone()), _counted: counted };
                            return Some((Ok(connection), (listener, open, budget)));
                        }
                    }
                    Ok(peer) => tracing::warn!("a connection of user {} was refused", peer.uid()),
                    Err(error) => tracing::warn!("a connection of an unknown user was refused: {error}"),
                }
            }
        })
    }

    /// Waits until all connections are closed, at most for `timeout`.
    pub async fn leave(self, timeout: Duration) {
        let Connections { open, mut gone } = self;
        drop(open);
        if tokio::time::timeout(timeout, gone.recv()).await.is_err() {
            tracing::debug!("closing a connection that the client has not closed");
        }
    }
}

/// A stream that counts as open until it is dropped.
pub struct Connection {
    stream: UnixStream,
    frames: Frames,
    _counted: mpsc::Sender<Infallible>,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Connection { stream, frames, .. } = &mut *self;
        frames.poll_read(Pin::new(stream), context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
