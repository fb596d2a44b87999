//! Active sources: what is asked for rather than seen to pass. Each is one file.

pub mod anthropic;
pub mod asked;
#[cfg(feature = "aws")]
pub mod bedrock;
pub mod budget;
pub mod exposition;
pub mod gateways;
pub mod http;
pub mod runner;
pub mod shared;
pub mod status_page;
pub mod unusable;
#[cfg(feature = "google")]
pub mod vertex;
