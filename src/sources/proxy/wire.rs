//! A connection under hyper, with what HTTP/1.1 needs and hyper does not offer.
//!
//! hyper owns a connection's bytes and shows messages. Four things a transparent proxy needs are below that view:
//! whether a byte of a request has left (only a request of which none has may be sent again), interim responses (1xx),
//! trailers that no header announced, and a client that leaves while its upload is held back. [`Wire`] stands between
//! hyper and the socket and does these four; [`Line`] is its other end, held by the exchange that passes. Everything
//! else goes through untouched.
//!
//! hyper flushes only when all that it has to write is written, so a flush is the one moment at which bytes of ours
//! cannot land in the middle of a message.

use crate::overload::Overload;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use http::{HeaderMap, HeaderName, StatusCode, header};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream as ServerTls;

/// How hyper ends a chunked body.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// Most bytes of interim responses that wait for a client; what is more is dropped, as a proxy may.
const MAX_INTERIM: usize = 64 * 1024;

/// Most bytes that are read at once. hyper offers more and more room to a fast peer, up to the largest head, and a body's
/// frames become as large.
const MAX_READ: usize = 16 * 1024;
/// Bytes that a peer may send without a word back while memory is all but gone: enough for a request that is refused.
const MAX_UNANSWERED: usize = 64 * 1024;

/// Most bytes that the kernel takes in for a peer that does not read; by itself it takes megabytes, and they count as ours.
/// What is on its way to a peer that does read is not bounded by it.
const MAX_UNSENT: u32 = 128 * 1024;

/// Bounds what the kernel holds for a peer, where it can.
pub(super) fn bound_unsent(socket: &TcpStream) {
    if let Err(error) = SockRef::from(socket).set_tcp_notsent_lowat(MAX_UNSENT) {
        tracing::trace!(%error, "the kernel cannot bound what waits to be sent");
    }
}

/// Gives the TCP socket under a connection.
pub(super) trait Socket {
    /// The socket.
    fn socket(&self) -> &TcpStream;
}

/// How far the trailers of a body have come.
mod tail {
    /// There are none.
    pub(super) const NONE: u8 = 0;
    /// They wait until all of the body is written.
    pub(super) const HELD: u8 = 1;
    /// It is.
    pub(super) const FLUSHED: u8 = 2;
    /// The next thing that hyper writes is the last chunk: they go into it.
    pub(super) const ARMED: u8 = 3;
}

/// What an exchange knows of its connection, and asks of it.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// A request is on its way of which no byte has left yet.
    unsent: AtomicBool,
    /// The connection has carried a request before.
    reused: AtomicBool,
    tail: AtomicU8,
    trailers: Mutex<Bytes>,
    flushed: AtomicWaker,
    interim: Mutex<BytesMut>,
    has_interim: AtomicBool,
    exchange: AtomicWaker,
    look: AtomicBool,
    left: AtomicBool,
    held: AtomicBool,
}

impl Line {
    /// A request is about to be sent.
    pub(super) fn begin(&self) {
        self.unsent.store(true, Relaxed);
    }

    /// Its response has come, or it has failed.
    pub(super) fn used(&self) {
        self.unsent.store(false, Relaxed);
        self.reused.store(true, Relaxed);
    }

    /// True if the connection has carried a request before.
    pub(super) fn is_reused(&self) -> bool {
        self.reused.load(Relaxed)
    }

    /// True as long as no byte of the request has left.
    pub(super) fn is_unsent(&self) -> bool {
        self.unsent.load(Relaxed)
    }

    /// Ends a chunked body with trailers. Called by the body for each poll, until it is ready; then the body is to
    /// end without a word.
    pub(super) fn poll_trailers(&self, cx: &mut Context<'_>, trailers: &mut Option<HeaderMap>) -> Poll<()> {
        if let Some(fields) = trailers.take() {
            *self.trailers.lock().unwrap_or_else(PoisonError::into_inner) = fields_of(&fields);
            self.tail.store(tail::HELD, Relaxed);
        }
        self.flushed.register(cx.waker());
        if self.tail.load(Relaxed) != tail::FLUSHED {
            return Poll::Pending;
        }
        self.tail.store(tail::ARMED, Relaxed);
        Poll::Ready(())
    }

    /// Passes an interim response to the client, before the response that is being waited for.
    pub(super) fn interim(&self, status: StatusCode, headers: &HeaderMap) {
        let mut waiting = self.interim.lock().unwrap_or_else(PoisonError::into_inner);
        let fields = fields_of(headers);
        if waiting.len() + fields.len() > MAX_INTERIM {
            return;
        }
        let reason = status.canonical_reason().unwrap_or("Interim");
        waiting.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).as_bytes());
        waiting.extend_from_slice(&fields);
        waiting.extend_from_slice(b"\r\n");
        drop(waiting);
        self.has_interim.store(true, Relaxed);
        self.exchange.wake();
    }

    /// Wakes the exchange, and with it the connection, when there is something of ours to write.
    pub(super) fn wake_for_interim(&self, cx: &Context<'_>) {
        self.exchange.register(cx.waker());
    }

    /// Asks whether the client has closed its end, and whether bytes of it wait; the connection finds out when it is polled next.
    pub(super) fn look(&self) {
        self.look.store(true, Relaxed);
    }

    /// True if a look found that bytes of the client wait to be read.
    pub(super) fn is_held(&self) -> bool {
        self.held.load(Relaxed)
    }

    /// True if a look found that it has.
    pub(super) fn has_left(&self) -> bool {
        self.left.load(Relaxed)
    }
}

/// Header fields as HTTP/1.1 writes them, without those that frame a message or belong to a connection.
fn fields_of(headers: &HeaderMap) -> Bytes {
    const FRAMING: [HeaderName; 5] = [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::UPGRADE,
        header::TRAILER,
    ];
    let mut out = BytesMut::new();
    for (name, value) in headers.iter().filter(|(name, _)| !FRAMING.contains(name)) {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.freeze()
}

/// A connection under hyper.
pub(super) struct Wire<S> {
    stream: S,
    /// Read before hyper had the connection.
    first: Bytes,
    /// Ours, on its way out.
    ours: BytesMut,
    /// hyper has nothing half-written.
    between: bool,
    line: Arc<Line>,
    /// Memory that ends the connection if it runs out.
    overload: Option<Overload>,
    /// Bytes that were read since the last one was written.
    unanswered: usize,
}

impl<S> Wire<S> {
    /// A connection of which these bytes were read already.
    pub(super) fn new(stream: S, first: Bytes) -> Self {
        let (ours, line) = (BytesMut::new(), Arc::default());
        Self { stream, first, ours, between: true, line, overload: None, unanswered: 0 }
    }

    /// Ends the connection if it sends on and on while memory is all but gone.
    pub(super) fn guarded(self, overload: &Overload) -> Self {
        Self { overload: Some(overload.clone()), ..self }
    }

    /// Its other end.
    pub(super) fn line(&self) -> Arc<Line> {
        self.line.clone()
    }
}

impl<S: Write + Unpin> Wire<S> {
    /// Writes what is ours.
    fn poll_ours(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.ours.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.ours))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.ours.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn take_interim(&mut self) {
        if self.line.has_interim.swap(false, Relaxed) {
            let mut waiting = self.line.interim.lock().unwrap_or_else(PoisonError::into_inner);
            let interim = waiting.split();
            // In the middle of an earlier response there is no place for it.
            if self.between {
                self.ours.unsplit(interim);
            }
        }
    }

    /// The last chunk with trailers in it, if this is the last chunk and there are any.
    fn with_trailers(&mut self, bufs: &[&[u8]]) -> bool {
        if self.line.tail.load(Relaxed) != tail::ARMED {
            return false;
        }
        self.line.tail.store(tail::NONE, Relaxed);
        let trailers =
            std::mem::take(&mut *self.line.trailers.lock().unwrap_or_else(PoisonError::into_inner));
        if bufs.concat() != LAST_CHUNK {
            // The body is not chunked: the client is too old for trailers.
            return false;
        }
        self.ours.extend_from_slice(b"0\r\n");
        self.ours.extend_from_slice(&trailers);
        self.ours.extend_from_slice(b"\r\n");
        true
    }
}

impl<S: Socket + Write + Unpin> Wire<S> {
    /// Before the first byte of a request on a connection that was used before: has the peer closed it, or spoken
    /// unasked? Asked of the kernel, because what has arrived may not have been noticed yet.
    fn poll_usable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !(self.line.is_unsent() && self.line.is_reused()) {
            return Poll::Ready(Ok(()));
        }
        let socket = self.stream.socket();
        match SockRef::from(socket).peek(&mut [MaybeUninit::uninit(); 1]) {
            Ok(0) => Poll::Ready(Err(closed())),
            // A TLS record, or a word out of turn: hyper reads it, once the runtime has noticed.
            Ok(_) => {
                if socket.poll_read_ready(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Everything that comes before bytes of hyper's.
    fn poll_before(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_usable(cx))?;
        self.take_interim();
        self.poll_ours(cx)
    }

    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(n)) if *n > 0) {
            self.between = false;
            self.unanswered = 0;
            self.line.unsent.store(false, Relaxed);
        }
    }

    fn look(&self, cx: &mut Context<'_>) {
        if self.line.look.swap(false, Relaxed) {
            let ready = pin!(self.stream.socket().ready(Interest::READABLE)).poll(cx);
            let closed = matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed());
            let waiting = SockRef::from(self.stream.socket()).peek(&mut [MaybeUninit::uninit(); 1]);
            self.line.left.store(closed, Relaxed);
            self.line.held.store(matches!(waiting, Ok(n) if n > 0), Relaxed);
        }
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the peer closed the connection before it was used again")
}

impl<S: Read + Unpin> Wire<S> {
    /// Reads, but not much at once.
    fn poll_some(&mut self, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if self.unanswered > MAX_UNANSWERED && self.overload.as_ref().is_some_and(Overload::is_critical) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::OutOfMemory, "memory is all but gone")));
        }
        let mut room = [MaybeUninit::uninit(); MAX_READ];
        let most = buf.remaining().min(MAX_READ);
        let mut part = ReadBuf::uninit(&mut room[..most]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, part.unfilled()))?;
        buf.put_slice(part.filled());
        self.unanswered = self.unanswered.saturating_add(part.filled().len());
        Poll::Ready(Ok(()))
    }
}

impl<S: Read + Unpin> Read for Wire<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.first.is_empty() {
            let n = this.first.len().min(buf.remaining());
            buf.put_slice(&this.first.split_to(n));
            return Poll::Ready(Ok(()));
        }
        if !(this.line.is_unsent() && this.line.is_reused()) {
            return this.poll_some(cx, buf);
        }
        // No response can come before its request: what is read now was said on the idle connection.
        let mut one = [0; 1];
        let mut said = ReadBuf::new(&mut one);
        ready!(Pin::new(&mut this.stream).poll_read(cx, said.unfilled()))?;
        Poll::Ready(if said.filled().is_empty() { Ok(()) } else { Err(closed()) })
    }
}

impl<S: Socket + Write + Unpin> Write for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_before(cx))?;
        if this.with_trailers(&[buf]) {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.wrote(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_before(cx))?;
        if this.line.tail.load(Relaxed) == tail::ARMED {
            let slices: Vec<&[u8]> = bufs.iter().map(|buf| &**buf).collect();
            if this.with_trailers(&slices) {
                return Poll::Ready(Ok(LAST_CHUNK.len()));
            }
        }
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.between = true;
        this.look(cx);
        this.take_interim();
        ready!(this.poll_ours(cx))?;
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        let held = this.line.tail.compare_exchange(tail::HELD, tail::FLUSHED, Relaxed, Relaxed);
        if held.is_ok() {
            this.line.flushed.wake();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_ours(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

impl Socket for TokioIo<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.inner()
    }
}

impl Socket for TokioIo<ServerTls<TcpStream>> {
    fn socket(&self) -> &TcpStream {
        self.inner().get_ref().0
    }
}

impl Socket for MaybeHttpsStream<TokioIo<TcpStream>> {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Http(plain) => plain.inner(),
            Self::Https(tls) => tls.inner().get_ref().0.inner().inner(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    async fn flush(wire: &mut Wire<TokioIo<TcpStream>>) {
        std::future::poll_fn(|cx| Pin::new(&mut *wire).poll_flush(cx)).await.unwrap();
    }

    /// A look that is taken until it finds what is wanted.
    async fn looks(wire: &mut Wire<TokioIo<TcpStream>>, wanted: (bool, bool)) {
        let line = wire.line();
        while (line.has_left(), line.is_held()) != wanted {
            line.look();
            flush(wire).await;
            tokio::task::yield_now().await;
        }
    }

    async fn read(wire: &mut Wire<TokioIo<TcpStream>>) -> io::Result<usize> {
        let mut room = vec![0; 10 * MAX_READ];
        let mut buf = ReadBuf::new(&mut room);
        std::future::poll_fn(|cx| Pin::new(&mut *wire).poll_read(cx, buf.unfilled())).await?;
        Ok(buf.filled().len())
    }

    /// However much room hyper offers: frames are as large as what is read at once.
    #[tokio::test]
    async fn a_read_is_small_and_a_peer_that_only_sends_is_cut_once_memory_is_all_but_gone() {
        let (mut client, server) = pair().await;
        let overload = Overload::new(None);
        let mut wire = Wire::new(TokioIo::new(server), Bytes::new()).guarded(&overload);
        client.write_all(&[0; 3 * MAX_UNANSWERED]).await.unwrap();
        let mut taken = 0;
        while taken <= MAX_UNANSWERED {
            let n = read(&mut wire).await.unwrap();
            assert!((1..=MAX_READ).contains(&n), "{n}");
            taken += n;
        }
        assert!(read(&mut wire).await.is_ok(), "there is memory");
        overload.set(crate::overload::Level::Critical);
        assert_eq!(read(&mut wire).await.unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        std::future::poll_fn(|cx| Pin::new(&mut wire).poll_write(cx, b"a word")).await.unwrap();
        assert!(read(&mut wire).await.is_ok(), "it was answered");
    }

    /// Nobody reads, as under back-pressure; what waits in front of the client's end does not hide it.
    #[tokio::test]
    async fn a_look_finds_the_end_of_a_client_behind_bytes_that_nobody_reads() {
        let (mut client, server) = pair().await;
        let mut wire = Wire::new(TokioIo::new(server), Bytes::new());
        looks(&mut wire, (false, false)).await;
        client.write_all(&[0; 100_000]).await.unwrap();
        looks(&mut wire, (false, true)).await;
        client.shutdown().await.unwrap();
        looks(&mut wire, (true, true)).await;
    }

    #[tokio::test]
    async fn a_connection_that_the_peer_closed_takes_no_request() {
        let (client, server) = pair().await;
        let mut wire = Wire::new(TokioIo::new(server), Bytes::new());
        let line = wire.line();
        line.used();
        drop(client);
        // The kernel knows at once, the runtime may not.
        let socket = SockRef::from(wire.stream.socket()).try_clone().unwrap();
        while socket.peek(&mut [MaybeUninit::uninit(); 1]).is_err() {
            std::thread::yield_now();
        }
        line.begin();
        let written = std::future::poll_fn(|cx| Pin::new(&mut wire).poll_write(cx, b"POST")).await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::NotConnected);
        assert!(line.is_unsent());
    }
}
