//! A new configuration is taken whole or not at all; traffic and state go on.

use crate::support::api::{Answer, Api};
use crate::support::raw::Upstream;
use crate::support::webhook::Webhook;
use crate::support::{Sidecar, metric, wait_for};
use plimsoll::admin::control::{Control, Requests};
use plimsoll::app::reload::Reloader;
use plimsoll::config::{self, Config};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

fn config(bind: &str, upstream: std::net::SocketAddr, owner: &str, rest: &str) -> String {
    format!(
        "metrics: {{bind: '127.0.0.1:0'}}\nlisteners:\n- bind: {bind}\n  routes: [{{name: api, upstream: 'http://{upstream}'}}]\nowners:\n- {{name: {owner}}}\n{rest}"
    )
}

/// A sidecar that runs with its reloader, as the command runs it.
struct Live {
    hop: std::net::SocketAddr,
    metrics: std::net::SocketAddr,
    requests: Requests,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Live {
    async fn start(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plimsoll.yaml");
        std::fs::write(&path, text).unwrap();
        Self::at(dir, path, text).await
    }

    async fn at(dir: tempfile::TempDir, path: PathBuf, text: &str) -> Self {
        let Sidecar { mut running, hop, metrics } = Sidecar::start(text).await;
        let (mut reloader, requests) = Reloader::new(&path, |_| None);
        tokio::spawn(async move { reloader.run(&mut running).await });
        Self { hop, metrics, requests, path, _dir: dir }
    }

    async fn metric(&self, name: &str, parts: &[&str]) -> Option<f64> {
        metric(
            &reqwest::get(format!("http://{}/metrics", self.metrics)).await.unwrap().text().await.unwrap(),
            name,
            parts,
        )
    }

    async fn wait(&self, name: &str, parts: &[&str], wanted: f64) {
        wait_for(&format!("{name}{parts:?} = {wanted}"), async || {
            (self.metric(name, parts).await == Some(wanted)).then_some(())
        })
        .await;
    }

    async fn get(&self) -> String {
        reqwest::get(format!("http://{}/", self.hop)).await.unwrap().text().await.unwrap()
    }
}

async fn answering(text: &str) -> Upstream {
    Upstream::answering(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_a_hundred_reloads_fail_no_request() {
    let (one, two) = (answering("one").await, answering("two").await);
    let live = Live::start(&config("127.0.0.1:0", one.address, "a", "")).await;
    let (stop, sent, failed) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let client = reqwest::Client::new();
    let load: Vec<_> = (0..8)
        .map(|_| {
            let (client, url) = (client.clone(), format!("http://{}/", live.hop));
            let (stop, sent, failed) = (stop.clone(), sent.clone(), failed.clone());
            tokio::spawn(async move {
                while !stop.load(Relaxed) {
                    let ok = match client.get(&url).send().await {
                        Ok(response) => response.status() == 200 && response.text().await.is_ok(),
                        Err(_) => false,
                    };
                    sent.fetch_add(1, Relaxed);
                    failed.fetch_add(u64::from(!ok), Relaxed);
                }
            })
        })
        .collect();
    for n in 0..100 {
        let upstream = if n % 2 == 0 { two.address } else { one.address };
        std::fs::write(&live.path, config("127.0.0.1:0", upstream, &format!("owner-{n}"), "")).unwrap();
        live.requests.reload().await.unwrap();
    }
    stop.store(true, Relaxed);
    for task in load {
        task.await.unwrap();
    }
    assert_eq!(failed.load(Relaxed), 0, "of {}", sent.load(Relaxed));
    assert!(sent.load(Relaxed) > 100);
    assert_eq!(live.get().await, "one");
    live.wait("plimsoll_in_flight", &[], 0.0).await;
}

#[tokio::test]
async fn a_refused_configuration_changes_nothing_and_says_so() {
    let one = answering("one").await;
    let live = Live::start(&config("127.0.0.1:0", one.address, "a", "")).await;
    live.wait("plimsoll_config_last_reload_successful", &[], 1.0).await;
    let taken = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let bad = [
        ("owners: [{nam: x}]\n".to_owned(), "did you mean `name`?"),
        (config(&taken.local_addr().unwrap().to_string(), one.address, "a", ""), "cannot listen on"),
        ("listeners: []\n".to_owned(), "no listeners"),
    ];
    for (n, (text, wanted)) in bad.iter().enumerate() {
        std::fs::write(&live.path, text).unwrap();
        let problem = live.requests.reload().await.expect_err(wanted);
        assert!(problem.contains(wanted), "{problem}");
        live.wait("plimsoll_config_last_reload_successful", &[], 0.0).await;
        let refused = live.metric("plimsoll_config_reloads_total", &["refused"]).await.unwrap();
        assert!(refused >= n as f64 + 1.0, "the file's watcher may have tried it too: {refused}");
        assert_eq!(live.get().await, "one");
    }
    std::fs::write(&live.path, config("127.0.0.1:0", one.address, "a", "")).unwrap();
    live.requests.reload().await.unwrap();
    live.wait("plimsoll_config_last_reload_successful", &[], 1.0).await;
}

#[tokio::test]
async fn buckets_and_alerts_of_the_same_owner_go_on_and_those_of_a_removed_one_lapse() {
    let (api, hook) = (Api::start().await, Webhook::start().await);
    api.script([Answer::Ok { remaining: 3_000 }]);
    let alerts = format!("alerts: {{alertmanagers: [{{url: 'http://{}'}}], hold_secs: 3}}\n", hook.address);
    let live = Live::start(&config("127.0.0.1:0", api.address, "search", &alerts)).await;
    let body = serde_json::json!({"model": "claude-opus-5-5", "messages": []});
    reqwest::Client::new().post(format!("http://{}/v1/messages", live.hop)).json(&body).send().await.unwrap();
    let started =
        |hook: &Webhook| hook.posts().last().and_then(|p| p.body[0]["startsAt"].as_str().map(str::to_owned));
    let first = wait_for("the alert", async || started(&hook)).await;
    // Thresholds change, the owner stays: the same alert goes on.
    let calmer = alerts.replace("hold_secs: 3", "hold_secs: 3, pressure_horizon_secs: 90");
    std::fs::write(&live.path, config("127.0.0.1:0", api.address, "search", &calmer)).unwrap();
    live.requests.reload().await.unwrap();
    let posts = hook.posts().len();
    wait_for("a post of the new generation", async || (hook.posts().len() > posts).then_some(())).await;
    assert_eq!(started(&hook).as_deref(), Some(first.as_str()));
    live.wait("plimsoll_limit", &["search", "input_tokens"], 100_000.0).await;
    // The owner goes: its alert is no longer posted, and never as ended.
    std::fs::write(&live.path, config("127.0.0.1:0", api.address, "other", &calmer)).unwrap();
    live.requests.reload().await.unwrap();
    wait_for("the bucket to go", async || {
        live.metric("plimsoll_limit", &["\"search\""]).await.is_none().then_some(())
    })
    .await;
    let ends = |post: &crate::support::webhook::Post| {
        post.body[0]["endsAt"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap()
    };
    assert!(hook.posts().iter().all(|p| ends(p) > p.received - jiff::SignedDuration::from_secs(1)));
}

#[tokio::test]
async fn listeners_come_and_go_and_calls_on_them_end() {
    let one = answering("one").await;
    let live = Live::start(&config("127.0.0.1:0", one.address, "a", "")).await;
    let spare = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
    let two =
        format!("- bind: {spare}\n  routes: [{{name: spare, upstream: 'http://{}'}}]\nowners:", one.address);
    let text = config("127.0.0.1:0", one.address, "a", "").replace("owners:", &two);
    std::fs::write(&live.path, &text).unwrap();
    live.requests.reload().await.unwrap();
    assert_eq!(reqwest::get(format!("http://{spare}/")).await.unwrap().text().await.unwrap(), "one");
    std::fs::write(&live.path, config("127.0.0.1:0", one.address, "a", "")).unwrap();
    live.requests.reload().await.unwrap();
    wait_for("the port to close", async || {
        tokio::net::TcpStream::connect(spare).await.is_err().then_some(())
    })
    .await;
    assert_eq!(live.get().await, "one");
}

/// A ConfigMap as the kubelet mounts it: `plimsoll.yaml -> ..data/plimsoll.yaml`, `..data -> ..1`.
#[tokio::test]
async fn a_configmaps_swap_is_noticed_and_a_vanished_directory_is_survived() {
    let (one, two) = (answering("one").await, answering("two").await);
    let dir = tempfile::tempdir().unwrap();
    let mount = dir.path().join("mount");
    let version = |n: u32, text: &str| {
        let data = mount.join(format!("..{n}"));
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("plimsoll.yaml"), text).unwrap();
        let link = mount.join("..data_tmp");
        std::os::unix::fs::symlink(format!("..{n}"), &link).unwrap();
        std::fs::rename(link, mount.join("..data")).unwrap();
    };
    let first = config("127.0.0.1:0", one.address, "a", "");
    version(1, &first);
    std::os::unix::fs::symlink("..data/plimsoll.yaml", mount.join("plimsoll.yaml")).unwrap();
    let live = Live::at(dir, mount.join("plimsoll.yaml"), &first).await;
    version(2, &config("127.0.0.1:0", two.address, "a", ""));
    wait_for("the new upstream", async || (live.get().await == "two").then_some(())).await;
    std::fs::remove_dir_all(&mount).unwrap();
    live.wait("plimsoll_config_last_reload_successful", &[], 0.0).await;
    assert_eq!(live.get().await, "two", "it runs on as it was");
    version(3, &first);
    std::os::unix::fs::symlink("..data/plimsoll.yaml", mount.join("plimsoll.yaml")).unwrap();
    wait_for("the directory to be found again", async || (live.get().await == "one").then_some(())).await;
}

#[tokio::test]
async fn the_admin_port_reloads_and_explains() {
    let (one, two) = (answering("one").await, answering("two").await);
    let live = Live::start(&config("127.0.0.1:0", one.address, "a", "")).await;
    let admin = config::Admin { bind: ([127, 0, 0, 1], 0).into(), token: None, allowed_hosts: Vec::new() };
    let control = Control::bind(admin, Some(live.requests.clone()), None, None).await.unwrap();
    let url = format!("http://{}/-/reload", control.address);
    tokio::spawn(control.serve());
    let post = || reqwest::Client::new().post(&url).send();
    std::fs::write(&live.path, config("127.0.0.1:0", two.address, "a", "")).unwrap();
    assert_eq!(post().await.unwrap().status(), 200);
    assert_eq!(live.get().await, "two");
    std::fs::write(&live.path, "alerts: {hold_secs: soon}\n").unwrap();
    let refused = post().await.unwrap();
    assert_eq!(refused.status(), 422);
    assert!(refused.text().await.unwrap().contains("line 1"), "with the place");
    assert_eq!(reqwest::get(&url).await.unwrap().status(), 405);
}

#[test]
fn a_token_is_needed_where_others_can_reach_the_port() {
    let problem =
        Config::parse("admin: {bind: '0.0.0.0:9430'}\n", &|_| None).expect_err("no token").to_string();
    assert!(problem.contains("admin.bind") && problem.contains("admin.token"), "{problem}");
}

/// Writers truncate a file before they fill it: what is read in between is no configuration, though
/// an empty file means the defaults at the start.
#[tokio::test]
async fn an_emptied_file_is_refused() {
    let one = answering("one").await;
    let live = Live::start(&config("127.0.0.1:0", one.address, "a", "")).await;
    for emptied in ["", "\n# nothing yet\n"] {
        std::fs::write(&live.path, emptied).unwrap();
        let refused = live.requests.reload().await.unwrap_err();
        assert!(refused.contains("empty"), "{refused}");
        assert_eq!(live.get().await, "one");
    }
}

/// An API that asks for a key, and remembers which it was shown.
async fn keyed() -> (std::net::SocketAddr, Arc<std::sync::Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (address, shown) = (listener.local_addr().unwrap(), Arc::new(std::sync::Mutex::new(Vec::new())));
    let seen = shown.clone();
    crate::support::serve_http1(listener, move |request: http::Request<hyper::body::Incoming>| {
        let key = request.headers().get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default();
        seen.lock().unwrap().push(key.to_owned());
        let body =
            r#"{"data":{"total_credits":10,"total_usage":1,"limit":10,"limit_remaining":9,"usage":1}}"#;
        async move { http::Response::new(http_body_util::Full::from(body)) }
    });
    (address, shown)
}

#[tokio::test]
async fn a_rotated_key_is_shown_from_the_reload_on_and_other_pollers_are_left_alone() {
    let (one, (rotated, keys), (other, others)) = (answering("one").await, keyed().await, keyed().await);
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    std::fs::write(&first, "sk-or-old").unwrap();
    std::fs::write(&second, "sk-or-other").unwrap();
    let gateway = |name: &str, address: std::net::SocketAddr, key: &std::path::Path| {
        format!(
            "  - {{name: {name}, kind: openrouter, url: 'http://{address}', key: {{file: {}}}, interval_secs: 86400}}\n",
            key.display()
        )
    };
    let pollers =
        format!("pollers:\n  gateways:\n{}{}", gateway("a", rotated, &first), gateway("b", other, &second));
    let text = config("127.0.0.1:0", one.address, "a", &pollers);
    let live = Live::start(&text).await;
    let shown = |keys: &Arc<std::sync::Mutex<Vec<String>>>, key: &str| {
        let keys = keys.lock().unwrap();
        keys.iter().filter(|shown| shown.ends_with(key)).count()
    };
    wait_for("both to be asked", async || {
        (shown(&keys, "sk-or-old") > 0 && shown(&others, "sk-or-other") > 0).then_some(())
    })
    .await;
    live.wait("plimsoll_source_up", &["gateway:a"], 1.0).await;
    live.wait("plimsoll_source_up", &["gateway:b"], 1.0).await;
    let asked = others.lock().unwrap().len();
    std::fs::write(&first, "sk-or-new").unwrap();
    assert_eq!(live.requests.reload().await.unwrap(), Vec::<&str>::new(), "nothing waits");
    wait_for("the new key", async || (shown(&keys, "sk-or-new") > 0).then_some(())).await;
    assert_eq!(keys.lock().unwrap().last().unwrap(), "Bearer sk-or-new");
    assert_eq!(others.lock().unwrap().len(), asked, "what did not change is not asked anew");
    // One that goes is nobody's source any more.
    let without = text.replace(&gateway("b", other, &second), "");
    std::fs::write(&live.path, without).unwrap();
    assert_eq!(live.requests.reload().await.unwrap(), Vec::<&str>::new());
    wait_for("it to be forgotten", async || {
        live.metric("plimsoll_source_up", &["gateway:b"]).await.is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_waits_for_the_next_start_is_said_by_the_answer_the_page_and_the_state() {
    let one = answering("one").await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plimsoll.yaml");
    let text = config("127.0.0.1:0", one.address, "a", "admin: {bind: '127.0.0.1:0'}\n");
    std::fs::write(&path, &text).unwrap();
    let Sidecar { mut running, .. } = Sidecar::start(&text).await;
    let (mut reloader, requests) = Reloader::new(&path, |_| None);
    let admin = running.open_control(Some(requests)).await.unwrap().unwrap();
    tokio::spawn(async move { reloader.run(&mut running).await });
    let get =
        async |path: &str| reqwest::get(format!("http://{admin}{path}")).await.unwrap().text().await.unwrap();
    let reload = async || {
        let answer = reqwest::Client::new().post(format!("http://{admin}/-/reload")).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    std::fs::write(&path, format!("{text}limits: {{totals: 7}}\notlp: {{span_ratio: 1}}\n")).unwrap();
    let (status, said) = reload().await;
    assert!(status == 200 && said.contains("wait for the next start: otlp, limits.totals"), "{said}");
    let state: serde_json::Value = serde_json::from_str(&get("/v1/state").await).unwrap();
    assert_eq!(state["needs_restart"], serde_json::json!(["otlp", "limits.totals"]));
    assert!(get("/sources").await.contains("otlp, limits.totals"));
    // What is taken back waits no longer.
    std::fs::write(&path, &text).unwrap();
    assert_eq!(reload().await, (200, "Reloaded.\n".to_owned()));
    assert!(!get("/sources").await.contains("limits.totals"));
}
