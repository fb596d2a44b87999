//! The memory of all open decoders together.
//!
//! Windows are chosen by whoever compresses, so one decoder's bound says nothing about a hundred of
//! them. Each reserves what it is about to hold, and gives it back when dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes that open decoders may still take. Clones share them.
#[derive(Clone, Debug)]
pub struct DecoderBudget(Arc<AtomicUsize>);

impl DecoderBudget {
    /// So many bytes for all decoders.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Takes so many bytes, if they are left.
    pub(super) fn reserve(&self, bytes: usize) -> Option<Reserved> {
        self.take(bytes).then(|| Reserved { budget: self.clone(), bytes })
    }

    fn take(&self, bytes: usize) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.0.load(Relaxed)
    }
}

/// Bytes that one decoder holds.
#[derive(Debug)]
pub(super) struct Reserved {
    budget: DecoderBudget,
    bytes: usize,
}

impl Reserved {
    /// Makes it this many bytes; false if the budget has not that many left.
    pub(super) fn resize(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes && !self.budget.take(bytes - self.bytes) {
            return false;
        }
        if bytes < self.bytes {
            self.budget.0.fetch_add(self.bytes - bytes, Relaxed);
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.bytes, Relaxed);
    }
}
