//! `plimsoll check`: finds mistakes before they run, and says what the configuration means.

use super::{ConfigArg, EX_CONFIG, LogFormat, load, print, runtime, say, start_logging};
use crate::clock::Clock;
use crate::config::Config;
use crate::dialects::places;
use crate::pollers::runner::{Failure, Poll, State};
use crate::pollers::{asked, gateways};
use crate::route::Surface;
use crate::stats::Stats;
use std::fmt::Write;
use std::process::ExitCode;

/// Flags of `check`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code 78 if the configuration cannot be used; every problem is named with line and column.
With --strict, also if something in it can have no effect.
With --ask, exit code 1 if a quota API does not answer; a permission that is missing is named."
)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Ask each quota API once, to prove credentials and permissions. It may cost a fraction of a cent.
    #[arg(long)]
    ask: bool,
    /// Fail on a warning too: an owner that nothing can match, say.
    #[arg(long)]
    strict: bool,
}

pub(super) fn main(args: &Args) -> ExitCode {
    match load(args.config.config.as_deref()) {
        Ok(config) => {
            print(summary(&config).trim_end());
            if args.strict && !warnings(&config).is_empty() {
                say("--strict: there are warnings");
                return ExitCode::from(EX_CONFIG);
            }
            if !args.ask {
                return ExitCode::SUCCESS;
            }
            // What an answer holds that cannot be used is told as a running poller tells it.
            let _log = start_logging(LogFormat::Text, "warn");
            match runtime() {
                Ok(runtime) => runtime.block_on(ask(&config)),
                Err(code) => code,
            }
        }
        Err(code) => code,
    }
}

/// Asks each quota API once, in the order in which a poller does.
async fn ask(config: &Config) -> ExitCode {
    let (stats, clock) = (Stats::default(), Clock::system());
    let all = match asked::all(&config.pollers, &stats, &clock).await {
        Ok(all) => all,
        Err(error) => {
            say(&format!("pollers: {error}"));
            return ExitCode::FAILURE;
        }
    };
    if all.is_empty() && config.pollers.gateways.is_empty() {
        print("  pollers: none; nothing to ask.");
    }
    let mut failed = ask_gateways(config, &stats, &clock).await;
    for mut one in all {
        match in_time(one.asked.poll()).await {
            Ok(told) => {
                let limits = told.rows.iter().filter(|row| row.limit.is_some()).count();
                let drawn = told.rows.iter().filter(|row| row.drawn.is_some()).count();
                print(&format!("  {}: answered ({limits} limits, {drawn} draws)", one.name));
                if let Some(shown) = &one.shown {
                    shown.send_replace(State { good: Some((clock.now(), told)), failure: None });
                }
            }
            Err(failure) => {
                failed = true;
                print(&format!("  {}: FAILED, {}", one.name, failure.message));
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let answered = tokio::time::timeout(asked::TIMEOUT, answer).await;
    answered.unwrap_or_else(|_| Err(Failure::from("no answer in time".to_owned())))
}

/// Asks each gateway once. True if one did not tell all that it is asked for.
async fn ask_gateways(config: &Config, stats: &Stats, clock: &Clock) -> bool {
    let mut failed = false;
    for gateway in &config.pollers.gateways {
        let name = &gateway.name;
        let told = match gateways::Asked::of(gateway, stats, clock) {
            Ok(mut asked) => in_time(asked.poll()).await,
            Err(error) => Err(Failure::from(error)),
        };
        match told {
            Ok(told) => {
                let (series, budgets) = (told.series, told.quotas.rows.len());
                print(&format!("  gateway:{name}: answered ({series} series, {budgets} budgets)"));
                for failure in &told.failed {
                    print(&format!("  gateway:{name}: FAILED, {failure}"));
                }
                failed |= !told.failed.is_empty();
            }
            Err(failure) => {
                failed = true;
                print(&format!("  gateway:{name}: FAILED, {}", failure.message));
            }
        }
    }
    failed
}

/// Whatever tells of calls beside the hop, in words.
fn told(config: &Config) -> Vec<String> {
    let sources = &config.sources;
    let mut all = Vec::new();
    all.extend(sources.envoy_als.map(|bind| format!("takes Envoy's access logs on {bind}")));
    if let Some(otlp) = &sources.otlp {
        all.extend(otlp.grpc.map(|bind| format!("takes OTLP by gRPC on {bind}")));
        all.extend(otlp.http.map(|bind| format!("takes OTLP by HTTP on {bind}")));
        all.extend(otlp.forward.as_ref().map(|to| format!("sends all OTLP on to {}", to.endpoint)));
    }
    all.extend(sources.tails.iter().map(|tail| match &tail.path {
        Some(path) => format!("reads {} ({})", path.display(), tail.name),
        None => format!("reads standard input ({})", tail.name),
    }));
    if sources.state_dir.is_none() && sources.tails.iter().any(|tail| tail.path.is_some() && !tail.from_start)
    {
        all.push("note: without `state_dir` a restart begins at the end of each log.".to_owned());
    }
    all
}

/// The quota APIs, in words.
fn polled(config: &Config) -> Vec<String> {
    let pollers = &config.pollers;
    let mut all = Vec::new();
    all.extend(pollers.anthropic.as_ref().map(|one| format!("Anthropic's Admin API at {}", one.url)));
    all.extend(pollers.aws.iter().map(|one| format!("AWS {} in {}", one.name, one.regions.join(", "))));
    all.extend(pollers.google.iter().map(|one| format!("Google Cloud {}", one.name)));
    all.extend(
        pollers
            .gateways
            .iter()
            .map(|one| format!("the gateway {} ({}) at {}", one.name, one.kind.as_str(), one.url)),
    );
    all.extend(pollers.limits.as_ref().map(|one| format!("another poller at {}", one.url)));
    all
}

/// Owners that can never be found.
fn warnings(config: &Config) -> Vec<String> {
    let sources = &config.sources;
    let hop = config.routes().map(|route| route.name.as_str());
    let told = sources.places.rules.iter().map(|rule| rule.place.route.as_str());
    let gateways = config.pollers.gateways.iter().filter_map(|gateway| gateway.route.as_deref());
    // What no rule places bears its source's name as its route.
    let tails = sources.tails.iter().map(|tail| &*tail.name);
    let routes: Vec<&str> = hop.chain(told).chain(gateways).chain(tails).collect();
    let unplaced = ["report", "otlp", "envoy_als"];
    let mut warnings = Vec::new();
    for owner in config.owners.iter() {
        let found = |name: &&str| owner.routes.iter().any(|pattern| pattern.matches(name));
        if !owner.routes.is_empty() && !routes.iter().chain(&unplaced).any(found) {
            warnings.push(format!(
                "owner {} matches no route of this configuration, so it is never called; name one of these under \
                 `match.routes`: {}",
                owner.id,
                routes.join(", ")
            ));
        }
    }
    warnings
}

/// Owners that will be shown as one where they are several.
fn owner_notes(config: &Config) -> Vec<String> {
    let mut notes = Vec::new();
    for owner in config.owners.iter() {
        let clouds = !config.pollers.aws.is_empty()
            || !config.pollers.google.is_empty()
            || config.pollers.limits.is_some();
        if clouds && owner.projects.len() > 1 {
            notes.push(format!(
                "owner {} has several accounts or projects; labels tell only owners apart, so what they draw adds up \
                 as if they shared one limit. Give each an owner of its own.",
                owner.id
            ));
        }
    }
    notes
}

fn summary(config: &Config) -> String {
    let mut out = String::from("The configuration is valid.\n");
    // Writing to a string cannot fail.
    let mut line = |text: String| writeln!(out, "{text}").is_ok();
    for listener in &config.listeners {
        for route in &listener.routes {
            let prefix = if route.prefix.is_empty() { "/" } else { &route.prefix };
            let surface = route.surface.map_or("told from the traffic", |s| s.as_str());
            line(format!(
                "  route {}: {}{prefix} -> {} (surface: {surface})",
                route.name, listener.bind, route.upstream
            ));
        }
    }
    line(format!("  metrics, health and runbooks: http://{}/", config.metrics));
    let owners: Vec<&str> = config.owners.iter().map(|o| o.id.as_str()).collect();
    line(match owners.is_empty() {
        true => "  owners: none; every owner will be `unnamed`. Name yours under `owners:`.".to_owned(),
        false => format!("  owners, first match wins: {}", owners.join(", ")),
    });
    let urls: Vec<&str> = config.alerts.alertmanagers.iter().map(|a| a.url.as_str()).collect();
    line(match urls.is_empty() {
        true => "  direct alerts: none; the rules of `plimsoll rules` alert by /metrics.".to_owned(),
        false => format!("  direct alerts to {}", urls.join(", ")),
    });
    for poller in polled(config) {
        line(format!("  asks {poller}"));
    }
    for source in told(config) {
        line(format!("  {source}"));
    }
    let uncounted = config.routes().filter(|route| {
        let cloud = route.surface.or_else(|| places::surface_of_host(route.upstream.host()?));
        cloud == Some(Surface::Bedrock) && route.project.is_none()
    });
    for route in uncounted {
        line(format!(
            "  note: route {} goes to Bedrock without `project`; its calls are counted, and held against no limit.",
            route.name
        ));
    }
    for warning in warnings(config) {
        line(format!("  warning: {warning}"));
    }
    for note in owner_notes(config) {
        line(format!("  note: {note}"));
    }
    if config.external_url.is_none() && !urls.is_empty() {
        line("  note: without `external_url` alerts link to the public runbooks.".to_owned());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(yaml: &str) -> String {
        summary(&Config::parse(yaml, &|_| None).unwrap())
    }

    #[test]
    fn an_owner_that_cannot_be_found_is_named_with_what_there_is() {
        let said_of =
            |routes: &str| said(&format!("owners: [{{name: search, match: {{routes: [{routes}]}}}}]\n"));
        assert!(
            said_of("nonexistent")
                .contains("owner search matches no route of this configuration, so it is never called; name one of these under `match.routes`: anthropic")
        );
        for there in ["anthropic", "anth*", "report"] {
            assert!(!said_of(there).contains("matches no route"), "{there}");
        }
    }

    #[test]
    fn several_accounts_of_one_owner_are_told_of() {
        let several = "owners: [{name: ml, match: {projects: [a, b]}}]\n";
        assert!(!said(several).contains("several accounts"), "no quota is known of them");
        let polled = format!("{several}pollers: {{limits: {{url: 'http://plimsoll-poller:9429'}}}}\n");
        assert!(said(&polled).contains("owner ml has several accounts or projects"), "{}", said(&polled));
    }
}
