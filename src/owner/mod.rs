//! Whose limit is it: from a route to its owner, and from a failure to a verdict with its proof.

pub mod cond;
pub mod guidance;
#[cfg(test)]
mod quoted_tests;
mod resolve;
pub mod rules;
mod verdict;

pub use resolve::{Names, OwnerRule, Owners, Pattern};
pub use verdict::{Class, Confidence, Evidence, Rule, Rung, Verdict, judge, surface_of};
