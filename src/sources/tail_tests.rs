//! Logs as they grow, are cut, are rotated, and are full of other things.

use super::*;
use crate::clock::Clock;
use crate::observation::Observation;
use crate::sources::intake::Rules;
use crate::stats::Stats;
use arc_swap::ArcSwap;
use std::io::Write;
use tokio::sync::mpsc;

struct Bench {
    /// Keeps the queue open, as the hop does.
    _hop: mpsc::Sender<Observation>,
    intake: Intake,
    told: mpsc::Receiver<Observation>,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new(queue: usize) -> Self {
        let (observations, told) = mpsc::channel(queue);
        let intake = Intake {
            rules: Arc::new(ArcSwap::from_pointee(Rules::default())),
            observations: observations.downgrade(),
            stats: Arc::new(Stats::default()),
            clock: Clock::system(),
            read_head: crate::dialects::read_head,
            next_id: Arc::default(),
        };
        Self { _hop: observations, intake, told, dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("access.log")
    }

    fn tail(&self, from_start: bool) -> Tail {
        Tail {
            name: "t".into(),
            path: Some(self.path()),
            mapping: Mapping::new(Preset::Report, &[], &[]),
            route: None,
            from_start,
        }
    }

    /// Follows the log, with its state kept in the same directory.
    fn follow(&self, from_start: bool) -> Following {
        let stop = Arc::new(AtomicBool::new(false));
        let tail = self.tail(from_start);
        let reader = Reader {
            lines: Lines::new(&tail, self.intake.teller("t")),
            state: Some(State::new(self.dir.path(), "t", &self.path())),
            from_start,
            stop: stop.clone(),
        };
        let path = self.path();
        Following { stop, thread: Some(std::thread::spawn(move || reader.follow(&path))) }
    }

    fn append(&self, text: &str) {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(self.path()).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// The statuses of the next calls.
    fn statuses(&mut self, n: usize) -> Vec<u16> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut all = Vec::new();
        while all.len() < n {
            assert!(Instant::now() < deadline, "only {all:?} of {n}");
            match self.told.try_recv() {
                Ok(Observation::Report(report)) => all.extend(report.end.and_then(|end| end.status)),
                Ok(other) => panic!("{other:?}"),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        all
    }
}

struct Following {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Following {
    /// Stops it, and waits until its state is kept.
    fn end(mut self) {
        self.stop.store(true, Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

fn line(status: u16) -> String {
    format!("{{\"status\":{status},\"path\":\"/v1/messages\"}}\n")
}

#[test]
fn a_log_is_followed_as_it_grows_and_a_line_counts_once_it_is_whole() {
    let mut bench = Bench::new(64);
    bench.append(&line(201));
    let following = bench.follow(true);
    assert_eq!(bench.statuses(1), [201]);
    let text = line(202);
    let (first, rest) = text.split_at(9);
    bench.append(first);
    std::thread::sleep(LOOK * 2);
    assert!(bench.told.try_recv().is_err(), "half a line says nothing");
    bench.append(rest);
    assert_eq!(bench.statuses(1), [202]);
    following.end();
}

#[test]
fn a_restart_goes_on_where_the_last_whole_line_ended() {
    let mut bench = Bench::new(64);
    bench.append(&line(201));
    let following = bench.follow(true);
    assert_eq!(bench.statuses(1), [201]);
    bench.append("{\"status\":2");
    following.end();
    bench.append("02,\"path\":\"/v1/messages\"}\n");
    let following = bench.follow(false);
    assert_eq!(bench.statuses(1), [202]);
    following.end();
    assert!(bench.told.try_recv().is_err());
}

#[test]
fn a_rotated_log_is_read_to_its_end_and_the_new_one_from_its_start() {
    let mut bench = Bench::new(64);
    bench.append(&line(201));
    let following = bench.follow(true);
    assert_eq!(bench.statuses(1), [201]);
    let old = bench.dir.path().join("access.log.1");
    std::fs::rename(bench.path(), &old).unwrap();
    // Its writer has not noticed yet.
    std::fs::OpenOptions::new().append(true).open(&old).unwrap().write_all(line(202).as_bytes()).unwrap();
    bench.append(&line(203));
    assert_eq!(bench.statuses(2), [202, 203]);
    following.end();
}

#[test]
fn a_log_that_is_cut_in_place_is_begun_anew() {
    let mut bench = Bench::new(64);
    bench.append(&(line(201) + &line(202)));
    let following = bench.follow(true);
    assert_eq!(bench.statuses(2), [201, 202]);
    std::fs::File::create(bench.path()).unwrap();
    std::thread::sleep(LOOK * 2);
    bench.append(&line(203));
    assert_eq!(bench.statuses(1), [203]);
    following.end();
}

#[test]
fn a_log_that_was_rotated_while_nobody_read_is_not_taken_for_the_old_one() {
    let mut bench = Bench::new(64);
    bench.append(&line(201));
    let following = bench.follow(true);
    assert_eq!(bench.statuses(1), [201]);
    following.end();
    std::fs::remove_file(bench.path()).unwrap();
    bench.append(&(line(202) + &line(203)));
    let following = bench.follow(false);
    assert_eq!(bench.statuses(2), [202, 203]);
    following.end();
}

#[test]
fn without_a_start_a_log_is_followed_from_its_end_and_a_missing_one_is_waited_for() {
    let mut bench = Bench::new(64);
    let following = bench.follow(false);
    let feed = bench.intake.stats.feeds.of("t");
    let deadline = Instant::now() + Duration::from_secs(20);
    while feed.down.get() == 0 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    bench.append(&line(201));
    assert_eq!(bench.statuses(1), [201], "it was empty when we came");
    assert_eq!(feed.down.get(), 0);
    following.end();
    let mut bench = Bench::new(64);
    bench.append("{\"status\":200,\"path\":\"/v1/mess");
    let following = bench.follow(false);
    std::thread::sleep(LOOK * 2);
    bench.append("ages\"}\n");
    bench.append(&line(202));
    assert_eq!(bench.statuses(1), [202], "the rest of a line is no line");
    following.end();
}

#[test]
fn garbage_and_endless_lines_spoil_only_themselves() {
    let mut bench = Bench::new(64);
    let mut lines = Lines::new(&bench.tail(true), bench.intake.teller("t"));
    let mut statuses = Vec::new();
    let mut tell = |_: &Teller, seen: Seen| statuses.push(seen.status);
    let garbage: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let mut bytes = line(201).into_bytes();
    bytes.extend(&garbage);
    bytes.push(b'\n');
    bytes.extend(vec![b'x'; 10 << 20]);
    bytes.push(b'\n');
    bytes.extend(line(202).bytes());
    bytes.extend(br#"{"path":"/healthz","host":"shop","status":200}"#);
    bytes.push(b'\n');
    for chunk in bytes.chunks(CHUNK) {
        lines.feed(chunk, &mut tell);
        assert!(lines.partial.len() <= MAX_LINE);
    }
    assert_eq!(statuses, [Some(201), Some(202), Some(200)], "a report's own shape is taken as it is");
    assert!(bench.intake.stats.feeds.of("t").unusable.get() >= 2);
    bench.told.close();
}

#[test]
fn an_access_log_tells_of_models_only_unless_a_route_takes_all() {
    let bench = Bench::new(64);
    let mut tail = bench.tail(true);
    tail.mapping = Mapping::new(Preset::Nginx, &[], &[]);
    let other = b"{\"path\":\"/healthz\",\"host\":\"shop\",\"status\":200}\n";
    let count = |tail: &Tail| {
        let mut n = 0;
        Lines::new(tail, bench.intake.teller("t")).feed(other, &mut |_: &Teller, _| n += 1);
        n
    };
    assert_eq!(count(&tail), 0);
    assert_eq!(bench.intake.stats.feeds.of("t").skipped.get(), 1);
    tail.route = Some("api".into());
    assert_eq!(count(&tail), 1);
}

#[test]
fn a_full_queue_makes_a_log_wait_and_loses_nothing() {
    let mut bench = Bench::new(4);
    for status in 200..260 {
        bench.append(&line(status));
    }
    let following = bench.follow(true);
    assert_eq!(bench.statuses(60), (200..260).collect::<Vec<u16>>());
    assert_eq!(bench.intake.stats.feeds.of("t").dropped.get(), 0);
    following.end();
}
