//! The transparent hop.
pub mod answer;
pub mod decode;
pub mod scan;
