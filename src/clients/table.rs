//! The table. Rows were run with these versions against a server on loopback, unless they say that they were read.

use super::{Api, CLAUDE_CODE, Client, Variable};

const fn bare(name: &'static str) -> Variable {
    Variable { name, suffix: "" }
}

const fn with(name: &'static str, suffix: &'static str) -> Variable {
    Variable { name, suffix }
}

const ANTHROPIC: &[Variable] = &[bare("ANTHROPIC_BASE_URL")];
const OPENAI: &[Variable] = &[with("OPENAI_BASE_URL", "/v1")];
const MEASURED: &str = "measured on 28 November 2026";

/// Every client, those first that most people have.
pub const ALL: &[Client] = &[
    Client {
        name: CLAUDE_CODE,
        title: "Claude Code 2.1.330; Claude Agent SDK 0.3.332 (TypeScript), 0.2.189 (Python)",
        api: Api::Anthropic,
        variables: ANTHROPIC,
        instead: None,
        enforcement: &[
            "Behind a base URL it does not ask for server-managed settings nor for policy limits \
             (GET /api/claude_code/settings, /policy_limits): what an administrator enforces that way is not enforced.",
            "A local managed-settings.json is enforced all the same; put there what must hold.",
            "With its first-party switch it asks for both again; the settings were seen to be enforced.",
        ],
        loses: &[
            "prompt caching across users (`scope: global` on the shared system block): dearer, slower to the first token",
            "four betas (five with a bearer token), the body's `diagnostics`, the headers x-client-request-id and x-claude-code-*",
            "Remote Control",
            "`env` in its settings.json wins over the environment",
        ],
        source: MEASURED,
    },
    Client {
        name: "anthropic",
        title: "anthropic 2.14 (Python), @anthropic-ai/sdk 1.14; pydantic-ai, instructor, crewai",
        api: Api::Anthropic,
        variables: ANTHROPIC,
        instead: None,
        enforcement: &[],
        loses: &["nothing; a `base_url` in the code wins over the variable"],
        source: MEASURED,
    },
    Client {
        name: "ai-sdk",
        title: "@ai-sdk/anthropic 2.0 to 4.0",
        api: Api::Anthropic,
        variables: &[with("ANTHROPIC_BASE_URL", "/v1")],
        instead: None,
        enforcement: &[],
        loses: &["nothing; 1.x ignores the variable: pass `baseURL` to createAnthropic"],
        source: MEASURED,
    },
    Client {
        name: "opencode",
        title: "opencode-ai 1.18",
        api: Api::Anthropic,
        variables: &[with("ANTHROPIC_BASE_URL", "/v1")],
        instead: None,
        enforcement: &[],
        loses: &["nothing; `provider.anthropic.options.baseURL` in its file wins"],
        source: MEASURED,
    },
    Client {
        name: "langchain-anthropic",
        title: "langchain-anthropic 1.7 (Python), @langchain/anthropic 1.5",
        api: Api::Anthropic,
        variables: &[bare("ANTHROPIC_API_URL"), bare("ANTHROPIC_BASE_URL")],
        instead: None,
        enforcement: &[],
        loses: &["nothing"],
        source: MEASURED,
    },
    Client {
        name: "litellm",
        title: "litellm 1.110 (library, to Anthropic); aider",
        api: Api::Anthropic,
        variables: &[bare("ANTHROPIC_API_BASE"), bare("ANTHROPIC_BASE_URL")],
        instead: None,
        enforcement: &[],
        loses: &["nothing"],
        source: MEASURED,
    },
    Client {
        name: "openai",
        title: "openai 3.57 (Python), 7.59 (npm); @ai-sdk/openai, litellm, pydantic-ai, crewai to OpenAI",
        api: Api::OpenAi,
        variables: OPENAI,
        instead: None,
        enforcement: &[],
        loses: &["nothing"],
        source: MEASURED,
    },
    Client {
        name: "langchain-openai",
        title: "langchain-openai 1.7",
        api: Api::OpenAi,
        variables: &[with("OPENAI_API_BASE", "/v1"), with("OPENAI_BASE_URL", "/v1")],
        instead: None,
        enforcement: &[],
        loses: &[
            "`stream_options`, so streams carry no token counts; `stream_usage=True` in the code brings them back",
        ],
        source: MEASURED,
    },
    Client {
        name: "codex",
        title: "@openai/codex 0.171",
        api: Api::OpenAi,
        variables: &[],
        instead: Some("codex -c openai_base_url=\"URL/v1\""),
        enforcement: &[],
        loses: &[
            "OPENAI_BASE_URL is ignored",
            "it opens with a WebSocket, which passes unmeasured; `websocket: refuse` on the route makes it send requests",
        ],
        source: MEASURED,
    },
    Client {
        name: "gemini",
        title: "google-genai 3.6 (Python), @google/genai 3.3, gemini-cli 0.61",
        api: Api::Gemini,
        variables: &[bare("GOOGLE_GEMINI_BASE_URL")],
        instead: None,
        enforcement: &[],
        loses: &["nothing"],
        source: MEASURED,
    },
    Client {
        name: "litellm-gemini",
        title: "litellm 1.110 (library, to Gemini)",
        api: Api::Gemini,
        variables: &[with("GEMINI_API_BASE", "/v1beta")],
        instead: None,
        enforcement: &[],
        loses: &["nothing; it ignores GOOGLE_GEMINI_BASE_URL"],
        source: MEASURED,
    },
    Client {
        name: "bedrock",
        title: "boto3 1.44 (bedrock-runtime), anthropic[bedrock] 2.14, @anthropic-ai/bedrock-sdk 1.1, Claude Code on Bedrock",
        api: Api::Bedrock,
        variables: &[bare("AWS_ENDPOINT_URL_BEDROCK_RUNTIME"), bare("ANTHROPIC_BEDROCK_BASE_URL")],
        instead: None,
        enforcement: &[],
        loses: &[
            "its signature covers the host, which is the proxy's now: the route needs `resign`, or the client a bearer token",
            "boto3 takes no bearer token over plain http",
        ],
        source: MEASURED,
    },
    Client {
        name: "litellm-bedrock",
        title: "litellm 1.110 (library, to Bedrock)",
        api: Api::Bedrock,
        variables: &[bare("AWS_BEDROCK_RUNTIME_ENDPOINT")],
        instead: None,
        enforcement: &[],
        loses: &["as `bedrock`"],
        source: MEASURED,
    },
    Client {
        name: "vertex",
        title: "anthropic[vertex] 2.14, @anthropic-ai/vertex-sdk 1.1, Claude Code on Vertex AI",
        api: Api::Vertex,
        variables: &[with("ANTHROPIC_VERTEX_BASE_URL", "/v1")],
        instead: None,
        enforcement: &[],
        loses: &["nothing"],
        source: MEASURED,
    },
];
