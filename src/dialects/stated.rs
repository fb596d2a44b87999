//! What a refusal states in words beside its kind: numbers, the quota's name, when access returns.
//!
//! Read only from failures, out of [`super::error_text::plain`] text. Never the value of a tenant's
//! key or team: gateways print those, and they are nobody's to repeat.

use crate::limit::Amount;

/// What the words of one refusal state. Everything is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stated {
    /// The limit itself, in what the limiter counts.
    pub limit: Option<Amount>,
    /// The acceleration limit after the next minute boundary, beside `limit` for this minute.
    pub next_limit: Option<Amount>,
    /// The quota's name at a cloud (`online_prediction_input_tokens_per_minute_per_base_model`).
    pub quota: Option<String>,
    /// The pool of models that the quota counts (`anthropic-claude-opus-4`).
    pub base_model: Option<String>,
    /// What a gateway limits (`api_key`, `team`, …), never whose.
    pub tenant: Option<String>,
    /// When access returns, in the provider's words.
    pub regain: Option<String>,
}

impl Stated {
    /// True if nothing was stated.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What LiteLLM limits by (1.109.1); anything else in that place may be somebody's name.
pub(super) const DESCRIPTORS: [&str; 19] = [
    "api_key",
    "user",
    "team",
    "team_member",
    "end_user",
    "customer",
    "organization",
    "agent",
    "agent_session",
    "tag",
    "tag_per_key",
    "model_per_key",
    "model_per_team",
    "model_per_organization",
    "model_per_project",
    "mcp_per_key",
    "mcp_per_team",
    "mcp_server",
    "priority_model",
];

/// Longest name that is kept.
const MAX_NAME: usize = 120;

/// Reads what the plain words of a refusal state.
pub fn read(words: &str) -> Stated {
    let next_limit = number_behind(words, "will increase to ");
    let limits = ["your current limit is ", "rate limit of ", "current limit: ", " limit ", "limit value: "];
    let host = [" for aiplatform.googleapis.com/", " metric: aiplatform.googleapis.com/"];
    Stated {
        limit: limits.iter().find_map(|before| number_behind(words, before)),
        next_limit,
        quota: host.iter().find_map(|before| name_behind(words, before)),
        base_model: name_behind(words, "base model: "),
        tenant: tenant(words),
        regain: regain(words),
    }
}

fn behind<'w>(words: &'w str, before: &str) -> Option<&'w str> {
    // Searched ten times in every refusal: the standard search is an order of magnitude slower.
    let at = memchr::memmem::find(words.as_bytes(), before.as_bytes())?;
    Some(&words[at + before.len()..])
}

fn number_behind(words: &str, before: &str) -> Option<Amount> {
    let rest = behind(words, before)?;
    let digits: String =
        rest.chars().take_while(|c| c.is_ascii_digit() || *c == ',').filter(char::is_ascii_digit).collect();
    digits.parse().ok().filter(|n| *n > 0).map(Amount::new)
}

fn name_behind(words: &str, before: &str) -> Option<String> {
    let rest = behind(words, before)?;
    let name = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '@' | '/');
    let name: String = rest.chars().take_while(name).take(MAX_NAME).collect();
    let name = name.trim_end_matches('.');
    (!name.is_empty()).then(|| name.to_owned())
}

/// The descriptor of LiteLLM's limiter: it stands before the colon, and whose it is behind it.
fn tenant(words: &str) -> Option<String> {
    let rest = behind(words, "rate limit exceeded for ")?;
    let (descriptor, _) = rest.split_once(':')?;
    DESCRIPTORS.contains(&descriptor).then(|| descriptor.to_owned())
}

fn regain(words: &str) -> Option<String> {
    let rest = behind(words, "regain access on ")?;
    let end = rest.find(" utc").map(|at| at + " utc".len())?;
    (end <= 40).then(|| rest[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialects::error_text::plain;

    #[test]
    fn the_ramp_of_an_acceleration_limit_is_read() {
        let stated = read(&plain(
            "maximum usage increase rate for input tokens per minute (org: 0, model: m). Your current limit is 58,276 input tokens per minute, and will increase to 68,276 at the next minute boundary.",
        ));
        assert_eq!(stated.limit, Some(Amount::new(58_276)));
        assert_eq!(stated.next_limit, Some(Amount::new(68_276)));
    }

    #[test]
    fn a_vertex_refusal_names_its_quota_and_its_pool() {
        let stated = read(&plain(
            "Quota exceeded for aiplatform.googleapis.com/online_prediction_input_tokens_per_minute_per_base_model with base model: anthropic-claude-opus-4. Please submit",
        ));
        assert_eq!(stated.quota.as_deref(), Some("online_prediction_input_tokens_per_minute_per_base_model"));
        assert_eq!(stated.base_model.as_deref(), Some("anthropic-claude-opus-4"));
    }

    #[test]
    fn a_tenant_is_told_by_its_kind_and_never_by_its_value() {
        let stated = read(&plain(
            "Rate limit exceeded for api_key: 3b5c3a. Limit type: requests. Current limit: 40, Remaining: 0.",
        ));
        assert_eq!(stated.tenant.as_deref(), Some("api_key"));
        assert_eq!(stated.limit, Some(Amount::new(40)));
        assert!(!format!("{stated:?}").contains("3b5c3a"));
    }

    #[test]
    fn nothing_is_read_into_other_words() {
        for words in ["overloaded", "", "rate limit of many", "regain access on somewhere", "limit 0"] {
            assert!(read(words).is_empty(), "{words}: {:?}", read(words));
        }
    }
}
