//! What the page shows, as HTML. Everything is escaped by the template; nothing here is a string of markup.
//!
//! The worst first: of each owner ten buckets, of all a hundred, the rest behind the owner's own page. So a first look
//! stays small however many buckets there are. No style stands in an attribute and no script in the page: the content
//! security policy allows neither.

use crate::admin::state::{
    self, INCIDENTS, LOAD_LINE, NEARLY, OF_ALL, OF_OWNER, OWNERS, SourceRow, by_owner,
};
use crate::engine::{Alert, AlertName, BucketView, Incident, Severity, Snapshot};
use crate::exporters::catalogue::Facts;
use crate::limit::{Amount, Scope, Timestamp};
use crate::route::Owner;
use maud::{DOCTYPE, Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::sync::Arc;
use std::time::Duration;

/// Buckets of an owner's own page.
const OWN_PAGE: usize = 2_000;
/// A whole page around its main part.
pub(super) fn page(title: &str, main: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                title { (title) " · Plimsoll" }
                link rel="stylesheet" href="/page.css";
                link rel="icon" href="data:,";
                script src="/page.js" defer {}
            }
            body {
                a.skip href="#main" { "Skip to the limits" }
                header {
                    h1 { a href="/" { "Plimsoll" } }
                    nav aria-label="Pages" {
                        a href="/" { "Limits" }
                        a href="/incidents" { "Incidents" }
                        a href="/sources" { "Sources" }
                    }
                    span #live role="status" { "as of the last load" }
                }
                (main)
                footer { "Plimsoll " (env!("CARGO_PKG_VERSION")) " · whose limit, before the 429" }
            }
        }
    }
    .into_string()
}

/// Every owner, the worst first.
pub(super) fn overview(snapshot: &Snapshot, facts: &Facts) -> Markup {
    let owners = by_owner(snapshot);
    let mut room = OF_ALL;
    let shown = owners.iter().take(OWNERS).map(|(owner, buckets)| {
        let take = buckets.len().min(OF_OWNER).min(room);
        room -= take;
        (owner, buckets, take)
    });
    html! {
        main #main tabindex="-1" {
            (alerts(snapshot, facts))
            @if owners.is_empty() {
                p { "No limit has been seen yet. Send a call through the hop, or tell of one: the first answer shows its buckets." }
            }
            @for (owner, buckets, take) in shown {
                section.owner aria-labelledby=(anchor(owner)) {
                    h2 id=(anchor(owner)) { (owner.id.as_str()) " " span.dim { "(" (owner.kind.as_str()) ")" } }
                    (contact(owner, facts))
                    (table(&buckets[..take], snapshot.at))
                    @if buckets.len() > take {
                        p { a href=(owner_link(owner)) { "All " (buckets.len()) " buckets of " (owner.id.as_str()) } }
                    }
                }
            }
            @if owners.len() > OWNERS { p { (owners.len() - OWNERS) " more owners are in /metrics." } }
        }
    }
}

/// One owner's buckets, all of them.
pub(super) fn owner(snapshot: &Snapshot, facts: &Facts, id: &str, kind: Option<&str>) -> Option<Markup> {
    let fits = |owner: &Owner| owner.id.as_str() == id && kind.is_none_or(|kind| owner.kind.as_str() == kind);
    let owners = by_owner(snapshot);
    let found: Vec<_> = owners.iter().filter(|(owner, _)| fits(owner)).collect();
    if found.is_empty() {
        return None;
    }
    Some(html! {
        main #main tabindex="-1" {
            @for (owner, buckets) in found {
                h2 { (owner.id.as_str()) " " span.dim { "(" (owner.kind.as_str()) ")" } }
                (contact(owner, facts))
                (table(&buckets[..buckets.len().min(OWN_PAGE)], snapshot.at))
            }
        }
    })
}

fn alerts(snapshot: &Snapshot, facts: &Facts) -> Markup {
    html! {
        @if !snapshot.alerts.is_empty() {
            ul.alerts aria-label="Alerts that are up" aria-live="polite" {
                @for alert in state::by_urgency(snapshot).into_iter().take(OWNERS) { (alert_line(alert, facts)) }
            }
        }
    }
}

fn alert_line(alert: &Alert, facts: &Facts) -> Markup {
    let identity = &alert.identity;
    let critical = alert.name.severity() == Severity::Critical;
    html! {
        li .critical[critical] {
            strong { (alert.name.as_str()) } " "
            (identity.owner.id.as_str()) " (" (identity.owner.kind.as_str()) "), "
            (identity.limiter.as_str())
            @if !identity.model.as_str().is_empty() { " of " (identity.model.as_str()) }
            @if let Some(empty_in) = alert.empty_in { ", empty in " (wait(empty_in)) }
            @if let Some(detail) = &alert.detail { ": " (detail) }
            ", for " (since(alert.since)) ". "
            @if alert.name == AlertName::RouteChanged { "Do not change the route again. " }
            (runbook(&identity.owner, facts))
        }
    }
}

fn contact(owner: &Owner, facts: &Facts) -> Markup {
    let owners = facts.owners.load();
    let rule = owners.get(&owner.id);
    html! {
        p {
            @if let Some(contact) = rule.and_then(|rule| rule.contact.as_deref()) { "Call " (contact) ". " }
            (runbook(owner, facts))
            @if let Some(url) = rule.and_then(|rule| rule.dashboard_url.as_deref()) {
                " · " a href=(url) rel="noreferrer" { "Dashboard" }
            }
        }
    }
}

fn runbook(owner: &Owner, facts: &Facts) -> Markup {
    html! { a href=(state::runbook(owner, facts)) rel="noreferrer" { "Runbook" } }
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
                (bucket.limiter.as_str())
                @if !bucket.window.as_str().is_empty() { " / " (bucket.window.as_str()) }
                @if bucket.scope == Scope::Local { " (this sidecar's own count)" }
                span.dim {
                    @if !bucket.model.as_str().is_empty() { " " (bucket.model.as_str()) }
                    @if let Some(region) = &bucket.region { " " (region) }
                    " " (bucket.surface.as_str())
                }
            }
            td.n data-label="Used" { (bar(bucket)) }
            td.n data-label="Left" {
                (left(bucket).as_deref().unwrap_or("not known"))
            }
            td.n data-label="Empty in" {
                @match bucket.empty_in {
                    Some(left) => span.(level(1.0)) { (until(now.plus(left))) },
                    None => "–",
                }
            }
            td.n data-label="Full again in" {
                @match bucket.resets.filter(|at| *at > now) { Some(at) => (until(at)), None => "–" }
            }
            td.n data-label="Seen" { (since(bucket.observed)) " ago" }
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
    html! {
        main #main tabindex="-1" {
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
                                th scope="row" { a href={ "/incidents/" (one.id) } { (one.id) } " " span.dim { (one.route.as_str()) } }
                                td data-label="Whose limit" { (one.owner.id.as_str()) " (" (one.verdict.class.as_str()) ")" }
                                td.n data-label="Failures" { (one.failures) }
                                td.n data-label="First" { (since(one.first.at)) " ago" }
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
pub(super) fn incident(incident: &Incident, packet: &crate::evidence::Packet, text: &str) -> Markup {
    let attempt =
        |name: &str| packet.attempts.get(name).cloned().unwrap_or_else(|| "none was seen".to_owned());
    html! {
        main #main tabindex="-1" {
            h2 { "Incident " (packet.incident) }
            p { (condition(incident)) ", for " (since(incident.first.at)) ". Route " (incident.route.as_str()) "." }
            dl {
                dt { "Whose limit" } dd { strong { (packet.whose) } " · " (packet.owner) }
                dt { "Proof" } dd { (packet.why) " (" (packet.evidence) ", " (packet.confidence) ")" }
                dt { "First move" } dd { strong { (packet.first_move) } }
                dt { "Next" } dd { (packet.next_step) }
                @if let Some(contact) = &packet.contact { dt { "Call" } dd { (contact) } }
            }
            blockquote { strong { "Stop rule. " } @for rule in &packet.rules { (rule) " " } }
            h3 { "The three attempts" }
            dl {
                dt { "Last success" } dd { (attempt("last success")) }
                dt { "First failure" } dd { (attempt("first failure")) }
                dt { "Current failure" } dd { (attempt("current failure")) }
            }
            @if !packet.changes.is_empty() {
                h3 { "What was changed meanwhile" }
                ul { @for change in &packet.changes { li { (change) } } }
            }
            h3 { "For support" }
            @if !packet.missing.is_empty() {
                p { strong { "Not ready. " } @for one in &packet.missing { (one) " " } }
            }
            p {
                button #copy type="button" data-copy="packet" { "Copy the packet" }
                " or " a href={ "/v1/evidence?incident=" (packet.incident) "&format=md" } { "open it as text" } "."
            }
            pre #packet tabindex="0" { (text) }
        }
    }
}

/// Where observations come from, and how fresh each is.
pub(super) fn sources(snapshot: &Snapshot, facts: &Facts) -> Markup {
    let stats = &facts.stats;
    let reload = stats.last_reload_at.get();
    html! {
        main #main tabindex="-1" {
            h2 { "Sources" }
            table {
                thead { tr { th scope="col" { "Source" } th scope="col" { "State" } th scope="col" { "Newest" } th scope="col" { "Told" } th scope="col" { "Lost or unusable" } } }
                tbody {
                    @for source in state::sources(snapshot, facts) { (source_row(&source)) }
                }
            }
            h2 { "This sidecar" }
            dl {
                dt { "Version" } dd { (env!("CARGO_PKG_VERSION")) }
                dt { "Configuration" }
                dd {
                    @if stats.last_reload_refused.get() == 1 { span.bad { "the newest one was refused; the one before stays in force" } }
                    @else { "in force" }
                    @if reload > 0 { ", taken " (since(seconds(reload))) " ago" }
                }
                dt { "Queue" } dd { (stats.queue_depth.get()) " observations wait" }
                dt { "No longer fitted" } dd { (snapshot.folded) " buckets, rejections or totals" }
                dt { "Panics" } dd { (stats.panics.get()) " caught while measuring" }
            }
        }
    }
}

fn source_row(source: &SourceRow) -> Markup {
    html! {
        tr {
            th scope="row" { (source.source) }
            td data-label="State" { @if source.up { "up" } @else { span.bad { "down" } } }
            td.n data-label="Newest" {
                @match source.newest { Some(at) => { (since(Timestamp::from_secs_f64(at))) " ago" }, None => "–" }
            }
            td.n data-label="Told" { (source.told) }
            td.n data-label="Lost or unusable" { (source.lost) }
        }
    }
}

fn seconds(secs: u64) -> Timestamp {
    Timestamp::from_secs(i64::try_from(secs).unwrap_or(0))
}

fn until(at: Timestamp) -> Markup {
    html! { time datetime=(at.rfc3339()) data-until=(at.secs_f64()) { (at.rfc3339()) } }
}

fn since(at: Timestamp) -> Markup {
    html! { time datetime=(at.rfc3339()) data-since=(at.secs_f64()) { (at.rfc3339()) } }
}

fn wait(span: Duration) -> String {
    let secs = span.as_secs();
    if secs < 120 { format!("{secs} s") } else { format!("{} min", secs / 60) }
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
