//! An error with everything that caused it, in one line.

/// The error's words, and those of its causes, joined by colons.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
