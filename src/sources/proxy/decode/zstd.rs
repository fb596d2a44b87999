//! zstd. A frame's head says how large its window is, so its memory is reserved before the library
//! takes it.

use super::budget::{DecoderBudget, Reserved};
use super::{Reader, Sink, Undecoded};
use ::zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

/// Largest window, as a power of two: what `content-encoding: zstd` may use (RFC 9659).
const WINDOW_LOG: u32 = 23;
/// A block is not larger than this, nor than the window.
const MAX_BLOCK: u64 = 128 * 1024;
/// Beside the window the library keeps a coded block and room for two decoded ones.
const BLOCKS: u64 = 3;
/// Slack of the library's buffers.
const SLACK: u64 = 1024;
/// A context without buffers.
const CONTEXT: usize = 160 * 1024;
/// Longest head of a frame: magic, descriptor, window, dictionary, size.
const MAX_HEAD: usize = 18;

/// A decoder of zstd.
pub(super) struct Zstd {
    context: DCtx<'static>,
    reserved: Reserved,
    /// Of a frame's head, as long as its window is not known.
    head: Vec<u8>,
    in_frame: bool,
}

impl Zstd {
    pub(super) fn new(budget: &DecoderBudget) -> Result<Self, Undecoded> {
        let reserved = budget.reserve(CONTEXT).ok_or(Undecoded::NoMemory)?;
        let mut context = DCtx::try_create().ok_or(Undecoded::NoMemory)?;
        context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).map_err(|_| Undecoded::Unreadable)?;
        Ok(Self { context, reserved, head: Vec::with_capacity(MAX_HEAD), in_frame: false })
    }

    pub(super) fn feed<R: Reader>(&mut self, mut bytes: &[u8], sink: &mut Sink<R>) -> Result<(), Undecoded> {
        while !bytes.is_empty() {
            if !self.in_frame {
                bytes = self.begin(bytes, sink)?;
                continue;
            }
            let read = self.decode(bytes, sink)?;
            bytes = &bytes[read..];
        }
        Ok(())
    }

    /// Takes a frame's head, and its memory; what stands behind the head.
    fn begin<'b, R: Reader>(&mut self, bytes: &'b [u8], sink: &mut Sink<R>) -> Result<&'b [u8], Undecoded> {
        let begun = self.head.len();
        self.head.extend(bytes.iter().take(MAX_HEAD - begun));
        let needs = match needs(&self.head) {
            Some(needs) => needs,
            None if self.head.len() < MAX_HEAD => return Ok(&[]),
            None => return Err(Undecoded::Unreadable),
        };
        // A context keeps the buffers of the frame before if they are large enough.
        let wanted = needs.saturating_add(CONTEXT);
        if wanted > self.context.sizeof() && !self.reserved.resize(wanted) {
            return Err(Undecoded::NoMemory);
        }
        self.in_frame = true;
        let head = std::mem::take(&mut self.head);
        let mut fed = 0;
        while fed < head.len() && self.in_frame {
            fed += self.decode(&head[fed..], sink)?;
        }
        self.head = head;
        self.head.clear();
        // A frame may be shorter than the longest head: the rest of those bytes is looked at again.
        Ok(&bytes[fed.saturating_sub(begun)..])
    }

    /// Decodes as far as the input, or the frame, goes; how much of the input was read.
    fn decode<R: Reader>(&mut self, bytes: &[u8], sink: &mut Sink<R>) -> Result<usize, Undecoded> {
        let mut out = [0; 8 * 1024];
        let mut input = InBuffer::around(bytes);
        loop {
            let mut output = OutBuffer::around(&mut out[..]);
            let more = self.context.decompress_stream(&mut output, &mut input);
            let more = more.map_err(|_| Undecoded::Unreadable)?;
            let written = output.pos();
            // Memory that no head announced, should there be any, counts as soon as it is there.
            if !self.reserved.resize(self.context.sizeof().max(CONTEXT)) {
                return Err(Undecoded::NoMemory);
            }
            sink.take(&out[..written])?;
            self.in_frame = more != 0;
            if !self.in_frame || (input.pos() == bytes.len() && written < out.len()) {
                return Ok(input.pos());
            }
        }
    }
}

/// What a frame with this head needs beside the context (RFC 8878, 3.1.1); nothing if too little of
/// the head is there.
fn needs(head: &[u8]) -> Option<usize> {
    const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let Some(magic) = head.get(..4) else {
        // What cannot become a frame need not be waited for: the library says what is wrong.
        return (!MAGIC.starts_with(head) && !skippable(head)).then_some(0);
    };
    if magic != MAGIC {
        return Some(0);
    }
    let descriptor = *head.get(4)?;
    let single_segment = descriptor & 0b10_0000 != 0;
    let window = if single_segment {
        let dictionary = [0, 1, 2, 4][usize::from(descriptor & 0b11)];
        let size = [1, 2, 4, 8][usize::from(descriptor >> 6)];
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(head.get(5 + dictionary..5 + dictionary + size)?);
        u64::from_le_bytes(bytes).saturating_add(if size == 2 { 256 } else { 0 })
    } else {
        let window = *head.get(5)?;
        let base = 1_u64 << (10 + (window >> 3));
        base + base / 8 * u64::from(window & 0b111)
    };
    // Larger ones are refused by the library, before it takes any memory.
    let window = window.min(1 << WINDOW_LOG);
    usize::try_from(window + BLOCKS * window.clamp(1024, MAX_BLOCK) + SLACK).ok()
}

/// True if this may begin a frame that carries no content.
fn skippable(head: &[u8]) -> bool {
    const MAGIC: [u8; 3] = [0x2a, 0x4d, 0x18];
    let rest = head.get(1..).unwrap_or_default();
    head.first().is_some_and(|b| b & 0xf0 == 0x50) && MAGIC.starts_with(&rest[..rest.len().min(3)])
}
