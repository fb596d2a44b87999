//! A response head of anything: lines of `name: value`, the status in front.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use plimsoll::dialects::read_head;
use plimsoll::limit::Timestamp;

fuzz_target!(|bytes: &[u8]| {
    let mut lines = bytes.split(|b| *b == b'\n');
    let status = lines.next().and_then(|l| std::str::from_utf8(l).ok()?.trim().parse().ok()).unwrap_or(429);
    let mut headers = HeaderMap::new();
    for line in lines.take(200) {
        let mut parts = line.splitn(2, |b| *b == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { continue };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii())) {
            headers.append(name, value);
        }
    }
    let now = Timestamp::from_secs(1_790_000_000);
    let limits = read_head(status, &headers, now);
    assert!(limits.readings.len() <= 24);
});
