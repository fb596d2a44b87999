//! Reports by HTTP: an application, a callback or a status line tells what it saw itself (`POST /v1/observations`).
//!
//! One JSON object, an array of them, or one a line, each in the shape that `replay` reads (`recorded`). A broken one
//! spoils only itself. The answer says how many were taken; nothing waits for the engine.

use super::intake::{Intake, Teller};
use crate::recorded::Line;
use crate::seen::Seen;
use bytes::Bytes;
use http::StatusCode;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// Most reports of one request.
const MOST: usize = 10_000;

/// The way in for reports.
#[derive(Clone, Debug)]
pub struct Reports {
    teller: Teller,
}

/// What came of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Taken {
    /// Reports that were taken.
    pub accepted: usize,
    /// Reports that were dropped, because the engine has no room.
    pub dropped: usize,
    /// Reports that could not be read.
    pub broken: usize,
    /// What is wrong with the first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Reports {
    /// Reports that go to the engine.
    pub fn new(intake: &Intake) -> Self {
        Self { teller: intake.teller("report") }
    }

    /// Takes a body; the status and the JSON that tell what came of it.
    pub fn answer(&self, body: &Bytes) -> (StatusCode, String) {
        let taken = self.take(body);
        let text = serde_json::to_string(&taken).unwrap_or_default();
        (taken.status(), text + "\n")
    }

    /// Takes a body, one report at a time: the whole as a tree of JSON would take many times its size.
    pub fn take(&self, body: &[u8]) -> Taken {
        let mut taken = Taken::default();
        let text = body.trim_ascii();
        let mut json = serde_json::Deserializer::from_slice(text);
        if text.starts_with(b"[") {
            let each = Each(|one| self.one(serde_json::from_str(one), &mut taken));
            let read = serde::Deserializer::deserialize_seq(&mut json, each).and_then(|()| json.end());
            if let Err(error) = read {
                self.broken(error.to_string(), &mut taken);
            }
            return taken;
        }
        for one in json.into_iter::<&RawValue>() {
            // Behind what is no JSON nothing can be found any more.
            let last = one.is_err();
            if !self.one(one.and_then(|one| serde_json::from_str(one.get())), &mut taken) || last {
                break;
            }
        }
        taken
    }

    /// Takes one; false when no more are to come.
    fn one(&self, line: Result<Line, serde_json::Error>, taken: &mut Taken) -> bool {
        if taken.accepted + taken.dropped + taken.broken >= MOST {
            self.broken(format!("more than {MOST} reports in one request"), taken);
            return false;
        }
        match line {
            Ok(line) if line.status.is_none() && line.headers.is_empty() && line.body.is_none() => {
                self.broken("a report needs a `status`, `headers` or a `body`".to_owned(), taken);
            }
            Ok(line) => {
                let mut seen = Seen::from(line);
                seen.ended = seen.ended.or_else(|| Some(self.teller.now()));
                if self.teller.tell(seen) { taken.accepted += 1 } else { taken.dropped += 1 }
            }
            Err(error) => self.broken(error.to_string(), taken),
        }
        true
    }

    fn broken(&self, error: String, taken: &mut Taken) {
        self.teller.unusable();
        taken.broken += 1;
        taken.error.get_or_insert(error);
    }
}

/// Visits each element of an array as the text that it is, until told to stop.
struct Each<F>(F);

impl<'de, F: FnMut(&'de str) -> bool> Visitor<'de> for Each<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of reports")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut all: A) -> Result<(), A::Error> {
        while let Some(one) = all.next_element::<&RawValue>()? {
            if !(self.0)(one.get()) {
                // What is behind it is not read.
                while all.next_element::<IgnoredAny>()?.is_some() {}
            }
        }
        Ok(())
    }
}

impl Taken {
    /// The status that says it.
    pub fn status(&self) -> StatusCode {
        match self {
            Self { dropped, .. } if *dropped > 0 => StatusCode::SERVICE_UNAVAILABLE,
            Self { accepted: 0, broken, .. } if *broken > 0 => StatusCode::BAD_REQUEST,
            Self { broken, .. } if *broken > 0 => StatusCode::MULTI_STATUS,
            _ => StatusCode::ACCEPTED,
        }
    }
}
