//! Bodies on their way: each frame is shown to the tap and passed on, never held.
//!
//! A request's body knows how to come back: if the upstream provably did not process the request, what was taken of
//! the body goes up again, on another connection. Frames are kept for that only as long as they may be needed (on
//! HTTP/1.1 until the first byte of the request leaves, on HTTP/2 until the response begins), and only as many as fit a
//! budget that all requests share.

use super::hold::{Counted, Hold};
use super::tap::{CallTap, RequestTap};
use super::upstream::Lease;
use super::wire::Line;
use crate::observation::Outcome;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::task::AtomicWaker;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::sync::Notify;

/// Most bytes of one request's body that are kept to be sent again. An upstream that does not process a request grants
/// it no more than its first window, which is smaller almost everywhere.
const MAX_KEPT: usize = 1024 * 1024;
/// The same, of all requests together.
const MAX_KEPT_IN_ALL: usize = 32 * 1024 * 1024;

/// Bytes that are kept now, over all requests.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// Why a request's body ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// A connection broke.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    /// The caller left while its request was still going up.
    #[error("the caller left while its request was still going up")]
    Left,
    /// The upstream answered without asking for the body that the caller offered.
    #[error("the upstream answered without asking for the body")]
    NotWanted,
}

/// The body that a caller offered with `expect: 100-continue`: it waits here until the upstream asks for it.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: AtomicU8,
    waker: AtomicWaker,
}

impl Gate {
    const OPEN: u8 = 1;
    const CLOSED: u8 = 2;

    /// The upstream asks for the body. True if this is news.
    pub(super) fn open(&self) -> bool {
        self.turn(Self::OPEN)
    }

    /// The upstream has answered in full without it.
    pub(super) fn close(&self) {
        self.turn(Self::CLOSED);
    }

    fn turn(&self, to: u8) -> bool {
        let turned = self.state.compare_exchange(0, to, Relaxed, Relaxed).is_ok();
        if turned {
            self.waker.wake();
        }
        turned
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Result<(), BodyError>> {
        self.waker.register(cx.waker());
        match self.state.load(Relaxed) {
            0 => Poll::Pending,
            Self::OPEN => Poll::Ready(Ok(())),
            _ => Poll::Ready(Err(BodyError::NotWanted)),
        }
    }
}

/// Frames of a body that may have to go up again.
#[derive(Debug, Default)]
struct Kept {
    frames: VecDeque<Bytes>,
    bytes: usize,
    /// More has passed than is kept: the body cannot come back.
    lost: bool,
}

impl Kept {
    fn keep(&mut self, frame: &Bytes) {
        if self.lost {
            return;
        }
        let bytes = frame.len();
        let in_all = KEPT.fetch_add(bytes, Relaxed) + bytes;
        self.bytes += bytes;
        self.frames.push_back(frame.clone());
        if self.bytes > MAX_KEPT || in_all > MAX_KEPT_IN_ALL {
            self.lose();
        }
    }

    /// Takes the first frame out: it goes up again.
    fn pop(&mut self) -> Option<Bytes> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.len();
        KEPT.fetch_sub(frame.len(), Relaxed);
        Some(frame)
    }

    /// Takes over what another keeps, which stays counted.
    fn append(&mut self, other: &mut Self) {
        self.bytes += std::mem::take(&mut other.bytes);
        self.frames.append(&mut other.frames);
    }

    fn len(&self) -> usize {
        self.bytes
    }

    fn lose(&mut self) {
        KEPT.fetch_sub(std::mem::take(&mut self.bytes), Relaxed);
        self.frames = VecDeque::new();
        self.lost = true;
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.bytes, Relaxed);
    }
}

/// Where a body comes back to between two tries. The part of the library that sends a body may let go of it a moment
/// after the request has failed, so it is waited for.
#[derive(Debug, Default)]
pub(super) struct Slot {
    body: Mutex<Option<RequestBody>>,
    let_go: Notify,
}

impl Slot {
    /// The body, if it can go up again.
    pub(super) async fn taken_back(&self) -> Option<RequestBody> {
        // Told once for each try, also where nothing came back.
        self.let_go.notified().await;
        self.body.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What a request's body is made of.
#[derive(Debug)]
enum Source {
    /// The caller's, as it comes.
    Passing(Incoming),
    /// The caller's, whole: it is signed.
    #[cfg(feature = "aws")]
    Signed(Full<Bytes>),
    /// Given back.
    Gone,
}

/// A request's body on its way up.
#[derive(Debug)]
pub(super) struct RequestBody {
    source: Source,
    tap: Arc<RequestTap>,
    gate: Option<Arc<Gate>>,
    /// The HTTP/1.1 connection that it goes up on.
    line: Option<Arc<Line>>,
    trailers: Option<HeaderMap>,
    ending: bool,
    kept: Kept,
    /// What goes up before the source does: it went up before.
    again: Kept,
    /// Where it goes if it has to come back.
    slot: Option<Arc<Slot>>,
    /// What its connection has in hand of it.
    hold: Option<Hold>,
}

impl RequestBody {
    /// The caller's body.
    pub(super) fn passing(inner: Incoming, tap: Arc<RequestTap>, gate: Option<Arc<Gate>>) -> Self {
        Self::of(Source::Passing(inner), tap, gate)
    }

    /// A whole body.
    #[cfg(feature = "aws")]
    pub(super) fn signed(whole: Bytes, tap: Arc<RequestTap>) -> Self {
        Self::of(Source::Signed(Full::from(whole)), tap, None)
    }

    fn of(source: Source, tap: Arc<RequestTap>, gate: Option<Arc<Gate>>) -> Self {
        Self {
            source,
            tap,
            gate,
            line: None,
            trailers: None,
            ending: false,
            kept: Kept::default(),
            again: Kept::default(),
            slot: None,
            hold: None,
        }
    }

    /// Makes it ready to go up on a connection: `line` is that of an HTTP/1.1 one.
    pub(super) fn on(mut self, line: Option<Arc<Line>>, slot: &Arc<Slot>) -> Self {
        self.line = line;
        self.slot = Some(slot.clone());
        self.hold = Some(Hold::new(self.tap.overload()));
        self
    }

    /// True while the request may still turn out not to have been processed.
    fn may_come_back(&self) -> bool {
        match &self.line {
            Some(line) => line.is_unsent(),
            None => !self.tap.is_answered(),
        }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let inner = match &mut self.source {
            Source::Passing(inner) => inner,
            #[cfg(feature = "aws")]
            Source::Signed(inner) => {
                return Pin::new(inner).poll_frame(cx).map_err(|never| match never {});
            }
            Source::Gone => return Poll::Ready(None),
        };
        let frame = ready!(Pin::new(&mut *inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(bytes) = frame.data_ref() {
                    self.tap.feed(bytes);
                }
                // With a content-length nobody asks for more once the last byte is there.
                if inner.is_end_stream() {
                    self.tap.passed();
                }
            }
            Some(Err(_)) => self.tap.broke_off(),
            None => self.tap.passed(),
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Broken)))
    }

    /// HTTP/1.1 needs help with trailers that no header announced.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(line) = &self.line {
            ready!(line.poll_trailers(cx, &mut self.trailers));
        }
        self.ending = false;
        Poll::Ready(None)
    }
}

impl RequestBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(gate) = &self.gate {
            ready!(gate.poll(cx))?;
            self.gate = None;
        }
        if self.ending {
            return self.poll_end(cx);
        }
        if let Some(hold) = &self.hold {
            ready!(hold.poll_room(cx));
        }
        let frame = match self.again.pop() {
            Some(bytes) => Frame::data(bytes),
            None => match ready!(self.poll_source(cx)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            },
        };
        if let Some(bytes) = frame.data_ref() {
            if self.may_come_back() {
                self.kept.keep(bytes);
            } else if !self.kept.lost {
                self.kept.lose();
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        match (frame.into_trailers(), &self.line) {
            (Ok(trailers), Some(_)) => {
                // Once they are taken they cannot be had again.
                self.kept.lose();
                (self.trailers, self.ending) = (Some(trailers), true);
                self.poll_end(cx)
            }
            (Ok(trailers), None) => {
                self.kept.lose();
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            (Err(frame), _) => Poll::Ready(Some(Ok(frame))),
        }
    }
}

impl Body for RequestBody {
    type Data = Counted;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Counted>, BodyError>>> {
        let this = self.get_mut();
        let frame = ready!(this.poll_next(cx));
        let hold = this.hold.as_ref();
        let counted = |bytes| match hold {
            Some(hold) => hold.take(bytes),
            None => Counted::from(bytes),
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(counted))))
    }

    fn is_end_stream(&self) -> bool {
        if self.ending || self.again.len() > 0 {
            return false;
        }
        match &self.source {
            Source::Passing(inner) => inner.is_end_stream(),
            #[cfg(feature = "aws")]
            Source::Signed(inner) => inner.is_end_stream(),
            Source::Gone => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = match &self.source {
            Source::Passing(inner) => inner.size_hint(),
            #[cfg(feature = "aws")]
            Source::Signed(inner) => inner.size_hint(),
            Source::Gone => SizeHint::with_exact(0),
        };
        let again = self.again.len();
        if again > 0 {
            let again = again as u64;
            let (lower, upper) = (hint.lower() + again, hint.upper().map(|upper| upper + again));
            hint = SizeHint::new();
            hint.set_lower(lower);
            if let Some(upper) = upper {
                hint.set_upper(upper);
            }
        }
        hint
    }
}

impl RequestBody {
    /// What goes up again: what was taken of the body, and the rest of it.
    fn back(&mut self) -> Option<Self> {
        if self.kept.lost || !self.may_come_back() {
            return None;
        }
        let source = std::mem::replace(&mut self.source, Source::Gone);
        let mut back = Self::of(source, self.tap.clone(), self.gate.take());
        back.again.append(&mut self.kept);
        back.again.append(&mut self.again);
        Some(back)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            let back = self.back();
            *slot.body.lock().unwrap_or_else(PoisonError::into_inner) = back;
            slot.let_go.notify_one();
        }
    }
}

/// A response's body on its way down.
pub(super) enum AnswerBody {
    /// The upstream's.
    Passing(Box<Passing>),
    /// Ours.
    Own(Full<Bytes>),
}

/// The upstream's body, and what is to be done when it ends.
pub(super) struct Passing {
    pub(super) inner: Incoming,
    pub(super) tap: CallTap,
    /// The upstream's connection, or its stream: given back with the body.
    pub(super) lease: Lease,
    /// The client's connection, if it is HTTP/1.1.
    pub(super) client: Option<Arc<Line>>,
    /// A body that the client offered and the upstream may not have asked for.
    pub(super) gate: Option<Arc<Gate>>,
    /// There is none, but its length is in the head (304).
    pub(super) length_of_another: bool,
    pub(super) trailers: Option<HeaderMap>,
    pub(super) ending: bool,
    /// Ends if the client leaves while its request still goes up.
    pub(super) left: Option<BoxFuture<'static, ()>>,
    /// What the client's connection has in hand of it.
    pub(super) hold: Hold,
}

impl Drop for Passing {
    fn drop(&mut self) {
        if let Some(gate) = &self.gate {
            gate.close();
        }
    }
}

impl Passing {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ending {
            return self.poll_end(cx);
        }
        if let Some(left) = &mut self.left
            && left.as_mut().poll(cx).is_ready()
        {
            self.left = None;
            self.tap.finish(Outcome::ClientGone);
            return Poll::Ready(Some(Err(BodyError::Left)));
        }
        ready!(self.hold.poll_room(cx));
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                self.tap.finish(Outcome::UpstreamBroken);
                return Poll::Ready(Some(Err(error.into())));
            }
            None => {
                self.finish();
                return Poll::Ready(None);
            }
        };
        if let Some(bytes) = frame.data_ref() {
            self.tap.feed(bytes);
        }
        // With a content-length nobody asks for more once the last byte is there, nor behind trailers.
        if self.inner.is_end_stream() || frame.is_trailers() {
            self.finish();
        }
        match (frame.into_trailers(), &self.client) {
            (Ok(trailers), Some(_)) => {
                (self.trailers, self.ending) = (Some(trailers), true);
                self.poll_end(cx)
            }
            (Ok(trailers), None) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            (Err(frame), _) => Poll::Ready(Some(Ok(frame))),
        }
    }

    fn finish(&mut self) {
        self.tap.finish(Outcome::Complete);
        self.lease.ended();
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(client) = &self.client {
            ready!(client.poll_trailers(cx, &mut self.trailers));
        }
        self.ending = false;
        Poll::Ready(None)
    }
}

impl Body for AnswerBody {
    type Data = Counted;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Counted>, BodyError>>> {
        match self.get_mut() {
            Self::Own(inner) => {
                let frame = ready!(Pin::new(inner).poll_frame(cx));
                Poll::Ready(
                    frame.map(|own| own.map(|own| own.map_data(Counted::from)).map_err(|e| match e {})),
                )
            }
            Self::Passing(passing) => {
                let frame = ready!(passing.poll(cx));
                let hold = &passing.hold;
                Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|bytes| hold.take(bytes)))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Passing(passing) => {
                !passing.ending && !passing.length_of_another && passing.inner.is_end_stream()
            }
            Self::Own(inner) => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            // hyper writes the head's own length only where the body says nothing of its size.
            Self::Passing(passing) if passing.length_of_another => SizeHint::default(),
            Self::Passing(passing) => passing.inner.size_hint(),
            Self::Own(inner) => inner.size_hint(),
        }
    }
}
