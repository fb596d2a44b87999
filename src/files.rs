//! Reading files that people name: never more than there is room for, and never a file without an end.
//!
//! A link may point anywhere, to `/dev/zero` too. What is no regular file is refused before it is opened, and a
//! regular one (a file of `/proc` says that it is empty) is read up to a bound.

use std::fs::{File, FileType, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Largest configuration: that of a ConfigMap, with room.
pub(crate) const CONFIG: u64 = 2 << 20;
/// Largest secret.
pub(crate) const SECRET: u64 = 64 << 10;
/// Largest file with certificates: a bundle of every public authority is a fifth of it.
pub(crate) const CERTIFICATES: u64 = 2 << 20;

/// The bytes of a regular file.
///
/// # Errors
/// If it is none, is larger than `most`, or cannot be read.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let meta = std::fs::metadata(path)?;
    if !meta.is_file() {
        return Err(refused(&meta));
    }
    whole(File::open(path)?, most)
}

/// The text of a regular file.
///
/// # Errors
/// If it is none, is larger than `most`, or cannot be read as text.
pub(crate) fn read_text(path: &Path, most: u64) -> io::Result<String> {
    text(read(path, most)?)
}

/// The text of a file that is read once: a pipe will do (`--config <(…)`), and `-` is standard input.
///
/// # Errors
/// If it is a device or a directory, is larger than `most`, or cannot be read as text.
pub(crate) fn read_once(path: &Path, most: u64) -> io::Result<String> {
    if path == Path::new("-") {
        return text(whole(io::stdin().lock(), most)?);
    }
    let meta = std::fs::metadata(path)?;
    if !meta.is_file() && !meta.file_type().is_fifo() {
        return Err(refused(&meta));
    }
    text(whole(File::open(path)?, most)?)
}

/// True for what may be read for ever.
pub(crate) fn is_device(kind: FileType) -> bool {
    kind.is_char_device() || kind.is_block_device()
}

fn refused(meta: &Metadata) -> io::Error {
    let kind = meta.file_type();
    let what = if kind.is_dir() {
        "it is a directory; name a file in it"
    } else if is_device(kind) {
        "it is a device, which may have no end; name a regular file"
    } else {
        "it is no regular file; name one"
    };
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

fn whole(from: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let what = format!("it is larger than {most} bytes; name the right file, or make it smaller");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(bytes)
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    let wrong = "it is no text in UTF-8; save it as UTF-8";
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, wrong))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_end_is_refused_and_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("plimsoll.yaml");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        for path in [link.as_path(), Path::new("/dev/zero"), dir.path()] {
            assert_eq!(read(path, 10).unwrap_err().kind(), io::ErrorKind::InvalidInput);
            assert_eq!(read_once(path, 10).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        let large = dir.path().join("large");
        std::fs::write(&large, "12345678901").unwrap();
        assert_eq!(read(&large, 10).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read_text(&large, 11).unwrap(), "12345678901");
    }
}
