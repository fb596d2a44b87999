//! An answer's body of anything, of the kind `text/event-stream`, cut anywhere: the first byte says how.
#![no_main]

use http::{HeaderMap, HeaderValue, StatusCode, header};
use libfuzzer_sys::fuzz_target;
use plimsoll::sources::proxy::answer::Answer;
use plimsoll::sources::proxy::decode::DecoderBudget;

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, body)) = bytes.split_first() else { return };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    let mut answer = Answer::new(StatusCode::OK, &headers, &DecoderBudget::new(1 << 20));
    body.chunks(usize::from(*cut).max(1)).for_each(|part| answer.feed(part));
    answer.undecoded();
    answer.said();
});
