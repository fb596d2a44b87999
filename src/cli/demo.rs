//! `plimsoll demo`: an alert that comes before the 429, before your eyes.

use super::{LogFormat, print, runtime, say, start_logging};
use crate::demo::{Demo, Look, Plan, Received};
use crate::limit::Timestamp;
use crate::owner::guidance;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

/// Flags of `demo`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Takes about a minute and needs nothing: provider, traffic and alert receiver are its own,
on ports of 127.0.0.1 that nobody else sees."
)]
pub(super) struct Args {
    /// Close with one JSON object on standard output; progress goes to standard error.
    #[arg(long)]
    json: bool,
}

/// The demo ends at the latest after this.
const AT_MOST: Duration = Duration::from_secs(85);
/// How long it goes on after the first refusal, so that the throttled alert is seen too.
const AFTERWARDS: f64 = 4.0;

pub(super) fn main(args: &Args) -> ExitCode {
    let _log = start_logging(LogFormat::Text, "error");
    match runtime() {
        Ok(runtime) => {
            let code = runtime.block_on(run(args));
            runtime.shutdown_background();
            code
        }
        Err(code) => code,
    }
}

async fn run(args: &Args) -> ExitCode {
    let show = Show {
        colour: std::io::stderr().is_terminal(),
        every: if std::io::stderr().is_terminal() { 1 } else { 5 },
    };
    let demo = match Demo::start(Plan::DEMO).await {
        Ok(demo) => demo,
        Err(error) => {
            say(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    show.opening(&demo);
    let look = watch(&demo, &show).await;
    show.closing(&look, &demo);
    if args.json {
        print(&contract(&look).to_string());
    }
    let announced = lead(&look).is_some_and(|lead| lead > 0.0);
    demo.stop().await;
    if announced { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Watches until some seconds after the first refusal.
async fn watch(demo: &Demo, show: &Show) -> Look {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let (mut alerted, mut refused) = (false, false);
    for second in 0_u64.. {
        ticks.tick().await;
        let look = demo.look();
        if second % show.every == 0 {
            show.line(&look);
        }
        if let (false, Some(alert)) = (alerted, &look.alert) {
            alerted = true;
            show.alert(&look, alert);
        }
        if !refused && look.first_429_at.is_some() {
            refused = true;
            show.refused(&look);
        }
        let over =
            look.first_429_at.is_some_and(|at| demo.running.clock.now().since(at).as_secs_f64() > AFTERWARDS);
        if over || look.t > AT_MOST.as_secs_f64() {
            return look;
        }
    }
    demo.look()
}

/// Seconds from the alert's arrival to the first refusal.
fn lead(look: &Look) -> Option<f64> {
    let alert = arrival(look.alert.as_ref()?)?;
    Some(look.first_429_at?.secs_f64() - alert)
}

fn arrival(alert: &Received) -> Option<f64> {
    alert.at.map(|at| Timestamp::from_micros(at.as_microsecond()).secs_f64())
}

/// The object that the contract promises (DESIGN, "Contracts").
fn contract(look: &Look) -> serde_json::Value {
    let alert = look.alert.as_ref();
    let label = |name: &str| alert.and_then(|a| a.labels.get(name).cloned());
    serde_json::json!({
        "lead_s": lead(look),
        "first_alert_at": alert.and_then(arrival),
        "first_429_at": look.first_429_at.map(Timestamp::secs_f64),
        "owner": label("owner"),
        "owner_kind": label("owner_kind"),
        "limiter": label("limiter"),
        "runbook_url": alert.and_then(|a| a.annotations.get("runbook_url").cloned()),
        "requests": look.requests,
        "rejected": look.rejected,
    })
}

struct Show {
    colour: bool,
    every: u64,
}

impl Show {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn opening(&self, demo: &Demo) {
        say(&format!(
            "An embedded provider allows 120,000 input tokens a minute. A growing workload calls it through\n\
             Plimsoll (http://{}); Plimsoll reads the headers that pass and posts alerts.\n\
             Metrics: http://{}/metrics\n",
            demo.running.hops()[0],
            demo.running.metrics
        ));
        say("  time  calls  input bucket used                  empty in");
    }

    fn line(&self, look: &Look) {
        let used = look.bucket.as_ref().and_then(|b| b.utilization).unwrap_or(0.0).clamp(0.0, 1.0);
        let full = (used * 24.0).round() as usize;
        let bar = format!("{}{}", "#".repeat(full), ".".repeat(24 - full));
        let code = if used >= 0.95 {
            "31"
        } else if used >= 0.5 {
            "33"
        } else {
            "32"
        };
        let left = look
            .bucket
            .as_ref()
            .and_then(|b| b.empty_in)
            .map_or("-".to_owned(), |d| format!("{} s", d.as_secs()));
        say(&format!(
            "{:>5.0}s  {:>5}  {} {:>4.0} %  {left:>8}",
            look.t,
            look.requests,
            self.paint(code, &bar),
            used * 100.0
        ));
    }

    fn alert(&self, look: &Look, alert: &Received) {
        let label = |name: &str| alert.labels.get(name).map_or("-", String::as_str);
        let note = |name: &str| alert.annotations.get(name).map_or("-", String::as_str);
        say(&self.paint("1;33", &format!("        ALERT at {:.0} s: {}", look.t, label("alertname"))));
        say(&format!(
            "          owner    {} ({}), limiter {}",
            label("owner"),
            label("owner_kind"),
            label("limiter")
        ));
        say(&format!("          says     {}", note("description")));
        say(&format!("          first    {}", note("first_move")));
        say(&format!("          runbook  {}", note("runbook_url")));
    }

    fn refused(&self, look: &Look) {
        say(&self.paint("1;31", &format!("        FIRST 429 at {:.0} s", look.t)));
    }

    fn closing(&self, look: &Look, demo: &Demo) {
        let names: Vec<String> =
            demo.receiver.all().iter().filter_map(|a| a.labels.get("alertname").cloned()).collect();
        say("");
        match lead(look) {
            Some(lead) if lead > 0.0 => say(&self.paint(
                "1;32",
                &format!("The alert came {lead:.1} s before the first 429, and named whose limit it was."),
            )),
            _ => say("The alert did not come before the first 429."),
        }
        say(&format!("Alerts received, in order: {}", names.join(", ")));
        say(&format!("Stop rule: {}", guidance::STOP_RULE));
    }
}
