//! HTTP/2 from clients and to upstreams, in every pairing; TLS on both sides; upgrades.

use crate::support::h2::{self, full, with_trailers};
use crate::support::raw::{Conn, Upstream, header};
use crate::support::tls::Certs;
use crate::support::{Sidecar, route_to, wait_for};
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::BodyExt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

fn http2_route(upstream: SocketAddr) -> String {
    let address = format!("'http://{upstream}'");
    route_to(upstream).replace(&address, &format!("{address}, http2: true"))
}

/// Version, path, headers, body and trailers.
type SeenRequest = (Version, String, http::HeaderMap, Bytes, Option<http::HeaderMap>);

/// What an upstream saw of its requests.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<SeenRequest>>>);

impl Seen {
    async fn note(&self, request: Request<hyper::body::Incoming>) {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap();
        let trailers = body.trailers().cloned();
        self.0.lock().unwrap().push((
            head.version,
            head.uri.to_string(),
            head.headers,
            body.to_bytes(),
            trailers,
        ));
    }
}

async fn h2_upstream(seen: Seen) -> h2::Upstream {
    h2::Upstream::start(100, move |request| {
        let seen = seen.clone();
        async move {
            seen.note(request).await;
            let mut response = Response::new(with_trailers(&["one ", "two"], &[("grpc-status", "0")]));
            response.headers_mut().insert("x-answer", "yes".parse().unwrap());
            response
        }
    })
    .await
}

/// gRPC's shape: trailers up and down, `te: trailers`, over h2 on both sides.
#[tokio::test]
async fn h2_to_h2_keeps_trailers_both_ways() {
    let seen = Seen::default();
    let upstream = h2_upstream(seen.clone()).await;
    let sidecar = Sidecar::start(&http2_route(upstream.address)).await;
    let mut client = h2::client(sidecar.hop).await;
    let request = Request::post("http://localhost/pkg.Service/Method?q=1")
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(with_trailers(&["up"], &[("x-up", "1")]))
        .unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(
        (response.version(), response.headers()["x-answer"].to_str().unwrap()),
        (Version::HTTP_2, "yes")
    );
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(body.to_bytes(), "one two");
    let (version, uri, headers, body, trailers) = seen.0.lock().unwrap()[0].clone();
    assert_eq!((version, body), (Version::HTTP_2, Bytes::from("up")));
    assert_eq!(uri, format!("http://{}/pkg.Service/Method?q=1", upstream.address));
    assert_eq!(headers["te"], "trailers");
    assert!(headers.get("host").is_none());
    assert_eq!(trailers.unwrap()["x-up"], "1");
    sidecar.wait_metric("plimsoll_requests_total", &[], 1.0).await;
}

#[tokio::test]
async fn an_h1_client_reaches_an_h2_upstream() {
    let seen = Seen::default();
    let upstream = h2_upstream(seen.clone()).await;
    let sidecar = Sidecar::start(&http2_route(upstream.address)).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client
        .write("POST /v1/messages HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi")
        .await;
    let (got, _) = client.rest().await;
    let got = String::from_utf8(got).unwrap();
    assert!(got.starts_with("HTTP/1.1 200 OK") && got.contains("one ") && got.contains("two"), "{got}");
    assert_eq!(seen.0.lock().unwrap()[0].3, "hi");
}

#[tokio::test]
async fn an_h2_client_reaches_an_h1_upstream_with_one_cookie_header() {
    let (upstream, mut heads) = Upstream::recording(
        "HTTP/1.1 200 OK\r\nconnection: keep-alive\r\nkeep-alive: 5\r\ncontent-length: 2\r\n\r\nok",
    )
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = h2::client(sidecar.hop).await;
    let request = Request::get("http://localhost/a?b")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(full(""))
        .unwrap();
    let response = client.send_request(request).await.unwrap();
    assert!(response.headers().get("keep-alive").is_none(), "it belongs to the other connection");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
    let head = heads.recv().await.unwrap();
    assert!(head.starts_with("GET /a?b HTTP/1.1\r\n"), "{head}");
    assert_eq!(header(&head, "cookie"), Some("a=1; b=2"));
    assert_eq!(header(&head, "host"), Some(upstream.address.to_string().as_str()));
}

/// Fifty calls at once over an upstream that allows ten streams: none is refused, none waits for
/// another's end, and further connections carry them.
#[tokio::test]
async fn a_burst_past_the_stream_limit_opens_connections_and_refuses_nobody() {
    let (open, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (counted, waits) = (open.clone(), gate.clone());
    let upstream = h2::Upstream::start(10, move |_| {
        let (open, gate) = (counted.clone(), waits.clone());
        async move {
            open.fetch_add(1, Relaxed);
            gate.acquire().await.unwrap().forget();
            Response::new(full("ok"))
        }
    })
    .await;
    let sidecar = Sidecar::start(&http2_route(upstream.address)).await;
    let client = reqwest::Client::new();
    let calls: Vec<_> =
        (0..50).map(|_| tokio::spawn(client.get(format!("http://{}/", sidecar.hop)).send())).collect();
    wait_for("all fifty at the upstream at once", async || (open.load(Relaxed) == 50).then_some(())).await;
    gate.add_permits(50);
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
    assert!(*upstream.connections.lock().unwrap() >= 5);
    sidecar.wait_metric("plimsoll_in_flight", &[], 0.0).await;
    // What is open is used again.
    let before = *upstream.connections.lock().unwrap();
    gate.add_permits(20);
    for _ in 0..20 {
        assert_eq!(client.get(format!("http://{}/", sidecar.hop)).send().await.unwrap().status(), 200);
    }
    assert_eq!(*upstream.connections.lock().unwrap(), before);
}

/// Three hundred streams with readers that read nothing: they hold their own windows and nothing
/// else; another call passes meanwhile.
#[tokio::test]
async fn slow_readers_hold_only_themselves() {
    let big = "x".repeat(3_000_000);
    let upstream = Upstream::start(move |mut conn: Conn| {
        let big = big.clone();
        async move {
            while let Some(head) = conn.head().await {
                let body = if head.starts_with("GET /small") { "ok" } else { &big };
                use tokio::io::AsyncWriteExt;
                if conn
                    .stream
                    .write_all(
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes(),
                    )
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
    })
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut slow = h2::client(sidecar.hop).await;
    let mut held = Vec::new();
    for _ in 0..300 {
        let response =
            slow.send_request(Request::get("http://localhost/big").body(full("")).unwrap()).await.unwrap();
        held.push(response.into_body());
    }
    sidecar.wait_metric("plimsoll_in_flight", &[], 300.0).await;
    let small = reqwest::get(format!("http://{}/small", sidecar.hop)).await.unwrap();
    assert_eq!(small.text().await.unwrap(), "ok");
    drop(held);
    sidecar.wait_metric("plimsoll_in_flight", &[], 0.0).await;
}

#[tokio::test]
async fn an_upgrade_is_tunnelled_both_ways_until_either_side_ends() {
    let upstream = Upstream::start(|mut conn: Conn| async move {
        let head = conn.head().await.unwrap();
        assert_eq!(header(&head, "upgrade"), Some("websocket"));
        assert!(header(&head, "connection").unwrap().eq_ignore_ascii_case("upgrade"));
        conn.write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nx-key: k\r\n\r\nhello from above").await;
        assert_eq!(conn.exactly(5).await, b"ping!");
        conn.write("pong!").await;
    })
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client.write("GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n").await;
    let head = client.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert_eq!((header(&head, "upgrade"), header(&head, "x-key")), (Some("websocket"), Some("k")));
    assert_eq!(client.exactly(16).await, b"hello from above");
    client.write("ping!").await;
    assert_eq!(client.exactly(5).await, b"pong!");
    drop(client);
    sidecar.wait_metric("plimsoll_in_flight", &[], 0.0).await;
    sidecar.wait_metric("plimsoll_requests_total", &[], 1.0).await;
}

fn tls_listener(certs: &Certs, upstream: &str, client_ca: bool) -> String {
    let file = |name: &str| certs.file(name).display().to_string();
    let client_ca = if client_ca { format!(", client_ca_file: '{}'", file("ca.pem")) } else { String::new() };
    format!(
        "metrics: {{bind: '127.0.0.1:0'}}\nlisteners:\n- bind: 127.0.0.1:0\n  tls: {{cert_file: '{}', key_file: '{}'{client_ca}}}\n  routes:\n  - {upstream}\n",
        file("server.crt"),
        file("server.key")
    )
}

#[tokio::test]
async fn a_tls_listener_speaks_both_protocols_and_can_demand_a_certificate() {
    let certs = Certs::new();
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let route = format!("{{name: a, upstream: 'http://{}'}}", upstream.address);
    let open = Sidecar::start(&tls_listener(&certs, &route, false)).await;
    let client = |version: u8| {
        #[allow(clippy::disallowed_methods)]
        let builder = reqwest::Client::builder().tls_certs_only([certs.ca()]);
        if version == 2 { builder.http2_prior_knowledge() } else { builder.http1_only() }
    };
    for (version, wanted) in [(1, Version::HTTP_11), (2, Version::HTTP_2)] {
        let got = client(version)
            .build()
            .unwrap()
            .get(format!("https://localhost:{}/", open.hop.port()))
            .send()
            .await
            .unwrap();
        assert_eq!((got.version(), got.text().await.unwrap().as_str()), (wanted, "ok"));
    }
    let closed = Sidecar::start(&tls_listener(&certs, &route, true)).await;
    let url = format!("https://localhost:{}/", closed.hop.port());
    assert!(client(1).build().unwrap().get(&url).send().await.is_err(), "no certificate, no answer");
    assert_eq!(
        client(1).identity(certs.identity()).build().unwrap().get(&url).send().await.unwrap().status(),
        200
    );
}

/// By name, over TLS, with an authority of one's own and a certificate to show; h1 and h2.
#[tokio::test]
async fn an_upstream_by_name_over_tls_gets_our_certificate() {
    for http2 in [false, true] {
        let certs = Certs::new();
        let acceptor =
            TlsAcceptor::from(Arc::new(certs.server(true, &[if http2 { "h2" } else { "http/1.1" }])));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let shown = stream.get_ref().1.peer_certificates().map_or(0, <[_]>::len);
                    if http2 {
                        h2::serve(stream, 10, move |_| async move {
                            Response::new(full(&format!("{shown} shown")))
                        })
                        .await;
                    } else {
                        let service = hyper::service::service_fn(move |_| async move {
                            Ok::<_, std::convert::Infallible>(Response::new(full(&format!("{shown} shown"))))
                        });
                        drop(
                            hyper::server::conn::http1::Builder::new()
                                .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                                .await,
                        );
                    }
                });
            }
        });
        let (ca, pem) = (certs.file("ca.pem"), certs.file("client.pem"));
        let config = |client: &str| {
            format!(
                "metrics: {{bind: '127.0.0.1:0'}}\nlisteners:\n- bind: 127.0.0.1:0\n  routes:\n  - {{name: a, upstream: 'https://localhost:{port}', http2: {http2}, ca_file: '{}'{client}}}\n",
                ca.display()
            )
        };
        let with = Sidecar::start(&config(&format!(", client_cert_file: '{}'", pem.display()))).await;
        let got = reqwest::get(format!("http://{}/", with.hop)).await.unwrap();
        assert_eq!(got.text().await.unwrap(), "1 shown", "http2: {http2}");
        let without = Sidecar::start(&config("")).await;
        assert_eq!(reqwest::get(format!("http://{}/", without.hop)).await.unwrap().status(), 502);
    }
}

/// A dead h2 upstream costs each of many waiting callers one failure, not one after the other.
#[tokio::test]
async fn an_h2_upstream_that_does_not_speak_h2_fails_for_all_at_once() {
    let upstream = Upstream::answering("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
    let sidecar = Sidecar::start(&http2_route(upstream.address)).await;
    let client = reqwest::Client::new();
    let calls = (0..40).map(|_| client.get(format!("http://{}/", sidecar.hop)).send());
    for got in futures_util::future::join_all(calls).await {
        assert_eq!(got.unwrap().status(), 502);
    }
    assert!(*upstream.connections.lock().unwrap() < 40);
    sidecar.wait_metric("plimsoll_in_flight", &[], 0.0).await;
}
