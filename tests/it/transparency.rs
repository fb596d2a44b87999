//! The hop keeps what passes: bytes, names, order, timing, endings.

use crate::support::raw::{Conn, Upstream, header};
use crate::support::{Sidecar, wait_for};
use std::sync::Arc;
use tokio::sync::{Notify, mpsc};

/// Runs one request of exact bytes through the hop; returns the head that the upstream saw and
/// everything that the client got.
async fn exchange(request: &str, answer: &str) -> (String, String) {
    let (tx, mut heads) = mpsc::unbounded_channel();
    let answer = answer.to_owned();
    let upstream = Upstream::start(move |mut conn: Conn| {
        let (tx, answer) = (tx.clone(), answer.clone());
        async move {
            while let Some(head) = conn.head().await {
                let length = header(&head, "content-length").map_or(0, |l| l.parse().unwrap());
                let body = conn.exactly(length).await;
                tx.send(head + &String::from_utf8_lossy(&body)).unwrap();
                conn.write(&answer).await;
                if !answer.contains("ontent-") && !answer.contains("chunked") {
                    return;
                }
            }
        }
    })
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client.write(request).await;
    let seen = heads.recv().await.unwrap();
    let (got, _) = client.rest().await;
    sidecar.wait_metric("plimsoll_in_flight", &[], 0.0).await;
    sidecar.running.shutdown().await;
    (seen, String::from_utf8(got).unwrap())
}

#[tokio::test]
async fn heads_keep_names_values_and_order_both_ways() {
    let (seen, got) = exchange(
        "POST /v1/messages?beta=true HTTP/1.1\r\nHost: localhost:8429\r\nX-Api-Key: sk-1\r\nanthropic-VERSION: 2023-06-01\r\nX-Twice: a\r\nX-Twice: b\r\nContent-Length: 2\r\nUser-Agent: T/1\r\nConnection: close\r\n\r\n{}",
        "HTTP/1.1 200 Fine By Me\r\nContent-Length: 2\r\nRequest-Id: req_1\r\nX-ODD: 1\r\nx-odd: 2\r\nServer: s\r\n\r\nok",
    )
    .await;
    let host = header(&seen, "host").unwrap().to_owned();
    assert!(host.starts_with("127.0.0.1:"), "the upstream's own name: {host}");
    assert_eq!(
        seen,
        format!(
            "POST /v1/messages?beta=true HTTP/1.1\r\nHost: {host}\r\nX-Api-Key: sk-1\r\nanthropic-VERSION: 2023-06-01\r\nX-Twice: a\r\nX-Twice: b\r\nContent-Length: 2\r\nUser-Agent: T/1\r\n\r\n{{}}"
        )
    );
    assert_eq!(
        got,
        "HTTP/1.1 200 Fine By Me\r\nContent-Length: 2\r\nRequest-Id: req_1\r\nX-ODD: 1\r\nx-odd: 2\r\nServer: s\r\nconnection: close\r\n\r\nok"
    );
}

#[tokio::test]
async fn error_bodies_pass_untouched() {
    let body =
        "{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"caf\u{e9} \u{2019}\"}}";
    let answer = format!(
        "HTTP/1.1 429 Too Many Requests\r\nretry-after: 16\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (_, got) = exchange("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", &answer).await;
    assert!(got.starts_with("HTTP/1.1 429 Too Many Requests\r\nretry-after: 16\r\n"));
    assert!(got.ends_with(body));
}

#[tokio::test]
async fn hop_by_hop_headers_end_here() {
    let (seen, got) = exchange(
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: close, x-mine\r\nx-mine: 1\r\nkeep-alive: 5\r\nproxy-authorization: p\r\nte: trailers\r\nx-last: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nconnection: x-yours\r\nx-yours: 1\r\nkeep-alive: timeout=5\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    for gone in ["x-mine", "keep-alive", "proxy-authorization"] {
        assert_eq!(header(&seen, gone), None, "{gone}");
    }
    assert_eq!(header(&seen, "te"), Some("trailers"), "trailers pass, so their announcement does");
    assert_eq!(header(&seen, "x-last"), Some("1"));
    assert_eq!((header(&got, "x-yours"), header(&got, "keep-alive")), (None, None));
}

#[tokio::test]
async fn a_head_request_keeps_the_length_of_what_it_did_not_get() {
    let (seen, got) = exchange(
        "HEAD /api/hello HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n",
    )
    .await;
    assert!(seen.starts_with("HEAD /api/hello HTTP/1.1"));
    assert_eq!(header(&got, "content-length"), Some("1234"));
    assert!(got.ends_with("\r\n\r\n"));
}

#[tokio::test]
async fn empty_bodies_stay_empty_and_zero_lengths_stay_written() {
    let (seen, got) = exchange(
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nx-content-: y\r\n\r\n",
    )
    .await;
    assert_eq!(header(&seen, "content-length"), Some("0"));
    assert!(got.starts_with("HTTP/1.1 204 No Content") && got.ends_with("\r\n\r\n"));
    let (seen, _) = exchange(
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    assert_eq!(header(&seen, "content-length"), None, "nothing is invented");
    assert_eq!(header(&seen, "transfer-encoding"), None);
}

#[tokio::test]
async fn an_answer_without_a_length_ends_with_its_connection() {
    let (_, got) = exchange(
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: y\r\n\r\nto the end",
    )
    .await;
    assert!(got.contains("to the end"), "{got}");
}

#[tokio::test]
async fn old_clients_and_absolute_targets_are_served() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let (seen, got) = exchange("GET /old HTTP/1.0\r\n\r\n", answer).await;
    assert!(seen.starts_with("GET /old HTTP/1.1\r\n") && header(&seen, "host").is_some());
    assert!(got.ends_with("ok"));
    let (seen, _) = exchange(
        "GET http://elsewhere.example/p?q HTTP/1.1\r\nhost: elsewhere.example\r\nconnection: close\r\n\r\n",
        answer,
    )
    .await;
    assert!(seen.starts_with("GET /p?q HTTP/1.1\r\n"), "{seen}");
}

#[tokio::test]
async fn connect_is_refused_with_a_word_on_what_to_do() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client.write("CONNECT api.anthropic.com:443 HTTP/1.1\r\nhost: api.anthropic.com:443\r\n\r\n").await;
    let head = client.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 405"), "{head}");
    let length = header(&head, "content-length").unwrap().parse().unwrap();
    assert!(String::from_utf8(client.exactly(length).await).unwrap().contains("base URL"));
}

#[tokio::test]
async fn the_body_of_an_expectation_waits_for_its_continue() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client.write("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
    assert_eq!(client.head().await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.write("body").await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn chunks_and_trailers_pass_both_ways() {
    let (tx, mut bodies) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |mut conn: Conn| {
        let tx = tx.clone();
        async move {
            let head = conn.head().await.unwrap();
            assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
            tx.send(conn.until("\r\n\r\n").await.unwrap()).unwrap();
            conn.write("HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n").await;
        }
    })
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client
        .write("POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\ntrailer: x-up\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nhello\r\n0\r\nx-up: 1\r\n\r\n")
        .await;
    let body = bodies.recv().await.unwrap();
    assert!(body.contains("hello") && body.ends_with("0\r\nx-up: 1\r\n\r\n"), "{body:?}");
    let (got, _) = client.rest().await;
    let got = String::from_utf8(got).unwrap();
    assert!(got.contains("abc") && got.ends_with("0\r\nx-sum: 6\r\n\r\n"), "{got:?}");
}

/// Each event is with the client before the upstream sends the next one.
#[tokio::test]
async fn events_pass_one_by_one() {
    let next = Arc::new(Notify::new());
    let gate = next.clone();
    let upstream = Upstream::start(move |mut conn: Conn| {
        let gate = gate.clone();
        async move {
            conn.head().await.unwrap();
            conn.write(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
            )
            .await;
            for event in ["event: ping\ndata: {}\n\n", "event: message_stop\ndata: {}\n\n"] {
                conn.write(format!("{:x}\r\n{event}\r\n", event.len())).await;
                gate.notified().await;
            }
            conn.write("0\r\n\r\n").await;
        }
    })
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client.write("POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await;
    assert!(client.head().await.unwrap().contains("text/event-stream"));
    assert!(client.until("data: {}\n\n").await.unwrap().contains("event: ping"));
    next.notify_one();
    assert!(client.until("data: {}\n\n").await.unwrap().contains("event: message_stop"));
    next.notify_one();
    assert!(client.until("0\r\n\r\n").await.is_some());
}

/// A request's body is with the upstream before the client has sent all of it.
#[tokio::test]
async fn request_bodies_stream_up() {
    let (tx, mut parts) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |mut conn: Conn| {
        let tx = tx.clone();
        async move {
            conn.head().await.unwrap();
            tx.send(conn.exactly(5).await).unwrap();
            tx.send(conn.exactly(5).await).unwrap();
            conn.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
    })
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nfirst").await;
    assert_eq!(parts.recv().await.unwrap(), b"first");
    client.write("other").await;
    assert_eq!(parts.recv().await.unwrap(), b"other");
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 200"));
}

/// An answer that comes before the request's body has ended is passed at once.
#[tokio::test]
async fn an_early_refusal_does_not_wait_for_the_body() {
    let upstream = Upstream::start(|mut conn: Conn| async move {
        conn.head().await.unwrap();
        conn.write("HTTP/1.1 413 Payload Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig")
            .await;
    })
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nstart").await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 413"));
    assert_eq!(client.exactly(3).await, b"big");
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_upstream() {
    let (tx, mut ended) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |mut conn: Conn| {
        let tx = tx.clone();
        async move {
            conn.head().await.unwrap();
            conn.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n").await;
            conn.rest().await;
            tx.send(()).unwrap();
        }
    })
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    for after_head in [true, false] {
        let mut client = Conn::connect(sidecar.hop).await;
        client.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await;
        if after_head {
            client.until("x").await.unwrap();
        } else {
            wait_for("the call in flight", async || {
                (sidecar.metric("plimsoll_in_flight", &[]).await == Some(1.0)).then_some(())
            })
            .await;
        }
        drop(client);
        ended.recv().await.unwrap();
    }
    sidecar.wait_metric("plimsoll_in_flight", &[], 0.0).await;
    sidecar.wait_metric("plimsoll_requests_total", &[], 2.0).await;
}

#[tokio::test]
async fn an_upstream_that_breaks_off_breaks_the_answer_off() {
    let upstream = Upstream::start(|mut conn: Conn| async move {
        let head = conn.head().await.unwrap();
        let framing = if head.starts_with("GET /chunked") {
            "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
        } else {
            "content-length: 100\r\n\r\nhello"
        };
        conn.write(format!("HTTP/1.1 200 OK\r\n{framing}")).await;
        // Dropped here: the answer never gets its end.
    })
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    for path in ["/chunked", "/length"] {
        let mut client = Conn::connect(sidecar.hop).await;
        client.write(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        client.head().await.unwrap();
        let (got, _) = client.rest().await;
        let got = String::from_utf8(got).unwrap();
        assert!(got.contains("hello") && !got.contains("0\r\n\r\n"), "no end is invented: {got:?}");
    }
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    for _ in 0..20 {
        client.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody").await;
        assert!(client.head().await.unwrap().starts_with("HTTP/1.1 200"));
        client.exactly(2).await;
    }
    assert_eq!(*upstream.connections.lock().unwrap(), 1);
}

#[tokio::test]
async fn routes_are_told_apart_by_prefix_and_listener() {
    let one = Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none").await;
    let two = Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\ntwo").await;
    let config = format!(
        "metrics: {{bind: '127.0.0.1:0'}}\nlisteners:\n- bind: 127.0.0.1:0\n  routes:\n  - {{name: a, upstream: 'http://{}'}}\n  - {{name: b, prefix: /b, strip_prefix: true, upstream: 'http://{}/base'}}\n- bind: 127.0.0.1:0\n  routes:\n  - {{name: c, prefix: /only, upstream: 'http://{}'}}\n",
        one.address, two.address, one.address
    );
    let sidecar = Sidecar::start(&config).await;
    let client = reqwest::Client::new();
    for (hop, path, wanted) in
        [(0, "/x", "one"), (0, "/b/x", "two"), (0, "/bx", "one"), (1, "/only/x", "one")]
    {
        let url = format!("http://{}{path}", sidecar.running.hops()[hop]);
        assert_eq!(client.post(url).send().await.unwrap().text().await.unwrap(), wanted, "{hop} {path}");
    }
    let missing = reqwest::get(format!("http://{}/x", sidecar.running.hops()[1])).await.unwrap();
    assert_eq!(missing.status(), 404);
    assert!(missing.text().await.unwrap().contains("No route"));
    for route in ["a", "b", "c"] {
        let wanted = if route == "a" { 2.0 } else { 1.0 };
        sidecar
            .wait_metric("plimsoll_requests_total", &[&format!("plimsoll_route=\"{route}\"")], wanted)
            .await;
    }
}
