//! Who wrote into a response head: the headers that only one gateway or provider emits.
//!
//! The same limit header means a different owner on another route, so who answered is read first.
//! Sources, by party: LiteLLM 1.100 to 1.109 (package and captures), Envoy's rate-limit filters,
//! Kong's response and AI plugins, Portkey 1.15, Bifrost's response headers, Cloudflare AI Gateway's
//! `cf-aig-*`, Helicone's gateway, AWS's and Azure's service headers, and for boxes that are no model
//! gateways the pages of Akamai, AWS (API Gateway, load balancer, CloudFront), Azure's Application
//! Gateway, Traefik and Vercel.

use super::{printable, text};
use crate::observation::{Mark, Marks};
use http::{HeaderMap, HeaderValue};
use std::sync::Arc;

/// What was seen so far.
#[derive(Default)]
pub(super) struct Signs {
    pub(super) marks: Marks,
    pub(super) exception: Option<Arc<str>>,
    pub(super) policy: Option<Arc<str>>,
}

impl Signs {
    /// Takes in a header that is not Anthropic's.
    pub(super) fn header(&mut self, name: &str, value: &HeaderValue) {
        // Most headers of most answers are told by their first letter.
        match name.as_bytes().first() {
            Some(b'x') => self.extension(&name[1..], value),
            Some(b'l') => self.litellm_provider(name),
            Some(b'r') => self.plain(name, value),
            Some(b'c') if name.starts_with("cf-aig-") => self.marks.set(Mark::CloudflareGateway),
            Some(b'h') => {
                if name.starts_with("helicone-provider") {
                    self.marks.set(Mark::HeliconeRouted);
                } else if name.starts_with("helicone-") {
                    self.marks.set(Mark::Helicone);
                }
            }
            Some(b'a') if matches!(name, "apim-request-id" | "azureml-model-session") => {
                self.marks.set(Mark::Azure);
            }
            Some(b'o') if name.starts_with("openai-") => self.marks.set(Mark::OpenAi),
            Some(b'p') if name == "policy-id" => self.policy = bounded(value),
            Some(b's' | b'v') if matches!(name, "server" | "via") => {
                if names_kong(value) {
                    self.marks.set(Mark::Kong);
                } else if name == "server" && names_box(value) {
                    self.marks.set(Mark::Box);
                }
            }
            _ => {}
        }
    }

    /// `x…` headers; `rest` is the name behind the `x`.
    fn extension(&mut self, rest: &str, value: &HeaderValue) {
        let value_is = |wanted: &str| value.as_bytes().eq_ignore_ascii_case(wanted.as_bytes());
        let prefixes = [
            ("-litellm-", Mark::Litellm),
            ("-portkey-", Mark::Portkey),
            ("-kong-", Mark::Kong),
            ("-bifrost-", Mark::Bifrost),
        ];
        if let Some((_, mark)) = prefixes.iter().find(|(prefix, _)| rest.starts_with(prefix)) {
            self.marks.set(*mark);
        }
        match rest {
            "-should-retry" if value_is("false") => self.marks.set(Mark::NoRetry),
            "-amzn-requestid" => self.marks.set(Mark::Aws),
            "-amzn-errortype" => {
                self.marks.set(Mark::Aws);
                self.exception = exception(value);
            }
            "-plimsoll-answered" => self.marks.set(Mark::Plimsoll),
            "-amz-apigw-id" => self.marks.set(Mark::ApiGateway),
            // Traefik's limiter writes the one, Vercel's firewall the other, and only where they refuse.
            "-retry-in" | "-vercel-mitigated" => self.marks.set(Mark::Box),
            "-ms-region" => self.marks.set(Mark::Azure),
            "-envoy-ratelimited" => self.marks.set(Mark::EnvoyLimited),
            "-kong-upstream-status" | "-kong-upstream-latency" => self.marks.set(Mark::KongUpstream),
            "-portkey-gateway-exception" if value_is("true") => self.marks.set(Mark::PortkeyException),
            "-bifrost-request-id" | "-bifrost-trace-id" | "-bifrost-request-type" => {}
            _ if rest.starts_with("-bifrost-") => self.marks.set(Mark::BifrostRouted),
            _ if rest.starts_with("-ai-ratelimit-remaining-") && value_is("0") => {
                self.marks.set(Mark::AiEmpty);
            }
            "-ai-ratelimit-retry-after" => self.marks.set(Mark::AiEmpty),
            "-ratelimit-remaining" if value_is("0") => self.marks.set(Mark::PlainEmpty),
            _ => self.kong_window(rest, value_is("0")),
        }
    }

    /// Kong's `x-ratelimit-remaining-<window>`.
    fn kong_window(&mut self, rest: &str, empty: bool) {
        let windows = ["second", "minute", "hour", "day", "month", "year"];
        if let Some(window) = rest.strip_prefix("-ratelimit-remaining-")
            && empty
            && windows.contains(&window)
        {
            self.marks.set(Mark::PlainEmpty);
        }
    }

    fn litellm_provider(&mut self, name: &str) {
        // LiteLLM's own model limits carry this one although no provider was asked (1.100.5).
        if name.starts_with("llm_provider-") && name != "llm_provider-retry-after" {
            self.marks.set(Mark::LitellmProvider);
        }
    }

    fn plain(&mut self, name: &str, value: &HeaderValue) {
        match name {
            "rate_limit_type" => {
                self.marks.set(Mark::LitellmLimit);
                self.policy = bounded(value);
            }
            "reset_at" => self.marks.set(Mark::LitellmLimit),
            "ratelimit-remaining" if value.as_bytes() == b"0" => self.marks.set(Mark::PlainEmpty),
            "request-id" if value.as_bytes().starts_with(b"req_") => self.marks.set(Mark::Anthropic),
            _ => {}
        }
    }

    /// True if a LiteLLM proxy wrote into the head.
    pub(super) fn through_litellm(&self) -> bool {
        self.marks.has(Mark::Litellm) || self.marks.has(Mark::LitellmProvider)
    }

    /// The id of the request: the provider's where it can be seen, else the gateway's.
    pub(super) fn request_id(&self, headers: &HeaderMap, complaints: &mut u32) -> Option<Arc<str>> {
        let names: &[&str] = if self.marks.has(Mark::Aws) {
            &["request-id", "x-amzn-requestid"]
        } else if self.marks.has(Mark::Azure) {
            &["request-id", "apim-request-id", "x-request-id"]
        } else if self.marks.has(Mark::LitellmProvider) || self.marks.has(Mark::Litellm) {
            &["llm_provider-request-id", "request-id", "x-litellm-call-id"]
        } else {
            &["request-id", "x-request-id", "x-kong-request-id", "x-bifrost-request-id", "cf-aig-request-id"]
        };
        names.iter().find_map(|name| text(headers, name, complaints)).map(Into::into)
    }
}

/// Kong as it names itself in `server` and `via`.
fn names_kong(value: &HeaderValue) -> bool {
    ["kong/", "1.1 kong/"].iter().any(|name| value.as_bytes().starts_with(name.as_bytes()))
}

/// Boxes that write `server` only where they answer by themselves: what they pass on keeps its own. Those
/// that write it always (nginx, Envoy, Cloudflare before a provider) say nothing by it.
const BOXES: [&str; 6] =
    ["akamaighost", "awselb/", "cloudfront", "microsoft-azure-application-gateway", "bigip", "squid"];

/// A box as it names itself in `server`.
fn names_box(value: &HeaderValue) -> bool {
    let value = value.as_bytes();
    let begins =
        |name: &str| value.get(..name.len()).is_some_and(|v| v.eq_ignore_ascii_case(name.as_bytes()));
    BOXES.iter().any(|name| begins(name))
}

/// AWS's exception: the type up to the first colon, in lower case.
fn exception(value: &HeaderValue) -> Option<Arc<str>> {
    let value = printable(value)?;
    let name = value.split(':').next().unwrap_or(value);
    Some(name.to_ascii_lowercase().into())
}

fn bounded(value: &HeaderValue) -> Option<Arc<str>> {
    printable(value).filter(|v| v.len() <= 80).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialects::read_head;
    use crate::limit::Timestamp;
    use http::HeaderName;

    fn marks(pairs: &[(&str, &str)]) -> Marks {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        read_head(429, &map, Timestamp::from_secs(0)).marks
    }

    #[test]
    fn a_models_limit_of_litellm_is_no_providers_answer() {
        // LiteLLM 1.100.5, model rpm limit on chat: no provider was asked.
        let own = marks(&[("llm_provider-retry-after", "60"), ("x-litellm-call-id", "x")]);
        assert!(own.has(Mark::Litellm) && !own.has(Mark::LitellmProvider));
        let upstream = marks(&[("llm_provider-request-id", "req_1"), ("x-litellm-call-id", "x")]);
        assert!(upstream.has(Mark::LitellmProvider));
    }

    #[test]
    fn a_gateway_that_chose_an_upstream_is_told_from_one_that_refused() {
        let refused = marks(&[("x-bifrost-request-id", "1"), ("x-bifrost-request-type", "chat")]);
        assert!(refused.has(Mark::Bifrost) && !refused.has(Mark::BifrostRouted));
        let routed = marks(&[("x-bifrost-request-id", "1"), ("x-bifrost-provider", "anthropic")]);
        assert!(routed.has(Mark::BifrostRouted));
        assert!(marks(&[("X-Kong-Upstream-Latency", "3")]).has(Mark::KongUpstream));
        assert!(marks(&[("X-AI-RateLimit-Remaining-90-policy-1", "0")]).has(Mark::AiEmpty));
        assert!(!marks(&[("X-AI-RateLimit-Remaining-90-policy-1", "12")]).has(Mark::AiEmpty));
    }

    #[test]
    fn an_aws_exception_is_read_up_to_its_colon() {
        let mut map = HeaderMap::new();
        let value = "ThrottlingException:http://internal.amazon.com/coral/com.amazon.bedrock/";
        map.insert("x-amzn-errortype", HeaderValue::from_static(value));
        map.insert("x-amzn-requestid", HeaderValue::from_static("ca47a5ce"));
        let limits = read_head(429, &map, Timestamp::from_secs(0));
        assert_eq!(limits.exception.as_deref(), Some("throttlingexception"));
        assert_eq!(limits.request_id.as_deref(), Some("ca47a5ce"));
    }
}
