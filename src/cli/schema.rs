//! `plimsoll schema`: the JSON Schema of the configuration, for editors and charts.

use super::print;
use crate::config::Config;
use std::process::ExitCode;

/// Flags of `schema`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example, for editors that know yaml-language-server:
  plimsoll schema > plimsoll.schema.json
  # yaml-language-server: $schema=plimsoll.schema.json")]
pub(super) struct Args {}

pub(super) fn main(_: &Args) -> ExitCode {
    print(&format!("{:#}", Config::schema()));
    ExitCode::SUCCESS
}
