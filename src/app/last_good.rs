//! The last configuration that could be used, kept in `state_dir`: a start with a broken one goes on with it.
//!
//! It is kept as its author wrote it, so it names where secrets are and holds none. Only its owner reads it, and it is
//! written beside and moved into place, so that a crash leaves the one before.

use crate::config::Config;
use crate::files;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

const NAME: &str = "last-good.yaml";

/// Where the last good configuration lies in a directory.
pub fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

/// The last good configuration of a directory.
///
/// # Errors
/// If there is none, or it cannot be read.
pub fn read(dir: &Path) -> io::Result<String> {
    files::read_text(&path(dir), files::CONFIG)
}

/// Keeps configurations, each after the one before, beside the traffic: a disk that hangs holds nobody up.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    given: u64,
    kept: Arc<Mutex<u64>>,
}

impl Keeper {
    /// Keeps a configuration that is in force, where there is a place for it.
    pub(super) fn keep(&mut self, config: &Config) {
        let Some(dir) = config.state_dir.clone().filter(|_| config.unread.is_empty()) else { return };
        self.given += 1;
        let (nth, kept, text) = (self.given, self.kept.clone(), config.text.clone());
        tokio::task::spawn_blocking(move || {
            let mut newest = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if nth < *newest {
                return;
            }
            *newest = nth;
            if let Err(error) = write(&dir, &text) {
                let file = path(&dir);
                tracing::warn!(path = %file.display(), %error, "the last good configuration cannot be kept");
            }
        });
    }
}

fn write(dir: &Path, text: &str) -> io::Result<()> {
    if read(dir).is_ok_and(|kept| kept == text) {
        return Ok(());
    }
    let beside = dir.join(format!("{NAME}.new"));
    // One that a crash left behind may belong to anybody.
    std::fs::remove_file(&beside).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path(dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_kept_is_the_authors_text_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("last-good.yaml.new"), "left by a crash").unwrap();
        for text in ["admin: {token: {env: TOKEN}}\n", "owners: []\n"] {
            write(dir.path(), text).unwrap();
            assert_eq!(read(dir.path()).unwrap(), text);
        }
        let mode = std::fs::metadata(path(dir.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
