//! A request goes up again exactly where the protocol proves that it was not processed, counted at the wire: a model
//! call that is sent twice is paid twice.

use crate::support::raw::{Conn, Upstream, header};
use crate::support::{Sidecar, accept, route_to};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Posts `body` on a client's connection; the status.
async fn post(client: &mut Conn, body: &str) -> u16 {
    let length = body.len();
    client
        .write(format!("POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{body}"))
        .await;
    let head = client.head().await.expect("a response");
    let length = header(&head, "content-length").map_or(0, |l| l.parse().unwrap());
    client.exactly(length).await;
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Reads one request with its body.
async fn request(conn: &mut Conn) -> Option<String> {
    let head = conn.head().await?;
    let length = header(&head, "content-length").map_or(0, |l| l.parse().unwrap());
    let body = conn.exactly(length).await;
    Some(head + &String::from_utf8(body).unwrap())
}

/// Kept-alive connections that the upstream closes without a word, each right behind its response: the close races
/// with the next request, and every request is served once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_closed_silently_costs_no_request_and_sends_none_twice() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let upstream = Upstream::start(move |mut conn| {
        let counted = counted.clone();
        async move {
            if request(&mut conn).await.is_some() {
                counted.fetch_add(1, Relaxed);
                conn.write(OK).await;
            }
        }
    })
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    // Several at once, so that one takes a connection while another learns that it is closed.
    let clients = (0..4).map(|_| async {
        let mut client = Conn::connect(sidecar.hop).await;
        for length in [30_000, 0].into_iter().cycle().take(200) {
            assert_eq!(post(&mut client, &"x".repeat(length)).await, 200);
        }
    });
    futures_util::future::join_all(clients).await;
    assert_eq!(seen.load(Relaxed), 800);
}

/// The second request of the connection is taken, and no response comes: nothing proves that it was not processed.
#[tokio::test]
async fn a_request_of_which_a_byte_was_written_is_never_sent_again() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let upstream = Upstream::start(move |mut conn| {
        let noted = noted.clone();
        async move {
            let first = request(&mut conn).await.unwrap();
            noted.lock().unwrap().push(first);
            conn.write(OK).await;
            if let Some(second) = request(&mut conn).await {
                noted.lock().unwrap().push(second);
            }
        }
    })
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    assert_eq!(post(&mut client, "one").await, 200);
    assert_eq!(post(&mut client, "two").await, 502);
    assert_eq!(post(&mut client, "three").await, 200);
    let bodies: Vec<String> =
        seen.lock().unwrap().iter().map(|r| r.rsplit("\r\n\r\n").next().unwrap().to_owned()).collect();
    assert_eq!(bodies, ["one", "two", "three"]);
}

/// A box that closes idle connections with a word of its own: that word answers nobody's request.
#[tokio::test]
async fn what_an_upstream_says_on_an_idle_connection_is_no_response() {
    let first = Arc::new(AtomicUsize::new(0));
    let nth = first.clone();
    let upstream = Upstream::start(move |mut conn| {
        let nth = nth.fetch_add(1, Relaxed);
        async move {
            while request(&mut conn).await.is_some() {
                let idle =
                    if nth == 0 { "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n" } else { "" };
                conn.write(format!("{OK}{idle}")).await;
            }
        }
    })
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    for _ in 0..3 {
        assert_eq!(post(&mut client, "a").await, 200);
    }
    assert_eq!(*upstream.connections.lock().unwrap(), 2);
}

/// What an h2 upstream does with a request.
#[derive(Clone, Copy, PartialEq)]
enum Act {
    Answer,
    /// GOAWAY with this last stream, then the answer, if the stream is not above it.
    GoAway(u32),
    /// GOAWAY with this last stream, then the end of the connection.
    GoAwayAndClose(u32),
    Refuse,
}

/// Headers of requests at the wire: the connection, the stream, and what was done with it.
type Wire = Arc<Mutex<Vec<(usize, u32)>>>;

/// An h2 upstream made of frames, which does `act(connection, stream)`.
async fn frames(act: fn(usize, u32) -> Act) -> (SocketAddr, Wire) {
    let (wire, next) = (Wire::default(), Arc::new(AtomicUsize::new(0)));
    let seen = wire.clone();
    let (address, _) = accept(move |stream| {
        let (seen, connection) = (seen.clone(), next.fetch_add(1, Relaxed));
        async move { drop(speak(stream, connection, act, &seen).await) }
    })
    .await;
    (address, wire)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut out = vec![length[1], length[2], length[3], kind, flags];
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

async fn speak(
    mut stream: TcpStream,
    connection: usize,
    act: fn(usize, u32) -> Act,
    seen: &Wire,
) -> std::io::Result<()> {
    const HEADERS: u8 = 1;
    const RST: u8 = 3;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    const WINDOW: u8 = 8;
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    // Room for the bodies of all streams together; a single one keeps the protocol's 64 kB.
    stream.write_all(&frame(WINDOW, 0, 0, &(1_u32 << 30).to_be_bytes())).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await?;
        if kind == SETTINGS && flags & 1 == 0 {
            stream.write_all(&frame(SETTINGS, 1, 0, &[])).await?;
        }
        if kind == HEADERS {
            seen.lock().unwrap().push((connection, id));
        }
        let ended = (kind == HEADERS || kind == 0) && flags & 1 == 1;
        let act = act(connection, id);
        if kind == HEADERS && act == Act::Refuse {
            stream.write_all(&frame(RST, 0, id, &7_u32.to_be_bytes())).await?;
        }
        if !ended {
            continue;
        }
        let last = match act {
            Act::GoAway(last) | Act::GoAwayAndClose(last) => Some(last),
            Act::Answer | Act::Refuse => None,
        };
        if let Some(last) = last {
            let payload = [last.to_be_bytes(), 0_u32.to_be_bytes()].concat();
            stream.write_all(&frame(GOAWAY, 0, 0, &payload)).await?;
        }
        if matches!(act, Act::GoAwayAndClose(_)) {
            return Ok(());
        }
        if act == Act::Answer || matches!(act, Act::GoAway(last) if id <= last) {
            // ":status: 200" stands in HPACK's static table.
            stream.write_all(&frame(HEADERS, 5, id, &[0x88])).await?;
        }
    }
}

async fn over_h2(upstream: SocketAddr) -> Sidecar {
    let address = format!("'http://{upstream}'");
    Sidecar::start(&route_to(upstream).replace(&address, &format!("{address}, http2: true"))).await
}

/// nginx's way: after so many requests on a connection it says GOAWAY, and does not read what comes behind.
#[tokio::test]
async fn what_stands_above_the_last_stream_of_a_goaway_goes_up_on_another_connection() {
    let (upstream, wire) = frames(|_, stream| if stream < 21 { Act::Answer } else { Act::GoAway(19) }).await;
    let sidecar = over_h2(upstream).await;
    let mut client = Conn::connect(sidecar.hop).await;
    let body = "x".repeat(40_000);
    for _ in 0..100 {
        assert_eq!(post(&mut client, &body).await, 200);
    }
    let wire = wire.lock().unwrap();
    let answered = wire.iter().filter(|(_, stream)| *stream < 21).count();
    let left_alone = wire.len() - answered;
    assert_eq!(answered, 100);
    assert!((9..=10).contains(&left_alone), "{left_alone}: one a connection, which was not processed");
}

#[tokio::test]
async fn a_connection_that_has_had_goaway_gets_no_new_request() {
    let (upstream, wire) = frames(|_, stream| if stream == 5 { Act::GoAway(5) } else { Act::Answer }).await;
    let sidecar = over_h2(upstream).await;
    let mut client = Conn::connect(sidecar.hop).await;
    for _ in 0..12 {
        assert_eq!(post(&mut client, "a").await, 200);
    }
    let wire = wire.lock().unwrap();
    assert_eq!(wire.len(), 12, "none is sent twice");
    assert!(wire.iter().all(|(_, stream)| *stream <= 5), "{wire:?}");
}

#[tokio::test]
async fn a_refused_stream_goes_up_on_another_connection() {
    let (upstream, wire) =
        frames(|connection, stream| if connection == 0 && stream == 3 { Act::Refuse } else { Act::Answer })
            .await;
    let sidecar = over_h2(upstream).await;
    let mut client = Conn::connect(sidecar.hop).await;
    for _ in 0..3 {
        assert_eq!(post(&mut client, &"x".repeat(40_000)).await, 200);
    }
    let wire = wire.lock().unwrap();
    assert!(wire.contains(&(0, 3)) && wire.contains(&(1, 1)), "{wire:?}");
    assert_eq!(wire.len(), 4);
}

/// The stream is within what the peer may have processed: the caller decides.
#[tokio::test]
async fn a_stream_that_the_goaway_covers_is_never_sent_again() {
    let (upstream, wire) =
        frames(|_, stream| if stream == 3 { Act::GoAwayAndClose(3) } else { Act::Answer }).await;
    let sidecar = over_h2(upstream).await;
    let mut client = Conn::connect(sidecar.hop).await;
    assert_eq!(post(&mut client, "one").await, 200);
    assert_eq!(post(&mut client, "two").await, 502);
    assert_eq!(post(&mut client, "three").await, 200);
    assert_eq!(wire.lock().unwrap().len(), 3);
}

/// Everybody refuses: the caller learns it after a few tries.
#[tokio::test]
async fn a_request_that_everybody_refuses_ends_as_one_error() {
    let (upstream, wire) = frames(|_, _| Act::Refuse).await;
    let sidecar = over_h2(upstream).await;
    let mut client = Conn::connect(sidecar.hop).await;
    assert_eq!(post(&mut client, "a").await, 502);
    assert!(wire.lock().unwrap().len() <= 6);
}

/// The only connection refuses the request, and no other can be had: the caller learns it, and nobody spins.
#[tokio::test]
async fn a_refused_request_for_which_no_other_connection_can_be_had_fails_at_once() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let upstream = listener.local_addr().unwrap();
    let seen = Wire::default();
    let noted = seen.clone();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        drop(listener);
        drop(speak(stream, 0, |_, _| Act::Refuse, &noted).await);
    });
    let sidecar = over_h2(upstream).await;
    let mut client = Conn::connect(sidecar.hop).await;
    assert_eq!(post(&mut client, "a").await, 502);
    assert_eq!(seen.lock().unwrap().len(), 1);
}
