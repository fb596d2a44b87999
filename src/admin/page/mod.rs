//! The page: who is about to hit what, for a person with a browser.
//!
//! Rendered here, whole without a script; a script only asks for it again when there is something new, of which the
//! server tells by events. Nothing is loaded from elsewhere, and the content security policy would not let it: what
//! comes from headers and configurations is text, and stays that.

mod view;

use super::incidents::Desk;
use crate::engine::Snapshot;
use crate::exporters::tap::Tap;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream::{Stream, unfold};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use maud::{Markup, html};
use percent_encoding::percent_decode_str;
use std::convert::Infallible;
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Words of a server that something is new.
pub(super) type Events = StreamBody<Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>>;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Only this server's own style and script, and nothing that a name in a header could bring.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// How often a page is told at most that something is new.
const PACE: Duration = Duration::from_millis(900);

/// The page at a path; nothing where there is none.
pub(super) async fn page(path: &str, headers: &HeaderMap, desk: &Desk) -> Option<Response<Full<Bytes>>> {
    let snapshot = desk.snapshots.borrow().clone();
    let (title, main) = match path {
        "/page.css" => return Some(asset("text/css; charset=utf-8", STYLE, headers)),
        "/page.js" => return Some(asset("text/javascript; charset=utf-8", SCRIPT, headers)),
        "/" => ("Limits".to_owned(), view::overview(&desk.seen(&snapshot))),
        "/incidents" => ("Incidents".to_owned(), view::incidents(&snapshot)),
        "/sources" => ("Sources".to_owned(), view::sources(&desk.seen(&snapshot))),
        _ => match other(path, &snapshot, desk).await {
            Some(found) => found,
            None => return if is_page(path) { Some(missing(headers)) } else { None },
        },
    };
    Some(html_response(StatusCode::OK, view::page(&title, &main), headers))
}

fn is_page(path: &str) -> bool {
    path.starts_with("/owners/") || path.starts_with("/incidents/")
}

async fn other(path: &str, snapshot: &Snapshot, desk: &Desk) -> Option<(String, Markup)> {
    if let Some(rest) = path.strip_prefix("/owners/") {
        let (id, kind) = rest.split_once('/').map_or((rest, None), |(id, kind)| (id, Some(kind)));
        let id = percent_decode_str(id).decode_utf8_lossy();
        return Some((id.to_string(), view::owner(&desk.seen(snapshot), &id, kind)?));
    }
    let incident = view::find(snapshot, path.strip_prefix("/incidents/")?)?;
    let packet = desk.packet(incident, &desk.status().await);
    let text = packet.to_string();
    Some((format!("Incident {}", incident.id), view::incident(incident, &packet, &text, snapshot.at)))
}

fn missing(headers: &HeaderMap) -> Response<Full<Bytes>> {
    let main = html! { main #main tabindex="-1" { h2 { "Not here" } p { "It may be over, or have another name. " a href="/" { "Back to the limits" } } } };
    html_response(StatusCode::NOT_FOUND, view::page("Not here", &main), headers)
}

fn html_response(status: StatusCode, text: String, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let mut response = asset("text/html; charset=utf-8", &crate::text::visible(&text), headers);
    *response.status_mut() = status;
    response
}

fn asset(kind: &'static str, text: &str, asked: &HeaderMap) -> Response<Full<Bytes>> {
    let wanted = asked.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let packed = wanted.contains("gzip").then(|| packed(text.as_bytes())).flatten();
    let zipped = packed.is_some();
    let mut response = Response::new(Full::from(packed.unwrap_or_else(|| text.as_bytes().to_vec())));
    let headers = response.headers_mut();
    if zipped {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    guarded(headers);
    response
}

fn packed(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).ok()?;
    out.finish().ok()
}

/// Headers that keep a browser from doing anything but showing it.
fn guarded(headers: &mut HeaderMap) {
    let all = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in all {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let policy = http::HeaderName::from_static("cross-origin-resource-policy");
    headers.insert(policy, HeaderValue::from_static("same-origin"));
}

/// Calls as they end, one line of JSON each, for as long as somebody reads.
pub(super) fn tap(tap: &Tap) -> Response<Events> {
    let lines = unfold(tap.lines(), |mut lines| async move {
        let text = match lines.recv().await {
            Ok(line) => format!("{}\n", crate::text::visible(&line)),
            Err(RecvError::Lagged(missed)) => format!("{{\"missed\":{missed}}}\n"),
            Err(RecvError::Closed) => return None,
        };
        Some((Ok(Frame::data(Bytes::from(text))), lines))
    });
    let mut response = Response::new(StreamBody::new(Box::pin(lines) as _));
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    guarded(response.headers_mut());
    response
}

/// A word whenever there is something new, at most about once a second, and one every fifteen to show that it lives.
pub(super) fn events(snapshots: watch::Receiver<Arc<Snapshot>>) -> Response<Events> {
    let first = Instant::now();
    let words = unfold((snapshots, first, 0_u64), |(mut snapshots, due, n)| async move {
        sleep_until(due).await;
        let told = tokio::time::timeout(Duration::from_secs(15), snapshots.changed()).await;
        let text = match told {
            Ok(Ok(())) => {
                snapshots.mark_unchanged();
                format!("data: {n}\n\n")
            }
            Ok(Err(_)) => return None,
            Err(_) => ": here\n\n".to_owned(),
        };
        let frame = Ok(Frame::data(Bytes::from(text)));
        Some((frame, (snapshots, Instant::now() + PACE, n + 1)))
    });
    let mut response = Response::new(StreamBody::new(Box::pin(words) as _));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    guarded(headers);
    response
}
