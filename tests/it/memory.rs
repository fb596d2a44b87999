//! All memory in total: the process in what the chart allows it, against peers that cost as much as they can.

use crate::support::memory::Confined;
use crate::support::raw::{Conn, Upstream, header};
use crate::support::{h2, route_to, wait_for};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::SockRef;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// So many MiB of zeros as br, 5 kB for each of them: as the client reads them they unpack to the
/// whole window, and no frame of them to more than is read of one.
fn br(window_log: i32, extension: bool, mib: usize) -> Vec<u8> {
    let params = brotli::enc::BrotliEncoderParams {
        quality: 1,
        lgwin: window_log,
        large_window: extension,
        ..Default::default()
    };
    let mut encoder = brotli::CompressorWriter::with_params(Vec::new(), 4096, &params);
    let mut flushed = || {
        encoder.write_all(&vec![0; 1 << 20]).unwrap();
        encoder.flush().unwrap();
        std::mem::take(encoder.get_mut())
    };
    let (first, next) = (flushed(), flushed());
    // A block that carries nothing (RFC 7932, 9.2).
    const SKIPPED: usize = 5_000;
    let mut skip = (((3_u32 << 1) | (2 << 4) | ((SKIPPED as u32 - 1) << 6)).to_le_bytes()[..3]).to_vec();
    skip.extend([b'x'; SKIPPED]);
    let mut body = first;
    (1..mib).for_each(|_| body.extend([&skip[..], &next].concat()));
    body
}

/// So many MiB of zeros as zstd; of few bytes, so that they come as one frame.
fn zst(window_log: u32, mib: usize) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(window_log).unwrap();
    for _ in 0..mib {
        encoder.write_all(&vec![0; 1 << 20]).unwrap();
        encoder.flush().unwrap();
    }
    encoder.get_ref().clone()
}

/// An upstream whose path says which body it answers, and which ends none of them before its time.
async fn holding(bodies: Vec<(&'static str, Vec<u8>)>, end: watch::Receiver<bool>) -> Upstream {
    let bodies = Arc::new(bodies);
    Upstream::start(move |mut conn: Conn| {
        let (bodies, mut end) = (bodies.clone(), end.clone());
        async move {
            let Some(head) = conn.head().await else { return };
            let (n, coding) = head.split('/').nth(1).unwrap().split_once(' ').unwrap().0.split_once('-').unwrap();
            let body = &bodies[n.parse::<usize>().unwrap()].1;
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: {coding}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                body.len() + 1
            );
            conn.write(answer).await;
            // Small parts: each is a frame, of which only so much is decoded.
            for part in body.chunks(10_000) {
                conn.write(part).await;
            }
            end.wait_for(|end| *end).await.unwrap();
            conn.write("!").await;
        }
    })
    .await
}

/// Two responses with a large window, twenty ordinary ones and many of zstd, all open at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_decoders_together_stay_within_their_budget() {
    let bodies = vec![
        ("br", br(28, true, 200)),
        ("br", br(24, false, 18)),
        ("br", br(22, false, 6)),
        ("zstd", zst(23, 7)),
    ];
    let (end, ending) = watch::channel(false);
    let upstream = holding(bodies.clone(), ending).await;
    let mut sidecar = Confined::start(&route_to(upstream.address)).await;
    let passed = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut readers = JoinSet::new();
    let kinds = [(0, 2), (1, 20), (2, 20), (3, 30)];
    for n in kinds.into_iter().flat_map(|(n, times)| std::iter::repeat_n(n, times)) {
        let (coding, wanted, passed) = (bodies[n].0, bodies[n].1.clone(), passed.clone());
        let mut client = Conn::connect(sidecar.hop).await;
        readers.spawn(async move {
            client
                .write(format!("POST /{n}-{coding} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"))
                .await;
            client.head().await.unwrap();
            assert!(client.exactly(wanted.len()).await == wanted, "the response passes as it came");
            passed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(client.exactly(1).await, b"!", "to its end");
        });
    }
    let all: usize = kinds.iter().map(|(_, times)| times).sum();
    wait_for("all responses to be open", async || {
        while let Some(ended) = readers.try_join_next() {
            ended.unwrap();
        }
        (passed.load(std::sync::atomic::Ordering::Relaxed) == all).then_some(())
    })
    .await;
    sidecar.assert_well("72 decoders").await;
    end.send(true).unwrap();
    while let Some(ended) = readers.join_next().await {
        ended.unwrap();
    }
    wait_for("all responses to be counted", async || {
        (sidecar.metric("plimsoll_requests_total", &[]).await == all as f64).then_some(())
    })
    .await;
    let unread = sidecar.metric("plimsoll_bodies_unread_total", &[]).await;
    let unmeasured = sidecar.metric("plimsoll_bodies_unmeasured_total", &[]).await;
    assert_eq!(unread, 22.0, "large windows, and nothing else");
    assert!((20.0..50.0).contains(&unmeasured), "{unmeasured}: some of the others had no room");
    // And then there is room again.
    for _ in 0..7 {
        let mut client = Conn::connect(sidecar.hop).await;
        client.write("POST /3-zstd HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await;
        client.head().await.unwrap();
        client.exactly(bodies[3].1.len() + 1).await;
    }
    wait_for("the later ones to be counted", async || {
        (sidecar.metric("plimsoll_requests_total", &[]).await == all as f64 + 7.0).then_some(())
    })
    .await;
    assert_eq!(sidecar.metric("plimsoll_bodies_unmeasured_total", &[]).await, unmeasured);
}

/// An upstream that sends without end to whoever asks for `/endless`, never reads what is sent to `/deaf`, and answers
/// everything else.
async fn upstream_of_all_kinds() -> Upstream {
    Upstream::start(|mut conn: Conn| async move {
        // What the kernel holds is the whole machine's, and other tests need of it too.
        SockRef::from(&conn.stream).set_send_buffer_size(32 * 1024).unwrap();
        SockRef::from(&conn.stream).set_recv_buffer_size(32 * 1024).unwrap();
        while let Some(head) = conn.head().await {
            if head.contains("/endless") {
                let answer =
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000000000\r\n\r\n";
                let zeros = [b'0'; 64 * 1024];
                let mut stream = conn.stream;
                let mut sent = stream.write_all(answer.as_bytes()).await;
                while sent.is_ok() {
                    sent = stream.write_all(&zeros).await;
                }
                return;
            }
            if head.contains("/deaf") {
                std::future::pending::<()>().await;
            }
            let length = header(&head, "content-length").map_or(0, |l| l.parse().unwrap());
            conn.exactly(length).await;
            let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
            if conn.stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// Peers that hold what they can until they are dropped.
type Hostile = JoinSet<()>;

/// Asks, and never reads.
async fn stalled_readers(hop: SocketAddr, n: usize, hostile: &mut Hostile) {
    for _ in 0..n {
        let mut client = Conn::connect(hop).await;
        SockRef::from(&client.stream).set_recv_buffer_size(32 * 1024).unwrap();
        hostile.spawn(async move {
            client.write("POST /endless HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await;
            std::future::pending().await
        });
    }
}

/// Sends as much as is taken, to an upstream that does not read.
async fn stalled_uploads(hop: SocketAddr, n: usize, hostile: &mut Hostile) {
    for _ in 0..n {
        let mut client = Conn::connect(hop).await;
        SockRef::from(&client.stream).set_send_buffer_size(32 * 1024).unwrap();
        hostile.spawn(async move {
            client.write("POST /deaf HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n").await;
            let zeros = [b'0'; 64 * 1024];
            while client.stream.write_all(&zeros).await.is_ok() {}
            std::future::pending().await
        });
    }
}

/// Opens as many streams as it may, and grants none of them a window.
async fn streams_without_a_window(hop: SocketAddr, connections: usize, hostile: &mut Hostile) {
    for _ in 0..connections {
        let stream = TcpStream::connect(hop).await.unwrap();
        let mut client = http2::Builder::new(TokioExecutor::new());
        client.initial_stream_window_size(0);
        let (sender, connection) = client.handshake(TokioIo::new(stream)).await.unwrap();
        hostile.spawn(async move { drop(connection.await) });
        for _ in 0..1_000 {
            let mut sender = sender.clone();
            hostile.spawn(async move {
                let request = http::Request::post("http://a/endless").body(h2::full("")).unwrap();
                let held = sender.send_request(request).await;
                std::future::pending::<()>().await;
                drop(held);
            });
        }
    }
}

/// One request as ordinary clients send it: true if it was served, false if it got the one answer that it may get.
async fn is_served(client: &reqwest::Client, hop: SocketAddr) -> bool {
    let request = client.post(format!("http://{hop}/v1/messages")).body("x".repeat(200_000));
    let answer = request.send().await.expect("an answer");
    if answer.status() == 200 {
        return true;
    }
    let header = |name: &str| answer.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
    assert_eq!(answer.status(), 503);
    assert_eq!(header("retry-after").as_deref(), Some("1"));
    assert_eq!(header("retry-after-ms").as_deref(), Some("1000"));
    assert_eq!(header("x-plimsoll-answered").as_deref(), Some("true"));
    let body: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(body["type"], "error", "{body}");
    assert!(body["error"]["message"].as_str().unwrap().starts_with("plimsoll: "), "{body}");
    false
}

/// Lets hostile peers come, until what the sidecar holds grows no more; then it is well. Once they have gone it serves
/// as before.
async fn survives<F>(name: &str, come: impl FnOnce(SocketAddr, Hostile) -> F)
where
    F: Future<Output = Hostile>,
{
    let upstream = upstream_of_all_kinds().await;
    let mut sidecar = Confined::start(&route_to(upstream.address)).await;
    let client = reqwest::Client::new();
    assert!(is_served(&client, sidecar.hop).await);
    sidecar.assert_well(&format!("{name}, before")).await;
    let hostile = come(sidecar.hop, Hostile::new()).await;
    let (mut served, mut refused) = (0, 0);
    let (mut most, mut since) = (0, 0);
    // So many requests in a row after which nothing more is held.
    while since < 100 {
        match is_served(&client, sidecar.hop).await {
            true => served += 1,
            false => refused += 1,
        }
        let now = sidecar.peak();
        since = if now > most + (1 << 20) { 0 } else { since + 1 };
        most = most.max(now);
    }
    sidecar.assert_well(&format!("{name}, {served} served and {refused} refused")).await;
    let counted = sidecar.metric("plimsoll_overload_rejections_total", &[]).await;
    assert!(counted >= f64::from(refused), "{counted} counted, {refused} refused");
    drop(hostile);
    let mut in_a_row = 0;
    wait_for("ordinary service", async || {
        in_a_row = if is_served(&client, sidecar.hop).await { in_a_row + 1 } else { 0 };
        (in_a_row == 20).then_some(())
    })
    .await;
    sidecar.assert_well(&format!("{name}, after")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_stall_do_not_end_the_process() {
    survives("stalled readers", async |hop, mut hostile| {
        stalled_readers(hop, 400, &mut hostile).await;
        hostile
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_to_upstreams_that_stall_do_not_end_the_process() {
    survives("stalled uploads", async |hop, mut hostile| {
        stalled_uploads(hop, 400, &mut hostile).await;
        hostile
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2_streams_without_a_window_do_not_end_the_process() {
    survives("h2 without a window", async |hop, mut hostile| {
        streams_without_a_window(hop, 5, &mut hostile).await;
        hostile
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_them_together_do_not_end_the_process() {
    survives("all together", async |hop, mut hostile| {
        streams_without_a_window(hop, 5, &mut hostile).await;
        stalled_readers(hop, 400, &mut hostile).await;
        stalled_uploads(hop, 400, &mut hostile).await;
        hostile
    })
    .await;
}
