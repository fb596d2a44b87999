//! What the page shows, as HTML. Everything is escaped by the template; nothing here is a string of markup.
//!
//! The worst first: of each owner ten buckets, of all a hundred, the rest behind the owner's own page. So a first look
//! stays small however many buckets there are. Names come from headers and configurations: each stands apart from the
//! direction of the text around it, and without characters that are not seen. No style stands in an attribute and no script in the page: the content
//! security policy allows neither.

use crate::admin::state::{
    self, INCIDENTS, LOAD_LINE, NEARLY, OF_ALL, OF_OWNER, OWNERS, Seen, SourceRow, by_owner,
};
use crate::engine::{Alert, AlertName, BucketView, Incident, Severity, Snapshot};
use crate::limit::{Amount, Scope, Timestamp};
use crate::owner::guidance;
use crate::route::Owner;
use crate::text::clean;
use maud::{DOCTYPE, Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::sync::Arc;
use std::time::Duration;

/// Buckets of an owner's own page.
const OWN_PAGE: usize = 2_000;

/// The pages, with their paths.
const PAGES: [(&str, &str); 3] = [("Limits", "/"), ("Incidents", "/incidents"), ("Sources", "/sources")];

/// A whole page around its main part.
pub(super) fn page(title: &str, main: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                // Where no script keeps it fresh, the browser does.
                noscript { meta http-equiv="refresh" content="15"; }
                title { (clean(title)) " · Plimsoll" }
                link rel="stylesheet" href="/page.css";
                link rel="icon" href="data:,";
                script src="/page.js" defer {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header {
                    h1 { a href="/" { "Plimsoll" } }
                    nav aria-label="Pages" {
                        @for (name, path) in PAGES {
                            a href=(path) aria-current=[(name == title).then_some("page")] { (name) }
                        }
                    }
                    span #live role="status" { "as of the last load" }
                }
                // New alerts are said here, because what stands in the main part is put in place anew each time.
                p #news.unseen role="status" {}
                (main)
                footer { "Plimsoll " (env!("CARGO_PKG_VERSION")) " · whose limit, before the 429" }
            }
        }
    }
    .into_string()
}

/// Every owner, the worst first.
pub(super) fn overview(seen: &Seen<'_>) -> Markup {
    let snapshot = seen.snapshot;
    let owners = by_owner(snapshot);
    let mut room = OF_ALL;
    let shown = owners.iter().take(OWNERS).map(|(owner, buckets)| {
        let take = buckets.len().min(OF_OWNER).min(room);
        room -= take;
        (owner, buckets, take)
    });
    html! {
        main #main tabindex="-1" data-now=(snapshot.at.secs_f64()) {
            (alerts(seen))
            @if owners.is_empty() {
                p { "No limit has been seen yet. Send a call through the hop, or tell of one: the first answer shows its buckets." }
            }
            @for (owner, buckets, take) in shown {
                section.owner aria-labelledby=(anchor(owner)) {
                    h2 id=(anchor(owner)) { (name(owner.id.as_str())) " " span.dim { "(" (owner.kind.as_str()) ")" } }
                    (contact(owner, seen))
                    (table(&buckets[..take], snapshot.at))
                    @if buckets.len() > take {
                        p { a href=(owner_link(owner)) { "All " (buckets.len()) " buckets of " (name(owner.id.as_str())) } }
                    }
                }
            }
            @if owners.len() > OWNERS { p { (owners.len() - OWNERS) " more owners are in /metrics." } }
        }
    }
}

/// One owner's buckets, all of them.
pub(super) fn owner(seen: &Seen<'_>, id: &str, kind: Option<&str>) -> Option<Markup> {
    let snapshot = seen.snapshot;
    let fits = |owner: &Owner| owner.id.as_str() == id && kind.is_none_or(|kind| owner.kind.as_str() == kind);
    let owners = by_owner(snapshot);
    let found: Vec<_> = owners.iter().filter(|(owner, _)| fits(owner)).collect();
    if found.is_empty() {
        return None;
    }
    Some(html! {
        main #main tabindex="-1" data-now=(snapshot.at.secs_f64()) {
            @for (owner, buckets) in found {
                h2 { (name(owner.id.as_str())) " " span.dim { "(" (owner.kind.as_str()) ")" } }
                (contact(owner, seen))
                (table(&buckets[..buckets.len().min(OWN_PAGE)], snapshot.at))
            }
        }
    })
}

fn alerts(seen: &Seen<'_>) -> Markup {
    html! {
        @if !seen.snapshot.alerts.is_empty() {
            ul.alerts aria-label="Alerts that are up" {
                @for alert in state::by_urgency(seen.snapshot).into_iter().take(OWNERS) { (alert_line(alert, seen)) }
            }
        }
    }
}

fn alert_line(alert: &Alert, seen: &Seen<'_>) -> Markup {
    let identity = &alert.identity;
    let (severity, owner) = (alert.name.severity(), identity.owner.id.as_str());
    let told = guidance::of_limiter(identity.owner.kind, &identity.limiter);
    let owners = seen.facts.owners.load();
    let call = owners.get(&identity.owner.id).and_then(|rule| rule.contact.as_deref());
    let now = seen.snapshot.at;
    html! {
        // What is said once of an alert is its name, whose it is and which limit.
        li .critical[severity == Severity::Critical]
            data-alert={ (alert.name.as_str()) " " (clean(owner)) " " (identity.limiter.as_str()) " " (identity.model.as_str()) } {
            (severity.as_str()) " " strong { (alert.name.as_str()) } " "
            (name(owner)) " (" (identity.owner.kind.as_str()) "), "
            (name(identity.limiter.as_str()))
            @if !identity.model.as_str().is_empty() { " of " (name(identity.model.as_str())) }
            @if let Some(empty_in) = alert.empty_in { ", empty in " strong { (until(now.plus(empty_in), now)) } }
            @if let Some(detail) = &alert.detail { ": " (name(detail)) }
            ", for " (since(alert.since, now)) ". "
            @if let Some(call) = call { "Call " (name(call)) ". " }
            (told.first_move) " "
            @if alert.name == AlertName::RouteChanged { "Do not change the route again. " }
            a href=(state::runbook(&identity.owner, told.runbook, seen)) rel="noreferrer" { "Runbook" }
        }
    }
}

fn contact(owner: &Owner, seen: &Seen<'_>) -> Markup {
    let owners = seen.facts.owners.load();
    let rule = owners.get(&owner.id);
    let runbook = state::runbook(owner, guidance::of_kind(owner.kind).runbook, seen);
    html! {
        p {
            @if let Some(contact) = rule.and_then(|rule| rule.contact.as_deref()) { "Call " (name(contact)) ". " }
            a href=(runbook) rel="noreferrer" { "Runbook" }
            @if let Some(url) = rule.and_then(|rule| rule.dashboard_url.as_deref()) {
                " · " a href=(url) rel="noreferrer" { "Dashboard" }
            }
        }
    }
}

/// A text from outside.
fn name(text: &str) -> Markup {
    html! { bdi { (clean(text)) } }
}

fn table(buckets: &[&BucketView], now: Timestamp) -> Markup {
    html! {
        table {
            thead { tr {
                th scope="col" { "Limit" } th scope="col" { "Used" } th scope="col" { "Left" }
                th scope="col" { "Empty in" } th scope="col" { "Full again in" } th scope="col" { "Seen" }
            } }
            tbody { @for bucket in buckets { (row(bucket, now)) } }
        }
    }
}

fn row(bucket: &BucketView, now: Timestamp) -> Markup {
    html! {
        tr {
            th scope="row" {
                (name(bucket.limiter.as_str()))
                @if !bucket.window.as_str().is_empty() { " / " (bucket.window.as_str()) }
                @if bucket.scope == Scope::Local { " (this sidecar's own count)" }
                span.dim {
                    @if !bucket.model.as_str().is_empty() { " " (name(bucket.model.as_str())) }
                    @if let Some(region) = &bucket.region { " " (name(region)) }
                    " " (bucket.surface.as_str())
                }
            }
            td.n data-label="Used" { (bar(bucket)) }
            td.n data-label="Left" {
                (left(bucket).as_deref().unwrap_or("not known"))
            }
            td.n data-label="Empty in" {
                @match bucket.empty_in {
                    Some(left) => span.(level(1.0)) { (until(now.plus(left), now)) },
                    None => "–",
                }
            }
            td.n data-label="Full again in" {
                @match bucket.resets.filter(|at| *at > now) { Some(at) => (until(at, now)), None => "–" }
            }
            td.n data-label="Seen" { (since(bucket.observed, now)) " ago" }
        }
    }
}

fn left(bucket: &BucketView) -> Option<String> {
    state::left(bucket.limiter.as_str(), bucket.remaining.map(Amount::get), bucket.limit.map(Amount::get))
}

fn level(used: f64) -> &'static str {
    match used {
        used if used >= NEARLY => "bad",
        used if used >= LOAD_LINE => "warn",
        _ => "calm",
    }
}

/// The used part, with the load line.
fn bar(bucket: &BucketView) -> Markup {
    let Some(used) = bucket.utilization else { return html! { span.dim { "not known" } } };
    let percent = (used * 100.0).round();
    let width = percent.clamp(0.0, 100.0);
    html! {
        span.(level(used)) { (percent) " %" }
        svg.bar viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label={ (percent) " percent used, load line at 80 percent" } {
            rect.track width="100" height="8" {}
            rect.(level(used)) width=(width) height="8" {}
            line.mark x1="80" y1="0" x2="80" y2="8" {}
        }
    }
}

/// Every incident that is known.
pub(super) fn incidents(snapshot: &Snapshot) -> Markup {
    let now = snapshot.at;
    html! {
        main #main tabindex="-1" data-now=(now.secs_f64()) {
            h2 { "Incidents" }
            @if snapshot.incidents.is_empty() { p { "None. Nothing has been refused for a while." } }
            @else {
                table {
                    thead { tr {
                        th scope="col" { "Incident" } th scope="col" { "Whose limit" } th scope="col" { "Failures" }
                        th scope="col" { "First" } th scope="col" { "State" }
                    } }
                    tbody {
                        @for one in snapshot.incidents.iter().take(INCIDENTS) {
                            tr {
                                th scope="row" { a href={ "/incidents/" (one.id) } { (one.id) } " " span.dim { (name(one.route.as_str())) } }
                                td data-label="Whose limit" { (name(one.owner.id.as_str())) " (" (one.verdict.class.as_str()) ")" }
                                td.n data-label="Failures" { (one.failures) }
                                td.n data-label="First" { (since(one.first.at, now)) " ago" }
                                td data-label="State" { (condition(one)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn condition(incident: &Incident) -> Markup {
    html! {
        @match incident.over {
            Some((_, why)) => { "over: " (why.as_str()) },
            None => span.bad { "open" },
        }
    }
}

/// What the page says of one incident; the packet is its text for support.
pub(super) fn incident(
    incident: &Incident,
    packet: &crate::evidence::Packet,
    text: &str,
    now: Timestamp,
) -> Markup {
    let attempt =
        |name: &str| packet.attempts.get(name).cloned().unwrap_or_else(|| "none was seen".to_owned());
    html! {
        main #main tabindex="-1" data-now=(now.secs_f64()) {
            h2 { "Incident " (packet.incident) }
            p { (condition(incident)) ", for " (since(incident.first.at, now)) ". Route " (name(incident.route.as_str())) "." }
            dl {
                dt { "Whose limit" } dd { strong { (name(packet.whose)) } " · " (name(&packet.owner)) }
                dt { "Proof" } dd { (packet.why) " (" (packet.evidence) ", " (packet.confidence) ")" }
                dt { "First move" } dd { strong { (packet.first_move) } }
                dt { "Next" } dd { (packet.next_step) }
                @if let Some(contact) = &packet.contact { dt { "Call" } dd { (name(contact)) } }
            }
            blockquote { strong { "Stop rule. " } @for rule in &packet.rules { (rule) " " } }
            h3 { "The three attempts" }
            dl {
                dt { "Last success" } dd { (name(&attempt("last success"))) }
                dt { "First failure" } dd { (name(&attempt("first failure"))) }
                dt { "Current failure" } dd { (name(&attempt("current failure"))) }
            }
            @if !packet.changes.is_empty() {
                h3 { "What was changed meanwhile" }
                ul { @for change in &packet.changes { li { (name(change)) } } }
            }
            h3 { "For support" }
            @if !packet.missing.is_empty() {
                p { strong { "Not ready. " } @for one in &packet.missing { (one) " " } }
            }
            p {
                button #copy type="button" data-copy="packet" { "Copy the packet" }
                " or " a href={ "/v1/evidence?incident=" (packet.incident) "&format=md" } { "open it as text" } "."
            }
            pre #packet tabindex="0" { (clean_lines(text)) }
        }
    }
}

/// Where observations come from, and how fresh each is.
pub(super) fn sources(seen: &Seen<'_>) -> Markup {
    let (snapshot, stats, now) = (seen.snapshot, &seen.facts.stats, seen.snapshot.at);
    let (reload, waiting) = (stats.last_reload_at.get(), stats.restart.get());
    html! {
        main #main tabindex="-1" data-now=(now.secs_f64()) {
            h2 { "Sources" }
            table {
                thead { tr { th scope="col" { "Source" } th scope="col" { "State" } th scope="col" { "Newest" } th scope="col" { "Told" } th scope="col" { "Lost or unusable" } } }
                tbody {
                    @for source in state::sources(snapshot, seen.facts) { (source_row(&source, now)) }
                }
            }
            h2 { "This sidecar" }
            dl {
                dt { "Version" } dd { (env!("CARGO_PKG_VERSION")) }
                dt { "Configuration" }
                dd {
                    @if stats.last_reload_refused.get() == 1 { span.bad { "the newest one was refused; the one before stays in force" } }
                    @else { "in force" }
                    @if reload > 0 { ", taken " (since(seconds(reload), now)) " ago" }
                }
                @if !waiting.is_empty() {
                    dt { "Waits for the next start" } dd { span.bad { (waiting.join(", ")) } }
                }
                dt { "Queue" } dd { (stats.queue_depth.get()) " observations wait" }
                dt { "No longer fitted" } dd { (snapshot.folded) " buckets, rejections or totals" }
                dt { "Panics" } dd { (stats.panics.get()) " caught while measuring" }
            }
        }
    }
}

fn source_row(source: &SourceRow, now: Timestamp) -> Markup {
    html! {
        tr {
            th scope="row" { (name(&source.source)) }
            td data-label="State" { @if source.up { "up" } @else { span.bad { "down" } } }
            td.n data-label="Newest" {
                @match source.newest { Some(at) => { (since(Timestamp::from_secs_f64(at), now)) " ago" }, None => "–" }
            }
            td.n data-label="Told" { (source.told) }
            td.n data-label="Lost or unusable" { (source.lost) }
        }
    }
}

fn seconds(secs: u64) -> Timestamp {
    Timestamp::from_secs(i64::try_from(secs).unwrap_or(0))
}

/// A moment to come. It is in words already; a script counts it down.
fn until(at: Timestamp, now: Timestamp) -> Markup {
    html! { time datetime=(at.rfc3339()) data-until=(at.secs_f64()) { (words(at.since(now))) } }
}

fn since(at: Timestamp, now: Timestamp) -> Markup {
    html! { time datetime=(at.rfc3339()) data-since=(at.secs_f64()) { (words(now.since(at))) } }
}

/// A span, as page.js writes it too.
fn words(span: Duration) -> String {
    match span.as_secs_f64().round() as u64 {
        s if s < 60 => format!("{s} s"),
        s if s < 3_600 => format!("{} min {} s", s / 60, s % 60),
        s if s < 86_400 => format!("{} h {} min", s / 3_600, s % 3_600 / 60),
        s => format!("{} d {} h", s / 86_400, s % 86_400 / 3_600),
    }
}

/// A text of several lines.
fn clean_lines(text: &str) -> String {
    text.lines().map(|line| clean(line) + "\n").collect()
}

fn anchor(owner: &Owner) -> String {
    format!("owner-{}-{}", encoded(owner.id.as_str()), owner.kind.as_str())
}

fn owner_link(owner: &Owner) -> String {
    format!("/owners/{}/{}", encoded(owner.id.as_str()), owner.kind.as_str())
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// An incident by its id.
pub(super) fn find<'s>(snapshot: &'s Snapshot, id: &str) -> Option<&'s Arc<Incident>> {
    snapshot.incidents.iter().find(|incident| &*incident.id == id)
}
