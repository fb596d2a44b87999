//! Reports by HTTP: an application, a callback or a status line tells what it saw itself (`POST /v1/observations`).
//!
//! One JSON object, an array of them, or one a line, each in the shape that `replay` reads (`recorded`). A broken one
//! spoils only itself. The answer says how many were taken; nothing waits for the engine.

use super::intake::{Intake, Teller};
use crate::recorded::Line;
use crate::seen::Seen;
use bytes::Bytes;
use http::StatusCode;

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

    /// Takes a body.
    pub fn take(&self, body: &Bytes) -> Taken {
        let mut taken = Taken::default();
        let text = body.trim_ascii();
        if text.starts_with(b"[") {
            match serde_json::from_slice::<Vec<serde_json::Value>>(text) {
                Ok(all) => all.into_iter().for_each(|one| {
                    self.one(serde_json::from_value(one), &mut taken);
                }),
                Err(error) => self.one(Err(error), &mut taken),
            }
            return taken;
        }
        for one in serde_json::Deserializer::from_slice(text).into_iter::<serde_json::Value>() {
            // Behind what is no JSON nothing can be found any more.
            let broken = one.is_err();
            self.one(one.and_then(serde_json::from_value), &mut taken);
            if broken {
                break;
            }
        }
        taken
    }

    fn one(&self, line: Result<Line, serde_json::Error>, taken: &mut Taken) {
        let line = match line {
            Ok(_) if taken.accepted + taken.dropped + taken.broken >= MOST => {
                Err(format!("more than {MOST} reports in one request"))
            }
            Ok(line) if line.status.is_none() && line.headers.is_empty() && line.body.is_none() => {
                Err("a report needs a `status`, `headers` or a `body`".to_owned())
            }
            Ok(line) => Ok(line),
            Err(error) => Err(error.to_string()),
        };
        match line {
            Ok(line) => {
                let mut seen = Seen::from(line);
                seen.ended = seen.ended.or_else(|| Some(self.teller.now()));
                if self.teller.tell(seen) { taken.accepted += 1 } else { taken.dropped += 1 }
            }
            Err(error) => {
                self.teller.unusable();
                taken.broken += 1;
                taken.error.get_or_insert(error);
            }
        }
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
