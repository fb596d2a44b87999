//! `plimsoll top`: what the page shows, in a terminal, asked of a running sidecar's admin port once a second.
//!
//! Where standard output is no terminal it prints once and ends, so that it serves in a script, too.

mod draw;

use super::{ConfigArg, load, print, runtime, say};
use crate::admin::state::State;
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use draw::{Screen, View};
use futures_util::StreamExt;
use secrecy::{ExposeSecret, SecretString};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// Flags of `top`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Print once and end.
    #[arg(long)]
    once: bool,
    /// Print once, as JSON.
    #[arg(long)]
    json: bool,
    /// The admin port of the sidecar; by default where the configuration puts it.
    #[arg(long, value_name = "URL", env = "PLIMSOLL_ADMIN_URL")]
    admin: Option<String>,
}

const EXAMPLES: &str = "Examples:
  plimsoll top                               owners and their buckets, the worst first; live
  plimsoll top --once                        the same, once
  plimsoll top --json | jq '.owners[0]'      the numbers

Keys: 1 limits, 2 incidents, 3 sources, Tab the next; arrows and Page keys move; q ends.";

/// How often it asks.
const PACE: Duration = Duration::from_secs(1);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Lines that a Page key moves.
const PAGE: u16 = 10;

pub(super) fn main(args: &Args) -> ExitCode {
    let config = match load(args.config.config.as_deref()) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let base = args.admin.clone().unwrap_or_else(|| format!("http://{}", config.admin.bind));
    let asked = Asked::new(base.trim_end_matches('/').to_owned(), config.admin.token.clone());
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    let shown = runtime.block_on(async {
        let asked = asked?;
        if args.json || args.once || !std::io::stdout().is_terminal() {
            return once(&asked, args.json).await;
        }
        live(&asked).await
    });
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            say(&problem);
            ExitCode::FAILURE
        }
    }
}

/// A sidecar that is asked.
struct Asked {
    client: reqwest::Client,
    base: String,
    token: Option<SecretString>,
}

impl Asked {
    fn new(base: String, token: Option<SecretString>) -> Result<Self, String> {
        let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build();
        Ok(Self { client: client.map_err(|error| error.to_string())?, base, token })
    }

    async fn state(&self) -> Result<State, String> {
        let mut request = self.client.get(format!("{}/v1/state", self.base));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        let gone = |error: reqwest::Error| {
            let (base, error) = (&self.base, error.without_url());
            format!("no sidecar answers at {base}: {error}. Is it running? --admin names another one.")
        };
        let answer = request.send().await.map_err(gone)?;
        if !answer.status().is_success() {
            let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap_or_default());
            return Err(format!("{status}: {}", text.trim()));
        }
        answer
            .json()
            .await
            .map_err(|error| format!("{} is no sidecar of this version: {}", self.base, error.without_url()))
    }
}

async fn once(asked: &Asked, json: bool) -> Result<(), String> {
    let state = asked.state().await?;
    if json {
        print(&serde_json::to_string_pretty(&state).map_err(|error| error.to_string())?);
    } else {
        print(draw::plain(&state).trim_end());
    }
    Ok(())
}

/// The live screen, until a key ends it. The terminal is given back as it was, also after a panic.
async fn live(asked: &Asked) -> Result<(), String> {
    let first = asked.state().await?;
    let mut terminal = ratatui::try_init().map_err(|error| format!("no terminal: {error}"))?;
    let ended = watch(asked, first, &mut terminal).await;
    ratatui::restore();
    ended.map_err(|error| error.to_string())
}

async fn watch(
    asked: &Asked,
    first: State,
    terminal: &mut ratatui::DefaultTerminal,
) -> Result<(), std::io::Error> {
    let mut screen = Screen::new(first);
    let mut keys = EventStream::new();
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        terminal.draw(|frame| screen.draw(frame))?;
        tokio::select! {
            _ = ticks.tick() => screen.told(asked.state().await),
            key = keys.next() => match key {
                Some(Ok(Event::Key(key))) if key.kind == KeyEventKind::Press => {
                    if pressed(&mut screen, key) {
                        return Ok(());
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
        }
    }
}

/// What a key does; true if it ends the screen.
fn pressed(screen: &mut Screen, key: KeyEvent) -> bool {
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return true,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
        KeyCode::Char('1') => screen.show(View::Limits),
        KeyCode::Char('2') => screen.show(View::Incidents),
        KeyCode::Char('3') => screen.show(View::Sources),
        KeyCode::Tab => screen.show(screen.view.next()),
        KeyCode::Down | KeyCode::Char('j') => screen.scroll(1, true),
        KeyCode::Up | KeyCode::Char('k') => screen.scroll(1, false),
        KeyCode::PageDown => screen.scroll(PAGE, true),
        KeyCode::PageUp => screen.scroll(PAGE, false),
        KeyCode::Home => screen.scroll(u16::MAX, false),
        _ => {}
    }
    false
}
