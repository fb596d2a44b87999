//! Hop-by-hop headers: what belongs to one connection and must not pass (RFC 9110, 7.6.1).
//!
//! Headers are rebuilt, never removed in place: `HeaderMap::remove` moves the last header into the
//! gap, and order is one of the things a transparent hop keeps. `te` and `trailer` pass, because
//! trailers do.

use http::{HeaderMap, HeaderName, HeaderValue, header};

const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The headers that pass on, in their order.
pub fn end_to_end(headers: HeaderMap) -> HeaderMap {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        // Naming an end-to-end header as hop-by-hop would let a client strip it: these stay.
        .filter(|name| ![header::TE, header::TRAILER, header::HOST, header::CONTENT_LENGTH].contains(name))
        .collect();
    if named.is_empty() && !HOP_BY_HOP.iter().any(|name| headers.contains_key(name)) {
        return headers;
    }
    // Beside `transfer-encoding` a length is void, and believed by the next hop it would cut the
    // message (RFC 9112, 6.3).
    let chunked = headers.contains_key(header::TRANSFER_ENCODING);
    rebuilt(headers, |name| {
        let void_length = chunked && *name == header::CONTENT_LENGTH;
        !HOP_BY_HOP.contains(name) && !named.contains(name) && !void_length
    })
}

/// The transfer coding of a body beside `chunked`, as it stands in the head. It belongs to one connection, but the bytes
/// of the body are in it: whoever passes them passes its name too, or refuses them.
pub fn second_coding(headers: &HeaderMap) -> Option<HeaderValue> {
    let values = headers.get_all(header::TRANSFER_ENCODING).iter();
    let codings: Vec<&[u8]> = values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        // No coding at all (RFC 2616's word for it).
        .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
        .collect();
    match codings[..] {
        [] => None,
        [one] if one.eq_ignore_ascii_case(b"chunked") => None,
        // Joining parts of valid values with a comma is valid.
        _ => HeaderValue::from_bytes(&codings.join(&b", "[..])).ok(),
    }
}

/// One `content-length` of several that are equal: HTTP/2 lets them pass, HTTP/1.1 peers may not (RFC 9110, 8.6).
pub fn one_length(headers: &mut HeaderMap) {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if let (Some(first), Some(_)) = (lengths.next().cloned(), lengths.next()) {
        headers.insert(header::CONTENT_LENGTH, first);
    }
}

/// The headers without these, in their order.
pub fn without(headers: HeaderMap, names: &[HeaderName]) -> HeaderMap {
    rebuilt(headers, |name| !names.contains(name))
}

fn rebuilt(headers: HeaderMap, keep: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    let mut passed = HeaderMap::with_capacity(headers.capacity());
    let mut last: Option<HeaderName> = None;
    for (name, value) in headers {
        // Of a repeated header only the first value comes with the name.
        let Some(name) = name.or_else(|| last.clone()) else { continue };
        if keep(&name) {
            passed.append(name.clone(), value);
        }
        last = Some(name);
    }
    passed
}

/// One `cookie` header of several: HTTP/2 may split it, HTTP/1.1 may not (RFC 9113, 8.2.3).
pub fn join_cookies(mut headers: HeaderMap) -> HeaderMap {
    let parts: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if parts.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
    headers
}

/// Puts the upstream's name where the client's stood, without moving anything.
pub fn set_host(headers: &mut HeaderMap, host: HeaderValue) {
    headers.insert(header::HOST, host);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn pairs(headers: &HeaderMap) -> Vec<(&str, &str)> {
        headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect()
    }

    #[test]
    fn what_belongs_to_the_connection_does_not_pass_and_the_rest_keeps_its_order() {
        let headers = map(&[
            ("host", "a"),
            ("connection", "keep-alive, x-private"),
            ("x-private", "1"),
            ("x-first", "1"),
            ("cookie", "a"),
            ("cookie", "b"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("x-last", "2"),
        ]);
        let mut passed = end_to_end(headers);
        set_host(&mut passed, HeaderValue::from_static("b"));
        assert_eq!(
            pairs(&passed),
            [
                ("host", "b"),
                ("x-first", "1"),
                ("cookie", "a"),
                ("cookie", "b"),
                ("te", "trailers"),
                ("x-last", "2")
            ]
        );
    }

    #[test]
    fn a_length_beside_chunks_is_void() {
        let passed =
            end_to_end(map(&[("content-length", "5"), ("transfer-encoding", "chunked"), ("x", "1")]));
        assert_eq!(pairs(&passed), [("x", "1")]);
    }

    #[test]
    fn a_second_transfer_coding_is_named_and_chunked_alone_is_none() {
        for (values, wanted) in [
            (&[][..], None),
            (&["chunked"], None),
            (&[" Chunked "], None),
            (&["gzip, chunked"], Some("gzip, chunked")),
            (&["gzip", "chunked"], Some("gzip, chunked")),
            (&["gzip"], Some("gzip")),
            (&["identity"], None),
            (&["identity, chunked"], None),
        ] {
            let pairs: Vec<_> = values.iter().map(|value| ("transfer-encoding", *value)).collect();
            assert_eq!(second_coding(&map(&pairs)), wanted.map(HeaderValue::from_static), "{values:?}");
        }
    }

    #[test]
    fn of_equal_lengths_one_goes_on_where_the_first_stood() {
        let mut headers = map(&[("a", "1"), ("content-length", "3"), ("b", "2"), ("content-length", "3")]);
        one_length(&mut headers);
        assert_eq!(pairs(&headers), [("a", "1"), ("content-length", "3"), ("b", "2")]);
    }

    #[test]
    fn a_client_cannot_strip_what_frames_the_message() {
        let passed = end_to_end(map(&[
            ("connection", "content-length, host"),
            ("host", "a"),
            ("content-length", "3"),
        ]));
        assert_eq!(pairs(&passed), [("host", "a"), ("content-length", "3")]);
    }
}
