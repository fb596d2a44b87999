//! Decodes *copies* of compressed answers, streaming, with bounded memory and bounded work.
//!
//! Real clients ask for gzip, br and zstd, so usage and errors sit inside compressed bodies. The
//! client gets the original bytes; the copy is decoded straight into a reader that keeps little.
//! All open decoders share one budget of memory ([`budget`]). An answer that cannot be decoded, that
//! unpacks to absurd size, or for which no memory is left, is given up (and counted): only its usage
//! stays unknown.

mod brotli;
mod budget;
mod flate;
mod zstd;

pub use budget::DecoderBudget;

use brotli::Brotli;
use flate::{Deflate, Gzip};
use http::HeaderValue;
use zstd::Zstd;

/// Most bytes read out of one answer, decoded.
const MAX_DECODED: u64 = 256 * 1024 * 1024;
/// Most bytes read out of one frame, decoded: all of that work is done while the frame waits.
const MAX_OF_FRAME: u64 = 8 * 1024 * 1024;

/// Reads decoded bytes.
pub trait Reader {
    /// Takes in the next decoded bytes.
    fn read(&mut self, bytes: &[u8]);
}

/// Why an answer is not decoded, or not to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecoded {
    /// Corrupt, of a coding or a window that is not read, or of absurd size.
    Unreadable,
    /// The decoders that are open hold all the memory that there is for them.
    NoMemory,
}

/// Counts what passes and stops at the limit.
struct Sink<R> {
    reader: R,
    passed: u64,
    of_frame: u64,
}

impl<R: Reader> Sink<R> {
    fn take(&mut self, bytes: &[u8]) -> Result<(), Undecoded> {
        self.passed += bytes.len() as u64;
        self.of_frame += bytes.len() as u64;
        if self.passed > MAX_DECODED || self.of_frame > MAX_OF_FRAME {
            return Err(Undecoded::Unreadable);
        }
        self.reader.read(bytes);
        Ok(())
    }
}

/// A decoder of one content coding, in front of a reader.
pub struct Decoder<R: Reader> {
    coding: Coding,
    sink: Sink<R>,
}

enum Coding {
    Identity,
    Gzip(Box<Gzip>),
    /// On the web this means zlib.
    Deflate(Box<Deflate>),
    Brotli(Box<Brotli>),
    Zstd(Box<Zstd>),
}

impl Coding {
    fn of(encoding: Option<&HeaderValue>, budget: &DecoderBudget) -> Result<Self, Undecoded> {
        let Some(value) = encoding else { return Ok(Self::Identity) };
        let value = value.to_str().map_err(|_| Undecoded::Unreadable)?;
        match value.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Self::Identity),
            "gzip" | "x-gzip" => Gzip::new(budget).map(Box::new).map(Self::Gzip),
            "deflate" => Deflate::new(budget).map(Box::new).map(Self::Deflate),
            "br" => Brotli::new(budget).map(Box::new).map(Self::Brotli),
            "zstd" => Zstd::new(budget).map(Box::new).map(Self::Zstd),
            _ => Err(Undecoded::Unreadable),
        }
    }
}

impl<R: Reader> Decoder<R> {
    /// A decoder for this `content-encoding`; the reader back where it is not decoded.
    pub fn new(
        encoding: Option<&HeaderValue>,
        reader: R,
        budget: &DecoderBudget,
    ) -> Result<Self, (R, Undecoded)> {
        match Coding::of(encoding, budget) {
            Ok(coding) => Ok(Self { coding, sink: Sink { reader, passed: 0, of_frame: 0 } }),
            Err(why) => Err((reader, why)),
        }
    }

    /// Takes in the next coded bytes. After an error the decoder is of no more use; what it has read
    /// stands.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Undecoded> {
        let sink = &mut self.sink;
        sink.of_frame = 0;
        match &mut self.coding {
            Coding::Identity => {
                sink.reader.read(bytes);
                Ok(())
            }
            Coding::Gzip(decoder) => decoder.feed(bytes, sink),
            Coding::Deflate(decoder) => decoder.feed(bytes, sink),
            Coding::Brotli(decoder) => decoder.feed(bytes, sink),
            Coding::Zstd(decoder) => decoder.feed(bytes, sink),
        }
    }

    /// The reader.
    pub const fn reader(&mut self) -> &mut R {
        &mut self.sink.reader
    }

    /// The reader, without the decoder and its memory.
    pub fn into_reader(self) -> R {
        self.sink.reader
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write;

    #[derive(Default)]
    struct Collect(Vec<u8>);

    impl Reader for Collect {
        fn read(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }
    }

    const PLENTY: usize = 64 << 20;

    fn decoder(coding: &'static str, budget: &DecoderBudget) -> Result<Decoder<Collect>, Undecoded> {
        let value = HeaderValue::from_static(coding);
        Decoder::new(Some(&value), Collect::default(), budget).map_err(|(_, why)| why)
    }

    pub(crate) fn br(plain: &[u8], window_log: i32, extension: bool) -> Vec<u8> {
        let params = ::brotli::enc::BrotliEncoderParams {
            quality: 4,
            lgwin: window_log,
            large_window: extension,
            ..Default::default()
        };
        let mut out = Vec::new();
        ::brotli::BrotliCompress(&mut &plain[..], &mut out, &params).unwrap();
        out
    }

    fn zst(plain: &[u8], window_log: u32) -> Vec<u8> {
        let mut encoder = ::zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn coded(coding: &str, plain: &[u8]) -> Vec<u8> {
        match coding {
            "gzip" => {
                let mut encoder = flate2::GzBuilder::new()
                    .filename("name")
                    .comment("comment")
                    .extra(vec![7; 300])
                    .write(Vec::new(), flate2::Compression::fast());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            "deflate" => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            "zstd" => ::zstd::encode_all(plain, 1).unwrap(),
            "br" => br(plain, 22, false),
            _ => plain.to_vec(),
        }
    }

    /// Bytes that no coding makes small, so that windows fill.
    fn noise(n: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let words = std::iter::repeat_with(move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33).to_le_bytes()
        });
        words.flatten().take(n).collect()
    }

    const CODINGS: [&str; 5] = ["identity", "gzip", "deflate", "br", "zstd"];

    #[test]
    fn every_coding_is_read_however_it_is_cut() {
        let plain = b"data: {\"usage\":{\"output_tokens\":5}}\n\n".repeat(500);
        let budget = DecoderBudget::new(PLENTY);
        for coding in CODINGS {
            for chunk in [1, 7, 4096] {
                let mut decoder = decoder(coding, &budget).unwrap();
                for part in coded(coding, &plain).chunks(chunk) {
                    decoder.feed(part).unwrap();
                }
                assert_eq!(decoder.reader().0, plain, "{coding} in chunks of {chunk}");
            }
        }
        assert_eq!(budget.left(), PLENTY, "and all memory is given back");
    }

    #[test]
    fn an_event_is_read_when_it_has_passed_and_not_when_a_buffer_is_full() {
        let budget = DecoderBudget::new(PLENTY);
        for coding in ["gzip", "deflate", "zstd"] {
            let event = b"event: ping\n\n";
            let flushed = match coding {
                "gzip" => {
                    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                    encoder.write_all(event).unwrap();
                    encoder.flush().unwrap();
                    encoder.get_ref().clone()
                }
                "deflate" => {
                    let mut encoder =
                        flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
                    encoder.write_all(event).unwrap();
                    encoder.flush().unwrap();
                    encoder.get_ref().clone()
                }
                _ => {
                    let mut encoder = ::zstd::Encoder::new(Vec::new(), 1).unwrap();
                    encoder.write_all(event).unwrap();
                    encoder.flush().unwrap();
                    encoder.get_ref().clone()
                }
            };
            let mut decoder = decoder(coding, &budget).unwrap();
            decoder.feed(&flushed).unwrap();
            assert_eq!(decoder.reader().0, event, "{coding}");
        }
    }

    #[test]
    fn several_members_and_frames_are_one_body() {
        let budget = DecoderBudget::new(PLENTY);
        let skippable = [&[0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &coded("zstd", b"one")].concat();
        for (coding, first) in
            [("gzip", coded("gzip", b"one")), ("zstd", coded("zstd", b"one")), ("zstd", skippable)]
        {
            let whole = [first, coded(coding, b"two"), coded(coding, &noise(300_000))].concat();
            for chunk in [1, 5, 19, usize::MAX] {
                let mut decoder = decoder(coding, &budget).unwrap();
                whole.chunks(chunk).for_each(|part| decoder.feed(part).unwrap());
                let read = &decoder.reader().0;
                assert!(read.starts_with(b"onetwo") && read.len() == 300_006, "{coding} by {chunk}");
            }
        }
    }

    #[test]
    fn garbage_is_an_error_and_not_a_panic() {
        let budget = DecoderBudget::new(PLENTY);
        for coding in ["gzip", "deflate", "br", "zstd"] {
            for garbage in [[0xff; 4096], [0x1b; 4096]] {
                assert_eq!(
                    decoder(coding, &budget).unwrap().feed(&garbage),
                    Err(Undecoded::Unreadable),
                    "{coding}"
                );
            }
        }
    }

    #[test]
    fn unknown_codings_are_declined() {
        let budget = DecoderBudget::new(PLENTY);
        assert_eq!(decoder("gzip, br", &budget).err(), Some(Undecoded::Unreadable));
    }

    #[test]
    fn an_answer_that_unpacks_to_absurd_size_is_given_up() {
        struct Nothing;
        impl Reader for Nothing {
            fn read(&mut self, _: &[u8]) {}
        }
        let block = coded("zstd", &vec![0; 16 << 20]);
        let budget = DecoderBudget::new(PLENTY);
        let value = HeaderValue::from_static("zstd");
        let Ok(mut decoder) = Decoder::new(Some(&value), Nothing, &budget) else { panic!() };
        let fed = (0..40).take_while(|_| decoder.feed(&block).is_ok()).count();
        assert!(fed < 20, "stopped after {fed} times 16 MiB");
    }

    #[test]
    fn large_windows_are_not_decoded() {
        let plain = noise(100_000);
        let budget = DecoderBudget::new(PLENTY);
        for (coding, body, read) in [
            ("br", br(&plain, 22, false), true),
            ("br", br(&plain, 24, false), false),
            ("br", br(&plain, 28, true), false),
            ("zstd", zst(&plain, 23), true),
            ("zstd", zst(&plain, 24), false),
        ] {
            let mut decoder = decoder(coding, &budget).unwrap();
            let fed = decoder.feed(&body);
            assert_eq!(fed.is_ok(), read, "{coding}: {fed:?}");
            assert_eq!(decoder.reader().0.len(), if read { plain.len() } else { 0 });
        }
    }

    /// However little memory is left, a decoder fails cleanly, keeps to it and gives all of it back.
    #[test]
    fn decoders_together_never_hold_more_than_the_budget() {
        let plain = noise(3 << 20);
        for coding in ["gzip", "deflate", "br", "zstd"] {
            let body = coded(coding, &plain);
            let mut outcomes = [0; 2];
            for bytes in [0, 20, 60, 110, 250, 800, 3_000, 5_000, 8_000, 13_000].map(|n| n * 1024) {
                let budget = DecoderBudget::new(bytes);
                // Two at once, in turns.
                let mut open = [decoder(coding, &budget).ok(), decoder(coding, &budget).ok()];
                for part in body.chunks(16 * 1024) {
                    for slot in &mut open {
                        if let Some(decoder) = slot
                            && let Err(why) = decoder.feed(part)
                        {
                            assert_eq!(why, Undecoded::NoMemory, "{coding}, {bytes}");
                            *slot = None;
                        }
                    }
                    assert!(budget.left() <= bytes);
                }
                let whole: Vec<Collect> = open.into_iter().flatten().map(Decoder::into_reader).collect();
                assert!(whole.iter().all(|read| read.0 == plain), "what is not given up is read whole");
                outcomes[0] += whole.len();
                outcomes[1] += 2 - whole.len();
                assert_eq!(budget.left(), bytes, "{coding}");
            }
            assert!(outcomes[0] > 0 && outcomes[1] > 0, "{coding}: {outcomes:?}");
        }
    }

    /// What the library takes for zstd is what was reserved from the frame's head.
    #[test]
    fn a_window_of_zstd_is_reserved_before_it_is_taken() {
        let body = zst(&noise(12 << 20), 23);
        let budget = DecoderBudget::new(8 << 20);
        let mut decoder = decoder("zstd", &budget).unwrap();
        assert_eq!(decoder.feed(&body[..64]), Err(Undecoded::NoMemory), "8 MiB and the context do not fit");
        let budget = DecoderBudget::new(9 << 20);
        let mut decoder = self::decoder("zstd", &budget).unwrap();
        body.chunks(16 * 1024).for_each(|part| decoder.feed(part).unwrap());
        assert!(budget.left() < 1 << 20, "{} left", budget.left());
    }
}
