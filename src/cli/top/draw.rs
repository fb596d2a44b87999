//! What `plimsoll top` shows, as lines. Text of headers and configurations is cut of everything that a terminal would
//! obey before it gets here.

use crate::admin::state::{self, AlertRow, BucketRow, LOAD_LINE, NEARLY, OwnerRow, State};
use crate::text::clean;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

/// Cells of a bucket's bar.
const BAR: usize = 16;
/// How far to the right a line goes on.
const INDENT: usize = 4;

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// Owners and their buckets.
    Limits,
    /// Incidents.
    Incidents,
    /// Sources.
    Sources,
}

impl View {
    /// The next one, round and round.
    pub(super) const fn next(self) -> Self {
        match self {
            Self::Limits => Self::Incidents,
            Self::Incidents => Self::Sources,
            Self::Sources => Self::Limits,
        }
    }

    const ALL: [(Self, &'static str); 3] =
        [(Self::Limits, "1 Limits"), (Self::Incidents, "2 Incidents"), (Self::Sources, "3 Sources")];
}

/// The screen.
pub(super) struct Screen {
    /// What is looked at.
    pub(super) view: View,
    state: State,
    /// Why the newest state is not there.
    problem: Option<String>,
    /// Lines above the first one shown.
    above: u16,
}

impl Screen {
    /// A screen that shows this.
    pub(super) fn new(state: State) -> Self {
        Self { view: View::Limits, state, problem: None, above: 0 }
    }

    /// Takes what the sidecar said; if it said nothing the old state stays, and the screen says so.
    pub(super) fn told(&mut self, told: Result<State, String>) {
        match told {
            Ok(state) => (self.state, self.problem) = (state, None),
            Err(problem) => self.problem = Some(problem),
        }
    }

    /// Looks at something else.
    pub(super) fn show(&mut self, view: View) {
        (self.view, self.above) = (view, 0);
    }

    /// Moves by lines.
    pub(super) fn scroll(&mut self, by: u16, down: bool) {
        self.above = if down { self.above.saturating_add(by) } else { self.above.saturating_sub(by) };
    }

    /// Draws it.
    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let width = frame.area().width;
        let lines: Vec<_> =
            lines(&self.state, self.view).iter().flat_map(|line| wrapped(line, width)).collect();
        let foot_lines = wrapped(&self.foot(), width);
        let foot_height = u16::try_from(foot_lines.len()).unwrap_or(1);
        let [head, main, foot] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(foot_height)])
                .areas(frame.area());
        let last = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_sub(main.height);
        self.above = self.above.min(last);
        frame.render_widget(self.head(width), head);
        frame.render_widget(Paragraph::new(lines).scroll((self.above, 0)), main);
        frame.render_widget(Paragraph::new(foot_lines), foot);
    }

    fn head(&self, width: u16) -> Line<'static> {
        let mut spans =
            vec![Span::styled("Plimsoll ", bold()), Span::raw(clean(&self.state.version)), Span::raw("  ")];
        let names: usize = View::ALL.iter().map(|(_, name)| name.len() + 3).sum();
        // Where there is no room for both, where one is says more than what this is.
        if spans.iter().map(Span::width).sum::<usize>() + names > usize::from(width) {
            spans.clear();
        }
        for (view, name) in View::ALL {
            let style =
                if view == self.view { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
            spans.extend([Span::styled(format!(" {name} "), style), Span::raw(" ")]);
        }
        Line::from(spans)
    }

    fn foot(&self) -> Line<'static> {
        match &self.problem {
            Some(problem) => {
                Line::styled(format!("as of {}: {}", clock(self.state.t), clean(problem)), level(1.0))
            }
            None => Line::styled(format!("{}  q ends, Tab shows the next", clock(self.state.t)), dim()),
        }
    }
}

/// All of it once, without colours.
pub(super) fn plain(state: &State) -> String {
    let mut out = String::new();
    for (view, name) in View::ALL {
        out.push_str(&name[2..]);
        out.push('\n');
        for line in lines(state, view) {
            let text: String = line.spans.iter().map(|span| span.content.as_ref()).collect();
            out.push_str(text.replace('\u{a0}', " ").trim_end());
            out.push('\n');
        }
        out.push('\n');
    }
    out
}

fn lines(state: &State, view: View) -> Vec<Line<'static>> {
    match view {
        View::Limits => limits(state),
        View::Incidents => incidents(state),
        View::Sources => sources(state),
    }
}

fn limits(state: &State) -> Vec<Line<'static>> {
    let mut lines: Vec<Line<'static>> = state.alerts.iter().map(|alert| alert_line(alert, state.t)).collect();
    if state.owners.is_empty() {
        lines.push(Line::raw("No limit has been seen yet. Send a call through the hop, or tell of one."));
    }
    for owner in &state.owners {
        lines.push(Line::raw(""));
        lines.push(owner_line(owner));
        lines.extend(owner.buckets.iter().map(|bucket| bucket_line(bucket, state.t)));
        if owner.more > 0 {
            lines.push(Line::styled(format!("  {} more buckets", owner.more), dim()));
        }
    }
    if state.more_owners > 0 {
        lines.push(Line::styled(format!("{} more owners", state.more_owners), dim()));
    }
    lines
}

fn alert_line(alert: &AlertRow, now: f64) -> Line<'static> {
    let AlertRow { alert: name, severity, owner, owner_kind, limiter, model, since, empty_in } = alert;
    let empty = empty_in.map(|left| format!(", empty in {}", span(left))).unwrap_or_default();
    let text = format!("{name}  {owner} ({owner_kind})  {limiter} {model}{empty}, for {}", span(now - since));
    Line::styled(clean(&text), level(if severity == "critical" { NEARLY } else { LOAD_LINE }))
}

fn owner_line(owner: &OwnerRow) -> Line<'static> {
    let call = owner.contact.as_deref().map(|contact| format!("  call {contact}")).unwrap_or_default();
    Line::from(vec![
        Span::styled(clean(&owner.owner), bold()),
        Span::raw(clean(&format!(" ({}){call}  ", owner.owner_kind))),
        Span::styled(clean(&owner.runbook_url), dim()),
    ])
}

fn bucket_line(bucket: &BucketRow, now: f64) -> Line<'static> {
    let window = if bucket.window.is_empty() { String::new() } else { format!(" / {}", bucket.window) };
    let own = if bucket.scope == "local" { " (own count)" } else { "" };
    let name = clean(&format!("{}{window}{own}", bucket.limiter));
    let used =
        bucket.utilization.map_or_else(|| "   ?".to_owned(), |used| format!("{:>3.0} %", used * 100.0));
    let left = state::left(&bucket.limiter, bucket.remaining, bucket.limit).unwrap_or_default();
    let empty = bucket.empty_in.map(|secs| format!("empty in {}", span(secs))).unwrap_or_default();
    let full = bucket.resets.filter(|at| *at > now).map(|at| format!("full in {}", span(at - now)));
    let about = [Some(bucket.model.as_str()), bucket.region.as_deref()].into_iter().flatten();
    let about = clean(&about.filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" "));
    let style = bucket.utilization.map_or_else(dim, level);
    Line::from(vec![
        Span::raw(format!("  {:<24} ", together(&name))),
        Span::styled(bar(bucket.utilization), style),
        Span::styled(format!(" {:>5}  ", together(&used)), style),
        Span::styled(format!("{:<15} ", together(&empty)), level(1.0)),
        Span::raw(format!("{:<20} ", together(&left))),
        Span::raw(format!("{:<14} ", together(&full.unwrap_or_default()))),
        Span::styled(about, dim()),
    ])
}

/// Words that are not torn apart where a line is too long.
fn together(text: &str) -> String {
    text.replace(' ', "\u{a0}")
}

/// A line that is too long goes on in the next, a little to the right.
fn wrapped(line: &Line<'static>, width: u16) -> Vec<Line<'static>> {
    let width = usize::from(width).max(INDENT + 1);
    let cells: Vec<_> = line.styled_graphemes(Style::new()).collect();
    let (mut lines, mut rest) = (Vec::new(), cells.as_slice());
    loop {
        let indent = if lines.is_empty() { 0 } else { INDENT };
        let mut used = indent;
        let fits = rest.iter().take_while(|cell| {
            used += Span::raw(cell.symbol).width();
            used <= width
        });
        let fits = fits.count().max(1).min(rest.len());
        // At a blank, if one is there: blanks at the end of a line are nothing.
        let blank = rest[..fits].iter().rposition(|cell| cell.symbol == " ").filter(|at| *at > INDENT);
        let end = if fits == rest.len() { fits } else { blank.unwrap_or(fits) };
        let mut spans = vec![Span::raw(" ".repeat(indent))];
        spans.extend(rest[..end].iter().map(|cell| Span::styled(cell.symbol.to_owned(), cell.style)));
        lines.push(Line::from(spans));
        rest = &rest[end..];
        let blanks = rest.iter().take_while(|cell| cell.symbol == " ").count();
        rest = &rest[blanks..];
        if rest.is_empty() {
            return lines;
        }
    }
}

/// The used part, with the load line where it is not reached.
fn bar(used: Option<f64>) -> String {
    let filled = used.map_or(0, |used| (used.clamp(0.0, 1.0) * BAR as f64).round() as usize);
    let line = (LOAD_LINE * BAR as f64) as usize;
    (0..BAR)
        .map(|cell| match cell {
            cell if cell < filled => '█',
            cell if cell == line => '│',
            _ => '·',
        })
        .collect()
}

fn incidents(state: &State) -> Vec<Line<'static>> {
    if state.incidents.is_empty() {
        return vec![Line::raw("None. Nothing has been refused for a while.")];
    }
    let mut lines = Vec::new();
    for one in &state.incidents {
        let limiter = one.limiter.as_deref().map(|limiter| format!(", {limiter}")).unwrap_or_default();
        let open = if one.open { "open" } else { "over" };
        let text = format!(
            "{} {open}  {}  {} of {}{limiter}  {} failures, first {} ago, last {} ago",
            one.id,
            one.route,
            one.verdict,
            one.owner,
            one.failures,
            span(state.t - one.first_at),
            span(state.t - one.current_at)
        );
        lines.push(Line::styled(clean(&text), if one.open { level(1.0) } else { Style::new() }));
        lines.push(Line::raw(clean(&format!("  first move: {}", one.first_move))));
    }
    lines
}

fn sources(state: &State) -> Vec<Line<'static>> {
    let row = |source: &crate::admin::state::SourceRow| {
        let newest = source.newest.map(|at| format!("{} ago", span(state.t - at)));
        let (name, newest) = (clean(&source.source), newest.unwrap_or_else(|| "–".to_owned()));
        let up = if source.up { "up" } else { "down" };
        let text =
            format!("{name:<36} {up:<5} newest {newest:<10} told {:<10} lost {}", source.told, source.lost);
        Line::styled(text, if source.up { Style::new() } else { level(1.0) })
    };
    let mut lines: Vec<Line<'static>> = state.sources.iter().map(row).collect();
    lines.push(Line::raw(""));
    lines.extend(
        state.in_flight.iter().map(|(route, n)| Line::raw(clean(&format!("{route}: {n} calls in flight")))),
    );
    if state.config_refused {
        lines.push(Line::styled(
            "The newest configuration was refused; the one before stays in force.",
            level(1.0),
        ));
    }
    if !state.needs_restart.is_empty() {
        let text = format!("These settings wait for the next start: {}.", state.needs_restart.join(", "));
        lines.push(Line::styled(clean(&text), level(1.0)));
    }
    lines
}

fn span(secs: f64) -> String {
    let secs = secs.max(0.0);
    match secs {
        secs if secs < 120.0 => format!("{secs:.0} s"),
        secs if secs < 7_200.0 => format!("{:.0} min", secs / 60.0),
        secs if secs < 172_800.0 => format!("{:.0} h", secs / 3_600.0),
        secs => format!("{:.0} d", secs / 86_400.0),
    }
}

fn clock(at: f64) -> String {
    let at = jiff::Timestamp::from_microsecond((at * 1e6) as i64).unwrap_or_default();
    at.strftime("%H:%M:%S UTC").to_string()
}

fn level(used: f64) -> Style {
    match used {
        used if used >= NEARLY => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        used if used >= LOAD_LINE => Style::new().fg(Color::Yellow),
        _ => Style::new().fg(Color::Green),
    }
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::state::{IncidentRow, SourceRow};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn bucket(limiter: &str, used: Option<f64>) -> BucketRow {
        BucketRow {
            limiter: limiter.to_owned(),
            window: "1m".to_owned(),
            scope: "account".to_owned(),
            surface: "anthropic_api".to_owned(),
            model: "claude-opus-5-5".to_owned(),
            region: None,
            limit: Some(60_000),
            remaining: used.map(|used| (60_000.0 * (1.0 - used)) as u64),
            utilization: used,
            peak: used,
            empty_in: used.filter(|used| *used > 0.8).map(|_| 12.0),
            resets: Some(1_795_000_030.0),
            observed: 1_795_000_000.0,
        }
    }

    fn state() -> State {
        State {
            t: 1_795_000_000.0,
            version: "1.2.3".to_owned(),
            alerts: vec![AlertRow {
                alert: "PlimsollBucketExhausting".to_owned(),
                severity: "critical".to_owned(),
                owner: "search".to_owned(),
                owner_kind: "anthropic_workspace".to_owned(),
                limiter: "input_tokens".to_owned(),
                model: "claude-opus-5-5".to_owned(),
                since: 1_794_999_990.0,
                empty_in: Some(12.0),
            }],
            owners: vec![OwnerRow {
                owner: "search".to_owned(),
                owner_kind: "anthropic_workspace".to_owned(),
                contact: Some("#search".to_owned()),
                runbook_url: "https://wiki.example.com/search".to_owned(),
                buckets: vec![
                    bucket("input_tokens", Some(0.96)),
                    bucket("requests", Some(0.3)),
                    bucket("spend", None),
                ],
                more: 7,
            }],
            more_owners: 0,
            incidents: vec![IncidentRow {
                id: "i-1".to_owned(),
                route: "api".to_owned(),
                open: true,
                verdict: "anthropic_workspace".to_owned(),
                owner: "search".to_owned(),
                limiter: Some("input_tokens".to_owned()),
                failures: 3,
                first_at: 1_794_999_700.0,
                current_at: 1_794_999_998.0,
                first_move: "Wait for retry-after, then send a smaller request.".to_owned(),
            }],
            sources: vec![SourceRow { source: "hop".to_owned(), up: true, newest: None, told: 42, lost: 0 }],
            in_flight: [("api".to_owned(), 3)].into(),
            config_refused: true,
            needs_restart: Vec::new(),
        }
    }

    fn drawn(screen: &mut Screen) -> String {
        let mut terminal = Terminal::new(TestBackend::new(120, 12)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_worst_bucket_its_owner_and_whom_to_call_are_on_the_first_screen() {
        let mut screen = Screen::new(state());
        insta::assert_snapshot!(drawn(&mut screen));
        screen.show(View::Incidents);
        insta::assert_snapshot!(drawn(&mut screen));
        insta::assert_snapshot!(plain(&state()));
    }

    #[test]
    fn on_a_narrow_terminal_nothing_is_cut_off_and_numbers_stay_whole() {
        let mut screen = Screen::new(state());
        for width in [30, 60, 80] {
            let mut terminal = Terminal::new(TestBackend::new(width, 40)).unwrap();
            terminal.draw(|frame| screen.draw(frame)).unwrap();
            let text = terminal.backend().to_string().replace('\u{a0}', " ");
            for whole in
                ["empty in 12 s", "42,000 of 60,000", "full in 30 s", "claude-opus-5-5", "7 more buckets"]
            {
                assert!(text.contains(whole), "{whole} at {width}: {text}");
            }
        }
    }

    #[test]
    fn a_sidecar_that_is_gone_leaves_what_was_known_and_says_so() {
        let mut screen = Screen::new(state());
        screen.told(Err("no sidecar answers".to_owned()));
        let text = drawn(&mut screen);
        assert!(text.contains("no sidecar answers") && text.contains("input_tokens"), "{text}");
        screen.told(Err(
            "no sidecar answers at an address that is long. Is it running? --admin names another one."
                .to_owned(),
        ));
        let mut terminal = Terminal::new(TestBackend::new(40, 12)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let text = terminal.backend().to_string();
        assert!(text.contains("names another one.") && text.contains("3 Sources"), "{text}");
    }

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through_and_scrolling_ends_at_the_end() {
        let mut hostile = state();
        hostile.owners[0].owner = "se\u{1b}[2Jarch\u{202e}".to_owned();
        let mut screen = Screen::new(hostile);
        for _ in 0..100 {
            screen.scroll(u16::MAX, true);
        }
        let text = drawn(&mut screen);
        assert!(
            text.contains("7 more buckets") && !text.contains('\u{1b}') && !text.contains('\u{202e}'),
            "{text}"
        );
        screen.scroll(u16::MAX, false);
        assert!(drawn(&mut screen).contains("PlimsollBucketExhausting"));
    }
}
