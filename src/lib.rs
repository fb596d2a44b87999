//! Plimsoll tells teams that run Claude and other LLM traffic *whose* limit they are about to hit,
//! before the 429.
//!
//! Data runs one way: **source → observation → owner + engine → snapshot → exporters**. The
//! modules below stand in that order; `ARCHITECTURE.md` has the picture and the invariants.

pub mod limit;
pub mod route;
pub mod observation;

pub mod dialects;
pub mod owner;
pub mod explain;
pub mod config;
pub mod sources;

pub mod engine;
pub mod ledger;
pub mod stats;
pub mod clock;
pub mod stop;
pub mod exporters;
pub mod admin;
pub mod app;
pub mod demo;
pub mod cli;
