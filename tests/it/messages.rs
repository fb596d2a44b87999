//! What HTTP/1.1 has beside a head and a body: interim responses, trailers, codings, lengths, heads with very many
//! fields; and what is done with clients that leave.

use crate::support::h2;
use crate::support::raw::{Conn, Upstream, header};
use crate::support::{PATIENCE, Sidecar};
use http::Request;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, mpsc};

const OFFER: &str = "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// An upstream that answers the first request of each connection with these bytes.
async fn answering_once(answer: &'static str) -> Upstream {
    Upstream::start(move |mut conn: Conn| async move {
        conn.head().await.unwrap();
        conn.write(answer).await;
        conn.rest().await;
    })
    .await
}

/// One exchange; everything the client gets.
async fn all(upstream: &Upstream, request: &str) -> String {
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client.write(request).await;
    String::from_utf8(client.rest().await.0).unwrap()
}

#[tokio::test]
async fn a_client_is_asked_for_its_body_when_the_upstream_asks_and_not_before() {
    let (asked, may_ask) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (heard, waits) = (asked.clone(), may_ask.clone());
    let upstream = Upstream::start(move |mut conn: Conn| {
        let (heard, waits) = (heard.clone(), waits.clone());
        async move {
            let head = conn.head().await.unwrap();
            assert_eq!(header(&head, "expect"), Some("100-continue"));
            heard.notify_one();
            waits.notified().await;
            conn.write("HTTP/1.1 100 Continue\r\n\r\n").await;
            assert_eq!(conn.exactly(4).await, b"body");
            conn.write(OK).await;
        }
    })
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client.write(OFFER).await;
    tokio::time::timeout(PATIENCE, asked.notified()).await.unwrap();
    let mut nothing = [0; 1];
    let early = client.stream.try_read(&mut nothing);
    assert!(early.is_err(), "the client hears nothing before the upstream has spoken: {early:?}");
    may_ask.notify_one();
    assert_eq!(client.head().await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.write("body").await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn a_body_that_the_upstream_does_not_want_is_never_asked_for() {
    let refusal = "HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno";
    let upstream = answering_once(refusal).await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client.write(OFFER).await;
    let got = String::from_utf8(client.rest().await.0).unwrap();
    assert!(got.starts_with("HTTP/1.1 417") && got.ends_with("no"), "{got}");
    sidecar.wait_metric("plimsoll_in_flight", &[], 0.0).await;
}

/// An upstream that knows nothing of expectations gets the body after a second, as it would from the client itself.
#[tokio::test(start_paused = true)]
async fn an_upstream_that_never_asks_gets_the_body_all_the_same() {
    let upstream = Upstream::start(|mut conn: Conn| async move {
        conn.head().await.unwrap();
        assert_eq!(conn.exactly(4).await, b"body");
        conn.write(OK).await;
    })
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client.write(OFFER).await;
    assert_eq!(client.head().await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.write("body").await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn interim_responses_reach_the_client_in_their_order() {
    let upstream = answering_once(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    )
    .await;
    let get = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let got = all(&upstream, get).await;
    let lines: Vec<&str> =
        got.lines().filter(|l| l.starts_with("HTTP/1.1") || l.starts_with("link")).collect();
    let wanted = [
        "HTTP/1.1 100 Continue",
        "HTTP/1.1 102 Processing",
        "HTTP/1.1 103 Early Hints",
        "link: </a>",
        "HTTP/1.1 200 OK",
    ];
    assert_eq!(lines, wanted, "{got}");
    // A client of HTTP/1.0 does not know them.
    let got = all(&upstream, "GET / HTTP/1.0\r\nhost: a\r\n\r\n").await;
    assert_eq!(got.matches("HTTP/1.").count(), 1, "{got}");
}

/// An interim response comes while the upstream still thinks, not with the answer.
#[tokio::test]
async fn an_interim_response_is_not_held_until_the_answer() {
    let upstream = answering_once("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.head().await.unwrap(), "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
}

#[tokio::test]
async fn trailers_that_nobody_announced_pass_both_ways() {
    let (tx, mut bodies) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |mut conn: Conn| {
        let tx = tx.clone();
        async move {
            conn.head().await.unwrap();
            tx.send(conn.until("x-up: 1\r\n\r\n").await.unwrap()).unwrap();
            conn.write(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n",
            )
            .await;
            // The connection is in order behind them.
            conn.head().await.unwrap();
            conn.write(OK).await;
        }
    })
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client
        .write("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-up: 1\r\n\r\n")
        .await;
    let body = bodies.recv().await.unwrap();
    assert!(body.starts_with("5\r\nhello\r\n0\r\nx-up: 1"), "{body:?}");
    client.head().await.unwrap();
    assert_eq!(client.until("x-sum: 6\r\n\r\n").await.unwrap(), "3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n");
    client.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 200 OK"));
    assert_eq!(*upstream.connections.lock().unwrap(), 1);
}

#[tokio::test]
async fn what_has_not_changed_keeps_the_length_of_what_it_would_have_been() {
    let upstream =
        answering_once("HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\ncontent-length: 1234\r\n\r\n").await;
    let got = all(&upstream, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(got.starts_with("HTTP/1.1 304") && got.contains("content-length: 1234\r\n"), "{got}");
    assert!(got.ends_with("\r\n\r\n"), "{got}");
}

#[tokio::test]
async fn a_second_transfer_coding_is_kept_or_refused_and_never_dropped() {
    let (upstream, mut heads) = Upstream::recording(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    )
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client
        .write("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n")
        .await;
    let up = heads.recv().await.unwrap();
    assert_eq!(header(&up, "transfer-encoding"), Some("gzip, chunked"), "{up}");
    let down = client.head().await.unwrap();
    assert_eq!(header(&down, "transfer-encoding"), Some("gzip, chunked"), "{down}");
    // HTTP/2 has no place for it.
    let mut client = h2::client(sidecar.hop).await;
    let request = Request::get("http://localhost/").body(h2::full("")).unwrap();
    assert_eq!(client.send_request(request).await.unwrap().status(), 502);
}

#[tokio::test]
async fn equal_lengths_of_an_h2_client_go_up_once() {
    let (upstream, mut heads) = Upstream::recording(OK).await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = h2::client(sidecar.hop).await;
    let request = Request::post("http://localhost/")
        .header("content-length", "2")
        .header("content-length", "2")
        .body(h2::full("hi"))
        .unwrap();
    assert_eq!(client.send_request(request).await.unwrap().status(), 200);
    let head = heads.recv().await.unwrap();
    assert_eq!(head.matches("content-length").count(), 1, "{head}");
}

/// The bound of a head is its bytes, not the number of its fields.
#[tokio::test]
async fn heads_of_ten_thousand_fields_pass_both_ways() {
    let fields: String = (0..10_000).map(|i| format!("x-{i}: y\r\n")).collect();
    let (upstream, mut heads) =
        Upstream::recording(format!("HTTP/1.1 200 OK\r\n{fields}content-length: 2\r\n\r\nok")).await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client.write(format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n")).await;
    let up = heads.recv().await.unwrap();
    assert!(up.contains(&fields), "all fields, in their order");
    let down = client.head().await.unwrap();
    assert!(down.starts_with("HTTP/1.1 200 OK") && down.contains(&fields), "{}", &down[..200]);
}

/// An upload that the upstream does not read: once the client has left, nothing of it stays, even where the client's end
/// cannot be seen behind a full window. The clock is not waited for.
#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_during_a_stalled_upload_is_noticed() {
    let upstream = Upstream::start(|mut conn: Conn| async move {
        conn.head().await.unwrap();
        // Never reads the body; the end of the test ends it.
        std::future::pending::<()>().await;
    })
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Conn::connect(sidecar.hop).await;
        client.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n").await;
        clients.push(client);
    }
    in_flight(&sidecar, 20.0).await;
    let chunk = vec![b'x'; 64 * 1024];
    for client in &mut clients {
        // Until neither side's buffers take any more: held back all the way.
        while let Ok(Ok(_)) =
            tokio::time::timeout(std::time::Duration::from_millis(200), client.stream.write(&chunk)).await
        {
        }
    }
    drop(clients);
    // Of the paused clock.
    tokio::time::sleep(std::time::Duration::from_secs(70)).await;
    in_flight(&sidecar, 0.0).await;
}

/// Sends until neither side's buffers take any more: held back all the way.
async fn fill(client: &mut Conn) {
    let chunk = vec![b'x'; 64 * 1024];
    let moment = std::time::Duration::from_millis(200);
    while let Ok(Ok(_)) = tokio::time::timeout(moment, client.stream.write(&chunk)).await {}
}

/// Waits by looks: the metrics port has a thread of its own, which no paused clock waits for.
async fn in_flight(sidecar: &Sidecar, wanted: f64) {
    for _ in 0..5_000 {
        if sidecar.metric("plimsoll_in_flight", &[]).await == Some(wanted) {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{:?} in flight, not {wanted}", sidecar.metric("plimsoll_in_flight", &[]).await);
}

/// The upstream has answered, in part or whole, and takes nothing of the upload any more.
#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_during_an_upload_that_was_answered_is_noticed() {
    for answer in ["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", OK] {
        let upstream = Upstream::start(move |mut conn: Conn| async move {
            conn.head().await.unwrap();
            conn.write(answer).await;
            std::future::pending::<()>().await;
        })
        .await;
        let sidecar = Sidecar::to(upstream.address).await;
        let mut client = Conn::connect(sidecar.hop).await;
        client.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\nbegun").await;
        client.head().await.unwrap();
        fill(&mut client).await;
        drop(client);
        tokio::time::sleep(std::time::Duration::from_secs(70)).await;
        in_flight(&sidecar, 0.0).await;
    }
}

/// What a client has sent behind its request is not read before the answer: its leaving is seen all the same.
#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_behind_a_pipelined_byte_is_noticed() {
    for behind in ["\r\n", "GET / HTTP/1.1\r\nhost: a\r\n\r\n"] {
        let upstream = Upstream::start(|mut conn: Conn| async move {
            conn.head().await.unwrap();
            let (_, _) = conn.rest_patiently(std::time::Duration::from_secs(600)).await;
        })
        .await;
        let sidecar = Sidecar::to(upstream.address).await;
        let mut client = Conn::connect(sidecar.hop).await;
        client.write(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc{behind}")).await;
        in_flight(&sidecar, 1.0).await;
        drop(client);
        tokio::time::sleep(std::time::Duration::from_secs(30)).await;
        in_flight(&sidecar, 0.0).await;
    }
}

/// A client that says the beginning of a method that HTTP/2's preface shares, and leaves.
#[tokio::test]
async fn a_client_that_says_a_letter_and_leaves_is_let_go_at_once() {
    let upstream = answering_once(OK).await;
    let sidecar = Sidecar::to(upstream.address).await;
    for said in ["P", "PRI * HT", ""] {
        let mut client = Conn::connect(sidecar.hop).await;
        client.write(said).await;
        client.stream.shutdown().await.unwrap();
        // The proxy closes its end at once: far sooner than it waits for a head.
        let (got, _) = client.rest().await;
        assert!(got.is_empty(), "{said:?}");
    }
}

#[tokio::test]
async fn a_method_in_single_letters_is_put_together() {
    let upstream = answering_once(OK).await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    for letter in ["P", "RI", "SM / HTTP/1.1\r\nhost: a\r\n\r\n"] {
        client.write(letter).await;
        tokio::task::yield_now().await;
    }
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 200 OK"));
}

/// A drain gives a tunnel the time that it gives a request. The clock is not waited for.
#[tokio::test(start_paused = true)]
async fn a_tunnel_is_given_its_time_to_end_when_the_proxy_drains() {
    let upstream = Upstream::start(|mut conn: Conn| async move {
        conn.head().await.unwrap();
        conn.write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
            .await;
        conn.rest_patiently(std::time::Duration::from_secs(600)).await;
    })
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client.write("GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n").await;
    client.head().await.unwrap();
    let mut draining = tokio::spawn(sidecar.running.shutdown());
    let early = tokio::time::timeout(std::time::Duration::from_secs(15), &mut draining).await;
    assert!(early.is_err(), "the drain waits for the tunnel");
    drop(client);
    tokio::time::timeout(PATIENCE, draining).await.expect("the end of the tunnel ends the drain").unwrap();
}
