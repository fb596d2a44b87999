//! Anthropic's API: rate-limit headers, usage and errors.
//!
//! Two header families that never mix (documented and measured: platform.claude.com/docs
//! `api/rate-limits`, and `anthropic-ratelimit-unified-*` as seen on the wire): the *trios*
//! (`…-limit`, `…-remaining`, `…-reset`) of API keys, per minute, continuously refilled, reset in
//! RFC 3339 and meaning "full again"; and the *unified* windows of Claude plans, as used fractions
//! with resets in Unix seconds. Every header is optional. The unified family is read by its
//! grammar, `anthropic-ratelimit-unified-(<window>-)?<field>`, because windows come and go.

use crate::limit::{Amount, Level, Limiter, Reading, Refill, Standing, Timestamp, Window};
use crate::observation::{Account, Usage};
use serde::Deserialize;

/// One documented trio: what stands before `-limit`, `-remaining` and `-reset`, behind `anthropic-`;
/// limiter; rounding of `remaining`.
const TRIOS: [(&str, Limiter, u64); 8] = [
    ("ratelimit-requests", Limiter::REQUESTS, 1),
    ("ratelimit-input-tokens", Limiter::INPUT_TOKENS, 1000),
    ("ratelimit-output-tokens", Limiter::OUTPUT_TOKENS, 1000),
    ("ratelimit-tokens", Limiter::TOKENS, 1000),
    ("priority-input-tokens", Limiter::PRIORITY_INPUT, 1000),
    ("priority-output-tokens", Limiter::PRIORITY_OUTPUT, 1000),
    ("fast-input-tokens", Limiter::FAST_INPUT, 1000),
    ("fast-output-tokens", Limiter::FAST_OUTPUT, 1000),
];

const UNIFIED: &str = "ratelimit-unified-";

/// Most unified windows read from one response.
const MAX_WINDOWS: usize = 12;

/// What the family says, once all headers were seen.
pub(super) struct Family {
    pub(super) readings: Vec<Reading>,
    pub(super) account: Account,
    pub(super) unified: bool,
    pub(super) trios: bool,
    pub(super) overage_in_use: bool,
    pub(super) plan_rejected: bool,
    pub(super) claim: Option<Limiter>,
}

/// What the headers of a response said so far.
#[derive(Default)]
pub(super) struct Seen<'h> {
    trios: [Trio; TRIOS.len()],
    unified: Unified<'h>,
    organization: Option<&'h str>,
    workspace: Option<&'h str>,
    pub(super) complaints: u32,
}

impl<'h> Seen<'h> {
    /// Takes in a header whose value is not text; `rest` is its name behind `anthropic-`.
    pub(super) fn unreadable(&mut self, rest: &str) {
        self.unified.present |= rest.starts_with(UNIFIED);
        self.complaints += 1;
    }

    /// Reads what was seen.
    pub(super) fn finish(self, complaints: &mut u32) -> Family {
        let Seen { trios, unified, organization, workspace, complaints: seen } = self;
        *complaints += seen;
        let mut readings = Vec::with_capacity(8);
        for (fields, (_, limiter, rounding)) in trios.into_iter().zip(TRIOS) {
            readings.extend(fields.reading(limiter, Amount::new(rounding), complaints));
        }
        drop_redundant_tokens(&mut readings);
        let keyed = !readings.is_empty();
        readings.extend(unified.windows.into_iter().filter_map(|(w, fields)| window_reading(w, fields)));
        Family {
            readings,
            account: Account {
                organization: organization.map(Into::into),
                workspace: workspace.map(Into::into),
                ..Account::default()
            },
            unified: unified.present,
            trios: keyed,
            overage_in_use: unified.overage_in_use,
            plan_rejected: unified.rejected,
            claim: unified.claim,
        }
    }

    /// Takes in a header; `rest` is its name behind `anthropic-`. A repeated header comes once for
    /// each value: the last one counts, and a contradiction is a complaint.
    pub(super) fn header(&mut self, rest: &'h str, value: &'h str) {
        if let Some(rest) = rest.strip_prefix(UNIFIED) {
            self.unified.present = true;
            self.unified.header(rest, value, &mut self.complaints);
            return;
        }
        match rest {
            "organization-id" => put(&mut self.organization, Some(value), &mut self.complaints),
            "workspace-id" => put(&mut self.workspace, Some(value), &mut self.complaints),
            _ => {
                let Some((stem, field)) = rest.rsplit_once('-') else { return };
                if let Some(at) = TRIOS.iter().position(|(known, ..)| *known == stem) {
                    self.trios[at].field(field, value, &mut self.complaints);
                }
            }
        }
    }
}

/// Keeps what a header says; what cannot be read, or contradicts what it said before, is a complaint.
fn put<T: PartialEq>(kept: &mut Option<T>, read: Option<T>, complaints: &mut u32) {
    let contradicts = kept.is_some() && read.is_some() && *kept != read;
    *complaints += u32::from(read.is_none() || contradicts);
    if read.is_some() {
        *kept = read;
    }
}

/// The three headers of one limiter.
#[derive(Default)]
struct Trio {
    limit: Option<Amount>,
    remaining: Option<Amount>,
    resets: Option<Timestamp>,
}

impl Trio {
    fn field(&mut self, field: &str, value: &str, complaints: &mut u32) {
        let number = || value.parse::<u64>().ok().map(Amount::new);
        match field {
            "limit" => put(&mut self.limit, number(), complaints),
            "remaining" => put(&mut self.remaining, number(), complaints),
            "reset" => put(&mut self.resets, moment(value), complaints),
            _ => {}
        }
    }

    fn reading(self, limiter: Limiter, rounding: Amount, complaints: &mut u32) -> Option<Reading> {
        let level = match (self.limit, self.remaining) {
            (Some(limit), Some(remaining)) if remaining <= limit => Level::Counted { limit, remaining },
            (Some(limit), Some(_)) => {
                *complaints += 1;
                Level::Counted { limit, remaining: limit }
            }
            (None, None) if self.resets.is_none() => return None,
            // Half a trio: a ceiling or a rest alone says nothing of the level.
            _ => {
                *complaints += 1;
                return None;
            }
        };
        Some(Reading {
            limiter,
            window: Window::Minute,
            refill: Refill::Continuous,
            level: Some(level),
            resets: self.resets,
            standing: None,
            rounding,
        })
    }
}

/// `tokens-*` repeats the sum of input and output unless a workspace cap binds; only then is it a
/// limit of its own (documented: "the most restrictive limit in force").
fn drop_redundant_tokens(readings: &mut Vec<Reading>) {
    let limit_of = |readings: &[Reading], wanted: &Limiter| {
        readings.iter().find(|r| r.limiter == *wanted).and_then(|r| match r.level {
            Some(Level::Counted { limit, .. }) => Some(limit.get()),
            _ => None,
        })
    };
    let input = limit_of(readings, &Limiter::INPUT_TOKENS);
    let output = limit_of(readings, &Limiter::OUTPUT_TOKENS);
    let tokens = limit_of(readings, &Limiter::TOKENS);
    if let (Some(input), Some(output), Some(tokens)) = (input, output, tokens)
        && tokens == input.saturating_add(output)
    {
        readings.retain(|r| r.limiter != Limiter::TOKENS);
    }
}

/// RFC 3339 or Unix seconds, whichever a provider writes.
pub(super) fn moment(value: &str) -> Option<Timestamp> {
    if let Ok(secs) = value.parse::<f64>() {
        return secs.is_finite().then(|| Timestamp::from_secs_f64(secs));
    }
    let parsed: jiff::Timestamp = value.parse().ok()?;
    Some(Timestamp::from_micros(parsed.as_microsecond()))
}

#[derive(Default)]
struct Unified<'h> {
    present: bool,
    windows: Vec<(&'h str, WindowFields)>,
    claim: Option<Limiter>,
    overage_in_use: bool,
    rejected: bool,
}

impl<'h> Unified<'h> {
    /// Takes in a header; `rest` is its name behind the family's prefix.
    fn header(&mut self, rest: &'h str, value: &str, complaints: &mut u32) {
        match rest {
            "representative-claim" => self.claim = Some(Limiter::named(value)),
            "overage-in-use" => self.overage_in_use = value == "true",
            "status" => self.rejected = value == "rejected",
            _ => {
                let Some((window, field)) = window_field(rest) else { return };
                let at = match self.windows.iter().position(|(known, _)| *known == window) {
                    Some(at) => at,
                    None if self.windows.len() < MAX_WINDOWS => {
                        self.windows.push((window, WindowFields::default()));
                        self.windows.len() - 1
                    }
                    None => {
                        *complaints += 1;
                        return;
                    }
                };
                fill(&mut self.windows[at].1, field, value, complaints);
            }
        }
    }
}

#[derive(Default)]
struct WindowFields {
    used: Option<Amount>,
    resets: Option<Timestamp>,
    standing: Option<Standing>,
}

/// Splits `<window>-<field>`; fields that carry no state (thresholds, reasons) give `None`.
fn window_field(rest: &str) -> Option<(&str, &str)> {
    ["utilization", "reset", "status"].into_iter().find_map(|field| {
        let window = rest.strip_suffix(field)?.strip_suffix('-')?;
        // `overage-period-…` and `grace-…` repeat other windows under other rules.
        (!window.starts_with("grace") && !window.contains("period")).then_some((window, field))
    })
}

fn fill(fields: &mut WindowFields, field: &str, value: &str, complaints: &mut u32) {
    match field {
        "utilization" => {
            let used = value.parse::<f64>().ok().filter(|v| v.is_finite() && (0.0..=1000.0).contains(v));
            put(&mut fields.used, used.map(|v| Amount::new((v * 1e6).round() as u64)), complaints);
        }
        "reset" => put(&mut fields.resets, moment(value), complaints),
        _ => {
            let standing = match value {
                "allowed" => Some(Standing::Allowed),
                "allowed_warning" => Some(Standing::Warning),
                "rejected" => Some(Standing::Rejected),
                _ => None,
            };
            put(&mut fields.standing, standing, complaints);
        }
    }
}

fn window_reading(window: &str, fields: WindowFields) -> Option<Reading> {
    let (limiter, length) = plan_window(window);
    // Credits beyond the plan are refused on most healthy plans: no window is exhausted by that.
    let is_overage = limiter == Limiter::OVERAGE;
    let standing = fields.standing.filter(|_| !is_overage);
    if fields.used.is_none() && standing.is_none() {
        return None;
    }
    Some(Reading {
        limiter,
        window: length,
        refill: Refill::AtReset,
        level: fields.used.map(Level::Used),
        resets: fields.resets,
        standing,
        rounding: Amount::new(1),
    })
}

/// The limiter and length of a plan window as headers abbreviate it (`5h`, `7d`, `7d_sonnet`).
pub fn plan_window(abbreviation: &str) -> (Limiter, Window) {
    match abbreviation {
        "5h" => (Limiter::FIVE_HOUR, Window::FiveHours),
        "7d" => (Limiter::SEVEN_DAY, Window::Week),
        "7d_oi" => (Limiter::named("seven_day_overage_included"), Window::Week),
        "overage" => (Limiter::OVERAGE, Window::Month),
        other => match other.strip_prefix("7d_") {
            Some(scope) => (Limiter::named(&format!("seven_day_{scope}")), Window::Week),
            None => (Limiter::named(other), Window::Unknown),
        },
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireUsage {
    #[serde(alias = "inputTokens")]
    input_tokens: Option<u64>,
    #[serde(alias = "cacheWriteInputTokens")]
    cache_creation_input_tokens: Option<u64>,
    #[serde(alias = "cacheReadInputTokens")]
    cache_read_input_tokens: Option<u64>,
    #[serde(alias = "outputTokens")]
    output_tokens: Option<u64>,
}

/// Merges a `usage` object into what is known, in Anthropic's spelling or in that of Bedrock's
/// Converse. Values are cumulative: the last one wins, absent
/// ones keep what was said before (documented for `message_delta`).
pub fn merge_usage(known: Option<Usage>, json: &[u8]) -> Option<Usage> {
    let Ok(wire) = serde_json::from_slice::<WireUsage>(json) else { return known };
    let said = [
        wire.input_tokens,
        wire.output_tokens,
        wire.cache_creation_input_tokens,
        wire.cache_read_input_tokens,
    ];
    if said.iter().all(Option::is_none) {
        // Another provider's usage: nothing is known, which is not zero.
        return known;
    }
    let base = known.unwrap_or_default();
    let pick = |new: Option<u64>, old: Amount| new.map_or(old, Amount::new);
    Some(Usage {
        input: pick(wire.input_tokens, base.input),
        cache_write: pick(wire.cache_creation_input_tokens, base.cache_write),
        cache_read: pick(wire.cache_read_input_tokens, base.cache_read),
        output: pick(wire.output_tokens, base.output),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialects::read_head;
    use crate::observation::Limits;
    use http::{HeaderMap, HeaderName, HeaderValue};
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);

    fn head(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn limiters(limits: &Limits) -> Vec<&str> {
        limits.readings.iter().map(|r| r.limiter.as_str()).collect()
    }

    /// A real 429 of an API key (whoz-oss/coday issue 110, 2025-06-02), with its `Date`.
    fn real_429() -> HeaderMap {
        head(&[
            ("date", "Mon, 02 Jun 2025 15:14:45 GMT"),
            ("anthropic-ratelimit-input-tokens-limit", "200000"),
            ("anthropic-ratelimit-input-tokens-remaining", "0"),
            ("anthropic-ratelimit-input-tokens-reset", "2025-06-02T15:15:48Z"),
            ("anthropic-ratelimit-output-tokens-limit", "80000"),
            ("anthropic-ratelimit-output-tokens-remaining", "80000"),
            ("anthropic-ratelimit-output-tokens-reset", "2025-06-02T15:14:45Z"),
            ("anthropic-ratelimit-requests-limit", "4000"),
            ("anthropic-ratelimit-requests-remaining", "4000"),
            ("anthropic-ratelimit-tokens-limit", "280000"),
            ("anthropic-ratelimit-tokens-remaining", "80000"),
            ("retry-after", "16"),
            ("x-should-retry", "true"),
        ])
    }

    #[test]
    fn a_real_429_names_its_empty_bucket_and_drops_the_sum() {
        let limits = read_head(429, &real_429(), NOW);
        assert_eq!(limiters(&limits), ["requests", "input_tokens", "output_tokens"]);
        let empty: Vec<_> = limits.readings.iter().filter(|r| r.is_exhausted()).collect();
        assert_eq!(empty.len(), 1);
        assert_eq!(empty[0].limiter, Limiter::INPUT_TOKENS);
        assert_eq!(empty[0].resets, Some(NOW.plus(Duration::from_secs(63))), "on our clock, skew taken out");
        assert_eq!(limits.retry_after, Some(Duration::from_secs(16)));
        assert_eq!(limits.complaints, 0);
    }

    #[test]
    fn retry_after_on_a_success_means_nothing() {
        assert_eq!(read_head(200, &head(&[("retry-after", "52")]), NOW).retry_after, None);
    }

    #[test]
    fn a_workspace_cap_keeps_the_tokens_limiter() {
        let mut headers = real_429();
        headers.insert("anthropic-ratelimit-tokens-limit", HeaderValue::from_static("100000"));
        assert!(limiters(&read_head(429, &headers, NOW)).contains(&"tokens"));
    }

    #[test]
    fn a_model_scoped_rejection_leaves_the_account_windows_alone() {
        // Production capture 2026-08-02 (better-ccflare's tests): only the Fable sub-cap is used up.
        let headers = head(&[
            ("anthropic-ratelimit-unified-status", "rejected"),
            ("anthropic-ratelimit-unified-5h-status", "allowed"),
            ("anthropic-ratelimit-unified-5h-utilization", "0.0"),
            ("anthropic-ratelimit-unified-7d-status", "allowed_warning"),
            ("anthropic-ratelimit-unified-7d-utilization", "0.94"),
            ("anthropic-ratelimit-unified-7d-surpassed-threshold", "0.75"),
            ("anthropic-ratelimit-unified-7d_oi-status", "rejected"),
            ("anthropic-ratelimit-unified-7d_oi-utilization", "1.0"),
            ("anthropic-ratelimit-unified-7d_oi-reset", "1785736800"),
            ("anthropic-ratelimit-unified-overage-status", "rejected"),
            ("anthropic-ratelimit-unified-overage-disabled-reason", "org_level_disabled"),
            ("anthropic-ratelimit-unified-representative-claim", "seven_day_overage_included"),
            ("retry-after", "51811"),
        ]);
        let limits = read_head(429, &headers, NOW);
        assert!(limits.unified && !limits.trios);
        let exhausted: Vec<_> =
            limits.readings.iter().filter(|r| r.is_exhausted()).map(|r| r.limiter.as_str()).collect();
        assert_eq!(exhausted, ["seven_day_overage_included"]);
        assert_eq!(limits.claim, Some(Limiter::named("seven_day_overage_included")));
        assert_eq!(limits.complaints, 0);
    }

    #[test]
    fn windows_nobody_has_seen_yet_are_read_by_the_grammar() {
        let headers = head(&[
            ("anthropic-ratelimit-unified-7d_haiku-utilization", "0.5"),
            ("anthropic-ratelimit-unified-7d_haiku-reset", "2026-08-03T06:00:00Z"),
        ]);
        let limits = read_head(200, &headers, NOW);
        assert_eq!(limiters(&limits), ["seven_day_haiku"]);
        assert_eq!(limits.readings[0].window, Window::Week);
        assert_eq!(limits.readings[0].level, Some(Level::Used(Amount::new(500_000))));
    }

    #[test]
    fn nonsense_is_counted_and_left_absent() {
        let mut headers = head(&[
            ("anthropic-ratelimit-requests-limit", "many"),
            ("anthropic-ratelimit-requests-remaining", "-3"),
            ("anthropic-ratelimit-input-tokens-limit", "1000"),
            ("anthropic-ratelimit-input-tokens-limit", "2000"),
            ("anthropic-ratelimit-input-tokens-remaining", "1500"),
            ("anthropic-ratelimit-input-tokens-reset", "tomorrow"),
            ("anthropic-ratelimit-unified-5h-utilization", "NaN"),
            ("retry-after", "soon"),
        ]);
        headers
            .append("anthropic-ratelimit-output-tokens-limit", HeaderValue::from_bytes(b"\xff\xfe").unwrap());
        headers.append("anthropic-ratelimit-tokens-limit", HeaderValue::from_str(&"9".repeat(4000)).unwrap());
        let limits = read_head(429, &headers, NOW);
        assert_eq!(limiters(&limits), ["input_tokens"]);
        assert_eq!(limits.readings[0].resets, None);
        assert_eq!(limits.retry_after, None);
        assert!(limits.complaints >= 8, "{}", limits.complaints);
    }

    #[test]
    fn what_is_written_where_there_is_no_limit_is_no_bucket() {
        for none in ["18446744073709551615", "9223372036854775807", "9007199254740992"] {
            let headers = head(&[
                ("anthropic-ratelimit-requests-limit", none),
                ("anthropic-ratelimit-requests-remaining", none),
                ("anthropic-ratelimit-input-tokens-limit", "2000"),
                ("anthropic-ratelimit-input-tokens-remaining", "1500"),
            ]);
            let limits = read_head(200, &headers, NOW);
            assert_eq!(limiters(&limits), ["input_tokens"], "{none}");
            assert!(limits.trios && limits.complaints == 0);
        }
    }

    #[test]
    fn a_reset_at_which_no_window_ends_is_dropped_and_counted() {
        let reset = |value: &str| {
            let headers = head(&[
                ("anthropic-ratelimit-unified-5h-utilization", "0.5"),
                ("anthropic-ratelimit-unified-5h-reset", value),
            ]);
            let limits = read_head(200, &headers, NOW);
            (limits.readings[0].resets.is_some(), limits.complaints)
        };
        let secs = |off: i64| (NOW.micros() / 1_000_000 + off).to_string();
        for absurd in
            ["0", "1", "-1", "-99999999999", "1e300", "99999999999999", &secs(-400 * 86_400), &secs(86_400)]
        {
            assert!(!reset(absurd).0, "{absurd}");
            assert!(reset(absurd).1 > 0, "{absurd}");
        }
        for good in [secs(-86_400), secs(0), secs(18_000)] {
            assert_eq!(reset(&good), (true, 0), "{good}");
        }
    }

    #[test]
    fn more_left_than_the_limit_reads_as_full_and_is_counted() {
        let headers = head(&[
            ("anthropic-ratelimit-requests-limit", "50"),
            ("anthropic-ratelimit-requests-remaining", "51"),
        ]);
        let limits = read_head(200, &headers, NOW);
        let full = Level::Counted { limit: Amount::new(50), remaining: Amount::new(50) };
        assert_eq!(limits.readings[0].level, Some(full));
        assert_eq!(limits.complaints, 1);
    }

    #[test]
    fn usage_is_cumulative_and_absent_fields_keep_their_value() {
        let start = br#"{"input_tokens":2679,"cache_creation_input_tokens":10,"cache_read_input_tokens":5,"output_tokens":3}"#;
        let usage = merge_usage(None, start);
        let usage = merge_usage(usage, br#"{"output_tokens":510}"#).unwrap();
        assert_eq!((usage.input.get(), usage.output.get(), usage.cache_write.get()), (2679, 510, 10));
        assert_eq!(
            merge_usage(Some(usage), b"{\"output_tokens\":"),
            Some(usage),
            "a cut event changes nothing"
        );
    }
}
