//! Signs requests to AWS anew, with the sidecar's own credentials: only where the configuration says so.
//!
//! A signature of the caller's covers the host, which the hop changes; so a call that AWS is to accept must be signed
//! again. That is a widening of access (whoever reaches the hop calls AWS as the sidecar), and the configuration check
//! refuses it on an address that others reach, unless that is asked for. It also costs the request its stream: the
//! signature covers the whole body, which is therefore held, up to [`MAX_BODY`]. Answers stream as ever.

use super::hop::without;
use crate::clock::Clock;
use crate::config::Resign;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http::{HeaderMap, HeaderName, HeaderValue, header, request};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Mutex, OnceCell};

/// Largest body that is signed: Bedrock takes 25 MB.
pub(super) const MAX_BODY: usize = 32 * 1024 * 1024;
/// Credentials are renewed this long before they expire.
const EARLY: Duration = Duration::from_secs(300);
/// How long they may take to be had.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the caller signed with.
const CALLERS: [&str; 5] =
    ["authorization", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256", "x-api-key"];

/// Signs the requests of one route.
pub(super) struct Signer {
    config: Resign,
    provider: OnceCell<Option<SharedCredentialsProvider>>,
    kept: Mutex<Option<Credentials>>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({}, {})", self.config.service, self.config.region)
    }
}

impl Signer {
    /// A signer; nothing is asked before the first request.
    pub(super) fn new(config: &Resign) -> Self {
        Self { config: config.clone(), provider: OnceCell::new(), kept: Mutex::new(None) }
    }

    /// Credentials, from the usual chain; kept until shortly before they expire.
    async fn credentials(&self, now: SystemTime) -> Result<Credentials, String> {
        let fresh =
            |credentials: &Credentials| credentials.expiry().is_none_or(|expiry| expiry > now + EARLY);
        let mut kept = self.kept.lock().await;
        if let Some(credentials) = kept.as_ref().filter(|credentials| fresh(credentials)) {
            return Ok(credentials.clone());
        }
        let load = async {
            let region = Region::new(self.config.region.clone());
            aws_config::defaults(BehaviorVersion::latest()).region(region).load().await.credentials_provider()
        };
        let provider = self.provider.get_or_init(|| load).await;
        let provider = provider.as_ref().ok_or("there is no provider of credentials")?;
        let asked = tokio::time::timeout(PATIENCE, provider.provide_credentials()).await;
        match asked.map_err(|_| "no credentials came in time".to_owned()) {
            Ok(Ok(credentials)) => Ok(kept.insert(credentials).clone()),
            // Those that are about to expire are better than none.
            Ok(Err(error)) => {
                kept.clone().filter(|old| old.expiry().is_none_or(|at| at > now)).ok_or(chain(&error))
            }
            Err(late) => kept.clone().filter(|old| old.expiry().is_none_or(|at| at > now)).ok_or(late),
        }
    }

    /// Signs a request whose address and headers are those that go up.
    ///
    /// # Errors
    /// If there are no credentials, or the request cannot be signed; the message names no secret.
    pub(super) async fn sign(
        &self,
        head: &mut request::Parts,
        host: &HeaderValue,
        body: &[u8],
        clock: &Clock,
    ) -> Result<(), String> {
        let micros = u64::try_from(clock.now().micros()).unwrap_or(0);
        let now = UNIX_EPOCH + Duration::from_micros(micros);
        let identity = self.credentials(now).await?.into();
        let callers: Vec<HeaderName> = CALLERS.iter().map(|name| HeaderName::from_static(name)).collect();
        head.headers = without(std::mem::take(&mut head.headers), &callers);
        let uri = head.uri.to_string();
        let named = signed(&head.headers, host);
        let request = SignableRequest::new(
            head.method.as_str(),
            uri.as_str(),
            named.iter().map(|(name, value)| (name.as_str(), value.as_str())),
            SignableBody::Bytes(body),
        );
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.config.region)
            .name(&self.config.service)
            .time(now)
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| error.to_string())?;
        let signing = request.and_then(|request| sign(request, &params.into()));
        let (instructions, _) = signing.map_err(|error| chain(&error))?.into_parts();
        for (name, value) in instructions.headers() {
            let name = HeaderName::try_from(name).map_err(|error| error.to_string())?;
            let mut value = HeaderValue::try_from(value).map_err(|error| error.to_string())?;
            value.set_sensitive(true);
            head.headers.insert(name, value);
        }
        Ok(())
    }
}

/// The headers that are signed: those that nothing on the way changes.
fn signed(headers: &HeaderMap, host: &HeaderValue) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let own = headers
        .iter()
        .filter(|(name, _)| **name == header::CONTENT_TYPE || name.as_str().starts_with("x-amz"));
    let mut all: Vec<(String, String)> =
        own.filter_map(|(name, value)| Some((name.to_string(), text(value)?))).collect();
    all.extend(text(host).map(|host| ("host".to_owned(), host)));
    all
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
