//! Decodes *copies* of compressed answers, streaming, with bounded memory and bounded work.
//!
//! Real clients ask for gzip, br and zstd, so usage and errors sit inside compressed bodies. The
//! client gets the original bytes; the copy is decoded straight into a reader that keeps little.
//! An answer that cannot be decoded, or unpacks to absurd size, is given up (and counted): only
//! its usage stays unknown.

use brotli_decompressor::DecompressorWriter;
use http::HeaderValue;
use std::io::{self, Write};

/// Most bytes read out of one answer, decoded.
const MAX_DECODED: u64 = 256 * 1024 * 1024;
/// Most bytes read out of one frame, decoded: all of that work is done while the frame waits.
const MAX_OF_FRAME: u64 = 8 * 1024 * 1024;
/// Largest zstd window accepted (RFC 8878 advises decoders to support 8 MB).
const ZSTD_WINDOW_LOG: u32 = 23;

/// Reads decoded bytes.
pub trait Reader {
    /// Takes in the next decoded bytes.
    fn read(&mut self, bytes: &[u8]);
}

/// Counts what passes and stops at the limit.
pub struct Sink<R> {
    reader: R,
    passed: u64,
    of_frame: u64,
}

impl<R: Reader> Write for Sink<R> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.passed += bytes.len() as u64;
        self.of_frame += bytes.len() as u64;
        if self.passed > MAX_DECODED || self.of_frame > MAX_OF_FRAME {
            return Err(io::Error::other("answer unpacks to too much"));
        }
        self.reader.read(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A decoder of one content coding, in front of a reader.
pub enum Decoder<R: Reader> {
    /// No coding.
    Identity(Sink<R>),
    /// gzip.
    Gzip(Box<flate2::write::MultiGzDecoder<Sink<R>>>),
    /// deflate, which on the web means zlib.
    Deflate(Box<flate2::write::ZlibDecoder<Sink<R>>>),
    /// br.
    Brotli(Box<DecompressorWriter<Sink<R>>>),
    /// zstd.
    Zstd(Box<zstd::stream::write::Decoder<'static, Sink<R>>>),
}

impl<R: Reader> Decoder<R> {
    /// A decoder for this `content-encoding`; the reader back where the coding is not known.
    pub fn new(encoding: Option<&HeaderValue>, reader: R) -> Result<Self, R> {
        let coding = match encoding.map(HeaderValue::to_str) {
            None => String::new(),
            Some(Ok(value)) => value.trim().to_ascii_lowercase(),
            Some(Err(_)) => return Err(reader),
        };
        let sink = Sink { reader, passed: 0, of_frame: 0 };
        match coding.as_str() {
            "" | "identity" => Ok(Self::Identity(sink)),
            "gzip" | "x-gzip" => Ok(Self::Gzip(Box::new(flate2::write::MultiGzDecoder::new(sink)))),
            "deflate" => Ok(Self::Deflate(Box::new(flate2::write::ZlibDecoder::new(sink)))),
            "br" => Ok(Self::Brotli(Box::new(DecompressorWriter::new(sink, 4096)))),
            "zstd" => match zstd::stream::raw::Decoder::new() {
                Ok(mut raw) => {
                    // A refusal leaves the library's own bound in place, which is larger but finite.
                    let bounded =
                        raw.set_parameter(zstd::zstd_safe::DParameter::WindowLogMax(ZSTD_WINDOW_LOG));
                    debug_assert!(bounded.is_ok());
                    Ok(Self::Zstd(Box::new(zstd::stream::write::Decoder::with_decoder(sink, raw))))
                }
                Err(_) => Err(sink.reader),
            },
            _ => Err(sink.reader),
        }
    }

    /// Takes in the next coded bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sink().of_frame = 0;
        match self {
            Self::Identity(sink) => {
                sink.reader.read(bytes);
                Ok(())
            }
            Self::Gzip(decoder) => push(&mut **decoder, bytes),
            Self::Deflate(decoder) => push(&mut **decoder, bytes),
            Self::Brotli(decoder) => push(&mut **decoder, bytes),
            Self::Zstd(decoder) => push(&mut **decoder, bytes),
        }
    }

    /// The reader.
    pub fn reader(&mut self) -> &mut R {
        &mut self.sink().reader
    }

    fn sink(&mut self) -> &mut Sink<R> {
        match self {
            Self::Identity(sink) => sink,
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Deflate(decoder) => decoder.get_mut(),
            Self::Brotli(decoder) => decoder.get_mut(),
            Self::Zstd(decoder) => decoder.get_mut(),
        }
    }
}

/// Writes and flushes: an event of a stream must be read when it passes, not when a buffer fills.
fn push(decoder: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    decoder.write_all(bytes)?;
    decoder.flush()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[derive(Default)]
    struct Collect(Vec<u8>);

    impl Reader for Collect {
        fn read(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }
    }

    fn coded(coding: &str, plain: &[u8]) -> Vec<u8> {
        match coding {
            "gzip" => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            "deflate" => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            "zstd" => zstd::encode_all(plain, 1).unwrap(),
            _ => plain.to_vec(),
        }
    }

    #[test]
    fn every_coding_is_read_however_it_is_cut() {
        let plain = b"data: {\"usage\":{\"output_tokens\":5}}\n\n".repeat(500);
        for coding in ["identity", "gzip", "deflate", "zstd"] {
            for chunk in [1, 7, 4096] {
                let value = HeaderValue::from_static(coding);
                let Ok(mut decoder) = Decoder::new(Some(&value), Collect::default()) else {
                    panic!("{coding}")
                };
                for part in coded(coding, &plain).chunks(chunk) {
                    decoder.feed(part).unwrap();
                }
                assert_eq!(decoder.reader().0, plain, "{coding} in chunks of {chunk}");
            }
        }
    }

    #[test]
    fn garbage_is_an_error_and_not_a_panic() {
        for coding in ["gzip", "deflate", "br", "zstd"] {
            let value = HeaderValue::from_static(coding);
            let Ok(mut decoder) = Decoder::new(Some(&value), Collect::default()) else { panic!("{coding}") };
            assert!(decoder.feed(&[0xff; 4096]).is_err(), "{coding}");
        }
    }

    #[test]
    fn unknown_codings_are_declined() {
        let value = HeaderValue::from_static("gzip, br");
        assert!(Decoder::new(Some(&value), Collect::default()).is_err());
    }

    #[test]
    fn an_answer_that_unpacks_to_absurd_size_is_given_up() {
        struct Nothing;
        impl Reader for Nothing {
            fn read(&mut self, _: &[u8]) {}
        }
        let block = coded("zstd", &vec![0; 16 << 20]);
        let Ok(mut decoder) = Decoder::new(Some(&HeaderValue::from_static("zstd")), Nothing) else {
            panic!()
        };
        let fed = (0..40).take_while(|_| decoder.feed(&block).is_ok()).count();
        assert!(fed < 20, "stopped after {fed} times 16 MiB");
    }
}
