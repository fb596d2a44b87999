//! When a new configuration is taken: on SIGHUP, when its file changes, when the admin port says so.
//!
//! Files are watched by their directory, because Kubernetes changes a mounted ConfigMap by moving a
//! link beside it (`..data`), and are looked at every few seconds besides, so that a directory that
//! vanishes and comes back is not lost sight of. What is compared is content: certificates that
//! were renewed under the same name count, a touched file does not.

use super::Running;
use crate::admin::control::{Answer, Requests};
use crate::config::Config;
use notify::{RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

/// Pause after a change, so that a file that is being written is read once and whole.
const SETTLE: Duration = Duration::from_millis(200);
/// How often files are looked at without a word from the kernel.
const LOOK: Duration = Duration::from_secs(10);

/// Takes requests to reload and looks after the file.
pub struct Reloader {
    path: PathBuf,
    env: fn(&str) -> Option<String>,
    requests: mpsc::Receiver<oneshot::Sender<Answer>>,
    events: mpsc::Receiver<()>,
    watcher: Option<notify::RecommendedWatcher>,
    seen: u64,
}

impl Reloader {
    /// A reloader of this file, as it has just been read and put in place.
    pub fn new(path: &Path, env: fn(&str) -> Option<String>) -> (Self, Requests) {
        let (tx, requests) = mpsc::channel(8);
        let (event_tx, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // A full queue already says that something has changed.
            if event.is_ok_and(|e| !e.kind.is_access()) && event_tx.try_send(()).is_err() {
                tracing::trace!("a change is known already");
            }
        });
        let watcher = watcher
            .map_err(|error| tracing::warn!(%error, "files cannot be watched; looking every 10 s"))
            .ok();
        let mut reloader = Self { path: path.to_owned(), env, requests, events, watcher, seen: 0 };
        reloader.look();
        (reloader, Requests::new(tx))
    }

    /// Runs beside the sidecar until dropped.
    pub async fn run(&mut self, running: &mut Running) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(asked) = self.requests.recv() => {
                    let answer = self.reload(running).await;
                    if asked.send(answer).is_err() {
                        tracing::debug!("whoever asked for the reload has gone");
                    }
                }
                Some(()) = self.events.recv() => {
                    tokio::time::sleep(SETTLE).await;
                    self.reload_if_changed(running).await;
                }
                _ = looks.tick() => self.reload_if_changed(running).await,
            }
        }
    }

    async fn reload_if_changed(&mut self, running: &mut Running) {
        let before = self.seen;
        // The answer is logged and counted; nobody waits for it.
        if self.look() != before && self.take(running).await.is_err() {
            tracing::debug!("the configuration before stays in place");
        }
    }

    /// Puts the file in place, changed or not.
    async fn reload(&mut self, running: &mut Running) -> Answer {
        self.look();
        self.take(running).await
    }

    /// Reads the file and puts it in place. Looked at before: a change that comes while this one is
    /// read is then not missed.
    async fn take(&mut self, running: &mut Running) -> Answer {
        let read = tokio::fs::read_to_string(&self.path).await;
        let parsed = match read {
            Ok(text) => Config::parse(&text, &self.env).map_err(|invalid| invalid.to_string()),
            Err(error) => Err(format!("cannot be read: {error}")),
        };
        let answer = match parsed {
            Ok(config) => running.reload(&config).await.map_err(|error| error.to_string()),
            Err(problem) => {
                running.refuse_reload();
                Err(problem)
            }
        };
        match &answer {
            Ok(()) => tracing::info!(file = %self.path.display(), "configuration reloaded"),
            Err(problem) => {
                tracing::error!(file = %self.path.display(), problem, "configuration refused; the one before stays");
            }
        }
        answer
    }

    /// Watches what the configuration names, and takes note of its content.
    fn look(&mut self) -> u64 {
        let text = std::fs::read(&self.path).unwrap_or_default();
        let mut files = named_files(std::str::from_utf8(&text).unwrap_or_default());
        let mut content = DefaultHasher::new();
        text.hash(&mut content);
        for file in &files {
            std::fs::read(file).unwrap_or_default().hash(&mut content);
        }
        files.push(self.path.clone());
        self.watch(&files);
        self.seen = content.finish();
        self.seen
    }

    fn watch(&mut self, files: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else { return };
        let folders: BTreeSet<PathBuf> = files
            .iter()
            .map(|file| match file.parent() {
                Some(folder) if folder != Path::new("") => folder.to_owned(),
                _ => PathBuf::from("."),
            })
            .collect();
        for folder in folders {
            // A folder that was removed and made again has to be watched again; doing so twice is
            // harmless, and what cannot be watched is looked at by the clock.
            if let Err(error) = watcher.watch(&folder, RecursiveMode::NonRecursive) {
                tracing::trace!(%error, "a folder cannot be watched");
            }
        }
    }
}

/// Files that a configuration names (certificates, tokens), read from its text, because a text that
/// does not parse names them too. Relative or absolute, one on a line.
fn named_files(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(|line| line.split(['{', ',', '}']))
        .filter_map(|part| {
            let (key, value) = part.split_once(':')?;
            let key = key.trim().trim_start_matches("- ");
            let value = value.trim().trim_matches(['"', '\'']);
            ((key == "file" || key.ends_with("_file")) && !value.is_empty()).then(|| PathBuf::from(value))
        })
        .take(64)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_a_configuration_names_are_found() {
        let text = "listeners:\n- bind: x\n  tls: {cert_file: /a/tls.crt, key_file: '/a/tls.key'}\n  # ca_file: /no\n  ca_file: \"b/ca.pem\"\ncredentials:\n- alias: file\n  secret:\n    file: /c/key\n";
        let names: Vec<String> = named_files(text).iter().map(|p| p.display().to_string()).collect();
        assert_eq!(names, ["/a/tls.crt", "/a/tls.key", "b/ca.pem", "/c/key"]);
    }
}
