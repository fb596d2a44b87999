//! Active sources: what is asked for rather than seen to pass. Each is one file.

pub mod runner;
pub mod status_page;
