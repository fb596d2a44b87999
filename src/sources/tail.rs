//! Follows logs of JSON lines: files as they grow and are rotated, or standard input.
//!
//! Each log has a thread of its own: reading files blocks, and so may a slow disk, which must stall no traffic. What is
//! read waits for room in the engine's queue, because a file loses nothing by waiting. How far a log was read is kept in
//! `sources.state_dir`, always up to the end of a whole line; the file is known again by its number and by a hash of
//! its first bytes, so that a rotated one is not taken for it.

use super::intake::{Intake, Teller};
use crate::claude_code;
use crate::config::sources::{Sources, Tail};
use crate::files;
use crate::mapping::{Mapping, Nothing, Preset};
use crate::seen::Seen;
use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How often a log is looked at for more.
const LOOK: Duration = Duration::from_millis(200);
/// How often it is kept how far it was read.
const KEEP: Duration = Duration::from_secs(1);
/// How long lines may say nothing before that is said.
const SILENCE: Duration = Duration::from_secs(30);
/// Longest line that is read, in bytes; of a longer one the rest is passed over.
const MAX_LINE: usize = 1 << 20;
/// Largest file that keeps how far a log was read.
const MAX_STATE: u64 = 64 * 1024;
/// Bytes read at once.
const CHUNK: usize = 256 * 1024;
/// First bytes of a file by which it is known again.
const HEAD: u64 = 256;

/// Follows every log of the configuration.
pub fn spawn(config: &Sources, intake: &Intake) -> Vec<JoinHandle<()>> {
    let start = |tail: &Tail| {
        let stop = Arc::new(AtomicBool::new(false));
        let reader = Reader {
            lines: Lines::new(tail, intake.teller(&tail.name)),
            state: config
                .state_dir
                .as_ref()
                .zip(tail.path.as_ref())
                .map(|(dir, log)| State::new(dir, &tail.name, log)),
            from_start: tail.from_start,
            stop: stop.clone(),
        };
        let path = tail.path.clone();
        let name = tail.name.clone();
        let thread = std::thread::Builder::new().name(format!("tail-{name}")).spawn(move || match path {
            Some(path) => reader.follow(&path),
            None => reader.drain(std::io::stdin().lock()),
        });
        if let Err(error) = thread {
            tracing::error!(tail = name, %error, "a log cannot be followed");
        }
        // Dropped with the task, it is the word to stop.
        tokio::spawn(async move {
            let _stop = StopOnDrop(stop);
            std::future::pending::<()>().await;
        })
    };
    config.tails.iter().map(start).collect()
}

struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Bytes in, lines out, and each line told.
pub struct Lines {
    teller: Teller,
    mapping: Mapping,
    route: Option<String>,
    /// A line that has not ended.
    partial: Vec<u8>,
    /// The rest of a line that was too long is passed over.
    skipping: bool,
    read: u64,
    matched: u64,
    warned: bool,
    since: Instant,
}

impl Lines {
    /// Lines of a log.
    pub fn new(tail: &Tail, teller: Teller) -> Self {
        Self {
            teller,
            mapping: tail.mapping.clone(),
            route: tail.route.clone(),
            partial: Vec::new(),
            skipping: false,
            read: 0,
            matched: 0,
            warned: false,
            since: Instant::now(),
        }
    }

    /// Takes the next bytes. How many of them, from the first on, belong to lines that are over.
    pub fn feed(&mut self, bytes: &[u8], tell: &mut impl FnMut(&Teller, Seen)) -> usize {
        let mut done = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            let line = &bytes[done..end];
            done = end + 1;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if self.partial.is_empty() {
                self.line(line, tell);
                continue;
            }
            let mut whole = std::mem::take(&mut self.partial);
            whole.extend_from_slice(line);
            self.line(&whole, tell);
            whole.clear();
            self.partial = whole;
        }
        let rest = &bytes[done..];
        if !self.skipping && self.partial.len() + rest.len() > MAX_LINE {
            self.partial = Vec::new();
            self.skipping = true;
            self.broken("longer than 1 MB");
        } else if !self.skipping {
            self.partial.extend_from_slice(rest);
        }
        done
    }

    /// The log is over: a last line may have no end.
    fn finish(&mut self, tell: &mut impl FnMut(&Teller, Seen)) {
        let last = std::mem::take(&mut self.partial);
        self.line(&last, tell);
    }

    /// Begins anew with another file.
    fn reset(&mut self) {
        self.partial = Vec::new();
        self.skipping = false;
    }

    fn line(&mut self, line: &[u8], tell: &mut impl FnMut(&Teller, Seen)) {
        let line = line.trim_ascii();
        if line.is_empty() {
            return;
        }
        if line.len() > MAX_LINE {
            self.broken("longer than 1 MB");
            return;
        }
        self.read += 1;
        let seen = match self.mapping.preset {
            Preset::ClaudeStream => claude_code::read(line, self.teller.now()),
            _ => self.mapping.read(line),
        };
        match seen {
            Ok(mut seen) => {
                seen.route = self.route.clone().or(seen.route);
                let call = seen.status.is_some() || !seen.headers.is_empty() || seen.body.is_some();
                let ours =
                    matches!(self.mapping.preset, Preset::Report | Preset::ClaudeStream | Preset::Litellm);
                if !call || !(ours || self.route.is_some() || self.teller.concerns_a_model(&seen)) {
                    self.teller.feed.skipped.up();
                    return;
                }
                self.matched += 1;
                if !seen.running {
                    seen.ended = seen.ended.or_else(|| Some(self.teller.now()));
                }
                tell(&self.teller, seen);
            }
            Err(Nothing::Broken(problem)) => self.broken(&problem),
            Err(Nothing::NoField) => self.teller.feed.skipped.up(),
        }
    }

    fn broken(&self, problem: &str) {
        // Said once: a log of another kind would say it for every line.
        if self.teller.feed.unusable.get() == 0 {
            tracing::warn!(
                tail = &*self.teller.name,
                problem,
                "a line cannot be read; further ones are only counted"
            );
        }
        self.teller.unusable();
    }

    /// Says, once, that lines come and none tells of a call.
    fn look(&mut self) {
        if self.warned || self.matched > 0 || self.read == 0 || self.since.elapsed() < SILENCE {
            return;
        }
        self.warned = true;
        tracing::warn!(
            tail = &*self.teller.name,
            lines = self.read,
            preset = self.mapping.preset.as_str(),
            "no line tells of a call to a model: does the preset fit, and do `fields` name where status, path and headers stand? `route` takes every line"
        );
    }
}

struct Reader {
    lines: Lines,
    state: Option<State>,
    from_start: bool,
    stop: Arc<AtomicBool>,
}

/// A file that is open.
struct Open {
    file: File,
    id: (u64, u64),
    /// Up to where it was read.
    at: u64,
    /// Up to where its lines are over.
    over: u64,
    /// It was rotated away, and had no more when last looked at.
    idle: bool,
}

impl Reader {
    fn stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Standard input, until it ends.
    fn drain(mut self, mut input: impl Read) {
        let mut buffer = vec![0; CHUNK];
        let stop = self.stop.clone();
        while !self.stopped() {
            match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => drop(self.lines.feed(&buffer[..n], &mut |teller, seen| wait(teller, seen, &stop))),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(tail = &*self.lines.teller.name, %error, "standard input cannot be read");
                    break;
                }
            }
            self.lines.look();
        }
        self.lines.finish(&mut |teller, seen| wait(teller, seen, &stop));
        tracing::info!(tail = &*self.lines.teller.name, "standard input is over");
    }

    /// A file, until the word to stop.
    fn follow(mut self, path: &Path) {
        let mut open: Option<Open> = None;
        let mut first = true;
        let mut kept = Instant::now();
        let mut buffer = vec![0; CHUNK];
        while !self.stopped() {
            if open.is_none() {
                open = self.open(path, first);
                first &= open.is_none() && !self.is_new(path);
            }
            let more = match &mut open {
                Some(file) => self.read(file, &mut buffer),
                None => false,
            };
            if kept.elapsed() >= KEEP {
                kept = Instant::now();
                self.keep(open.as_ref());
            }
            self.lines.look();
            if !more {
                open = open.and_then(|file| self.moved_on(file, path));
                std::thread::sleep(LOOK);
            }
        }
        self.keep(open.as_ref());
    }

    /// Reads on. True if there may be more at once.
    fn read(&mut self, open: &mut Open, buffer: &mut [u8]) -> bool {
        let stop = self.stop.clone();
        match open.file.read(buffer) {
            Ok(0) => false,
            Ok(n) => {
                let over = self.lines.feed(&buffer[..n], &mut |teller, seen| wait(teller, seen, &stop));
                if over > 0 {
                    open.over = open.at + over as u64;
                }
                open.at += n as u64;
                open.idle = false;
                true
            }
            Err(error) => {
                self.down(&error);
                false
            }
        }
    }

    /// At the end of a file: is it still the one of that name? A file that was cut is begun anew, one that was moved
    /// away is read to its end first (its writer may not have noticed yet).
    fn moved_on(&mut self, mut open: Open, path: &Path) -> Option<Open> {
        if open.file.metadata().is_ok_and(|meta| meta.len() < open.at) {
            self.lines.reset();
            open.file.seek(SeekFrom::Start(0)).ok()?;
            (open.at, open.over) = (0, 0);
            return Some(open);
        }
        match std::fs::metadata(path) {
            Ok(meta) if (meta.dev(), meta.ino()) == open.id => Some(open),
            // Nothing of that name: it will come again.
            Err(_) => Some(open),
            Ok(_) if !open.idle => Some(Open { idle: true, ..open }),
            Ok(_) => {
                let stop = self.stop.clone();
                self.lines.finish(&mut |teller, seen| wait(teller, seen, &stop));
                None
            }
        }
    }

    /// True where there is no file and none was ever read: what appears then is begun at its start. (One that only cannot be
    /// opened yet, or lies on a disk that comes later, is gone on with where it was left.)
    fn is_new(&self, path: &Path) -> bool {
        let missing =
            std::fs::metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        missing && self.state.as_ref().and_then(State::load).is_none()
    }

    fn open(&mut self, path: &Path, first: bool) -> Option<Open> {
        self.lines.reset();
        // A link may lead to a device, which may have no end; opening one may do something already.
        let device = std::fs::metadata(path).is_ok_and(|meta| files::is_device(meta.file_type()));
        let opened = match device {
            true => Err(std::io::Error::other("it is a device, which may have no end; name a file")),
            false => File::open(path).and_then(|file| Ok((file.metadata()?, file))),
        };
        let (meta, mut file) = match opened {
            Ok((meta, _)) if meta.is_dir() => {
                self.down(&std::io::Error::other("it is a directory"));
                return None;
            }
            Ok(opened) => opened,
            Err(error) => {
                self.down(&error);
                return None;
            }
        };
        let id = (meta.dev(), meta.ino());
        let at = if first { self.begin(&mut file, &meta, path) } else { 0 };
        if let Err(error) = file.seek(SeekFrom::Start(at)) {
            self.down(&error);
            return None;
        }
        if self.lines.teller.feed.down.get() == 1 {
            tracing::info!(tail = &*self.lines.teller.name, path = %path.display(), "the log can be read");
        }
        self.lines.teller.feed.down.set(0);
        Some(Open { file, id, at, over: at, idle: false })
    }

    /// Where a file is begun at the start of the program: where it was left, if it is the same one.
    fn begin(&mut self, file: &mut File, meta: &std::fs::Metadata, path: &Path) -> u64 {
        let kept = self.state.as_ref().and_then(State::load).filter(|kept| kept.path == path);
        let Some(kept) = kept else {
            let end = if self.from_start { 0 } else { meta.len() };
            // The end may lie in the middle of a line: its rest is passed over.
            self.lines.skipping = end > 0 && !ends_a_line(file, end);
            return end;
        };
        let same = (kept.device, kept.inode) == (meta.dev(), meta.ino());
        let head = kept.head_bytes.min(meta.len());
        if same && meta.len() >= kept.offset && fingerprint(file, head) == Some(kept.head) {
            return kept.offset;
        }
        // Another file bears the name now, and nobody has read it.
        0
    }

    fn keep(&mut self, open: Option<&Open>) {
        let (Some(state), Some(open)) = (&mut self.state, open) else { return };
        if state.written == Some((open.id, open.over)) {
            return;
        }
        match state.write(open) {
            Ok(()) => state.written = Some((open.id, open.over)),
            Err(error) => {
                if !std::mem::replace(&mut state.failed, true) {
                    tracing::warn!(path = %state.path.display(), %error, "it cannot be kept how far the log was read");
                }
            }
        }
    }

    fn down(&self, error: &std::io::Error) {
        let teller = &self.lines.teller;
        if teller.feed.down.get() == 0 {
            tracing::warn!(tail = &*teller.name, %error, "the log cannot be read; it is tried again");
        }
        teller.feed.down.set(1);
    }
}

fn ends_a_line(file: &mut File, end: u64) -> bool {
    let mut last = [0];
    file.seek(SeekFrom::Start(end - 1)).and_then(|_| file.read_exact(&mut last)).is_ok() && last == *b"\n"
}

/// Tells, once there is room.
fn wait(teller: &Teller, seen: Seen, stop: &AtomicBool) {
    teller.tell_blocking(seen, || stop.load(Relaxed));
}

/// How far a log was read.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Kept {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Up to the end of the last whole line.
    offset: u64,
    /// A hash of the file's first bytes, and how many those are.
    head: String,
    head_bytes: u64,
}

struct State {
    path: PathBuf,
    log: PathBuf,
    written: Option<((u64, u64), u64)>,
    failed: bool,
}

impl State {
    fn new(dir: &Path, name: &str, log: &Path) -> Self {
        // Names have blanks and slashes at most, and stay different: what is replaced is told apart by a hash.
        let plain: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
            .collect();
        let hash = hex(&digest(&SHA256, name.as_bytes()).as_ref()[..4]);
        let path = dir.join(format!("tail-{plain}-{hash}.json"));
        Self { path, log: log.to_owned(), written: None, failed: false }
    }

    fn load(&self) -> Option<Kept> {
        let text = files::read(&self.path, MAX_STATE).ok()?;
        serde_json::from_slice(&text)
            .inspect_err(
                |error| tracing::warn!(path = %self.path.display(), %error, "cannot be read; ignored"),
            )
            .ok()
    }

    /// Written beside and moved into place: a crash leaves the one before.
    fn write(&self, open: &Open) -> std::io::Result<()> {
        let mut file = open.file.try_clone()?;
        let head_bytes = open.over.min(HEAD);
        let head = fingerprint(&mut file, head_bytes).unwrap_or_default();
        file.seek(SeekFrom::Start(open.at))?;
        let state = Kept {
            path: self.log.clone(),
            device: open.id.0,
            inode: open.id.1,
            offset: open.over,
            head,
            head_bytes,
        };
        let beside = self.path.with_extension("new");
        std::fs::write(&beside, serde_json::to_vec(&state)?)?;
        std::fs::rename(&beside, &self.path)
    }
}

/// A hash of a file's first bytes.
fn fingerprint(file: &mut File, bytes: u64) -> Option<String> {
    let mut head = vec![0; usize::try_from(bytes).ok()?];
    file.seek(SeekFrom::Start(0)).ok()?;
    file.read_exact(&mut head).ok()?;
    Some(hex(&digest(&SHA256, &head).as_ref()[..16]))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
#[path = "tail_tests.rs"]
mod tests;
