//! Health: answered whatever others do, and failed by nothing but threads that take up no work.

use crate::support::{Sidecar, wait_for};
use arc_swap::ArcSwap;
use plimsoll::admin::Admin;
use plimsoll::config::Semconv;
use plimsoll::engine::Snapshot;
use plimsoll::exporters::catalogue::Facts;
use plimsoll::exporters::genai::GenAi;
use plimsoll::limit::Timestamp;
use plimsoll::owner::Owners;
use plimsoll::stop;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

fn facts() -> Arc<Facts> {
    let owners = ArcSwap::from_pointee(Owners::new(Vec::new()));
    Arc::new(Facts { owners, stats: Arc::default(), genai: GenAi::new(Semconv::Off, None) })
}

async fn sidecar() -> Sidecar {
    Sidecar::to(([127, 0, 0, 1], 9).into()).await
}

/// How long a probe may wait: less than a head may take (10 s), so that waiting for the silent ones to be cut is a failure.
const PROBE: Duration = Duration::from_secs(8);

/// As a probe asks: on a connection of its own.
async fn probe(address: SocketAddr, path: &str) -> u16 {
    let asked = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: probe\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.split(' ').nth(1)?.parse().ok()
    };
    tokio::time::timeout(PROBE, asked).await.expect("a probe is answered").unwrap_or(0)
}

async fn both(address: SocketAddr) -> [u16; 2] {
    [probe(address, "/-/healthy").await, probe(address, "/-/ready").await]
}

#[tokio::test]
async fn health_is_answered_whatever_others_do_on_its_port() {
    let sidecar = sidecar().await;
    // Those that say nothing, those that say half of something, and those that ask and never read.
    for said in ["", "GET /-/healthy HTTP/1.1\r\nhost: x", "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let mut held = Vec::new();
        for _ in 0..200 {
            let mut stream = TcpStream::connect(sidecar.metrics).await.unwrap();
            // One that was cut for the next is none of our business here.
            drop(stream.write_all(said.as_bytes()).await);
            held.push(stream);
        }
        assert_eq!(both(sidecar.metrics).await, [200, 200], "{said:?}");
        assert_eq!(probe(sidecar.metrics, "/metrics").await, 200, "{said:?}");
    }
}

/// Whoever is answered again and again keeps its connection while others say nothing.
#[tokio::test]
async fn silent_connections_make_room_before_those_that_ask() {
    let sidecar = sidecar().await;
    let mut scraper = TcpStream::connect(sidecar.metrics).await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..10 {
        scraper.write_all(b"HEAD /-/ready HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0_u8; 12];
        scraper.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        let mut rest = [0_u8; 4_096];
        assert!(scraper.read(&mut rest).await.unwrap() > 0);
        for _ in 0..20 {
            silent.push(TcpStream::connect(sidecar.metrics).await.unwrap());
        }
    }
}

#[tokio::test]
async fn an_engine_that_stands_still_is_a_metric_and_fails_no_probe() {
    let long_ago = Snapshot { at: Timestamp::from_secs(1_790_000_000), ..Snapshot::default() };
    let (_snapshots, published) = watch::channel(Arc::new(long_ago));
    let admin = Admin::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = admin.address;
    let ((_stop_drain, drain), (_stop, quit)) = (stop::channel(), stop::channel());
    drop(admin.spawn(published, facts(), drain, quit));
    assert_eq!(both(address).await, [200, 200]);
    let text = reqwest::get(format!("http://{address}/metrics")).await.unwrap().text().await.unwrap();
    assert!(text.contains("\nplimsoll_engine_published_time_seconds 1790000000.0\n"), "{text}");
}

/// Blocks a thread of a runtime until told otherwise.
fn block(runtime: &tokio::runtime::Runtime) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel::<()>();
    let (begun_tx, begun) = mpsc::channel();
    runtime.spawn(async move {
        begun_tx.send(()).unwrap();
        released.recv().unwrap_or_default();
    });
    begun.recv().unwrap();
    release
}

#[test]
fn liveness_fails_only_while_no_thread_takes_up_work() {
    let traffic = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let ((_stop_drain, drain), (_stop, quit)) = (stop::channel(), stop::channel());
    let (_snapshots, published) = watch::channel(Arc::new(Snapshot::default()));
    let address = traffic.block_on(async {
        let admin = Admin::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = admin.address;
        drop(admin.spawn(published, facts(), drain, quit));
        address
    });
    let own = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let healthy = async |wanted: u16| {
        wait_for("health", async || (probe(address, "/-/healthy").await == wanted).then_some(())).await;
        // Readiness is about draining, and says so at once all the while.
        assert_eq!(probe(address, "/-/ready").await, 200);
    };
    let first = block(&traffic);
    own.block_on(healthy(200));
    let second = block(&traffic);
    own.block_on(healthy(503));
    drop(first);
    own.block_on(healthy(200));
    drop(second);
    traffic.shutdown_background();
}
