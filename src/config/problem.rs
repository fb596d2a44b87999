//! Problems of a configuration, as a person needs them: path, line, column, what, and the fix.

use serde_saphyr::{Error, Location, Spanned};
use std::fmt;

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where in the structure (`listeners[0].routes[1].upstream`).
    pub path: String,
    /// Line and column, where known.
    pub at: Option<(u64, u64)>,
    /// What is wrong and how to mend it.
    pub message: String,
}

impl Problem {
    /// A problem with a value that has a place.
    pub fn at<T>(value: &Spanned<T>, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), at: place(value.referenced), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.at {
            write!(f, "line {line}, column {column}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// A configuration that cannot be used. Holds at least one problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(pub Vec<Problem>);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, problem) in self.0.iter().enumerate() {
            if nth > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

pub(super) fn place(location: Location) -> Option<(u64, u64)> {
    (location.line() > 0).then(|| (location.line(), location.column()))
}

/// What a deserializer says, as a person needs it.
pub(super) fn of_error(error: &Error, path: String) -> Problem {
    let error = error.without_snippet();
    let message = match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            format!("unknown key `{field}`{}", suggestion(field, expected))
        }
        Error::SerdeMissingField { field, .. } => format!("`{field}` is missing; add it here"),
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("`{key}` stands here twice; keep one"),
        other => with_fix(other.render().lines().next().unwrap_or("cannot be read")),
    };
    Problem { path, at: error.location().and_then(place), message }
}

/// What is no YAML at all.
pub(super) fn of_syntax(error: &Error, path: String) -> Problem {
    let Problem { path, at, message } = of_error(error, path);
    if matches!(error.without_snippet(), Error::DuplicateMappingKey { .. }) {
        return Problem { path, at, message };
    }
    let what = message.split(';').next().unwrap_or_default();
    Problem { path, at, message: format!("{what}; mend quotes, brackets and indentation here or above") }
}

/// The message of a wrong value with what would be right.
fn with_fix(message: &str) -> String {
    let message = message.find(" at line ").map_or(message, |end| &message[..end]);
    if message.contains("; ") {
        return message.to_owned();
    }
    let said = |words: &[&str]| words.iter().any(|word| message.contains(word));
    let fix = if said(&["float", "integer", "number", "u64", "usize"]) {
        "write a number, without quotes and without a unit"
    } else if said(&["bool"]) {
        "write `true` or `false`"
    } else if said(&["mapping"]) {
        "write `key: value` pairs here"
    } else if said(&["sequence"]) {
        "write a list here, each element behind `- `"
    } else {
        "docs/config.md and `plimsoll schema` say what stands here"
    };
    format!("{message}; {fix}")
}

/// The known word that a wrong one is near to.
pub(super) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let near = known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(word, k), *k))
        .filter(|(distance, k)| *distance <= 3.max(k.len() / 3));
    near.min().map(|(_, near)| near)
}

/// "did you mean" for a wrong word, and the words that would do.
pub(super) fn suggestion(word: &str, known: &[&str]) -> String {
    match nearest(word, known) {
        Some(near) => format!("; did you mean `{near}`?"),
        None => format!("; known here: {}", known.join(", ")),
    }
}
