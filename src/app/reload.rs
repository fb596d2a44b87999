//! When a new configuration is taken: on SIGHUP, when its file changes, when the admin port says so.
//!
//! Files are watched by their directory, because Kubernetes changes a mounted ConfigMap by moving a
//! link beside it (`..data`), and are looked at every few seconds besides, so that a directory that
//! vanishes and comes back is not lost sight of. What is compared is content: certificates that
//! were renewed under the same name count, a touched file does not.
//!
//! Writers truncate a file before they fill it, and a beginning of a configuration, or nothing, may
//! well be a valid one. So a change that was noticed is taken once it stands still, as it was seen
//! then; and a file without any setting, which means the defaults at the start, is refused here.

use super::Running;
use crate::admin::control::{Answer, Requests};
use crate::config::Config;
use crate::files;
use notify::{RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

/// How long a changed file must stand still before it is taken.
const SETTLE: Duration = Duration::from_millis(200);
/// Most looks at a file that does not stand still; then it is left for the next time.
const MAX_LOOKS: usize = 10;
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

/// The configuration as it was found.
struct Look {
    text: io::Result<String>,
    /// Stands for the text and for the files that it names.
    content: u64,
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
        reloader.seen = reloader.look().content;
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
                    self.reload_if_changed(running).await;
                    // However busy its folder is, the file is read a few times a second at most.
                    tokio::time::sleep(SETTLE).await;
                }
                _ = looks.tick() => self.reload_if_changed(running).await,
            }
        }
    }

    async fn reload_if_changed(&mut self, running: &mut Running) {
        let Some(look) = self.settled().await else { return };
        // The answer is logged and counted; nobody waits for it.
        if look.content != self.seen && self.take(look, running).await.is_err() {
            tracing::debug!("the configuration before stays in place");
        }
    }

    /// A changed file once it stands still; nothing if it has not changed, or does not stand still.
    async fn settled(&mut self) -> Option<Look> {
        let mut look = self.look();
        for _ in 0..MAX_LOOKS {
            if look.content == self.seen {
                return None;
            }
            tokio::time::sleep(SETTLE).await;
            let again = self.look();
            if again.content == look.content {
                return Some(again);
            }
            look = again;
        }
        tracing::debug!(file = %self.path.display(), "the configuration does not stand still");
        None
    }

    /// Puts the file in place as it is now: whoever asks for that has finished writing it.
    async fn reload(&mut self, running: &mut Running) -> Answer {
        let look = self.look();
        self.take(look, running).await
    }

    async fn take(&mut self, look: Look, running: &mut Running) -> Answer {
        self.seen = look.content;
        let answer = match self.parse(look.text) {
            Ok(config) => running.reload(&config).await.map_err(|error| error.to_string()),
            Err(problem) => {
                running.refuse_reload();
                Err(problem)
            }
        };
        match &answer {
            Ok(_) => tracing::info!(file = %self.path.display(), "configuration reloaded"),
            Err(problem) => {
                tracing::error!(file = %self.path.display(), problem, "configuration refused; the one before stays");
            }
        }
        answer
    }

    fn parse(&self, text: io::Result<String>) -> Result<Config, String> {
        let text = text.map_err(|error| format!("cannot be read: {error}"))?;
        if !text.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')) {
            return Err("the file is empty; restart without one to run the defaults".to_owned());
        }
        Config::parse(&text, &self.env).map_err(|invalid| invalid.to_string())
    }

    /// Watches what the configuration names, and reads all of it.
    fn look(&mut self) -> Look {
        let text = files::read_text(&self.path, files::CONFIG);
        let mut files = named_files(text.as_deref().unwrap_or_default());
        let mut content = DefaultHasher::new();
        text.as_deref().unwrap_or_default().hash(&mut content);
        for file in &files {
            files::read(file, files::CERTIFICATES).unwrap_or_default().hash(&mut content);
        }
        files.push(self.path.clone());
        self.watch(&files);
        Look { text, content: content.finish() }
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

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_being_written_is_taken_once_it_stands_still() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plimsoll.yaml");
        std::fs::write(&path, "owners: []\n").unwrap();
        let (mut reloader, _requests) = Reloader::new(&path, |_| None);
        assert!(reloader.settled().await.is_none(), "nothing has changed");
        std::fs::write(&path, "").unwrap();
        let writing = async {
            for part in ["owners:\n", "owners:\n- name: a\n", "owners:\n- name: a\n- name: b\n"] {
                tokio::time::sleep(SETTLE * 3 / 4).await;
                std::fs::write(&path, part).unwrap();
            }
        };
        let (look, ()) = tokio::join!(reloader.settled(), writing);
        assert_eq!(look.unwrap().text.unwrap(), "owners:\n- name: a\n- name: b\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_never_stands_still_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plimsoll.yaml");
        let (mut reloader, _requests) = Reloader::new(&path, |_| None);
        let writing = async {
            for n in 0.. {
                std::fs::write(&path, format!("# {n}\n")).unwrap();
                tokio::time::sleep(SETTLE / 2).await;
            }
        };
        tokio::select! {
            look = reloader.settled() => assert!(look.is_none()),
            () = writing => {}
        }
    }

    #[test]
    fn files_that_a_configuration_names_are_found() {
        let text = "listeners:\n- bind: x\n  tls: {cert_file: /a/tls.crt, key_file: '/a/tls.key'}\n  # ca_file: /no\n  ca_file: \"b/ca.pem\"\ncredentials:\n- alias: file\n  secret:\n    file: /c/key\n";
        let names: Vec<String> = named_files(text).iter().map(|p| p.display().to_string()).collect();
        assert_eq!(names, ["/a/tls.crt", "/a/tls.key", "b/ca.pem", "/c/key"]);
    }
}
