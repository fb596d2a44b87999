//! Programs that tests start, and their end.
//!
//! Whatever a test starts ends with it. A program may have processes of its own (nginx its workers, a browser its
//! renderers, a client its tools), which a kill of the first one leaves running. So each is the leader of a process
//! group; when its [`Started`] is dropped, by a test that passed or one that panicked, all that descends from it is
//! ended, and that nothing is left is asserted. If the tests themselves are killed, nothing is dropped: a watchdog,
//! which notices by its standard input, ends the groups then.

use super::PATIENCE;
use std::collections::BTreeSet;
use std::io::Write;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::os::unix::process::CommandExt;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// How often it is looked whether what was killed has ended.
const MOST_LOOKS: usize = 5_000;

/// A running program with everything that descends from it.
pub struct Started {
    child: Option<Child>,
    name: String,
    leader: u32,
    groups: BTreeSet<u32>,
}

/// Starts a program.
pub fn start(command: &mut Command) -> Started {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let child = command
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|e| panic!("{name}: {e}; run scripts/e2e-deps.sh"));
    let leader = child.id().unwrap();
    tell_watchdog(&format!("{leader}"));
    Started { child: Some(child), name, leader, groups: BTreeSet::from([leader]) }
}

/// Runs a program to its end; what it has left running by then ends too.
pub async fn output(command: &mut Command, patience: Duration) -> Output {
    let mut started = start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let ended = tokio::time::timeout(patience, started.child.take().unwrap().wait_with_output()).await;
    ended.unwrap_or_else(|_| panic!("{} does not end", started.name)).unwrap()
}

impl Started {
    /// Every process that descends from it and has not ended. Those that change their group are told to the watchdog.
    pub fn family(&mut self) -> BTreeSet<u32> {
        let all = processes();
        let mut family: BTreeSet<u32> = BTreeSet::new();
        loop {
            let of = |p: &&Process| {
                p.pid == self.leader || self.groups.contains(&p.group) || family.contains(&p.parent)
            };
            let grown: BTreeSet<u32> = all.iter().filter(of).map(|p| p.pid).collect();
            for group in all.iter().filter(|p| grown.contains(&p.pid)).map(|p| p.group) {
                if self.groups.insert(group) {
                    tell_watchdog(&format!("{group}"));
                }
            }
            if grown == family {
                break;
            }
            family = grown;
        }
        all.iter().filter(|p| !p.ended && family.contains(&p.pid)).map(|p| p.pid).collect()
    }

    fn end(&mut self) -> BTreeSet<u32> {
        let mut left = self.family();
        for _ in 0..MOST_LOOKS {
            if left.is_empty() {
                break;
            }
            kill(&left);
            // They end when the kernel comes to it.
            std::thread::sleep(Duration::from_millis(2));
            left = self.family();
        }
        self.groups.iter().for_each(|group| tell_watchdog(&format!("-{group}")));
        left
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let left = self.end();
        if !std::thread::panicking() {
            assert!(left.is_empty(), "{} left processes: {left:?}", self.name);
        }
    }
}

impl Deref for Started {
    type Target = Child;

    fn deref(&self) -> &Child {
        self.child.as_ref().unwrap()
    }
}

impl DerefMut for Started {
    fn deref_mut(&mut self) -> &mut Child {
        self.child.as_mut().unwrap()
    }
}

struct Process {
    pid: u32,
    parent: u32,
    group: u32,
    /// It has ended, and nobody has asked how.
    ended: bool,
}

fn processes() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").expect("Linux");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        Some(Process { pid, parent, group, ended: matches!(state, "Z" | "X") })
    })
    .collect()
}

fn kill(pids: &BTreeSet<u32>) {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "kill -9 \"$@\"", "sh"]).args(pids.iter().map(u32::to_string));
    // One that has ended in the meantime is no failure.
    command.stderr(Stdio::null()).status().unwrap();
}

/// Takes a group a line (with a minus: forget it) until its input ends, and then ends those groups.
const WATCHDOG: &str = r#"
groups=' '
while read -r group; do
  case $group in
    -*) groups=$(printf '%s' "$groups" | sed "s/ ${group#-} / /") ;;
    *) groups="$groups$group " ;;
  esac
done
for group in $groups; do kill -9 "-$group"; done
"#;

fn watchdog() -> std::process::Child {
    std::process::Command::new("sh")
        .args(["-c", WATCHDOG])
        // What interrupts the tests must not interrupt it; what waits for the tests' output must not wait for it.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn tell_watchdog(line: &str) {
    static ONE: OnceLock<Mutex<std::process::Child>> = OnceLock::new();
    let mut one = ONE.get_or_init(|| Mutex::new(watchdog())).lock().unwrap();
    writeln!(one.stdin.as_mut().unwrap(), "{line}").unwrap();
}

/// What a sidecar logs as it goes on.
pub type Log = Arc<Mutex<Vec<String>>>;

/// Runs the sidecar as a process of its own, with this configuration and nothing in its environment but this: for what
/// only a process has. The addresses that it listens on, those of its hops first and that of `/metrics` last.
pub async fn run(config: &str, env: &[(&str, &str)]) -> (Started, Vec<SocketAddr>) {
    let (child, addresses, _) = logged(config, env).await;
    (child, addresses)
}

/// The same, with its log.
pub async fn logged(config: &str, env: &[(&str, &str)]) -> (Started, Vec<SocketAddr>, Log) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    command.env_clear().envs(env.iter().copied());
    logged_by(command, config).await
}

/// [`run`] by this command, to which the arguments are added.
pub async fn run_by(command: Command, config: &str) -> (Started, Vec<SocketAddr>) {
    let (child, addresses, _) = logged_by(command, config).await;
    (child, addresses)
}

async fn logged_by(mut command: Command, config: &str) -> (Started, Vec<SocketAddr>, Log) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(config.as_bytes()).unwrap();
    command.args(["run", "--log-format", "json", "--config"]).arg(file.path());
    let mut child = start(command.stderr(Stdio::piped()));
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut addresses = Vec::new();
    loop {
        let line =
            tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().expect("it starts");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        addresses.extend(line["fields"]["address"].as_str().and_then(|a| a.parse::<SocketAddr>().ok()));
        if line["fields"]["message"].as_str().is_some_and(|m| m.starts_with("metrics")) {
            break;
        }
    }
    let log = Arc::new(Mutex::new(Vec::new()));
    let kept = log.clone();
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            kept.lock().unwrap().push(line);
        }
    });
    (child, addresses, log)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::wait_for;

    /// A program with a worker, as nginx is one: the worker has a worker of its own.
    async fn with_workers() -> Started {
        let script = "sh -c 'sleep 1000 & sleep 1000' & wait";
        let mut started = start(Command::new("sh").args(["-c", script]).stdin(Stdio::null()));
        wait_for("the workers", async || (started.family().len() >= 4).then_some(())).await;
        started
    }

    fn alive(pids: &BTreeSet<u32>) -> Vec<u32> {
        processes().into_iter().filter(|p| !p.ended && pids.contains(&p.pid)).map(|p| p.pid).collect()
    }

    #[tokio::test]
    async fn what_a_test_starts_ends_with_it_workers_and_all() {
        let mut started = with_workers().await;
        let family = started.family();
        assert_eq!(alive(&family).len(), family.len());
        drop(started);
        assert_eq!(alive(&family), [0; 0]);
    }

    #[tokio::test]
    async fn what_a_failing_test_starts_ends_too() {
        let mut started = with_workers().await;
        let family = started.family();
        let failed = tokio::spawn(async move {
            let _started = started;
            std::panic::resume_unwind(Box::new("as an assertion does"));
        });
        assert!(failed.await.unwrap_err().is_panic());
        assert_eq!(alive(&family), [0; 0]);
    }

    #[tokio::test]
    async fn workers_that_outlive_their_program_end_too() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]);
        let output = output(&mut command, PATIENCE).await;
        let worker = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        assert_eq!(alive(&BTreeSet::from([worker])), [0; 0]);
    }

    #[tokio::test]
    async fn what_tests_start_ends_when_they_are_killed() {
        let mut dog = watchdog();
        let mut sleeps: Vec<Started> =
            (0..2).map(|_| start(Command::new("sleep").arg("1000").stdin(Stdio::null()))).collect();
        let mut to = dog.stdin.take().unwrap();
        for line in [
            format!("{}", sleeps[0].leader),
            format!("{}", sleeps[1].leader),
            format!("-{}", sleeps[1].leader),
        ] {
            writeln!(to, "{line}").unwrap();
        }
        drop(to);
        let ended = tokio::time::timeout(PATIENCE, sleeps[0].wait()).await.expect("it ends").unwrap();
        assert!(!ended.success());
        dog.wait().unwrap();
        assert!(sleeps[1].try_wait().unwrap().is_none(), "what was forgotten is nobody's");
    }
}
