//! `run --record`: every answer as a line of JSON that `replay --responses` reads, so that alerts can be
//! tried on one's own week before anybody is paged.
//!
//! Redacted as packets are: response headers of the allow-list alone, no request header, no prompt, no
//! answer; of an error its type, code and scrubbed message. Lines go through a bounded queue to a thread of their own, so that a
//! slow disk stalls nothing; what does not fit is counted. The file is kept at a size: when it is full it
//! becomes `FILE.1`, and what that was is gone.

use super::calls::Listener;
use crate::engine::Judged;
use crate::evidence::Scrubber;
use crate::limit::Timestamp;
use crate::observation::ErrorBody;
use crate::recorded::{Headers, Line, OneOrMany};
use crate::stats::Stats;
use arc_swap::ArcSwap;
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Lines that may wait for the disk.
const QUEUE: usize = 4_096;

/// What is recorded, and where.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The file; lines are put behind what stands in it.
    pub path: PathBuf,
    /// Most bytes of it. One file before it, of the same size, is kept.
    pub max_bytes: u64,
}

/// Starts recording.
///
/// # Errors
/// If the file cannot be opened.
pub fn listener(
    recording: &Recording,
    scrubber: Arc<ArcSwap<Scrubber>>,
    stats: &Arc<Stats>,
) -> std::io::Result<Listener> {
    let log = Log::open(recording)?;
    let (lines, waiting) = sync_channel(QUEUE);
    let counted = stats.clone();
    let thread = std::thread::Builder::new()
        .name("plimsoll-record".to_owned())
        .spawn(move || write_all(log, &waiting, &counted))?;
    let queue = Queue { lines: Some(lines), thread: Some(thread) };
    let stats = stats.clone();
    Ok(Box::new(move |judged| {
        let text = serde_json::to_string(&line(judged, &scrubber.load())).ok();
        let taken = text.zip(queue.lines.as_ref()).is_some_and(|(text, lines)| lines.try_send(text).is_ok());
        if !taken {
            stats.record.dropped.up();
        }
    }))
}

/// The way to the thread. Dropped, it waits until all that was taken is written.
struct Queue {
    lines: Option<SyncSender<String>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(thread) = self.thread.take() {
            // A writer that panicked has said so; there is nothing left to write.
            thread.join().unwrap_or_default();
        }
    }
}

fn write_all(mut log: Log, waiting: &Receiver<String>, stats: &Stats) {
    for line in waiting {
        match log.write(&line) {
            Ok(()) => stats.record.sent.up(),
            Err(error) => {
                // Said once: a full disk would say it for every call.
                if stats.record.failed.get() == 0 {
                    tracing::warn!(path = %log.path.display(), %error, "answers cannot be recorded");
                }
                stats.record.failed.up();
            }
        }
    }
}

struct Log {
    path: PathBuf,
    /// Absent if it could not be opened again; tried anew with each line.
    file: Option<File>,
    bytes: u64,
    max_bytes: u64,
    /// The last line may be there in part.
    torn: bool,
}

impl Log {
    fn open(recording: &Recording) -> std::io::Result<Self> {
        let file = open(&recording.path)?;
        let bytes = file.metadata()?.len();
        let Recording { path, max_bytes } = recording.clone();
        // Whoever wrote it before may have been ended in the middle of a line.
        let torn = !ends_a_line(&path, bytes);
        Ok(Self { path, file: Some(file), bytes, max_bytes, torn })
    }

    fn write(&mut self, line: &str) -> std::io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 >= self.max_bytes {
            let mut before = self.path.clone().into_os_string();
            before.push(".1");
            self.file = None;
            std::fs::rename(&self.path, before)?;
            (self.bytes, self.torn) = (0, false);
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(open(&self.path)?),
        };
        // One write for a line: a reader meets whole lines.
        let text = format!("{}{line}\n", if self.torn { "\n" } else { "" });
        let before = file.metadata()?.len();
        if let Err(error) = file.write_all(text.as_bytes()) {
            // A full disk takes a part of a line: that is taken back, or else gets a line of its own.
            self.torn = file.set_len(before).is_err();
            return Err(error);
        }
        self.torn = false;
        self.bytes += text.len() as u64;
        Ok(())
    }
}

/// True if what stands in a file is whole lines.
fn ends_a_line(path: &Path, bytes: u64) -> bool {
    let mut last = [b'\n'];
    let Some(at) = bytes.checked_sub(1) else { return true };
    // What cannot be read is believed to be whole.
    File::open(path).and_then(|file| file.read_exact_at(&mut last, at)).unwrap_or_default();
    last == *b"\n"
}

/// For its owner alone: what limits a team has is nobody else's business.
fn open(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().create(true).append(true).mode(0o600).open(path)
}

/// A judged call as a line.
fn line(judged: &Judged, scrubber: &Scrubber) -> Line {
    let end = &judged.end;
    let mut headers = Headers::new();
    for (name, value) in &end.limits.shown {
        let id = name.ends_with("organization-id") || name.ends_with("workspace-id");
        let value = if id { scrubber.id(value) } else { scrubber.text(value) };
        let before = headers.remove(&**name);
        let together = match before {
            None => OneOrMany::One(value),
            Some(OneOrMany::One(first)) => OneOrMany::Many(vec![first, value]),
            Some(OneOrMany::Many(mut all)) => {
                all.push(value);
                OneOrMany::Many(all)
            }
        };
        headers.insert((**name).to_owned(), together);
    }
    Line {
        t: Some(end.at.secs_f64()),
        started: Some(end.call.started.secs_f64()),
        headed: end.headed.map(Timestamp::secs_f64),
        route: Some(end.call.route.as_str().to_owned()),
        surface: Some(end.call.surface.as_str().to_owned()),
        region: end.call.region.as_deref().map(str::to_owned),
        method: Some(end.call.method.as_str().to_owned()),
        path: Some(scrubber.text(&end.call.path)),
        status: end.status,
        headers,
        body: end.error.as_deref().and_then(|error| body(error, scrubber)),
        model: end.model.as_ref().map(|model| model.as_str().to_owned()),
        request_bytes: (end.request.body_bytes > 0).then_some(end.request.body_bytes),
        input_tokens: end.usage.map(|usage| usage.input.get().saturating_add(usage.cache_write.get())),
        output_tokens: end.usage.map(|usage| usage.output.get()),
        ..Line::default()
    }
}

/// Of an error what it says of itself: type, code and message. Anything else in its body may be an echo of
/// the request.
fn body(error: &ErrorBody, scrubber: &Scrubber) -> Option<Value> {
    let text = |value: &Option<String>| value.as_deref().map(|value| scrubber.text(value));
    let (kind, code, message) = (text(&error.kind), text(&error.code), text(&error.message));
    let told = kind.is_some() || code.is_some() || message.is_some();
    told.then(
        || serde_json::json!({"type": "error", "error": {"type": kind, "code": code, "message": message}}),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_stays_within_its_size_and_keeps_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let recording = Recording { path: dir.path().join("answers.jsonl"), max_bytes: 1_000 };
        let mut log = Log::open(&recording).unwrap();
        for n in 0..500 {
            log.write(&format!("{{\"t\":{n}}}")).unwrap();
        }
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        let (now, before) = (read(&recording.path), read(&dir.path().join("answers.jsonl.1")));
        assert!(now.len() <= 1_000 && before.len() <= 1_000);
        assert!(now.ends_with("{\"t\":499}\n"));
        assert!(now.lines().chain(before.lines()).all(|line| serde_json::from_str::<Line>(line).is_ok()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        // What stands in the file counts when it is opened again.
        let again = Log::open(&recording).unwrap();
        assert_eq!(again.bytes, now.len() as u64);
    }
}
