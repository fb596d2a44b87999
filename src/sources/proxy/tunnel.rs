//! `Upgrade`: once both sides have agreed, bytes pass unread until either side ends.

use super::Connection;
use super::body::AnswerBody;
use super::own_response::own_response;
use super::tap::CallTap;
use crate::observation::Outcome;
use crate::route::Surface;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

/// Held by what a drain waits for.
pub(super) type Guard = tokio::sync::mpsc::Sender<()>;

/// A client that wants to upgrade.
pub(super) struct Wanted {
    protocol: HeaderValue,
    client: OnUpgrade,
    /// A drain waits until the tunnel has ended.
    drain: Guard,
}

/// The upgrade that a request asks for, if it does. Only HTTP/1.1 can ask.
pub(super) fn wanted(request: &mut Request<Incoming>, client: Option<&Connection>) -> Option<Wanted> {
    let client = client.filter(|_| request.version() == Version::HTTP_11)?;
    let protocol = request.headers().get(header::UPGRADE)?.clone();
    // An offer to go on in HTTP/2 is made to this hop, which may decline it; its settings do not pass.
    if protocol.as_bytes().eq_ignore_ascii_case(b"h2c") {
        return None;
    }
    let connection = request.headers().get(header::CONNECTION)?;
    let asks = connection.to_str().ok()?.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    let drain = client.drain.clone();
    asks.then(|| Wanted { protocol, client: hyper::upgrade::on(request), drain })
}

impl Wanted {
    /// True if it asks for a WebSocket.
    pub(super) fn is_websocket(&self) -> bool {
        self.protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
    }

    /// Asks the upstream for the same.
    pub(super) fn announce(&self, headers: &mut HeaderMap) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, self.protocol.clone());
    }
}

/// 426: the client is to go on in plain HTTP. `upgrade` names what it is to speak (RFC 9110, 15.5.22).
pub(super) fn refusal(surface: Surface) -> Response<AnswerBody> {
    let text = "This route refuses WebSockets (`websocket: refuse`); send requests instead.";
    let mut response = own_response(surface, StatusCode::UPGRADE_REQUIRED, text);
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("HTTP/1.1"));
    response
}

/// Passes the agreement on and joins both sides.
pub(super) fn open(
    mut response: Response<Incoming>,
    wanted: Wanted,
    mut tap: CallTap,
) -> Response<AnswerBody> {
    let upstream = hyper::upgrade::on(&mut response);
    let (head, _) = response.into_parts();
    tap.head(&head);
    tokio::spawn(async move {
        let outcome = match tokio::try_join!(wanted.client, upstream) {
            Ok((client, upstream)) => {
                let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
                match tokio::io::copy_bidirectional(&mut client, &mut upstream).await {
                    Ok(_) => Outcome::Complete,
                    Err(_) => Outcome::UpstreamBroken,
                }
            }
            Err(_) => Outcome::ClientGone,
        };
        tap.finish(outcome);
        drop(wanted.drain);
    });
    Response::from_parts(head, AnswerBody::Own(Full::default()))
}
