//! `plimsoll exec`: one command with the variables of `plimsoll env`, and nothing else changed.
//!
//! The command takes this process's place. So signals reach it, its exit code is the exit code, and nothing of
//! Plimsoll is left beside it.

use super::{ConfigArg, env, load, say};
use crate::clients;
use std::ffi::OsString;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Flags of `exec`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  plimsoll exec -- claude
  plimsoll exec --first-party -- claude -p 'hello'
  plimsoll exec --route search-api -- python app.py

The exit code is the command's; 127 if it cannot be started.")]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// The route that it is sent to; by default the first one that serves each API.
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// The client that it is, where its name does not tell (`plimsoll env --list`).
    #[arg(long, value_name = "CLIENT")]
    client: Option<String>,
    /// Set Claude Code's own switch that makes it treat the base URL as Anthropic's.
    #[arg(long)]
    first_party: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// As a shell says that a command is not there.
const NOT_FOUND: u8 = 127;
/// How long the proxy may take to be there.
const PROBE: Duration = Duration::from_millis(300);

pub(super) fn main(args: &Args) -> ExitCode {
    let config = match load(args.config.config.as_deref()) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let Some((program, rest)) = args.command.split_first() else { return ExitCode::from(2) };
    let name = args.client.clone().unwrap_or_else(|| program.to_string_lossy().into_owned());
    let client = clients::of_program(&name);
    if client.is_none() && args.client.is_some() {
        say(&format!("`{name}` is no known client; `plimsoll env --list` names them"));
        return ExitCode::from(2);
    }
    let lines = match env::lines(&config, client, args.route.as_deref(), args.first_party) {
        Ok(lines) => lines,
        Err(problem) => {
            say(&problem);
            return ExitCode::FAILURE;
        }
    };
    let mut command = Command::new(program);
    command.args(rest);
    let mut set = Vec::new();
    for (name, value) in lines.iter().flat_map(|lines| &lines.variables) {
        // Two clients may want one variable differently; the first one has it.
        if !set.contains(name) {
            set.push(name);
            command.env(name, value);
        }
    }
    if let Some(client) = client {
        client.enforcement.first().into_iter().for_each(|text| say(&format!("plimsoll: {text}")));
        client.instead.into_iter().for_each(|text| {
            say(&format!("plimsoll: no variable moves {}; run {text}", client.name));
        });
    }
    for listener in &config.listeners {
        warn_unless_there(listener.bind);
    }
    let error = command.exec();
    say(&format!("{}: cannot be started: {error}", program.to_string_lossy()));
    ExitCode::from(NOT_FOUND)
}

/// A proxy that is not there looks to a client like a provider that is down.
fn warn_unless_there(mut at: SocketAddr) {
    if at.ip().is_unspecified() {
        at.set_ip(if at.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    if TcpStream::connect_timeout(&at, PROBE).is_err() {
        say(&format!("plimsoll: nothing listens on {at}; start `plimsoll run`"));
    }
}
