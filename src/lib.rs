//! Plimsoll tells teams that run Claude and other LLM traffic *whose* limit they are about to hit,
//! before the 429.
//!
//! Data runs one way: **source → observation → owner + engine → snapshot → exporters**. The
//! modules below stand in that order; `ARCHITECTURE.md` has the picture and the invariants.

pub mod limit;
pub mod observation;
pub mod route;

pub mod config;
pub mod dialects;
pub mod evidence;
pub mod explain;
pub mod owner;
pub mod sources;

pub mod admin;
pub mod app;
pub mod causes;
pub mod claude_code;
pub mod cli;
pub mod clients;
pub mod clock;
pub mod dashboards;
pub mod demo;
pub mod diff;
pub mod engine;
pub mod exporters;
mod files;
pub mod fingerprint;
pub mod grpc_server;
pub mod http_server;
pub mod ledger;
pub mod mapping;
pub mod outgoing;
pub mod overload;
pub mod pollers;
pub mod recorded;
pub mod reference;
pub mod replay;
pub mod seen;
pub mod shared_limits;
pub mod stats;
pub mod stop;
mod text;
