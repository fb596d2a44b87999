//! The sidecar as a process that may use so much memory and no more.
//!
//! In a memory cgroup of its own where this machine lets us make one: then the kernel ends it as it
//! would in Kubernetes. Anywhere, the most that it was ever seen to hold is told by the kernel too.
//! `PLIMSOLL_TEST_BINARY` names another build, to compare with.
// What was measured, and that no cgroup can be made, is for whoever reads the test's log.
#![allow(clippy::print_stderr)]

use super::{PATIENCE, metric};
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// What the chart allows.
pub const LIMIT: u64 = 256 << 20;

/// A memory cgroup; gone when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    /// One with this limit, if one can be made.
    fn new(limit: u64) -> Option<Self> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let name = format!("plimsoll-test-{}-{}", std::process::id(), MADE.fetch_add(1, Relaxed));
        let parents = own.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            match controllers.split(',').any(|c| c == "memory") {
                true => Some(("/sys/fs/cgroup/memory", path.to_owned(), "memory.limit_in_bytes")),
                false if controllers.is_empty() => Some(("/sys/fs/cgroup", path.to_owned(), "memory.max")),
                false => None,
            }
        });
        for (root, path, file) in parents {
            for parent in [format!("{root}{path}"), root.to_owned()] {
                let made = Self(Path::new(&parent).join(&name));
                // Where there are two hierarchies, one of them has no memory controller.
                fs::write(format!("{parent}/cgroup.subtree_control"), "+memory").ok();
                if fs::create_dir(&made.0).is_ok() && fs::write(made.0.join(file), limit.to_string()).is_ok()
                {
                    fs::write(made.0.join("memory.swap.max"), "0").ok();
                    return Some(made);
                }
            }
        }
        None
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its process has been killed, but may not be gone yet.
        for _ in 0..500 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A sidecar that runs within a limit.
pub struct Confined {
    child: Child,
    pub hop: SocketAddr,
    pub metrics: SocketAddr,
    _cgroup: Option<Cgroup>,
}

impl Confined {
    /// Starts it. Without a cgroup it is told of the limit by its configuration.
    pub async fn start(config: &str) -> Self {
        let cgroup = Cgroup::new(LIMIT);
        let mut config = config.to_owned();
        if cgroup.is_none() {
            eprintln!("no memory cgroup can be made here: only the process's own peak is looked at");
            config.push_str("memory_limit: 256MiB\n");
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(config.as_bytes()).unwrap();
        let procs = cgroup.as_ref().map_or_else(|| "/dev/null".into(), |c| c.0.join("cgroup.procs"));
        let binary = std::env::var_os("PLIMSOLL_TEST_BINARY");
        let mut child = Command::new("sh")
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(procs)
            .arg(binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_plimsoll").into()))
            .args(["run", "--log-format", "json", "--config"])
            .arg(file.path())
            .env_clear()
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut addresses: Vec<SocketAddr> = Vec::new();
        loop {
            let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
            let line: serde_json::Value = serde_json::from_str(&line.expect("it starts")).unwrap();
            addresses.extend(line["fields"]["address"].as_str().and_then(|a| a.parse::<SocketAddr>().ok()));
            if line["fields"]["message"].as_str().is_some_and(|m| m.starts_with("metrics")) {
                break;
            }
        }
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let (hop, metrics) = (addresses[0], *addresses.last().unwrap());
        Self { child, hop, metrics, _cgroup: cgroup }
    }

    fn status(&self, field: &str) -> u64 {
        let status = self.child.id().map(|id| fs::read_to_string(format!("/proc/{id}/status")));
        let status = status.and_then(Result::ok).expect("it still runs");
        let line = status.lines().find_map(|l| l.strip_prefix(field)).expect("it was not killed");
        line.trim_matches([':', ' ', '\t']).trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// The most that it ever held, apart from the program itself: that the kernel can take back.
    pub fn peak(&self) -> u64 {
        self.status("VmHWM") - self.status("RssFile")
    }

    /// What it holds.
    pub fn resident(&self) -> u64 {
        self.status("RssAnon")
    }

    /// The kernel has not ended it, it never came near to that, and it says that it is well.
    pub async fn assert_well(&mut self, when: &str) {
        assert_eq!(self.child.try_wait().unwrap(), None, "{when}: it was killed");
        let health = reqwest::get(format!("http://{}/-/healthy", self.metrics)).await;
        assert_eq!(health.expect(when).status(), 200, "{when}");
        eprintln!("{when}: resident {} kB, at most {} kB", self.resident() / 1024, self.peak() / 1024);
        assert!(self.peak() < LIMIT, "{when}: {} bytes", self.peak());
    }

    pub async fn metric(&self, name: &str, parts: &[&str]) -> f64 {
        let text = reqwest::get(format!("http://{}/metrics", self.metrics)).await.unwrap();
        metric(&text.text().await.unwrap(), name, parts).unwrap_or(0.0)
    }
}
