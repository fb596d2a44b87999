//! `plimsoll top`: what the page shows, in a terminal, asked of a running sidecar's admin port once a second.
//!
//! Where standard output is no terminal it prints once and ends, so that it serves in a script, too.

mod draw;

use super::ask::{self, Admin, AdminArg};
use super::{ConfigArg, print};
use crate::admin::state::State;
use crate::outgoing::{self, Redirects};
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use draw::{Screen, View};
use futures_util::StreamExt;
use futures_util::stream::unfold;
use std::io::IsTerminal;
use std::pin::pin;
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
    #[command(flatten)]
    admin: AdminArg,
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
    ask::run(&args.config, &args.admin, async |admin| {
        let client = outgoing::client(Redirects::FollowedByReads).timeout(PATIENCE).no_proxy().build();
        let asked = Asked { client: client.map_err(|error| error.to_string())?, admin };
        if args.json || args.once || !std::io::stdout().is_terminal() {
            return once(&asked, args.json).await;
        }
        live(&asked).await
    })
}

/// A sidecar that is asked.
struct Asked {
    client: reqwest::Client,
    admin: Admin,
}

impl Asked {
    async fn state(&self) -> Result<State, String> {
        let answer = self.admin.get(&self.client, "/v1/state").await?;
        answer.json().await.map_err(|error| match error.is_decode() {
            true => "that is no sidecar of this version".to_owned(),
            false => self.admin.gone(error),
        })
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
    // A stream, so that a key is heard while the sidecar takes its time.
    let mut states = pin!(unfold(ticks, |mut ticks| async {
        ticks.tick().await;
        Some((asked.state().await, ticks))
    }));
    loop {
        terminal.draw(|frame| screen.draw(frame))?;
        tokio::select! {
            Some(told) = states.next() => screen.told(told),
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
