//! What a host and a path say: which surface is called, and which model where the path names it.
//!
//! A host of the provider's own is strong: it is where the answer was made. A stand-in (a gateway, a
//! test) has a host of its own, and then only the answer can tell.

use crate::route::Surface;

/// Hosts: a name with a dot is a domain and its subdomains, one without stands anywhere in the host.
/// The first that fits decides.
const HOSTS: [(&str, Surface); 45] = [
    ("aws-external-anthropic", Surface::AnthropicApi),
    ("anthropic.com", Surface::AnthropicApi),
    ("amazonaws.com", Surface::Bedrock),
    ("api.aws", Surface::Bedrock),
    ("aiplatform.googleapis.com", Surface::Vertex),
    ("rep.googleapis.com", Surface::Vertex),
    ("openai.com", Surface::OpenAi),
    ("chatgpt.com", Surface::OpenAi),
    ("opencode.ai", Surface::Gateway),
    ("openai.azure.com", Surface::AzureOpenAi),
    ("services.ai.azure.com", Surface::AzureOpenAi),
    ("cognitiveservices.azure.com", Surface::AzureOpenAi),
    ("models.inference.ai.azure.com", Surface::Other),
    ("generativelanguage.googleapis.com", Surface::Other),
    ("cloudcode-pa.googleapis.com", Surface::Other),
    ("openrouter.ai", Surface::Gateway),
    ("gateway.ai.cloudflare.com", Surface::Gateway),
    ("helicone", Surface::Gateway),
    ("portkey", Surface::Gateway),
    ("litellm", Surface::Gateway),
    ("requesty", Surface::Gateway),
    ("gateway", Surface::Gateway),
    ("z.ai", Surface::Other),
    ("bigmodel.cn", Surface::Other),
    ("minimax.io", Surface::Other),
    ("minimaxi.com", Surface::Other),
    ("moonshot", Surface::Other),
    ("kimi.com", Surface::Other),
    ("deepseek.com", Surface::Other),
    ("groq.com", Surface::Other),
    ("mistral.ai", Surface::Other),
    ("cohere.com", Surface::Other),
    ("together.xyz", Surface::Other),
    ("x.ai", Surface::Other),
    ("fireworks.ai", Surface::Other),
    ("cerebras.ai", Surface::Other),
    ("dashscope", Surface::Other),
    ("volces.com", Surface::Other),
    ("githubcopilot.com", Surface::Other),
    ("models.github.ai", Surface::Other),
    ("llama.com", Surface::Other),
    ("nvidia.com", Surface::Other),
    ("databricks", Surface::Other),
    ("perplexity.ai", Surface::Other),
    ("ollama.com", Surface::Other),
];

/// The surface of a host, where the host is known. `host` in lower case; what stands behind the name
/// (a port, a remark in a paste) does not matter.
pub fn surface_of_host(host: &str) -> Option<Surface> {
    let host = host.split([':', '/', ' ']).next().unwrap_or(host);
    if host.ends_with("-aiplatform.googleapis.com") {
        return Some(Surface::Vertex);
    }
    let fits = |known: &str| {
        if known.contains('.') {
            host.strip_suffix(known).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        } else {
            host.contains(known)
        }
    };
    HOSTS.iter().find(|(known, _)| fits(known)).map(|(_, surface)| *surface)
}

/// The surface that a path alone proves: its form is one cloud's own.
pub fn surface_of_path(path: &str) -> Option<Surface> {
    if path.contains("/publishers/") && path.contains("/models/") {
        return Some(Surface::Vertex);
    }
    let operation = ["/invoke", "/invoke-with-response-stream", "/converse", "/converse-stream"];
    let bedrock = path.contains("/model/") && operation.iter().any(|o| path.ends_with(o));
    bedrock.then_some(Surface::Bedrock)
}

/// Project and region (or location) of a call to a cloud, where host and path name them: Vertex AI's path names both,
/// Bedrock's host the region, an ARN in its path the account.
pub fn project_and_region(surface: Surface, host: &str, path: &str) -> (Option<String>, Option<String>) {
    let (project, region) = named_there(surface, host, path);
    (project.filter(|project| is_project(project)), region.filter(|region| is_region(region)))
}

/// True for what may be a region's or a location's name: it becomes a label, and anybody may write it.
pub fn is_region(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// True for what may be an AWS account's or a Google Cloud project's id.
pub fn is_project(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-:._".contains(&b))
}

fn named_there(surface: Surface, host: &str, path: &str) -> (Option<String>, Option<String>) {
    let after = |name: &str| {
        let mut parts = path.split('/').skip_while(|part| *part != name).skip(1);
        parts.next().filter(|part| !part.is_empty()).map(str::to_owned)
    };
    match surface {
        Surface::Vertex => (after("projects"), after("locations")),
        Surface::Bedrock => {
            let arn = model_of_path(path).filter(|id| id.starts_with("arn:"));
            let part =
                |n: usize| arn.as_deref()?.split(':').nth(n).filter(|p| !p.is_empty()).map(str::to_owned);
            (part(4), region_of_host(host).map(str::to_owned).or_else(|| part(3)))
        }
        _ => (None, None),
    }
}

/// `bedrock-runtime.us-east-1.amazonaws.com`, `bedrock-mantle.eu-west-1.api.aws`.
fn region_of_host(host: &str) -> Option<&str> {
    let (service, rest) = host.split_once('.')?;
    let region = rest.split_once(".amazonaws.").or_else(|| rest.split_once(".api.aws"))?.0;
    (service.starts_with("bedrock") && !region.contains('.')).then_some(region)
}

/// True for a call to Bedrock's other endpoint, which speaks Anthropic's API and has quotas of its own.
pub fn is_mantle(host: &str, path: &str) -> bool {
    host.starts_with("bedrock-mantle.") || path.ends_with("/anthropic/v1/messages")
}

/// The model that a path names (Bedrock, Vertex AI): `/model/{id}/invoke`, `/models/{id}:rawPredict`.
pub fn model_of_path(path: &str) -> Option<String> {
    surface_of_path(path)?;
    let rest = path.rsplit_once("/models/").or_else(|| path.split_once("/model/"))?.1;
    let id = rest.rsplit_once(':').filter(|(_, verb)| verb.ends_with("redict") || verb.ends_with("ontent"));
    let id = id.map_or_else(|| rest.split('/').next().unwrap_or(rest), |(id, _)| id);
    let decoded = id.replace("%3A", ":").replace("%3a", ":").replace("%2F", "/").replace("%2f", "/");
    (!decoded.is_empty()).then_some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clouds_are_told_by_host_and_path() {
        let of = |surface, host: &str, path: &str| project_and_region(surface, host, path);
        let some = |text: &str| Some(text.to_owned());
        let path =
            "/v1/projects/p-1/locations/us-east5/publishers/anthropic/models/claude-opus-4-8:rawPredict";
        assert_eq!(of(Surface::Vertex, "x", path), (some("p-1"), some("us-east5")));
        let path = "/model/us.anthropic.claude-opus-5/invoke";
        let host = "bedrock-runtime.us-east-1.amazonaws.com";
        assert_eq!(of(Surface::Bedrock, host, path), (None, some("us-east-1")));
        assert_eq!(of(Surface::Bedrock, "10.0.0.1", path), (None, None));
        let arn = "/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A123456789012%3Aapplication-inference-profile%2Fab/converse";
        assert_eq!(of(Surface::Bedrock, "gw.corp", arn), (some("123456789012"), some("eu-west-1")));
        assert_eq!(of(Surface::AnthropicApi, host, path), (None, None));
        let odd = "/v1/projects/p 1/locations/US%7B/publishers/anthropic/models/claude-opus-4-8:rawPredict";
        assert_eq!(of(Surface::Vertex, "x", odd), (None, None), "what becomes a label is a name");
    }

    #[test]
    fn hosts_and_paths_tell_their_surface_and_model() {
        for (host, wanted) in [
            ("bedrock-runtime.us-east-1.amazonaws.com", Some(Surface::Bedrock)),
            ("bedrock-mantle.eu-west-1.api.aws", Some(Surface::Bedrock)),
            ("aws-external-anthropic.us-east-1.api.aws", Some(Surface::AnthropicApi)),
            ("us-east5-aiplatform.googleapis.com", Some(Surface::Vertex)),
            ("api.z.ai", Some(Surface::Other)),
            ("10.0.0.7", None),
            ("fuzz.ai", None),
            ("litellm-bedrock.corp", Some(Surface::Gateway)),
            ("aiplatform.corp.internal", None),
            ("aiplatform.googleapis.com (region unknown)", Some(Surface::Vertex)),
        ] {
            assert_eq!(surface_of_host(host), wanted, "{host}");
        }
        for (path, surface, model) in [
            (
                "/model/us.anthropic.claude-sonnet-4-6/converse-stream",
                Some(Surface::Bedrock),
                Some("us.anthropic.claude-sonnet-4-6"),
            ),
            (
                "/model/anthropic.claude-3-haiku-20240307-v1%3A0/invoke",
                Some(Surface::Bedrock),
                Some("anthropic.claude-3-haiku-20240307-v1:0"),
            ),
            (
                "/v1/projects/p/locations/global/publishers/anthropic/models/claude-haiku-4-5@20251001:streamRawPredict",
                Some(Surface::Vertex),
                Some("claude-haiku-4-5@20251001"),
            ),
            ("/v1/messages", None, None),
        ] {
            assert_eq!(surface_of_path(path), surface, "{path}");
            assert_eq!(model_of_path(path).as_deref(), model, "{path}");
        }
    }
}
