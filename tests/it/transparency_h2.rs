//! The transparency list once more for h2 clients, over upstreams of both versions: lengths, empty
//! bodies, HEAD, errors, connection headers, CONNECT. Resets and streams are in `hostile` and `http2`.

use crate::support::h2::{self, full};
use crate::support::raw::{Upstream, header};
use crate::support::{Sidecar, route_to};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

/// What an h2 client gets for this request from an h1 upstream that answers this, and what the
/// upstream saw of its head.
async fn exchange(request: Request<h2::Body>, answer: &'static str) -> (Response<Incoming>, String) {
    let (upstream, mut heads) = Upstream::recording(answer).await;
    let sidecar = Sidecar::to(upstream.address).await;
    let response = h2::client(sidecar.hop).await.send_request(request).await.unwrap();
    (response, heads.recv().await.unwrap())
}

fn request(method: Method) -> Request<h2::Body> {
    Request::builder().method(method).uri("http://localhost/v1/messages").body(full("")).unwrap()
}

#[tokio::test]
async fn a_length_passes_and_an_error_body_is_untouched() {
    let answer =
        "HTTP/1.1 400 Bad Request\r\ncontent-length: 13\r\nx-a: 1\r\nx-a: 2\r\n\r\n {\"odd\" :1}\n\n";
    let (response, _) = exchange(request(Method::GET), answer).await;
    assert_eq!(response.status(), 400);
    assert_eq!(response.headers()["content-length"], "13");
    assert!(response.headers().get_all("x-a").iter().eq(["1", "2"]), "{:?}", response.headers());
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), " {\"odd\" :1}\n\n");
}

#[tokio::test]
async fn a_zero_length_stays_written_and_ends_the_stream() {
    let (response, _) = exchange(request(Method::GET), "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(response.headers()["content-length"], "0");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "");
}

#[tokio::test]
async fn an_answer_that_has_no_body_gets_no_length() {
    let (response, _) = exchange(request(Method::GET), "HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(response.status(), 204);
    assert!(response.headers().get("content-length").is_none());
    assert!(response.into_body().is_end_stream(), "ended with its head");
}

#[tokio::test]
async fn a_head_request_keeps_the_length_of_what_it_did_not_get() {
    let (response, head) =
        exchange(request(Method::HEAD), "HTTP/1.1 200 OK\r\ncontent-length: 4321\r\n\r\n").await;
    assert!(head.starts_with("HEAD /v1/messages HTTP/1.1\r\n"), "{head}");
    assert_eq!(response.headers()["content-length"], "4321");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "");
}

/// In h2 a message with such a header is malformed (RFC 9113, 8.2.2): a client would refuse it.
#[tokio::test]
async fn connection_headers_of_an_h1_upstream_end_here() {
    let answer = "HTTP/1.1 200 OK\r\nconnection: keep-alive, x-own\r\nx-own: 1\r\nproxy-connection: a\r\n\
                  keep-alive: timeout=5\r\nx-kept: 1\r\ncontent-length: 2\r\n\r\nok";
    let (response, _) = exchange(request(Method::GET), answer).await;
    for gone in ["connection", "x-own", "proxy-connection", "keep-alive"] {
        assert!(response.headers().get(gone).is_none(), "{gone}");
    }
    assert_eq!(response.headers()["x-kept"], "1");
}

/// And the chunks of an h1 upstream become frames, without `transfer-encoding`.
#[tokio::test]
async fn chunks_become_frames() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n";
    let (response, _) = exchange(request(Method::GET), answer).await;
    assert!(response.headers().get("transfer-encoding").is_none());
    assert!(response.headers().get("content-length").is_none());
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "onetwo");
}

#[tokio::test]
async fn lengths_of_requests_pass() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let post = Request::post("http://localhost/").header("content-length", "0").body(full("")).unwrap();
    let (_, head) = exchange(post, answer).await;
    assert_eq!(header(&head, "content-length"), Some("0"), "{head}");
    assert_eq!(header(&head, "transfer-encoding"), None, "{head}");
    let (_, head) = exchange(request(Method::GET), answer).await;
    assert_eq!(header(&head, "content-length"), None, "{head}");
    assert_eq!(header(&head, "transfer-encoding"), None, "{head}");
}

#[tokio::test]
async fn connect_is_refused_and_the_connection_goes_on() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = h2::client(sidecar.hop).await;
    let connect = Request::connect("example.com:443").body(full("")).unwrap();
    let refused = client.send_request(connect).await.unwrap();
    assert!(refused.status().is_client_error(), "{}", refused.status());
    let response = client.send_request(request(Method::GET)).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
}

/// Lengths and HEAD over h2 on both sides, where no h1 framing can help out.
#[tokio::test]
async fn h2_to_h2_keeps_lengths_and_errors() {
    let upstream = h2::Upstream::start(100, |request| async move {
        let body = if request.method() == Method::HEAD { "" } else { "no such thing" };
        Response::builder().status(404).header("content-length", "13").body(full(body)).unwrap()
    })
    .await;
    let address = format!("'http://{}'", upstream.address);
    let sidecar =
        Sidecar::start(&route_to(upstream.address).replace(&address, &format!("{address}, http2: true")))
            .await;
    let mut client = h2::client(sidecar.hop).await;
    for (method, wanted) in [(Method::GET, "no such thing"), (Method::HEAD, "")] {
        let response = client.send_request(request(method)).await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-length"]),
            (404, &"13".parse().unwrap())
        );
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), wanted);
    }
}
