//! How Amazon Bedrock names models and quotas, and what a call costs there. Pure.
//!
//! AWS publishes no map from a quota to a model id: the only tie is the quota's English name. So both sides are
//! brought to one form (`Anthropic Claude Sonnet 4.6` and `anthropic.claude-sonnet-4-6-v1:0` are
//! `claude-sonnet-4-6`), and only names that are then equal belong together; what does not parse is said to be
//! unknown, never fitted. The scope of a quota stands before the model, because each scope is a pool of its
//! own: nothing (on demand), `cross-region.`, `global.`, `mantle.`.

use crate::limit::{Amount, Limiter, Window};
use crate::observation::Usage;
use crate::route::ModelGroup;
use http::HeaderValue;

/// Prefixes of inference profiles that stay within a geography.
const GEOGRAPHIES: [&str; 12] =
    ["us", "us-gov", "eu", "apac", "au", "jp", "ca", "sa", "kr", "in", "il", "mx"];
/// Words before a model's name in a quota's name that say whose it is.
const VENDORS: [&str; 14] = [
    "anthropic",
    "amazon",
    "meta",
    "mistral",
    "cohere",
    "ai21",
    "deepseek",
    "openai",
    "qwen",
    "google",
    "writer",
    "stability",
    "nvidia",
    "moonshot",
];

/// What the traffic's model id draws on. `mantle` for calls to that endpoint, which has quotas of its own.
///
/// An application inference profile is named by its id until the poller has told which model it stands for.
pub fn pool(id: &str, mantle: bool) -> ModelGroup {
    let id = match id.strip_prefix("arn:").and_then(|arn| arn.rsplit_once('/')) {
        Some((kind, profile)) if kind.ends_with("application-inference-profile") => return name("", profile),
        Some((kind, bought)) if kind.ends_with("provisioned-model") => return name("provisioned.", bought),
        Some((_, id)) => id,
        None => id,
    };
    let (scope, rest) = match id.split_once('.') {
        Some(("global", rest)) => ("global.", rest),
        Some((prefix, rest)) if GEOGRAPHIES.contains(&prefix) => ("cross-region.", rest),
        _ => ("", id),
    };
    let model = rest.split_once('.').map_or(rest, |(_, model)| model);
    let model = model.split(':').next().unwrap_or(model);
    name(if mantle { "mantle." } else { scope }, &plain(model))
}

fn name(scope: &str, model: &str) -> ModelGroup {
    // The date is taken off already; what looks like one more is part of a name.
    ModelGroup::named(&format!("{scope}{model}"))
}

/// One form for a model's id and for its name in English.
fn plain(model: &str) -> String {
    let lower = model.to_ascii_lowercase();
    let date = |part: &str| part.len() == 8 && part.bytes().all(|b| b.is_ascii_digit());
    let mut parts: Vec<String> = Vec::new();
    for part in lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|p| !p.is_empty()) {
        match part.strip_prefix("llama") {
            _ if date(part) || part == "v1" => {}
            // `meta.llama3-3-70b-instruct` is `Llama 3.3 70B Instruct`.
            Some(version) if !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit()) => {
                parts.extend(["llama".to_owned(), version.to_owned()]);
            }
            _ => parts.push(part.to_owned()),
        }
    }
    parts.join("-")
}

/// What a quota of Service Quotas limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The pool; empty for a limit over all models.
    pub model: ModelGroup,
    /// What is counted.
    pub limiter: Limiter,
    /// In which time.
    pub window: Window,
}

/// All tokens of a day.
pub const TOKENS_PER_DAY: Limiter = Limiter::known("tokens_per_day");

/// Reads a quota's name. `None` for a quota of something else (jobs, guardrails, …) and for one whose
/// grammar is not known.
pub fn quota(name: &str) -> Option<Named> {
    let named = |scope: &str, model: &str, limiter: Limiter, window: Window| {
        let model = match model.split_once(' ') {
            Some((vendor, rest)) if VENDORS.contains(&vendor.to_ascii_lowercase().as_str()) => rest,
            _ => model,
        };
        // `Mistral AI Mistral Large`, `AI21 Labs Jamba`.
        let model = model.strip_prefix("AI ").or_else(|| model.strip_prefix("Labs ")).unwrap_or(model);
        let model = plain(model);
        (!model.is_empty()).then(|| Named { model: self::name(scope, &model), limiter, window })
    };
    if name == "Cross-Model Max Tokens Per Day" {
        return Some(Named { model: ModelGroup::none(), limiter: TOKENS_PER_DAY, window: Window::Day });
    }
    if let Some(rest) = name.strip_prefix("[bedrock-mantle endpoint] ") {
        let (kind, model) = rest.split_once(" tokens per minute for ")?;
        let limiter = match kind {
            "Input" => Limiter::INPUT_TOKENS,
            "Output" => Limiter::OUTPUT_TOKENS,
            _ => return None,
        };
        return named("mantle.", model, limiter, Window::Minute);
    }
    if let Some(model) = name.strip_prefix("Model invocation max tokens per day for ") {
        let model = model.strip_suffix(" (doubled for cross-region calls)").unwrap_or(model);
        return named("", model, TOKENS_PER_DAY, Window::Day);
    }
    let (scope, rest) = name.split_once(" model inference ")?;
    let scope = match scope {
        "On-demand" => "",
        "Cross-region" => "cross-region.",
        "Global cross-region" => "global.",
        _ => return None,
    };
    let (what, model) = rest.split_once(" for ")?;
    match what {
        "tokens per minute" => named(scope, model, Limiter::TOKENS, Window::Minute),
        "requests per minute" => named(scope, model, Limiter::REQUESTS, Window::Minute),
        "tokens per day" => named(scope, model, TOKENS_PER_DAY, Window::Day),
        _ => None,
    }
}

/// What an output token costs of the quota, by model (AWS, "token burndown", autumn 2026). Others cost 1.
const BURNDOWN: [(&str, u64); 8] = [
    ("claude-opus-4-8", 15),
    ("claude-sonnet-5", 10),
    ("claude-opus-5", 10),
    ("claude-fable-5", 10),
    ("claude-sonnet-4-8", 15),
    ("claude-3-7", 5),
    // Before 3.7 an output token cost one.
    ("claude-3", 1),
    ("claude", 5),
];

/// What an output token of this pool costs of a `tokens` quota.
pub fn burndown(pool: &ModelGroup) -> u64 {
    let model = bare(pool);
    BURNDOWN.iter().find(|(known, _)| model.starts_with(known)).map_or(1, |(_, factor)| *factor)
}

/// True for a pool of the mantle endpoint: no burndown there, and input and output have limits of their own.
pub fn is_mantle(pool: &ModelGroup) -> bool {
    pool.as_str().starts_with("mantle.")
}

/// The model without its scope.
pub fn bare(pool: &ModelGroup) -> &str {
    let name = pool.as_str();
    ["cross-region.", "global.", "mantle."].iter().find_map(|scope| name.strip_prefix(scope)).unwrap_or(name)
}

/// What a call takes of a `tokens` quota once it is over; cache reads are free.
pub fn settled(used: &Usage, burndown: u64) -> Amount {
    let input = used.input.get().saturating_add(used.cache_write.get());
    Amount::new(input.saturating_add(used.output.get().saturating_mul(burndown)))
}

/// Reads one of `InvokeModel`'s headers, without `x-amzn-bedrock-`: `input-token-count`, `output-token-count`,
/// `cache-read-input-token-count`, `cache-write-input-token-count`. Not in AWS's API model, and missing for some
/// vendors' models.
pub(super) fn count(name: &str, value: &HeaderValue, usage: &mut Option<Usage>) {
    let Some(kind) = name.strip_suffix("-token-count") else { return };
    let Some(amount) = value.to_str().ok().and_then(|text| text.trim().parse().ok()) else { return };
    let used = usage.get_or_insert_default();
    match kind {
        "input" => used.input = Amount::new(amount),
        "output" => used.output = Amount::new(amount),
        "cache-read-input" => used.cache_read = Amount::new(amount),
        "cache-write-input" => used.cache_write = Amount::new(amount),
        _ => {}
    }
}

/// The longest answer of a model (its documented maximum): what is set aside for a call that names none.
pub fn longest_answer(pool: &ModelGroup) -> Amount {
    let model = bare(pool);
    let known = [
        ("claude-3-5", 8_192),
        ("claude-3-7", 64_000),
        ("claude-3", 4_096),
        ("claude-opus-4-6", 128_000),
        ("claude-opus-4-7", 128_000),
        ("claude-opus-4-8", 128_000),
        ("claude-opus-4-5", 64_000),
        ("claude-opus-4", 32_000),
        ("claude-opus", 128_000),
        ("claude", 64_000),
    ];
    Amount::new(known.iter().find(|(name, _)| model.starts_with(name)).map_or(8_192, |(_, most)| *most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_quota_and_the_model_ids_that_draw_on_it_meet() {
        for (quota_name, ids) in [
            (
                "Cross-region model inference tokens per minute for Anthropic Claude Sonnet 4.6",
                &["us.anthropic.claude-sonnet-4-6", "eu.anthropic.claude-sonnet-4-6-20260101-v1:0"][..],
            ),
            (
                "Global cross-region model inference tokens per minute for Anthropic Claude Opus 5",
                &["global.anthropic.claude-opus-5"],
            ),
            (
                "On-demand model inference requests per minute for Anthropic Claude 3.7 Sonnet V1",
                &[
                    "anthropic.claude-3-7-sonnet-20250219-v1:0",
                    "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-3-7-sonnet-20250219-v1:0",
                ],
            ),
            (
                "Cross-region model inference requests per minute for Anthropic Claude 3.5 Sonnet V2",
                &["apac.anthropic.claude-3-5-sonnet-20241022-v2:0"],
            ),
            (
                "On-demand model inference tokens per minute for Meta Llama 3.3 70B Instruct",
                &["meta.llama3-3-70b-instruct-v1:0"],
            ),
            ("On-demand model inference tokens per minute for Amazon Nova Pro", &["amazon.nova-pro-v1:0"]),
        ] {
            let named = quota(quota_name).unwrap();
            for id in ids {
                assert_eq!(named.model, pool(id, false), "{quota_name} and {id}");
            }
        }
        let named = quota("[bedrock-mantle endpoint] Output tokens per minute for Claude Opus 4.7").unwrap();
        assert_eq!(
            (named.model, named.limiter),
            (pool("anthropic.claude-opus-4-7", true), Limiter::OUTPUT_TOKENS)
        );
    }

    #[test]
    fn scopes_are_pools_of_their_own_and_versions_are_told_apart() {
        let names: Vec<String> = [
            "anthropic.claude-sonnet-4-6",
            "us.anthropic.claude-sonnet-4-6",
            "global.anthropic.claude-sonnet-4-6",
            "anthropic.claude-3-5-sonnet-20240620-v1:0",
            "anthropic.claude-3-5-sonnet-20241022-v2:0",
            "arn:aws:bedrock:us-east-1:1:application-inference-profile/a1b2c3",
            "arn:aws:bedrock:us-east-1:1:provisioned-model/x9",
        ]
        .iter()
        .map(|id| pool(id, false).as_str().to_owned())
        .collect();
        assert_eq!(
            names,
            [
                "claude-sonnet-4-6",
                "cross-region.claude-sonnet-4-6",
                "global.claude-sonnet-4-6",
                "claude-3-5-sonnet",
                "claude-3-5-sonnet-v2",
                "a1b2c3",
                "provisioned.x9",
            ]
        );
    }

    #[test]
    fn what_does_not_parse_is_unknown() {
        for name in [
            "Batch inference jobs per day",
            "Regional model inference tokens per minute for Anthropic Claude Opus 9",
            "Cross-region model inference images per minute for Amazon Nova Canvas",
            "On-demand model inference tokens per minute for ",
            "[bedrock-mantle endpoint] Audio tokens per minute for X",
            "",
        ] {
            assert_eq!(quota(name), None, "{name}");
        }
        let day = quota("Cross-Model Max Tokens Per Day").unwrap();
        assert_eq!((day.model, day.window), (ModelGroup::none(), Window::Day));
    }

    #[test]
    fn burndown_is_by_model_and_cache_reads_are_free() {
        for (id, wanted) in [
            ("us.anthropic.claude-sonnet-4-6", 5),
            ("global.anthropic.claude-opus-4-8", 15),
            ("anthropic.claude-opus-5-5", 10),
            ("us.anthropic.claude-sonnet-5", 10),
            ("amazon.nova-pro-v1:0", 1),
        ] {
            assert_eq!(burndown(&pool(id, false)), wanted, "{id}");
        }
        // As another team measured it: 26 in, 1,203 out of Sonnet 4.6 were 6,041.
        let used = Usage {
            input: Amount::new(26),
            output: Amount::new(1_203),
            cache_read: Amount::new(8_814),
            ..Usage::default()
        };
        assert_eq!(settled(&used, 5), Amount::new(6_041));
    }

    #[test]
    fn a_heads_own_counts_are_read_and_nonsense_leaves_none() {
        let mut usage = None;
        count("invocation-latency", &HeaderValue::from_static("400"), &mut usage);
        count("input-token-count", &HeaderValue::from_static("many"), &mut usage);
        assert_eq!(usage, None);
        count("input-token-count", &HeaderValue::from_static("26"), &mut usage);
        count("cache-write-input-token-count", &HeaderValue::from_static("8"), &mut usage);
        let wanted = Usage { input: Amount::new(26), cache_write: Amount::new(8), ..Usage::default() };
        assert_eq!(usage, Some(wanted));
    }

    proptest! {
        #[test]
        fn no_name_panics_and_every_pool_is_bounded(text in ".{0,200}") {
            prop_assert!(pool(&text, false).as_str().chars().count() <= ModelGroup::MAX_LEN);
            let _ = quota(&format!("On-demand model inference tokens per minute for {text}"));
        }
    }
}
