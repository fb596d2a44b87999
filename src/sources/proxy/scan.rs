//! Finds a few top-level members of a JSON object while its bytes pass, in bounded memory.
//!
//! A request body can be megabytes of prompt with `model` behind it (the Python SDK sends it
//! last), so the scanner keeps no body: it tracks strings and depth, and copies only the values of
//! the members asked for, each up to a limit. Strings, where nearly all bytes are, are skipped by
//! `memchr`. Keys may come in any order; of a repeated key the last value counts, as in JSON
//! parsers. What is not an object, or breaks off, simply finds nothing more.

use memchr::memchr2;

/// Longest member name that can match; longer names are skipped.
const MAX_KEY: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the opening brace.
    Start,
    /// Inside the object, where a member name or the end may come.
    BeforeKey,
    /// Inside a member name.
    Key,
    /// Between name and colon.
    AfterKey,
    /// Inside a value; `capture` says whether it is copied.
    Value { capture: Option<usize> },
    /// Not an object, or the object has ended.
    Done,
}

/// A scanner for `K` members of a top-level object.
#[derive(Clone, Debug)]
pub struct Scanner<const K: usize> {
    wanted: [&'static str; K],
    limit: usize,
    found: [Option<Vec<u8>>; K],
    state: State,
    key: Vec<u8>,
    depth: u32,
    in_string: bool,
    escaped: bool,
}

impl<const K: usize> Scanner<K> {
    /// A scanner for these members; values longer than `limit` bytes are not kept.
    pub fn new(wanted: [&'static str; K], limit: usize) -> Self {
        Self {
            wanted,
            limit,
            found: std::array::from_fn(|_| None),
            state: State::Start,
            key: Vec::new(),
            depth: 0,
            in_string: false,
            escaped: false,
        }
    }

    /// The value of the `nth` member wanted, as JSON text, once it has passed whole.
    pub fn value(&self, nth: usize) -> Option<&[u8]> {
        let open = matches!(self.state, State::Value { capture: Some(at) } if at == nth);
        self.found.get(nth)?.as_deref().filter(|v| !open && !v.is_empty()).map(<[u8]>::trim_ascii)
    }

    /// Takes in the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            at += match self.state {
                State::Done => return,
                State::Value { capture } => self.value_bytes(&bytes[at..], capture),
                State::Key => self.key_bytes(&bytes[at..]),
                State::Start | State::BeforeKey | State::AfterKey => {
                    self.structural(bytes[at]);
                    1
                }
            };
        }
    }

    fn structural(&mut self, byte: u8) {
        self.state = match (self.state, byte) {
            (state, b' ' | b'\t' | b'\r' | b'\n') => state,
            (State::Start, b'{') => State::BeforeKey,
            (State::BeforeKey, b'"') => {
                self.key.clear();
                State::Key
            }
            (State::BeforeKey, b',') => State::BeforeKey,
            (State::AfterKey, b':') => {
                let capture = self.wanted.iter().position(|w| w.as_bytes() == self.key);
                if let Some(nth) = capture {
                    self.found[nth] = Some(Vec::new());
                }
                State::Value { capture }
            }
            _ => State::Done,
        };
    }

    /// Reads on in a member name; returns how many bytes were used.
    fn key_bytes(&mut self, bytes: &[u8]) -> usize {
        for (at, &byte) in bytes.iter().enumerate() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => {
                    self.state = State::AfterKey;
                    return at + 1;
                }
                _ => {}
            }
            if self.key.len() <= MAX_KEY {
                self.key.push(byte);
            }
        }
        bytes.len()
    }

    /// Reads on in a value; returns how many bytes were used.
    fn value_bytes(&mut self, bytes: &[u8], capture: Option<usize>) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if self.in_string {
                at = self.string_bytes(bytes, at);
                continue;
            }
            match bytes[at] {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                b'}' | b']' if self.depth > 0 => self.depth -= 1,
                b'}' => {
                    self.keep(capture, &bytes[..at]);
                    self.state = State::Done;
                    return at + 1;
                }
                b',' if self.depth == 0 => {
                    self.keep(capture, &bytes[..at]);
                    self.state = State::BeforeKey;
                    return at + 1;
                }
                _ => {}
            }
            at += 1;
        }
        self.keep(capture, bytes);
        bytes.len()
    }

    /// Skips to the end of a string, or of the bytes.
    fn string_bytes(&mut self, bytes: &[u8], mut at: usize) -> usize {
        if self.escaped {
            self.escaped = false;
            return at + 1;
        }
        match memchr2(b'"', b'\\', &bytes[at..]) {
            None => at = bytes.len(),
            Some(skip) => {
                at += skip + 1;
                if bytes[at - 1] == b'\\' {
                    self.escaped = true;
                } else {
                    self.in_string = false;
                }
            }
        }
        at
    }

    fn keep(&mut self, capture: Option<usize>, bytes: &[u8]) {
        let Some(nth) = capture else { return };
        let Some(kept) = &mut self.found[nth] else { return };
        if kept.len() + bytes.len() > self.limit {
            self.found[nth] = None;
        } else {
            kept.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    const WANTED: [&str; 3] = ["model", "max_tokens", "stream"];

    fn scan(text: &[u8], chunk: usize) -> Scanner<3> {
        let mut scanner = Scanner::new(WANTED, 256);
        text.chunks(chunk.max(1)).for_each(|part| scanner.feed(part));
        scanner
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z\"\\\\{}\\[\\],:é\u{1F600}]{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map("model|stream|max_tokens|[a-z\"\\\\]{0,8}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Whatever the document and however it is cut, the scanner finds what a parser finds.
        #[test]
        fn agrees_with_a_parser(value in json(), chunk in 1_usize..40, pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap();
            let scanner = scan(&text, chunk);
            for (nth, name) in WANTED.iter().enumerate() {
                let wanted = value.as_object().and_then(|o| o.get(*name));
                let found = scanner.value(nth).map(|v| serde_json::from_slice::<Value>(v).unwrap());
                if wanted.is_some_and(|w| w.to_string().len() < 40) || wanted.is_none() {
                    prop_assert_eq!(found.as_ref(), wanted);
                }
            }
        }

        /// Bytes that are no JSON neither panic nor grow memory.
        #[test]
        fn survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..2_000), chunk in 1_usize..64) {
            let scanner = scan(&bytes, chunk);
            for nth in 0..3 {
                prop_assert!(scanner.value(nth).is_none_or(|v| v.len() <= 256));
            }
        }
    }

    #[test]
    fn a_model_behind_megabytes_is_found() {
        let prompt = "x\\\"{[,".repeat(1_000_000);
        let text = format!(
            r#"{{"max_tokens":16,"messages":[{{"content":"{prompt}","model":"no"}}],"model":"claude-opus-5-5","stream":true}}"#
        );
        let scanner = scan(text.as_bytes(), 16_384);
        assert_eq!(scanner.value(0), Some(&br#""claude-opus-5-5""#[..]));
        assert_eq!(scanner.value(1), Some(&b"16"[..]));
        assert_eq!(scanner.value(2), Some(&b"true"[..]));
    }

    #[test]
    fn values_beyond_the_limit_are_absent_not_cut() {
        let text = format!(r#"{{"model":"{}","stream":false}}"#, "m".repeat(10_000));
        let scanner = scan(text.as_bytes(), 100);
        assert_eq!(scanner.value(0), None);
        assert_eq!(scanner.value(2), Some(&b"false"[..]));
    }

    #[test]
    fn of_a_repeated_key_the_last_value_counts() {
        assert_eq!(scan(br#"{"model":"a","model":"b"}"#, 3).value(0), Some(&br#""b""#[..]));
    }

    #[test]
    fn a_value_that_is_still_passing_is_not_read() {
        assert_eq!(scan(br#"{"max_tokens":12"#, 100).value(1), None);
        assert_eq!(scan(br#"{"max_tokens":128}"#, 100).value(1), Some(&b"128"[..]));
    }
}
