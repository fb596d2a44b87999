//! Keeps the process within its memory, whatever its peers do.
//!
//! Each connection's share is bounded where it is held, but nobody bounds how many peers stall at
//! once. So what the process holds in all is looked at some twenty times a second and compared with
//! its limit, and three levels follow from that, each dearer to the peers than the one before:
//!
//! 1. [`Level::Pressing`]: no exchange gets more in hand than one frame. Fast peers hardly notice.
//! 2. [`Level::Full`]: new requests are answered with 503 and told to come back in a second.
//! 3. [`Level::Critical`]: nothing is accepted, and connections that only ever send are closed. This
//!    costs some peers their connection; the kernel would take everybody's.
//!
//! A burst of requests costs its memory only when their responses come, and by then it is too late
//! to refuse them. So each request counts as [`EXPECTED`] bytes until it is old enough to be seen in
//! what is held.
//!
//! What counts is what is *in use*. The kernel counts pages that the allocator keeps for the next
//! one too, and those stay for seconds after a burst: an idle process must not answer 503 for them.
//! They count only up to the size of what is in use, which is as much as they get in the way.

use crate::stats::Stats;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// The limit where nothing sets one.
pub const DEFAULT_LIMIT: u64 = 1 << 30;
/// The smallest limit that leaves room for any traffic.
pub const LEAST_LIMIT: u64 = 48 << 20;
/// How often it looks while there is plenty of room.
const LOOK: Duration = Duration::from_millis(50);
/// How often it looks otherwise: memory can be filled at gigabytes a second.
const CLOSE_LOOK: Duration = Duration::from_millis(5);
/// Every so many close looks, and every look that is none, the kernel's own share is read anew.
const KERNEL_EVERY: u32 = 10;

/// What a request may come to hold: its buffers both ways, and what it takes to carry it.
const EXPECTED: u64 = 96 * 1024;
/// What is taken to be in use, apart from that for each request, where the allocator does not say.
const BESIDE_REQUESTS: u64 = 32 << 20;
/// A request is young in the generation in which it came, and in the next.
const GENERATION: Duration = Duration::from_millis(500);

/// How full the memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// There is room.
    Calm,
    /// Bodies are held back.
    Pressing,
    /// New requests are refused.
    Full,
    /// Nothing new is taken in.
    Critical,
}

impl Level {
    const ALL: [Self; 4] = [Self::Calm, Self::Pressing, Self::Full, Self::Critical];

    /// From how much of the limit on, in percent, it holds.
    const fn begins(self) -> u64 {
        match self {
            Self::Calm => 0,
            Self::Pressing => 50,
            Self::Full => 65,
            Self::Critical => 80,
        }
    }

    /// The level that follows from what is held. A level ends a little below where it begins, so that
    /// it does not flicker.
    pub fn of(held: u64, limit: u64, before: Self) -> Self {
        const SLACK: u64 = 3;
        let percent = held.saturating_mul(100) / limit.max(1);
        let holds = |level: &Self| percent + if *level <= before { SLACK } else { 0 } >= level.begins();
        Self::ALL.into_iter().rev().find(holds).unwrap_or(Self::Calm)
    }
}

/// What the process holds, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Handed out by the allocator, in whole pages.
    pub in_use: u64,
    /// Its own memory, as the kernel sees it.
    pub resident: u64,
    /// What the kernel holds for it, sockets above all.
    pub kernel: u64,
}

impl Held {
    /// What counts against the limit.
    pub fn counted(self) -> u64 {
        self.resident.min(self.in_use.saturating_mul(2)).max(self.in_use).saturating_add(self.kernel)
    }
}

/// How full the memory is, for all who ask. Clones share it.
#[derive(Clone, Debug)]
pub struct Overload(Arc<State>);

#[derive(Debug)]
struct State {
    limit: u64,
    level: AtomicU8,
    /// What was held at the last look.
    held: AtomicU64,
    young: Young,
    /// Requests that have not ended.
    open: AtomicU64,
}

/// Requests that have just come, by generation: this one, the one before, and the one that is next.
#[derive(Debug, Default)]
struct Young {
    generation: AtomicU32,
    requests: [AtomicU64; 3],
}

impl Young {
    fn of(&self, generation: u32) -> &AtomicU64 {
        &self.requests[generation as usize % 3]
    }

    fn count(&self) -> u64 {
        let now = self.generation.load(Relaxed);
        self.of(now).load(Relaxed) + self.of(now.wrapping_add(2)).load(Relaxed)
    }

    fn come(&self) -> u32 {
        let now = self.generation.load(Relaxed);
        self.of(now).fetch_add(1, Relaxed);
        now
    }

    fn gone(&self, generation: u32) {
        if self.generation.load(Relaxed).wrapping_sub(generation) < 2 {
            // Just as generations change it may have been forgotten already.
            let less = |n: u64| n.checked_sub(1);
            self.of(generation).fetch_update(Relaxed, Relaxed, less).ok();
        }
    }

    fn turn(&self) {
        let next = self.generation.load(Relaxed).wrapping_add(1);
        self.of(next).store(0, Relaxed);
        self.generation.store(next, Relaxed);
    }
}

/// A request that was taken; given back when it has ended.
#[derive(Debug)]
pub struct Admitted {
    overload: Overload,
    generation: u32,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.overload.0.young.gone(self.generation);
        self.overload.0.open.fetch_sub(1, Relaxed);
    }
}

impl Overload {
    /// Nothing is held yet. The limit is this one, that of the cgroup, or [`DEFAULT_LIMIT`].
    pub fn new(limit: Option<u64>) -> Self {
        let limit = limit.or_else(|| Cgroup::own().limit).unwrap_or(DEFAULT_LIMIT).max(LEAST_LIMIT);
        let (level, held, open) = (AtomicU8::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(State { limit, level, held, young: Young::default(), open }))
    }

    /// The limit, in bytes.
    pub fn limit(&self) -> u64 {
        self.0.limit
    }

    /// How full the memory is.
    pub fn level(&self) -> Level {
        Level::ALL[usize::from(self.0.level.load(Relaxed)).min(Level::ALL.len() - 1)]
    }

    /// True if bodies are to be held back.
    pub fn is_pressing(&self) -> bool {
        self.level() >= Level::Pressing
    }

    /// True if new requests are refused.
    pub fn is_full(&self) -> bool {
        self.level() >= Level::Full
    }

    #[cfg(test)]
    pub(crate) fn set(&self, level: Level) {
        self.0.level.store(level as u8, Relaxed);
    }

    /// Takes a new request, if there is room for what it may come to hold.
    pub fn admit(&self) -> Option<Admitted> {
        let expected = self.0.young.count().saturating_mul(EXPECTED);
        let held = self.0.held.load(Relaxed).saturating_add(expected);
        if self.is_full() || Level::of(held, self.0.limit, Level::Calm) >= Level::Full {
            return None;
        }
        self.0.open.fetch_add(1, Relaxed);
        Some(Admitted { overload: self.clone(), generation: self.0.young.come() })
    }

    /// True if nothing new may be taken in.
    pub fn is_critical(&self) -> bool {
        self.level() >= Level::Critical
    }

    /// What is in use where the allocator does not say: some keep all that they ever had, so what is resident does not tell.
    fn estimate(&self, resident: u64) -> u64 {
        let requests = self.0.open.load(Relaxed).saturating_mul(EXPECTED);
        resident.min(BESIDE_REQUESTS.saturating_add(requests))
    }

    /// Takes in what is held, and says how long until the next look.
    fn look(&self, held: Held, stats: &Stats) -> Duration {
        let before = self.level();
        let counted = held.counted();
        let level = Level::of(counted, self.0.limit, before);
        self.0.level.store(level as u8, Relaxed);
        self.0.held.store(counted, Relaxed);
        stats.memory_held.set(counted);
        if level != before {
            note(before, level, held, self.0.limit);
        }
        let plenty = counted < self.0.limit / 100 * Level::Pressing.begins() / 2;
        if plenty { LOOK } else { CLOSE_LOOK }
    }

    /// The same, looked after until its last clone is gone. On a thread of its own: it has to look
    /// when all others are busy.
    pub fn watched(limit: Option<u64>, stats: &Arc<Stats>) -> Self {
        let overload = Self::new(limit);
        stats.memory_limit.set(overload.limit());
        let (state, stats) = (Arc::downgrade(&overload.0), stats.clone());
        let watching = move || watch(&state, &stats);
        if let Err(error) = std::thread::Builder::new().name("memory".into()).spawn(watching) {
            tracing::error!(%error, "nobody looks after the memory");
        }
        overload
    }
}

/// Each way up and down once: what is rare and matters is worth a line.
fn note(before: Level, level: Level, held: Held, limit: u64) {
    let Held { in_use, resident, kernel } = held;
    if level.max(before) < Level::Full {
        tracing::debug!(?level, in_use, resident, kernel, limit, "memory");
    } else if level > before {
        tracing::warn!(?level, in_use, resident, kernel, limit, "memory is short: new requests get 503");
    } else if level < Level::Full {
        tracing::info!(?level, in_use, resident, kernel, limit, "requests are taken again");
    }
}

fn watch(state: &Weak<State>, stats: &Stats) {
    let cgroup = Cgroup::own();
    let allocator = Allocator::new();
    let (mut kernel, mut age) = (0, Duration::ZERO);
    for n in 0_u32.. {
        let Some(overload) = state.upgrade().map(Overload) else { return };
        if n % KERNEL_EVERY == 0 || overload.level() == Level::Calm {
            kernel = cgroup.kernel();
        }
        let resident = resident();
        let in_use = allocator.in_use().unwrap_or_else(|| overload.estimate(resident));
        let pause = overload.look(Held { in_use, resident, kernel }, stats);
        age += pause;
        if age >= GENERATION {
            age = Duration::ZERO;
            overload.0.young.turn();
        }
        drop(overload);
        std::thread::sleep(pause);
    }
}

/// Memory of the process that is backed by no file, as the kernel sees it.
fn resident() -> u64 {
    // In one read: it is made anew for each.
    let mut text = [0; 8192];
    let read = std::fs::File::open("/proc/self/status").and_then(|mut file| file.read(&mut text));
    let status = String::from_utf8_lossy(&text[..read.unwrap_or(0)]);
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = anonymous.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// jemalloc, where it is what allocates.
struct Allocator {
    #[cfg(feature = "jemalloc")]
    active: Option<(tikv_jemalloc_ctl::epoch_mib, tikv_jemalloc_ctl::stats::active_mib)>,
}

#[cfg(feature = "jemalloc")]
impl Allocator {
    /// Asks it to give pages back by itself too, and not only when the next request comes.
    fn new() -> Self {
        use tikv_jemalloc_ctl::{background_thread, epoch, stats};
        if !Self::is_used() {
            return Self { active: None };
        }
        if let Err(error) = background_thread::write(true) {
            tracing::debug!(%error, "the allocator gives memory back only while it is used");
        }
        Self { active: epoch::mib().ok().zip(stats::active::mib().ok()) }
    }

    /// It is linked in either way; only a program decides what allocates.
    fn is_used() -> bool {
        let Ok(allocated) = tikv_jemalloc_ctl::thread::allocatedp::read() else { return false };
        let before = allocated.get();
        drop(std::hint::black_box(vec![0_u8; 4096]));
        allocated.get() > before
    }

    fn in_use(&self) -> Option<u64> {
        let (epoch, active) = self.active.as_ref()?;
        epoch.advance().ok()?;
        u64::try_from(active.read().ok()?).ok()
    }
}

#[cfg(not(feature = "jemalloc"))]
impl Allocator {
    const fn new() -> Self {
        Self {}
    }

    const fn in_use(&self) -> Option<u64> {
        None
    }
}

/// The memory cgroup that the process is in.
#[derive(Debug, Default, PartialEq, Eq)]
struct Cgroup {
    limit: Option<u64>,
    /// Where the kernel tells of its own share.
    stat: Option<std::path::PathBuf>,
}

impl Cgroup {
    fn own() -> Self {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::of(&own, Path::new("/sys/fs/cgroup"))
    }

    /// The one that this text of `/proc/self/cgroup` names. A limit above it holds too.
    fn of(own: &str, root: &Path) -> Self {
        let mut found = Self::default();
        for line in own.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let (root, file) = match controllers {
                "" => (root.to_owned(), "memory.max"),
                some if some.split(',').any(|c| c == "memory") => {
                    (root.join("memory"), "memory.limit_in_bytes")
                }
                _ => continue,
            };
            // In a container the path may be that outside of it, and its own cgroup the root.
            let mut at = Some(Path::new(path.trim_start_matches('/')));
            while let Some(path) = at {
                let limit = std::fs::read_to_string(root.join(path).join(file)).ok();
                let limit = limit.and_then(|limit| limit.trim().parse::<u64>().ok());
                // Without a limit the first version shows the largest number of pages that there is.
                let limit = limit.filter(|limit| *limit < 1 << 60);
                found.limit = found.limit.into_iter().chain(limit).min();
                at = path.parent();
            }
            let stat = root.join(path.trim_start_matches('/')).join("memory.stat");
            if controllers.is_empty() && stat.exists() {
                found.stat = Some(stat);
            }
        }
        found
    }

    /// What the kernel holds for this cgroup and cannot give back. Of the first version of cgroups it
    /// is not told apart from what it can.
    fn kernel(&self) -> u64 {
        let stat = self.stat.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
        stat.map_or(0, |stat| unreclaimable(&stat))
    }
}

fn unreclaimable(stat: &str) -> u64 {
    const OURS: [&str; 4] = ["sock", "slab_unreclaimable", "kernel_stack", "pagetables"];
    let lines = stat.lines().filter_map(|line| line.split_once(' '));
    lines.filter(|(name, _)| OURS.contains(name)).filter_map(|(_, bytes)| bytes.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn levels_follow_one_another_and_do_not_flicker() {
        let mut level = Level::Calm;
        let mut step = |percent: u64| {
            level = Level::of(percent * MIB, 100 * MIB, level);
            level
        };
        let way = [10, 49, 50, 49, 47, 46, 64, 65, 63, 61, 80, 78, 76, 100, 200, 0];
        use Level::{Calm, Critical, Full, Pressing};
        assert_eq!(
            way.map(&mut step),
            [
                Calm, Calm, Pressing, Pressing, Pressing, Calm, Pressing, Full, Full, Pressing, Critical,
                Critical, Full, Critical, Critical, Calm
            ]
        );
    }

    /// What the allocator keeps after a burst is given back within seconds, and is there for the next
    /// request until then.
    #[test]
    fn an_idle_process_is_not_full_because_of_a_burst_that_is_over() {
        let after = Held { in_use: 20 * MIB, resident: 240 * MIB, kernel: 0 };
        assert_eq!(Level::of(after.counted(), 256 * MIB, Level::Calm), Level::Calm);
        let during = Held { in_use: 120 * MIB, ..after };
        assert_eq!(during.counted(), 240 * MIB, "now they do get in the way");
        let swapped = Held { in_use: 200 * MIB, resident: 100 * MIB, kernel: 0 };
        assert_eq!(swapped.counted(), 200 * MIB);
    }

    /// With an allocator that keeps all that it ever had, too.
    #[test]
    fn a_process_without_requests_is_not_full_whatever_is_resident() {
        let overload = Overload::new(Some(256 * MIB));
        let look = || {
            let resident = 250 * MIB;
            overload
                .look(Held { in_use: overload.estimate(resident), resident, kernel: 0 }, &Stats::default());
            overload.level()
        };
        assert_eq!(look(), Level::Calm);
        let mut requests: Vec<Admitted> = std::iter::from_fn(|| overload.admit()).collect();
        assert_eq!(look(), Level::Critical, "{} requests", requests.len());
        requests.truncate(10);
        assert_eq!(look(), Level::Calm);
    }

    #[test]
    fn levels_are_what_was_held_at_the_last_look() {
        let overload = Overload::new(Some(100 * MIB));
        let stats = Stats::default();
        let held = |mib: u64| Held { in_use: mib * MIB, resident: mib * MIB, kernel: 0 };
        assert_eq!(overload.look(held(10), &stats), LOOK);
        assert!(!overload.is_pressing());
        assert_eq!(overload.look(held(60), &stats), CLOSE_LOOK);
        assert!(overload.is_pressing() && !overload.is_full());
        overload.look(held(70), &stats);
        assert!(overload.is_full() && !overload.is_critical());
        overload.look(Held { kernel: 20 * MIB, ..held(70) }, &stats);
        assert!(overload.is_critical(), "sockets count too");
        assert_eq!(stats.memory_held.get(), 90 * MIB);
        assert_eq!(overload.look(held(10), &stats), LOOK);
        assert!(!overload.is_pressing());
    }

    #[test]
    fn a_burst_is_refused_before_its_memory_is_there() {
        let overload = Overload::new(Some(100 * MIB));
        let mut burst: Vec<Admitted> = std::iter::from_fn(|| overload.admit()).collect();
        let room = usize::try_from(65 * MIB / EXPECTED).unwrap();
        assert!((room - 1..=room + 1).contains(&burst.len()), "{}", burst.len());
        burst.pop();
        burst.extend(overload.admit());
        assert!(overload.admit().is_none(), "one went, one came");
        overload.0.young.turn();
        assert!(overload.admit().is_none(), "they are young still");
        overload.0.young.turn();
        let older = overload.admit().expect("what they hold is seen now");
        drop(burst);
        assert_eq!(overload.0.young.count(), 1, "the old ones are not taken off the new ones");
        drop(older);
        assert_eq!(overload.0.young.count(), 0);
        let held = |mib: u64| Held { in_use: mib * MIB, resident: mib * MIB, kernel: 0 };
        overload.look(held(60), &Stats::default());
        let few = std::iter::from_fn(|| overload.admit()).collect::<Vec<_>>().len();
        assert!((50..60).contains(&few), "{few}");
    }

    #[test]
    fn the_limit_is_the_smallest_of_the_cgroup_and_those_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let file = dir.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        write("memory.max", "max\n");
        write("pods/memory.max", "268435456\n");
        write("pods/pod/memory.max", "max\n");
        write("pods/pod/memory.stat", "anon 7\nsock 5\nfile 9\nslab_unreclaimable 2\n");
        let second = Cgroup::of("0::/pods/pod\n", dir.path());
        assert_eq!((second.limit, second.kernel()), (Some(256 * MIB), 7));
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/docker/memory.limit_in_bytes", "1073741824\n");
        let first = Cgroup::of("4:cpu:/x\n3:memory,hugetlb:/docker\n0::/\n", dir.path());
        assert_eq!((first.limit, first.kernel()), (Some(1024 * MIB), 0));
        let outside = Cgroup::of("3:memory:/only/outside/of/it\n", dir.path());
        assert_eq!(outside.limit, None, "the root has none");
        assert_eq!(Cgroup::of("", dir.path()), Cgroup::default());
    }

    #[test]
    fn what_is_configured_comes_before_the_cgroup_and_is_never_useless() {
        assert_eq!(Overload::new(Some(300 * MIB)).limit(), 300 * MIB);
        assert_eq!(Overload::new(Some(1)).limit(), LEAST_LIMIT);
    }

    #[test]
    fn the_process_sees_its_own_memory() {
        let block = std::hint::black_box(vec![1_u8; 32 << 20]);
        assert!(resident() >= 32 << 20);
        drop(block);
    }

    #[test]
    fn nobody_looks_once_nobody_asks() {
        let stats = Arc::new(Stats::default());
        drop(Overload::watched(Some(1 << 40), &stats));
        while Arc::strong_count(&stats) > 1 {
            std::thread::yield_now();
        }
    }
}
