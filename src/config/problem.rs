//! Problems of a configuration, as a person needs them: path, line, column, what, and the fix.

use super::wire::File;
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

fn place(location: Location) -> Option<(u64, u64)> {
    (location.line() > 0).then(|| (location.line(), location.column()))
}

/// Reads the text into its wire form.
pub(super) fn read(text: &str) -> Result<File, Invalid> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(File::default());
    }
    let mut path = String::new();
    let result = serde_saphyr::with_deserializer_from_str(text, |de| {
        serde_path_to_error::deserialize::<_, File>(de).map_err(|error| {
            path = error.path().to_string();
            error.into_inner()
        })
    });
    result.map_err(|error| Invalid(vec![of_error(&error, path)]))
}

fn of_error(error: &Error, path: String) -> Problem {
    let error = error.without_snippet();
    let message = match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            format!("unknown key `{field}`{}", suggestion(field, expected))
        }
        Error::SerdeMissingField { field, .. } => format!("`{field}` is missing; add it here"),
        other => other.render().lines().next().unwrap_or("cannot be read").to_owned(),
    };
    let at = error.location().and_then(place);
    // `Spanned` shows as a step `value` that no file has: the last one, or that of a list.
    let path = path.strip_suffix(".value").unwrap_or(&path).trim_start_matches('.').replace(".value[", "[");
    let message = match message.find(" at line ") {
        Some(end) => message[..end].to_owned(),
        None => message,
    };
    Problem { path, at, message }
}

/// "did you mean" for a wrong word, and the words that would do.
pub(super) fn suggestion(word: &str, known: &[&str]) -> String {
    let near = known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(word, k), *k))
        .filter(|(distance, k)| *distance <= 3.max(k.len() / 3))
        .min();
    match near {
        Some((_, near)) => format!("; did you mean `{near}`?"),
        None => format!("; known here: {}", known.join(", ")),
    }
}
