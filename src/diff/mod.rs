//! What a client does differently because it is sent through a proxy.
//!
//! A command runs twice against a provider on loopback: straight, as if nothing were set, and through a proxy by
//! its base URL. Straight has to mean the provider's own address, because clients decide by it; so the fake
//! stands in for every host, by a proxy for HTTPS and an authority of this process that the command is told to
//! trust. Nothing that the command sends in either run reaches a real provider. No value of a credential or a
//! prompt is kept beyond the run, and none is printed.

mod compare;
mod fake;

pub use compare::{Difference, What, compare};
pub use fake::Request;

use crate::app::{self, AppError, Seams};
use crate::clients::{self, Api, Client, FIRST_PARTY};
use crate::config::{Config, Invalid, ProviderHost};
use fake::{Fake, StartError};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// What is run, and how.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// The client that it is; the first one of each API's variables is set, where it is not known.
    pub client: Option<&'static Client>,
    /// Another proxy's base URL; Plimsoll itself, if absent.
    pub via: Option<String>,
    /// Where the fake listens: another proxy has to be told.
    pub listen: SocketAddr,
    /// Set Claude Code's own switch.
    pub first_party: bool,
    /// How many calls are rejected first, in each run.
    pub reject: usize,
    /// How long one run may take.
    pub timeout: Duration,
    /// Variables that the command gets beside those of this process.
    pub env: Vec<(OsString, OsString)>,
}

/// Both runs, and what differs.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The exit code of the straight run; absent where it was ended by a signal or took too long.
    pub straight_exit: Option<i32>,
    /// The exit code of the other one.
    pub through_exit: Option<i32>,
    /// Calls to a model in the straight run.
    pub straight_calls: usize,
    /// Calls to a model in the other one.
    pub through_calls: usize,
    /// What differs, the worst first.
    pub differences: Vec<Difference>,
}

/// Why there is nothing to compare.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// The fake could not start.
    #[error(transparent)]
    Fake(#[from] StartError),
    /// Plimsoll could not start.
    #[error(transparent)]
    App(#[from] AppError),
    /// Its configuration is not valid.
    #[error("the configuration of the run: {0}")]
    Config(#[from] Invalid),
    /// The command could not be started.
    #[error("{0}: cannot be started: {1}")]
    Command(String, std::io::Error),
    /// The straight run called no model.
    #[error(
        "the straight run called no model (its exit code: {0}). Does it need a key? Any will do: ANTHROPIC_API_KEY=sk-ant-x plimsoll diff -- …"
    )]
    NoCall(String),
}

/// Runs a command twice.
///
/// # Errors
/// If it cannot be run, or calls no model.
pub async fn run(plan: &Plan) -> Result<Report, DiffError> {
    let fake = Fake::start(plan.listen).await?;
    let own = if plan.via.is_none() { Some(plimsoll(fake.address).await?) } else { None };
    let straight_exit = one(plan, &fake, &[]).await?;
    let straight = fake.take();
    let base = |api: Api| match (&plan.via, &own) {
        (Some(url), _) => url.trim_end_matches('/').to_owned(),
        (None, Some(running)) => {
            let prefix = if api == Api::OpenAi { "/openai" } else { "" };
            format!("http://{}{prefix}", running.hops()[0])
        }
        (None, None) => String::new(),
    };
    let through_exit = one(plan, &fake, &variables(plan, &base)).await?;
    let through = fake.take();
    if let Some(running) = own {
        // What is left open is the command's, which has ended.
        drop(tokio::time::timeout(Duration::from_secs(1), running.shutdown()).await);
    }
    let calls = |all: &[Request]| all.iter().filter(|request| request.is_call()).count();
    if calls(&straight) == 0 {
        let code = straight_exit.map_or_else(|| "none".to_owned(), |code| code.to_string());
        return Err(DiffError::NoCall(code));
    }
    let mut differences = compare(&straight, &through);
    if straight_exit != through_exit {
        differences.push(Difference::exit(straight_exit, through_exit));
    }
    Ok(Report {
        straight_exit,
        through_exit,
        straight_calls: calls(&straight),
        through_calls: calls(&through),
        differences,
    })
}

/// Plimsoll in front of the fake, as it is in front of the provider itself.
async fn plimsoll(fake: SocketAddr) -> Result<app::Running, DiffError> {
    let text = format!(
        "metrics: {{bind: '127.0.0.1:0'}}\nlisteners:\n- bind: 127.0.0.1:0\n  routes:\n  - {{name: anthropic, upstream: 'http://{fake}', surface: anthropic_api}}\n  - {{name: openai, prefix: /openai, strip_prefix: true, upstream: 'http://{fake}', surface: openai}}\n"
    );
    let mut config = Config::parse(&text, &|_| None)?;
    for route in config.listeners.iter_mut().flat_map(|listener| &mut listener.routes) {
        let host = if route.prefix.is_empty() { ProviderHost::Anthropic } else { ProviderHost::OpenAi };
        route.repair = Some(host);
    }
    Ok(app::start(config, Seams { env: |_| None, ..Seams::default() }).await?)
}

/// What sends the command through the proxy.
fn variables(plan: &Plan, base: &dyn Fn(Api) -> String) -> Vec<(String, String)> {
    let apis = [Api::Anthropic, Api::OpenAi];
    let clients: Vec<&Client> = match plan.client {
        Some(client) => vec![client],
        None => clients::ALL.iter().filter(|client| apis.contains(&client.api)).collect(),
    };
    let mut set = BTreeMap::new();
    for client in clients {
        for variable in client.variables {
            // Of two clients that want one variable differently the first one has it.
            let value = format!("{}{}", base(client.api), variable.suffix);
            set.entry(variable.name.to_owned()).or_insert(value);
        }
    }
    if plan.first_party {
        set.insert(FIRST_PARTY.to_owned(), "1".to_owned());
    }
    set.into_iter().collect()
}

/// One run; its exit code.
async fn one(plan: &Plan, fake: &Fake, set: &[(String, String)]) -> Result<Option<i32>, DiffError> {
    fake.reject(plan.reject);
    let Some((program, rest)) = plan.command.split_first() else { return Ok(None) };
    let mut command = tokio::process::Command::new(program);
    command.args(rest).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    for variable in clients::ALL.iter().flat_map(|client| client.variables) {
        command.env_remove(variable.name);
    }
    command.env_remove(FIRST_PARTY).envs(plan.env.iter().map(|(name, value)| (name, value)));
    intercepted(&mut command, fake.address, fake.folder());
    command.envs(set.iter().map(|(name, value)| (name, value)));
    let mut child =
        command.spawn().map_err(|error| DiffError::Command(program.to_string_lossy().into_owned(), error))?;
    match tokio::time::timeout(plan.timeout, child.wait()).await {
        Ok(status) => Ok(status.ok().and_then(|status| status.code())),
        Err(_) => Ok(None),
    }
}

/// Makes the fake every host that the command calls by HTTPS.
fn intercepted(command: &mut tokio::process::Command, fake: SocketAddr, folder: &Path) {
    let proxy = format!("http://{fake}");
    for name in ["HTTPS_PROXY", "https_proxy"] {
        command.env(name, &proxy);
    }
    // What is plain and on loopback is the proxy that is looked at.
    for name in ["NO_PROXY", "no_proxy"] {
        command.env(name, "127.0.0.1,localhost,::1");
    }
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(name);
    }
    let authority = folder.join(fake::AUTHORITY);
    for name in [
        "NODE_EXTRA_CA_CERTS",
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "AWS_CA_BUNDLE",
        "CODEX_CA_CERTIFICATE",
    ] {
        command.env(name, &authority);
    }
    // Node reads no proxy from its environment before 22.21.
    let preload = format!("--require={}", folder.join(fake::PRELOAD).display());
    let options = std::env::var("NODE_OPTIONS").map(|given| format!("{given} {preload}")).unwrap_or(preload);
    command.env("NODE_OPTIONS", options).env("PLIMSOLL_DIFF_PORT", fake.port().to_string());
}
