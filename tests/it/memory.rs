//! All memory in total: the process in what the chart allows it, against peers that cost as much as they can.

use crate::support::memory::Confined;
use crate::support::raw::{Conn, Upstream};
use crate::support::{route_to, wait_for};
use std::io::Write;
use std::sync::Arc;
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
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: {coding}\r\ncontent-length: {}\r\n\r\n",
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
    eprintln!("not read {unread}, no memory for {unmeasured}");
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
