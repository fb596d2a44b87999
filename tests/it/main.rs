//! Integration tests: the sidecar in this process, against servers that see exact bytes.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::too_many_lines)]

#[path = "../support/mod.rs"]
mod support;

mod addressed;
mod alertmanagers;
mod architecture;
mod assets;
mod backtest;
mod canary;
mod docs;
mod evidence;
mod exposition;
mod fail_open;
mod health;
mod hostile;
mod http2;
mod markdown;
mod memory;
mod messages;
mod otlp;
mod outside;
mod page;
mod pipeline;
#[cfg(all(feature = "aws", feature = "google"))]
mod pollers;
mod process;
mod recovery;
mod redirects;
mod reload;
mod runbooks;
#[cfg(all(feature = "aws", feature = "google", feature = "als"))]
mod settings;
mod start;
mod transparency;
mod transparency_h2;
mod verdicts;
