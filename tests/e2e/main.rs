//! End to end: the sidecar with the real Prometheus, Alertmanager, LiteLLM, Envoy, Portkey, Claude
//! Code and SDKs, those of Bedrock and Vertex AI too.
//!
//! `scripts/e2e-deps.sh` installs what these need; a missing program fails the test and says so.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::too_many_lines)]

#[path = "../support/mod.rs"]
mod support;

mod alerting;
mod browser;
mod clients;
#[cfg(all(feature = "aws", feature = "google"))]
mod clouds;
#[cfg(feature = "aws")]
mod dashboards;
mod gateways;
mod outside;
mod programs;
mod queries;
mod sameness;
mod upstreams;
