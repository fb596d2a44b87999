//! What an exchange holds of a body: bytes that have been taken from one peer and not yet been
//! written to the other.
//!
//! hyper asks for more of a body as long as its own buffers have room, whether anybody reads at the
//! other end or not. Only the bytes themselves know when they have been written: each frame that is
//! handed over counts until it is dropped. A body that has enough in hand asks for no more, and is
//! woken when one of its frames has gone: so a peer that reads waits for nothing.

use crate::overload::Overload;
use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel, Ordering::Acquire};
use std::task::{Context, Poll};

/// Most bytes that one body has in hand before it asks for more. Enough to keep a socket busy.
const ENOUGH: usize = 16 * 1024;

#[derive(Debug, Default)]
struct InHand {
    bytes: AtomicUsize,
    gone: AtomicWaker,
}

/// The bytes that one body has in hand.
#[derive(Debug)]
pub(super) struct Hold {
    in_hand: Arc<InHand>,
    overload: Overload,
}

impl Hold {
    /// Nothing is in hand yet.
    pub(super) fn new(overload: &Overload) -> Self {
        Self { in_hand: Arc::default(), overload: overload.clone() }
    }

    /// Ready if the body may ask for its next frame.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.has_room() {
            return Poll::Ready(());
        }
        self.in_hand.gone.register(cx.waker());
        // A frame may have gone in between.
        if self.has_room() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn has_room(&self) -> bool {
        let most = if self.overload.is_pressing() { 0 } else { ENOUGH };
        self.in_hand.bytes.load(Acquire) <= most
    }

    /// These bytes are in hand until they are dropped.
    pub(super) fn take(&self, bytes: Bytes) -> Counted {
        let n = bytes.len();
        self.in_hand.bytes.fetch_add(n, AcqRel);
        Counted { bytes, n, in_hand: Some(self.in_hand.clone()) }
    }
}

/// Bytes that count as long as they are in hand.
#[derive(Debug)]
pub(super) struct Counted {
    bytes: Bytes,
    n: usize,
    in_hand: Option<Arc<InHand>>,
}

impl From<Bytes> for Counted {
    /// Bytes of ours, which nobody sends too fast.
    fn from(bytes: Bytes) -> Self {
        Self { bytes, n: 0, in_hand: None }
    }
}

impl Buf for Counted {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, n: usize) {
        self.bytes.advance(n);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(in_hand) = &self.in_hand {
            in_hand.bytes.fetch_sub(self.n, AcqRel);
            in_hand.gone.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overload::Level;
    use std::task::Waker;

    #[test]
    fn a_body_waits_while_it_has_enough_in_hand_and_asks_again_when_a_frame_has_gone() {
        let hold = Hold::new(&Overload::new(None));
        let cx = Context::from_waker(Waker::noop());
        assert!(hold.poll_room(&cx).is_ready());
        let first = hold.take(Bytes::from(vec![0; ENOUGH]));
        assert!(hold.poll_room(&cx).is_ready(), "enough is not too much");
        let mut second = hold.take(Bytes::from_static(b"x"));
        assert!(hold.poll_room(&cx).is_pending());
        second.advance(1);
        assert!(hold.poll_room(&cx).is_pending(), "it is there until it is dropped");
        drop(second);
        assert!(hold.poll_room(&cx).is_ready());
        drop(first);
        assert_eq!(hold.in_hand.bytes.load(Acquire), 0);
    }

    #[test]
    fn while_memory_is_short_a_body_has_one_frame_in_hand() {
        let overload = Overload::new(None);
        overload.set(Level::Pressing);
        let hold = Hold::new(&overload);
        let cx = Context::from_waker(Waker::noop());
        assert!(hold.poll_room(&cx).is_ready());
        let frame = hold.take(Bytes::from_static(b"x"));
        assert!(hold.poll_room(&cx).is_pending());
        drop(frame);
        assert!(hold.poll_room(&cx).is_ready());
    }
}
