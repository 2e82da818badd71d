//! The memory budget of incoming frames: all connections share one budget for large frames.
//!
//! ttrpc reads a frame of up to 4 MiB into memory as it arrives, and a client may send all but its last byte. A frame
//! that is larger than [`SMALL`] is therefore read only once it has its share of [`BUDGET`]; until then its sender
//! waits. A frame that holds a share for which others wait, and of which no more bytes arrive, ends its connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// The size of frames that are read at once, in bytes.
const SMALL: u32 = 64 << 10;
/// The memory that all larger frames may take together, in bytes.
const BUDGET: u32 = 32 << 20;
/// The largest frame that ttrpc keeps, in bytes; the body of a larger one is dropped as it arrives.
const MAX_FRAME: u32 = 4 << 20;
/// The time for which a frame may make no progress while others wait for its share.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// The length of a frame's header: length, stream, type, flags.
const HEADER: usize = 10;

/// The budget, shared by all connections.
#[derive(Clone, Debug)]
pub(super) struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bytes: Arc<Semaphore>,
    /// Cloned by each frame that waits for its share.
    waiting: Arc<()>,
}

impl Budget {
    pub(super) fn new() -> Budget {
        Budget(Arc::new(Shared { bytes: Arc::new(Semaphore::new(BUDGET as usize)), waiting: Arc::default() }))
    }

    /// Acquires the share of a frame, once there is room for it.
    fn share(&self, bytes: u32) -> Acquiring {
        let (budget, waiting) = (Arc::clone(&self.0.bytes), Arc::clone(&self.0.waiting));
        Box::pin(async move {
            let share = budget.acquire_many_owned(bytes).await;
            drop(waiting);
            share
        })
    }

    fn is_waited_for(&self) -> bool {
        Arc::strong_count(&self.0.waiting) > 1
    }
}

type Acquiring = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send + Sync>>;

/// A connection's position in its incoming frames.
pub(super) struct Frames {
    budget: Budget,
    header: [u8; HEADER],
    /// Bytes of the header that have arrived.
    begun: usize,
    /// Bytes of the body that have not arrived.
    left: u32,
    acquiring: Option<Acquiring>,
    share: Option<(OwnedSemaphorePermit, Pin<Box<Sleep>>)>,
}

impl Frames {
    pub(super) fn new(budget: Budget) -> Frames {
        Frames { budget, header: [0; HEADER], begun: 0, left: 0, acquiring: None, share: None }
    }

    /// Reads what `stream` has available, up to the end of the header or of the body.
    pub(super) fn poll_read(
        &mut self,
        stream: Pin<&mut impl AsyncRead>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_share(context))?;
        let most = if self.left > 0 { self.left as usize } else { HEADER - self.begun };
        let most = most.min(buffer.remaining());
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
        match stream.poll_read(context, &mut part) {
            Poll::Pending => self.poll_idle(context),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => {
                self.count(part.filled());
                let read = part.filled().len();
                buffer.advance(read);
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Waits until the frame has its share of the budget, where it needs one.
    fn poll_share(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(acquiring) = &mut self.acquiring {
            let share = ready!(acquiring.as_mut().poll(context)).map_err(io::Error::other)?;
            self.acquiring = None;
            self.share = Some((share, Box::pin(tokio::time::sleep(IDLE_TIMEOUT))));
        }
        Poll::Ready(Ok(()))
    }

    /// Handles an idle stream: an error for a frame for whose share others have waited for [`IDLE_TIMEOUT`].
    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some((_, idle)) = &mut self.share else { return Poll::Pending };
        while idle.as_mut().poll(context).is_ready() {
            if self.budget.is_waited_for() {
                tracing::warn!(
                    "closing a connection: its request made no progress for {IDLE_TIMEOUT:?}, and others wait for its memory"
                );
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "a frame made no progress")));
            }
            idle.as_mut().reset(tokio::time::Instant::now() + IDLE_TIMEOUT);
        }
        Poll::Pending
    }

    /// Tracks the frames in the bytes that were read.
    fn count(&mut self, bytes: &[u8]) {
        if let Some((_, idle)) = &mut self.share {
            idle.as_mut().reset(tokio::time::Instant::now() + IDLE_TIMEOUT);
        }
        if self.left > 0 {
            // At most that many bytes were read.
            self.left = self.left.saturating_sub(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        } else {
            self.header[self.begun..self.begun + bytes.len()].copy_from_slice(bytes);
            self.begun += bytes.len();
            if self.begun == HEADER {
                self.begun = 0;
                let [first, second, third, fourth, ..] = self.header;
                self.left = u32::from_be_bytes([first, second, third, fourth]);
                if (SMALL + 1..=MAX_FRAME).contains(&self.left) {
                    self.acquiring = Some(self.budget.share(self.left));
                }
            }
        }
        if self.left == 0 {
            self.share = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncWriteExt, DuplexStream};

    struct Reader {
        frames: Frames,
        stream: DuplexStream,
        read: Vec<u8>,
    }

    impl Reader {
        fn new(budget: &Budget) -> (Reader, DuplexStream) {
            let (stream, client) = tokio::io::duplex(16 << 20);
            (Reader { frames: Frames::new(budget.clone()), stream, read: Vec::new() }, client)
        }

        /// Reads until `size` bytes have arrived.
        async fn read_to(&mut self, size: usize) -> io::Result<()> {
            let mut bytes = vec![0; 8 << 20];
            while self.read.len() < size {
                let mut buffer = ReadBuf::new(&mut bytes);
                let (frames, stream) = (&mut self.frames, &mut self.stream);
                poll_fn(|context| frames.poll_read(Pin::new(&mut *stream), context, &mut buffer)).await?;
                assert!(!buffer.filled().is_empty(), "the end");
                self.read.extend_from_slice(buffer.filled());
            }
            Ok(())
        }
    }

    fn frame(size: u32) -> Vec<u8> {
        let mut frame = size.to_be_bytes().to_vec();
        frame.extend([0, 0, 0, 1, 1, 0]);
        frame.extend((0..size).map(|byte| byte.to_le_bytes()[0]));
        frame
    }

    #[tokio::test]
    async fn frames_of_every_size_come_as_they_were_sent() {
        let budget = Budget::new();
        let (mut reader, mut client) = Reader::new(&budget);
        let mut sent = Vec::new();
        for size in [0, 1, SMALL, SMALL + 1, 0, MAX_FRAME, MAX_FRAME + 1, 3] {
            sent.extend(frame(size));
        }
        client.write_all(&sent).await.unwrap();
        reader.read_to(sent.len()).await.unwrap();
        assert!(reader.read == sent);
        assert_eq!(budget.0.bytes.available_permits(), BUDGET as usize, "nothing is held");
    }

    #[tokio::test(start_paused = true)]
    async fn partial_frames_share_a_budget_and_one_that_stands_still_ends_for_those_that_wait() {
        let budget = Budget::new();
        let mut stalled = Vec::new();
        for _ in 0..BUDGET / MAX_FRAME {
            let (mut reader, mut client) = Reader::new(&budget);
            client.write_all(&frame(MAX_FRAME)[..HEADER + 1]).await.unwrap();
            reader.read_to(HEADER + 1).await.unwrap();
            stalled.push((reader, client));
        }
        let (mut small, mut client) = Reader::new(&budget);
        client.write_all(&frame(SMALL)).await.unwrap();
        small.read_to(HEADER + SMALL as usize).await.unwrap();
        let (mut waiting, mut client) = Reader::new(&budget);
        client.write_all(&frame(MAX_FRAME)).await.unwrap();
        waiting.read_to(HEADER).await.unwrap();
        let size = HEADER + MAX_FRAME as usize;
        assert!(tokio::time::timeout(IDLE_TIMEOUT / 2, waiting.read_to(size)).await.is_err(), "it waits for its share");
        let (mut reader, _client) = stalled.pop().unwrap();
        let ended = tokio::spawn(async move { reader.read_to(size).await });
        waiting.read_to(size).await.unwrap();
        assert_eq!(ended.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_partial_frame_is_kept_while_no_other_frame_waits() {
        let budget = Budget::new();
        let (mut reader, mut client) = Reader::new(&budget);
        let sent = frame(MAX_FRAME);
        client.write_all(&sent[..sent.len() - 1]).await.unwrap();
        assert!(tokio::time::timeout(IDLE_TIMEOUT * 100, reader.read_to(sent.len())).await.is_err());
        client.write_all(&sent[sent.len() - 1..]).await.unwrap();
        reader.read_to(sent.len()).await.unwrap();
        assert!(reader.read == sent);
    }
}
