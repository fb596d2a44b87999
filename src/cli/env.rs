//! `plimsoll env`: the variables that send a client through the proxy, each with what it does and what it costs.

use super::{ConfigArg, load, print, say};
use crate::clients::{self, CLAUDE_CODE, Client, FIRST_PARTY, NoRoute, Reached};
use crate::config::Config;
use clap::ValueEnum;
use serde_json::json;
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Flags of `env`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The client; all of them, if none is named. `plimsoll env --list` names them.
    client: Option<String>,
    /// Name the clients that are known.
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    config: ConfigArg,
    /// The route that they are sent to; by default the first one that serves their API.
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// How the lines are written.
    #[arg(long, value_enum, default_value = "shell")]
    format: Format,
    /// Set Claude Code's own switch that makes it treat the base URL as Anthropic's. Undocumented; only where the
    /// upstream is Anthropic's own host.
    #[arg(long)]
    first_party: bool,
}

const EXAMPLES: &str = "Examples:
  eval \"$(plimsoll env claude-code)\"                        this shell
  plimsoll env claude-code --first-party                    with its shared cache scope and betas
  plimsoll env openai --route openai --format dotenv >> .env
  plimsoll env --format kubernetes                          the entries of a container's `env`
  plimsoll env --list                                       the clients that are known

One process alone: plimsoll exec -- COMMAND. What a client sends with and without: plimsoll diff -- COMMAND.";

/// How the lines are written.
#[derive(Clone, Copy, Debug, ValueEnum, PartialEq, Eq)]
enum Format {
    /// `export NAME='value'`.
    Shell,
    /// `NAME=value`.
    Dotenv,
    /// Entries of a container's `env`.
    Kubernetes,
    /// One object.
    Json,
}

pub(super) fn main(args: &Args) -> ExitCode {
    if args.list {
        clients::ALL.iter().for_each(|client| print(&format!("{:<20} {}", client.name, client.title)));
        return ExitCode::SUCCESS;
    }
    let config = match load(args.config.config.as_deref()) {
        Ok(config) => config,
        Err(code) => return code,
    };
    match text(args, &config) {
        Ok(text) => {
            print(text.trim_end());
            ExitCode::SUCCESS
        }
        Err(problem) => {
            say(&problem);
            ExitCode::FAILURE
        }
    }
}

/// What is set for one client.
pub(super) struct Lines<'a> {
    pub(super) client: &'static Client,
    pub(super) reached: Reached<'a>,
    pub(super) variables: Vec<(&'static str, String)>,
}

/// The clients that are meant, each with its route. Of all clients those are left out whose API no route serves.
pub(super) fn lines<'a>(
    config: &'a Config,
    client: Option<&'static Client>,
    route: Option<&str>,
    first_party: bool,
) -> Result<Vec<Lines<'a>>, String> {
    let one = |client: &'static Client| -> Result<Lines<'a>, NoRoute> {
        let reached = clients::reach(config, client.api, route)?;
        let variables = client.variables.iter().map(|v| (v.name, reached.value(v))).collect();
        Ok(Lines { client, reached, variables })
    };
    let mut all = match client {
        Some(client) => vec![one(client).map_err(|e| e.to_string())?],
        None => {
            let (there, missing): (Vec<_>, Vec<_>) =
                clients::ALL.iter().map(one).partition(|lines| lines.is_ok());
            let first = missing.into_iter().find_map(Result::err);
            let there: Vec<_> = there.into_iter().flatten().collect();
            match first {
                Some(error) if there.is_empty() => return Err(error.to_string()),
                _ => there,
            }
        }
    };
    if first_party {
        let Some(claude) = all.iter_mut().find(|lines| lines.client.name == CLAUDE_CODE) else {
            return Err("--first-party is a switch of claude-code".to_owned());
        };
        if !claude.reached.is_anthropics_own() {
            return Err(format!(
                "--first-party is only for a route whose upstream is https://api.anthropic.com; `{}` goes to {}",
                claude.reached.route.name, claude.reached.route.origin
            ));
        }
        claude.variables.push((FIRST_PARTY, "1".to_owned()));
    }
    Ok(all)
}

fn text(args: &Args, config: &Config) -> Result<String, String> {
    let client = match args.client.as_deref() {
        Some(name) => {
            let names = clients::ALL.iter().map(|client| client.name).collect::<Vec<_>>().join(", ");
            Some(
                clients::named(name)
                    .ok_or_else(|| format!("`{name}` is no known client; use one of {names}"))?,
            )
        }
        None => None,
    };
    let lines = lines(config, client, args.route.as_deref(), args.first_party)?;
    Ok(match args.format {
        Format::Json => format!("{:#}", object(&lines)),
        format => blocks(&lines, format),
    })
}

fn object(lines: &[Lines<'_>]) -> serde_json::Value {
    let clients = lines.iter().map(|Lines { client, reached, variables }| {
        let variables: serde_json::Map<_, _> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        json!({
            "client": client.name,
            "title": client.title,
            "route": reached.route.name.as_str(),
            "variables": variables,
            "instead": client.instead.map(|text| text.replace("URL", reached.url())),
            "no_longer_enforced": client.enforcement,
            "loses": client.loses,
            "source": client.source,
        })
    });
    json!({"clients": clients.collect::<Vec<_>>()})
}

/// A block for each client. A variable that two want differently is set for the first; the other's is a comment.
fn blocks(lines: &[Lines<'_>], format: Format) -> String {
    let mut set: BTreeMap<&str, &str> = BTreeMap::new();
    let mut out = String::new();
    for Lines { client, reached, variables } in lines {
        let mut line = |text: &str| {
            out.push_str(text);
            out.push('\n');
        };
        line(&format!("# {}: {} ({})", client.name, client.title, client.source));
        client.enforcement.iter().for_each(|text| line(&format!("# ! {text}")));
        if client.name == CLAUDE_CODE {
            without_a_proxy().iter().for_each(|text| line(text));
        }
        for (name, value) in variables {
            match set.get(name) {
                Some(there) if there == value => {}
                Some(_) => {
                    line(
                        "# The one above serves it where the upstream is the provider's own host. Where only this client runs:",
                    );
                    written(name, value, format).iter().for_each(|text| line(&format!("# {text}")));
                }
                None => {
                    set.insert(name, value);
                    written(name, value, format).iter().for_each(|text| line(text));
                }
            }
        }
        if let Some(instead) = client.instead {
            line(&format!("# No variable moves it: {}", instead.replace("URL", reached.url())));
        }
        line(&format!("# Loses: {}.", client.loses.join("; ")));
        let offered = client.name == CLAUDE_CODE && reached.is_anthropics_own();
        if offered && !variables.iter().any(|(name, _)| *name == FIRST_PARTY) {
            first_party(format).iter().for_each(|text| line(&format!("# {text}")));
        }
        line("");
    }
    out
}

fn without_a_proxy() -> [&'static str; 3] {
    [
        "# Without a proxy nothing is lost: Claude Code tells of its requests by OTLP (docs/sources.md). Set `sources.otlp` and:",
        "#   CLAUDE_CODE_ENABLE_TELEMETRY=1 OTEL_LOGS_EXPORTER=otlp OTEL_METRICS_EXPORTER=otlp",
        "#   OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318",
    ]
}

/// The offer of the switch, as comments.
fn first_party(format: Format) -> Vec<String> {
    let mut all = vec![
        "Its own switch brings back what it loses, but for one beta and Remote Control. It is undocumented and may go; where its"
            .to_owned(),
        "other hosts cannot be reached it starts 18 s late without CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1:".to_owned(),
    ];
    all.extend(written(FIRST_PARTY, "1", format));
    all
}

fn written(name: &str, value: &str, format: Format) -> Vec<String> {
    match format {
        // What a configuration can put into an address needs no quoting but this.
        Format::Shell => vec![format!("export {name}='{}'", value.replace('\'', "'\\''"))],
        Format::Dotenv => vec![format!("{name}={value}")],
        Format::Kubernetes | Format::Json => {
            vec![format!("- name: {name}"), format!("  value: {}", json!(value))]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: Args,
    }

    fn printed(words: &str, config: &str) -> Result<String, String> {
        let args = Only::parse_from(std::iter::once("env").chain(words.split_whitespace())).args;
        text(&args, &Config::parse(config, &|_| None).unwrap())
    }

    const BOTH: &str = "listeners:
- bind: 127.0.0.1:8429
  routes:
  - {name: claude, upstream: 'https://api.anthropic.com'}
  - {name: openai, prefix: /openai, strip_prefix: true, upstream: 'https://api.openai.com'}
  - {name: gw, prefix: /gw, strip_prefix: true, upstream: 'http://litellm:4000', surface: gateway}
";

    #[test]
    fn the_lines_for_claude_code_say_first_what_is_no_longer_enforced() {
        insta::assert_snapshot!(printed("claude-code", "").unwrap());
        let text = printed("claude-code", "").unwrap();
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part}: {text}"));
        assert!(at("server-managed settings") < at("Without a proxy"));
        assert!(at("Without a proxy") < at("export ANTHROPIC_BASE_URL"));
    }

    #[test]
    fn all_clients_get_one_environment_and_conflicts_are_comments() {
        insta::assert_snapshot!(printed("--format kubernetes", BOTH).unwrap());
        let text = printed("--format dotenv", BOTH).unwrap();
        let set: Vec<&str> = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
        let names: std::collections::BTreeSet<&str> =
            set.iter().map(|l| l.split_once('=').unwrap().0).collect();
        assert_eq!(names.len(), set.len(), "no variable twice: {set:?}");
        assert!(set.contains(&"ANTHROPIC_BASE_URL=http://127.0.0.1:8429"));
        assert!(set.contains(&"OPENAI_BASE_URL=http://127.0.0.1:8429/openai/v1"));
        assert!(!text.contains("AWS_"), "no route goes there");
    }

    #[test]
    fn the_first_party_switch_is_off_by_default_and_only_for_anthropics_own_host() {
        let switch = format!("export {FIRST_PARTY}='1'");
        let set = |text: &str| text.lines().any(|line| line == switch);
        assert!(!set(&printed("claude-code", BOTH).unwrap()));
        assert!(set(&printed("claude-code --first-party", BOTH).unwrap()));
        let refused = printed("claude-code --first-party --route gw", BOTH).unwrap_err();
        assert!(refused.contains("`gw` goes to http://litellm:4000"), "{refused}");
        assert!(!printed("claude-code --route gw", BOTH).unwrap().contains(FIRST_PARTY), "nor is it offered");
        assert!(printed("openai --first-party", BOTH).is_err());
    }

    #[test]
    fn as_json_everything_is_there() {
        let text = printed("claude-code --format json", "").unwrap();
        let said: serde_json::Value = serde_json::from_str(&text).unwrap();
        let claude = &said["clients"][0];
        assert_eq!(claude["variables"]["ANTHROPIC_BASE_URL"], "http://127.0.0.1:8429");
        assert!(claude["no_longer_enforced"][0].as_str().unwrap().contains("server-managed"));
    }

    #[test]
    fn unknown_clients_and_routes_are_refused_with_what_there_is() {
        assert!(printed("cluade", "").unwrap_err().contains("claude-code"));
        assert!(printed("claude-code --route x", "").unwrap_err().contains("anthropic"));
        assert!(printed("openai", "").unwrap_err().contains("no route of the configuration goes to OpenAI"));
    }
}
