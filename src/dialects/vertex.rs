//! How Google's Vertex AI names models, locations and quotas. Pure.
//!
//! Quotas are kept by *base model*. Claude models that came after 2026-05-26 share one per lineage on the global and
//! the multi-region endpoints (`anthropic-claude-opus`); older ones, and every model on a regional endpoint, have
//! their own. Global, each multi-region and each region are buckets apart.

use crate::limit::Limiter;
use crate::route::ModelGroup;

/// Newest version of each family that still has a quota of its own everywhere.
const LAST_APART: [(&str, (u32, u32)); 3] = [("opus", (4, 7)), ("sonnet", (4, 6)), ("haiku", (4, 5))];

/// What the traffic's model draws on, at a location.
pub fn pool(id: &str, location: &str) -> ModelGroup {
    let model = ModelGroup::of_model(id);
    let shared = matches!(location, "global" | "us" | "eu");
    match lineage(model.as_str()).filter(|_| shared) {
        Some(family) => ModelGroup::named(&format!("claude-{family}")),
        None => model,
    }
}

/// The family of a Claude model that shares its quota with the rest of it.
fn lineage(model: &str) -> Option<&str> {
    let mut parts = model.strip_prefix("claude-")?.split('-');
    let family = parts.next().filter(|family| family.bytes().all(|b| b.is_ascii_alphabetic()))?;
    let mut number = || parts.next().and_then(|part| part.parse().ok());
    let version = (number()?, number().unwrap_or(0));
    let apart =
        LAST_APART.iter().find(|(known, _)| *known == family).is_some_and(|(_, last)| version <= *last);
    (!apart).then_some(family)
}

/// The group of a quota's `base_model`.
pub fn base_model(label: &str) -> ModelGroup {
    ModelGroup::named(label.strip_prefix("anthropic-").unwrap_or(label))
}

/// What a quota metric counts, and where, if its name says that; else its own location does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// `global`, `us` or `eu`.
    pub location: Option<&'static str>,
    /// What is counted.
    pub limiter: Limiter,
}

/// Reads the name of a quota metric (`global_online_prediction_input_tokens_per_minute_per_base_model`), with or
/// without its service before it. `None` for quotas of other things, and for throughput that was bought.
pub fn quota(metric: &str) -> Option<Named> {
    let name = metric.rsplit('/').next()?;
    let (location, rest) = match name {
        _ if name.starts_with("global_") => (Some("global"), &name["global_".len()..]),
        _ if name.starts_with("us_multi_region_") => (Some("us"), &name["us_multi_region_".len()..]),
        _ if name.starts_with("eu_multi_region_") => (Some("eu"), &name["eu_multi_region_".len()..]),
        _ => (None, name),
    };
    let limiter = match rest {
        "online_prediction_requests_per_base_model" => Limiter::REQUESTS,
        "online_prediction_tokens_per_minute_per_base_model" => Limiter::TOKENS,
        "online_prediction_input_tokens_per_minute_per_base_model" => Limiter::INPUT_TOKENS,
        // Limits of their own beside those of the same model.
        "generate_content_input_tokens_per_minute_per_base_model" => {
            Limiter::known("generate_content_input_tokens")
        }
        "online_prediction_output_tokens_per_minute_per_base_model" => Limiter::OUTPUT_TOKENS,
        "generate_content_requests_per_minute_per_project_per_base_model" => {
            Limiter::known("generate_content_requests")
        }
        _ => return None,
    };
    Some(Named { location, limiter })
}

/// The quota metrics that are asked for, each with its series.
pub const QUOTAS: [&str; 15] = [
    "online_prediction_requests_per_base_model",
    "online_prediction_tokens_per_minute_per_base_model",
    "online_prediction_input_tokens_per_minute_per_base_model",
    "online_prediction_output_tokens_per_minute_per_base_model",
    "global_online_prediction_requests_per_base_model",
    "global_online_prediction_input_tokens_per_minute_per_base_model",
    "global_online_prediction_output_tokens_per_minute_per_base_model",
    "us_multi_region_online_prediction_requests_per_base_model",
    "us_multi_region_online_prediction_input_tokens_per_minute_per_base_model",
    "us_multi_region_online_prediction_output_tokens_per_minute_per_base_model",
    "eu_multi_region_online_prediction_requests_per_base_model",
    "eu_multi_region_online_prediction_input_tokens_per_minute_per_base_model",
    "eu_multi_region_online_prediction_output_tokens_per_minute_per_base_model",
    "generate_content_input_tokens_per_minute_per_base_model",
    "generate_content_requests_per_minute_per_project_per_base_model",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_models_share_a_lineage_where_google_says_so() {
        for (id, location, wanted) in [
            ("claude-opus-4-8", "global", "claude-opus"),
            ("claude-opus-5-5", "us", "claude-opus"),
            ("claude-opus-4-7", "global", "claude-opus-4-7"),
            ("claude-opus-4-8", "us-east5", "claude-opus-4-8"),
            ("claude-sonnet-5", "eu", "claude-sonnet"),
            ("claude-haiku-4-5@20251001", "global", "claude-haiku-4-5"),
            ("claude-fable-5", "global", "claude-fable"),
            ("claude-3-5-sonnet-v2@20241022", "global", "claude-3-5-sonnet-v2"),
            ("gemini-2.5-pro", "global", "gemini-2.5-pro"),
        ] {
            assert_eq!(pool(id, location).as_str(), wanted, "{id} at {location}");
        }
        assert_eq!(base_model("anthropic-claude-opus"), pool("claude-opus-5", "global"));
        assert_eq!(base_model("anthropic-claude-opus-4-7"), pool("claude-opus-4-7", "global"));
    }

    #[test]
    fn quota_metrics_tell_what_and_where() {
        for name in QUOTAS {
            assert!(quota(name).is_some(), "{name}");
        }
        let service =
            "aiplatform.googleapis.com/global_online_prediction_input_tokens_per_minute_per_base_model";
        assert_eq!(quota(service), Some(Named { location: Some("global"), limiter: Limiter::INPUT_TOKENS }));
        assert_eq!(quota("online_prediction_dedicated_tokens_per_base_model_version"), None);
        assert_eq!(quota("custom_model_training_cpus"), None);
    }
}
