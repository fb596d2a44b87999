//! Recorded responses: the shape of a line, as `run --record` writes and `replay --responses` reads it
//! (DESIGN, "Contracts"). Nothing else, so that writer and reader know the shape and not each other.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// A header value, or several.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One value.
    One(String),
    /// A repeated header.
    Many(Vec<String>),
}

/// Headers as JSON has them.
pub type Headers = BTreeMap<String, OneOrMany>;

/// One recorded response. All times are Unix seconds.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct Line {
    /// When the answer ended. (A report that names no time is of the moment in which it comes.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub t: Option<f64>,
    /// When its request had passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<f64>,
    /// When its head came; with the end, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headed: Option<f64>,
    /// The route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The surface, as the route or the request named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surface: Option<String>,
    /// The region, where the route has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// HTTP method; POST, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Path that was called, without its query; the Messages API's, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// HTTP status; absent if no response came.
    #[serde(default)]
    pub status: Option<u16>,
    /// Response headers.
    #[serde(default)]
    pub headers: Headers,
    /// Body of an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// The model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Bytes of the request's body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_bytes: Option<u64>,
    /// Input tokens that count against limits (none that were read from a cache).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// Output tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// Input tokens that were written to a cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_tokens: Option<u64>,
    /// Input tokens that were read from a cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read_tokens: Option<u64>,
    /// AWS account or Google Cloud project that is charged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Host that was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Program or cluster that told or was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// `user-agent` of the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// The provider's id of the request, or its and the gateway's: by them a call is counted once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<OneOrMany>,
    /// `traceparent`, as the caller sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// `gateway` or `upstream`, where whoever reports knows who answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_by: Option<String>,
    /// What tells a gateway's tenants apart: any text, the same for the same tenant (a hash of its key, say). It is
    /// hashed and never shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// False where this tells how full limits are, and of no call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<bool>,
}

/// Most header values of one response.
const MOST: usize = 200;

/// Headers out of JSON; what no header may be called or hold is left out, and so is what comes after [`MOST`].
pub fn header_map(pairs: &Headers) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, values) in pairs {
        let Ok(name) = HeaderName::try_from(name.as_str()) else { continue };
        let values = match values {
            OneOrMany::One(value) => std::slice::from_ref(value),
            OneOrMany::Many(values) => values.as_slice(),
        };
        for value in values {
            if let (Ok(value), true) = (HeaderValue::from_str(value), map.len() < MOST) {
                map.append(name.clone(), value);
            }
        }
    }
    map
}
