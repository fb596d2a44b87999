//! br, with every byte that the library allocates taken from the budget.

use super::budget::{DecoderBudget, Reserved};
use super::{Reader, Sink, Undecoded};
use brotli_decompressor::{
    Allocator, BrotliDecompressStream, BrotliResult, BrotliState, SliceWrapper, SliceWrapperMut,
};

/// Largest window that is decoded, as a power of two: the default of every encoder, and no server's
/// module goes beyond it by itself. The format allows 24, its "large window" extension 30.
const WINDOW_LOG: u32 = 22;

/// A decoder of br.
pub(super) struct Brotli {
    state: BrotliState<Metered, Metered, Metered>,
    begun: bool,
    ended: bool,
    total: usize,
    _own: Reserved,
}

impl Brotli {
    pub(super) fn new(budget: &DecoderBudget) -> Result<Self, Undecoded> {
        let own = budget.reserve(size_of::<Self>()).ok_or(Undecoded::NoMemory)?;
        let metered = || Metered { budget: budget.clone(), refused: false };
        let state = BrotliState::new_strict(metered(), metered(), metered());
        Ok(Self { state, begun: false, ended: false, total: 0, _own: own })
    }

    pub(super) fn feed<R: Reader>(&mut self, bytes: &[u8], sink: &mut Sink<R>) -> Result<(), Undecoded> {
        let Some(first) = bytes.first() else { return Ok(()) };
        if !std::mem::replace(&mut self.begun, true) && window_log(*first).is_none_or(|log| log > WINDOW_LOG)
        {
            return Err(Undecoded::Unreadable);
        }
        let (mut left, mut at) = (bytes.len(), 0);
        let mut out = [0; 8 * 1024];
        while !self.ended {
            let (mut room, mut written) = (out.len(), 0);
            let result = BrotliDecompressStream(
                &mut left,
                &mut at,
                bytes,
                &mut room,
                &mut written,
                &mut out,
                &mut self.total,
                &mut self.state,
            );
            sink.take(&out[..written])?;
            match result {
                BrotliResult::NeedsMoreOutput => {}
                BrotliResult::NeedsMoreInput => return Ok(()),
                BrotliResult::ResultSuccess => self.ended = true,
                BrotliResult::ResultFailure => return Err(self.why()),
            }
        }
        Ok(())
    }

    fn why(&self) -> Undecoded {
        let state = &self.state;
        let refused = [&state.alloc_u8, &state.alloc_u32, &state.alloc_hc].iter().any(|alloc| alloc.refused);
        if refused { Undecoded::NoMemory } else { Undecoded::Unreadable }
    }
}

/// The window that a stream's first byte asks for (RFC 7932, 9.1), if it is one of that format.
fn window_log(first: u8) -> Option<u32> {
    let bits = u32::from(first);
    match (bits & 1, (bits >> 1) & 7, (bits >> 4) & 7) {
        (0, ..) => Some(16),
        (_, 0, 0) => Some(17),
        // The mark of the "large window" extension.
        (_, 0, 1) => None,
        (_, 0, n) => Some(8 + n),
        (_, n, _) => Some(17 + n),
    }
}

/// Hands out memory of the budget, and an empty cell when there is none, which the library takes as
/// a failed allocation.
struct Metered {
    budget: DecoderBudget,
    refused: bool,
}

/// Memory of the budget.
struct Cell<T> {
    data: Vec<T>,
    _held: Option<Reserved>,
}

impl<T> Default for Cell<T> {
    fn default() -> Self {
        Self { data: Vec::new(), _held: None }
    }
}

impl<T> SliceWrapper<T> for Cell<T> {
    fn slice(&self) -> &[T] {
        &self.data
    }
}

impl<T> SliceWrapperMut<T> for Cell<T> {
    fn slice_mut(&mut self) -> &mut [T] {
        &mut self.data
    }
}

impl<T: Clone + Default> Allocator<T> for Metered {
    type AllocatedMemory = Cell<T>;

    fn alloc_cell(&mut self, len: usize) -> Cell<T> {
        let Some(held) = len.checked_mul(size_of::<T>()).and_then(|bytes| self.budget.reserve(bytes)) else {
            self.refused = true;
            return Cell::default();
        };
        Cell { data: vec![T::default(); len], _held: Some(held) }
    }

    fn free_cell(&mut self, cell: Cell<T>) {
        drop(cell);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_told_by_the_first_byte() {
        for (first, log) in [
            (0b0000_0000, Some(16)),
            (0b0000_0001, Some(17)),
            (0b0011_0001, Some(11)),
            (0b0111_0001, Some(15)),
            (0b0000_0011, Some(18)),
            (0b0000_1011, Some(22)),
            (0b0000_1111, Some(24)),
            (0b0001_0001, None),
        ] {
            assert_eq!(window_log(first), log, "{first:08b}");
        }
    }
}
