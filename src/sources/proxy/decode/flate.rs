//! gzip and deflate. A decoder of either holds the same, however large its answer is.
//!
//! The head of a gzip member is skipped here and not by the library, which would keep the names and
//! comments in it. Checksums are not looked at: what was read for measuring has been read by then.

use super::budget::{DecoderBudget, Reserved};
use super::{Reader, Sink, Undecoded};
use flate2::{Decompress, FlushDecompress, Status};

/// What a decoder holds: a window of 32 KiB and its tables.
const COST: usize = 48 * 1024;

/// A decoder of zlib.
pub(super) struct Deflate {
    inflate: Decompress,
    ended: bool,
    _held: Reserved,
}

impl Deflate {
    pub(super) fn new(budget: &DecoderBudget) -> Result<Self, Undecoded> {
        let held = budget.reserve(COST).ok_or(Undecoded::NoMemory)?;
        Ok(Self { inflate: Decompress::new(true), ended: false, _held: held })
    }

    pub(super) fn feed<R: Reader>(&mut self, bytes: &[u8], sink: &mut Sink<R>) -> Result<(), Undecoded> {
        // What stands behind the end is nothing of ours.
        if !self.ended {
            (_, self.ended) = inflate(&mut self.inflate, bytes, sink)?;
        }
        Ok(())
    }
}

/// Decodes as far as the input, or the stream, goes: how much was read, and if the stream has ended.
fn inflate<R: Reader>(
    inflate: &mut Decompress,
    bytes: &[u8],
    sink: &mut Sink<R>,
) -> Result<(usize, bool), Undecoded> {
    let mut out = [0; 8 * 1024];
    let begun = inflate.total_in();
    loop {
        let read = usize::try_from(inflate.total_in() - begun).unwrap_or(bytes.len());
        let before = inflate.total_out();
        let status = inflate.decompress(&bytes[read..], &mut out, FlushDecompress::None);
        let status = status.map_err(|_| Undecoded::Unreadable)?;
        let written = usize::try_from(inflate.total_out() - before).unwrap_or(out.len());
        sink.take(&out[..written])?;
        let read_now = usize::try_from(inflate.total_in() - begun).unwrap_or(bytes.len());
        if status == Status::StreamEnd {
            return Ok((read_now, true));
        }
        if read_now == read && written == 0 {
            return Ok((read_now, false));
        }
    }
}

/// A decoder of gzip.
pub(super) struct Gzip {
    inflate: Decompress,
    part: Part,
    _held: Reserved,
}

/// Where in a member it is (RFC 1952, 2.3).
#[derive(Clone, Copy)]
enum Part {
    /// The ten bytes that each member has, of which so many have come.
    Fixed { come: usize, flags: u8 },
    /// The length of the extra field, of which one byte may have come.
    ExtraLength { low: Option<u8>, flags: u8 },
    /// Bytes to skip, then what else the flags announce.
    Skip { left: usize, flags: u8 },
    /// A text up to its zero.
    Text { flags: u8 },
    /// The content.
    Content,
    /// Checksum and length, of which so many bytes are to come.
    Trailer { left: usize },
}

const HEAD_CHECKSUM: u8 = 1 << 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;
const BEGIN: Part = Part::Fixed { come: 0, flags: 0 };

impl Part {
    /// What comes next in a head of which these flags are still to be followed.
    const fn next(flags: u8) -> Self {
        if flags & EXTRA != 0 {
            Self::ExtraLength { low: None, flags: flags & !EXTRA }
        } else if flags & NAME != 0 {
            Self::Text { flags: flags & !NAME }
        } else if flags & COMMENT != 0 {
            Self::Text { flags: flags & !COMMENT }
        } else if flags & HEAD_CHECKSUM != 0 {
            Self::Skip { left: 2, flags: flags & !HEAD_CHECKSUM }
        } else {
            Self::Content
        }
    }

    /// One more byte of a head.
    fn step(self, byte: u8) -> Result<Self, Undecoded> {
        const FIXED: [u8; 3] = [0x1f, 0x8b, 8];
        Ok(match self {
            Self::Fixed { come, .. } if FIXED.get(come).is_some_and(|wanted| *wanted != byte) => {
                return Err(Undecoded::Unreadable);
            }
            Self::Fixed { come: 3, .. } => Self::Fixed { come: 4, flags: byte },
            Self::Fixed { come: 9, flags } => Self::next(flags),
            Self::Fixed { come, flags } => Self::Fixed { come: come + 1, flags },
            Self::ExtraLength { low: None, flags } => Self::ExtraLength { low: Some(byte), flags },
            Self::ExtraLength { low: Some(low), flags } => match usize::from(u16::from_le_bytes([low, byte]))
            {
                0 => Self::next(flags),
                left => Self::Skip { left, flags },
            },
            Self::Skip { left, flags } if left > 1 => Self::Skip { left: left - 1, flags },
            Self::Skip { flags, .. } => Self::next(flags),
            Self::Text { flags } if byte == 0 => Self::next(flags),
            Self::Text { .. } | Self::Content => self,
            Self::Trailer { left } if left > 1 => Self::Trailer { left: left - 1 },
            Self::Trailer { .. } => BEGIN,
        })
    }
}

impl Gzip {
    pub(super) fn new(budget: &DecoderBudget) -> Result<Self, Undecoded> {
        let held = budget.reserve(COST).ok_or(Undecoded::NoMemory)?;
        Ok(Self { inflate: Decompress::new(false), part: BEGIN, _held: held })
    }

    pub(super) fn feed<R: Reader>(&mut self, mut bytes: &[u8], sink: &mut Sink<R>) -> Result<(), Undecoded> {
        while let Some(byte) = bytes.first() {
            if !matches!(self.part, Part::Content) {
                self.part = self.part.step(*byte)?;
                bytes = &bytes[1..];
                continue;
            }
            let (read, ended) = inflate(&mut self.inflate, bytes, sink)?;
            bytes = &bytes[read..];
            if ended {
                self.inflate.reset(false);
                self.part = Part::Trailer { left: 8 };
            } else if read == 0 {
                break;
            }
        }
        Ok(())
    }
}
