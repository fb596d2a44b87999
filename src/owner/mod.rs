//! Whose limit is it: from a route to its owner, and from a failure to a verdict with its proof.

pub mod guidance;
mod resolve;
mod rules;
mod verdict;

pub use resolve::{OwnerRule, Owners, Pattern};
pub use rules::RULES;
pub use verdict::{Class, Confidence, Evidence, Hints, Hit, Rule, Rung, Verdict, judge, surface_of};
