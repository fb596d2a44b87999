//! Routes, surfaces, owners: who sends what where, and who is to be called.
//!
//! A route is one configured path of traffic. Its surface is the way the traffic reaches a model;
//! the surface decides which kind of owner can hold a limit. Plain values, no IO.

use std::fmt;
use std::sync::Arc;

/// The name of a configured route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteName(Arc<str>);

impl RouteName {
    /// A route by its configured name.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name, as it stands in labels.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The way traffic reaches a model (DESIGN, "One table of names").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Surface {
    /// The Anthropic API, called directly with an API key.
    AnthropicApi,
    /// Claude Code with an API key.
    ClaudeCodeKey,
    /// Claude Code on a Claude plan.
    ClaudeCodePlan,
    /// Amazon Bedrock.
    Bedrock,
    /// Google Vertex AI.
    Vertex,
    /// A gateway with limits of its own.
    Gateway,
    /// The OpenAI API.
    OpenAi,
    /// Azure OpenAI.
    AzureOpenAi,
    /// Another provider.
    Other,
    /// Not told.
    Unknown,
}

impl Surface {
    /// Every surface, in the order of DESIGN's table.
    pub const ALL: [Self; 10] = [
        Self::AnthropicApi,
        Self::ClaudeCodeKey,
        Self::ClaudeCodePlan,
        Self::Bedrock,
        Self::Vertex,
        Self::Gateway,
        Self::OpenAi,
        Self::AzureOpenAi,
        Self::Other,
        Self::Unknown,
    ];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AnthropicApi => "anthropic_api",
            Self::ClaudeCodeKey => "claude_code_key",
            Self::ClaudeCodePlan => "claude_code_plan",
            Self::Bedrock => "bedrock",
            Self::Vertex => "vertex",
            Self::Gateway => "gateway",
            Self::OpenAi => "openai",
            Self::AzureOpenAi => "azure_openai",
            Self::Other => "other",
            Self::Unknown => "unknown",
        }
    }

    /// The surface of a label value.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|surface| surface.as_str() == name)
    }

    /// True for the clouds: no header tells what is left, so calls are counted here.
    pub const fn is_cloud(self) -> bool {
        matches!(self, Self::Bedrock | Self::Vertex)
    }

    /// The kind of owner that holds the quota limits of this surface.
    pub const fn owner_kind(self) -> OwnerKind {
        match self {
            Self::AnthropicApi => OwnerKind::AnthropicWorkspace,
            Self::ClaudeCodeKey => OwnerKind::ClaudeCodeWorkspace,
            Self::ClaudeCodePlan => OwnerKind::ClaudePlan,
            Self::Bedrock => OwnerKind::AwsAccount,
            Self::Vertex => OwnerKind::GcpProject,
            Self::Gateway => OwnerKind::GatewayTenant,
            Self::OpenAi | Self::AzureOpenAi | Self::Other => OwnerKind::OtherProvider,
            Self::Unknown => OwnerKind::Unknown,
        }
    }

    /// OpenTelemetry's `gen_ai.provider.name` for this surface.
    pub const fn provider(self) -> &'static str {
        match self {
            Self::AnthropicApi | Self::ClaudeCodeKey | Self::ClaudeCodePlan => "anthropic",
            Self::Bedrock => "aws.bedrock",
            Self::Vertex => "gcp.vertex_ai",
            Self::OpenAi => "openai",
            Self::AzureOpenAi => "azure.ai.openai",
            Self::Gateway | Self::Other | Self::Unknown => "unknown",
        }
    }
}

/// The kind of party that holds a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnerKind {
    /// An Anthropic workspace or organisation.
    AnthropicWorkspace,
    /// The workspace of the API key that Claude Code uses.
    ClaudeCodeWorkspace,
    /// A Claude subscription.
    ClaudePlan,
    /// An AWS account and region.
    AwsAccount,
    /// A Google Cloud project and location.
    GcpProject,
    /// A tenant of a gateway.
    GatewayTenant,
    /// The shape of one's own traffic.
    TrafficShape,
    /// The provider itself: nobody's quota.
    Provider,
    /// A provider Plimsoll knows only by name.
    OtherProvider,
    /// Not proved.
    Unknown,
}

impl OwnerKind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::AnthropicWorkspace,
        Self::ClaudeCodeWorkspace,
        Self::ClaudePlan,
        Self::AwsAccount,
        Self::GcpProject,
        Self::GatewayTenant,
        Self::TrafficShape,
        Self::Provider,
        Self::OtherProvider,
        Self::Unknown,
    ];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AnthropicWorkspace => "anthropic_workspace",
            Self::ClaudeCodeWorkspace => "claude_code_workspace",
            Self::ClaudePlan => "claude_plan",
            Self::AwsAccount => "aws_account",
            Self::GcpProject => "gcp_project",
            Self::GatewayTenant => "gateway_tenant",
            Self::TrafficShape => "traffic_shape",
            Self::Provider => "provider",
            Self::OtherProvider => "other_provider",
            Self::Unknown => "unknown",
        }
    }
}

/// Label value of an owner that no configured owner matches.
pub const UNNAMED: &str = "unnamed";

/// Who holds a limit, as it stands in labels: a configured name, or [`UNNAMED`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerId(Arc<str>);

impl OwnerId {
    /// An owner by its configured name.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The owner that nobody has configured.
    pub fn unnamed() -> Self {
        Self(UNNAMED.into())
    }

    /// The name, as it stands in labels.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if no configured owner matched.
    pub fn is_unnamed(&self) -> bool {
        &*self.0 == UNNAMED
    }
}

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An owner of limits: its name and its kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// Its configured name.
    pub id: OwnerId,
    /// What kind of party it is.
    pub kind: OwnerKind,
}

/// The model a limit counts for: an id from the traffic, cleaned, or a configured group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelGroup(Arc<str>);

impl ModelGroup {
    /// Longest model name kept (they come from the network).
    pub const MAX_LEN: usize = 80;

    /// The group of models that no longer fit in the bounded tables.
    pub fn other() -> Self {
        Self("_other".into())
    }

    /// A group by a name of ours: control characters and others that are not seen dropped, cut at [`Self::MAX_LEN`].
    pub fn named(name: &str) -> Self {
        let clean: String = name.chars().filter(|c| !crate::text::unseen(*c)).take(Self::MAX_LEN).collect();
        Self(clean.into())
    }

    /// The group of calls that name no model.
    pub fn none() -> Self {
        Self("".into())
    }

    /// The group a model id belongs to when nothing is configured: the id without its date suffix
    /// (`claude-opus-4-5-20251101` and `claude-opus-4-5` are one model), control characters
    /// and others that are not seen dropped, cut at [`Self::MAX_LEN`].
    pub fn of_model(id: &str) -> Self {
        let id = match id.rsplit_once(['-', '@']) {
            Some((head, date)) if date.len() == 8 && date.bytes().all(|b| b.is_ascii_digit()) => head,
            _ => id,
        };
        Self::named(id)
    }

    /// The name, as it stands in labels; empty when no model is known.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The configured model groups: which models share one pool.
///
/// Providers pool models (all Opus 4.x share one limit) and change the pools without notice, so
/// the grouping is data; what no group names is a group of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelGroups(Vec<(ModelGroup, Vec<String>)>);

impl ModelGroups {
    /// Groups by name, each with the models or prefixes ending in `*` that belong to it.
    pub fn new(groups: Vec<(String, Vec<String>)>) -> Self {
        Self(groups.into_iter().map(|(name, models)| (ModelGroup(name.into()), models)).collect())
    }

    /// The group of a model id.
    pub fn of(&self, id: &str) -> ModelGroup {
        self.configured(id).unwrap_or_else(|| ModelGroup::of_model(id))
    }

    /// The group that the configuration names for a model id.
    pub fn configured(&self, id: &str) -> Option<ModelGroup> {
        let bare = ModelGroup::of_model(id);
        let named = self.0.iter().find(|(_, models)| {
            models.iter().any(|model| match model.strip_suffix('*') {
                Some(prefix) => bare.as_str().starts_with(prefix),
                None => bare.as_str() == model || id == model,
            })
        });
        named.map(|(group, _)| group.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dated_model_and_its_alias_share_a_group() {
        assert_eq!(ModelGroup::of_model("claude-opus-4-5-20251101"), ModelGroup::of_model("claude-opus-4-5"));
        assert_eq!(ModelGroup::of_model("claude-sonnet-4@20250514").as_str(), "claude-sonnet-4");
        assert_eq!(ModelGroup::of_model("claude-opus-5-5").as_str(), "claude-opus-5-5");
    }

    #[test]
    fn configured_groups_pool_models() {
        let groups = ModelGroups::new(vec![("opus-4".into(), vec!["claude-opus-4-*".into()])]);
        assert_eq!(groups.of("claude-opus-4-5-20251101").as_str(), "opus-4");
        assert_eq!(groups.of("claude-opus-5").as_str(), "claude-opus-5");
    }

    #[test]
    fn model_names_from_the_network_are_bounded_and_printable() {
        let group = ModelGroup::of_model(&format!("a\n\u{7}{}", "é".repeat(500)));
        assert_eq!(group.as_str().chars().count(), ModelGroup::MAX_LEN);
        assert!(!group.as_str().contains('\n'));
    }
}
