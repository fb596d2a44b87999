//! A paste of anything: no panic, always an answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll::evidence::{Ids, Scrubber};
use plimsoll::explain::{explain, paste};
use plimsoll::owner::Owners;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let answer = explain(&paste::read(&text), &Owners::default(), None);
    assert!(!answer.verdict.is_empty());
    let scrubbed = Scrubber::new(Ids::Kept).text(&text);
    assert!(!scrubbed.contains("sk-ant-api03"));
});
