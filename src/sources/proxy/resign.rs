//! Signs requests to AWS anew, with the sidecar's own credentials: only where the configuration says so.
//!
//! A signature of the caller's covers the host, which the hop changes; so a call that AWS is to accept must be signed
//! again. That is a widening of access (whoever reaches the hop calls AWS as the sidecar), and the configuration check
//! refuses it on an address that others reach, unless that is asked for. It also costs the request its stream: the
//! signature covers the whole body, which is therefore held, up to [`MAX_BODY`]. Answers stream as ever.

use super::hop::without;
use crate::causes::chain;
use crate::clock::Clock;
use crate::config::Resign;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header, request};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Mutex, OnceCell, Semaphore, SemaphorePermit};

/// Largest body that is signed: Bedrock takes 25 MB.
pub(super) const MAX_BODY: usize = 32 * 1024 * 1024;
/// Credentials are renewed this long before they expire.
const EARLY: Duration = Duration::from_secs(300);
/// How long they may take to be had.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the caller signed with.
const CALLERS: [&str; 5] =
    ["authorization", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256", "x-api-key"];

/// Bytes of bodies that are held at once, over all routes that sign: past it callers are told to come again.
const MOST_HELD: u32 = 256 * 1024 * 1024;
/// How long a caller may take to send a body that is held.
const BODY_PATIENCE: Duration = Duration::from_secs(120);
/// Between two tries to renew credentials that still hold.
const AGAIN: Duration = Duration::from_secs(10);

/// Room for bodies; one for the whole process.
static HELD: Semaphore = Semaphore::const_new(MOST_HELD as usize);

/// Why a body was not held.
pub(super) enum NotHeld {
    /// There are too many.
    Busy,
    /// It did not come whole in time, or is too large.
    Cut,
}

/// Holds a body whole, of which `announced` bytes were promised.
pub(super) async fn hold<B>(
    body: B,
    announced: Option<u64>,
) -> Result<(Bytes, SemaphorePermit<'static>), NotHeld>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let most = announced.unwrap_or(MAX_BODY as u64);
    let room = u32::try_from(most).ok().filter(|most| *most <= MAX_BODY as u32).ok_or(NotHeld::Cut)?;
    let permit = HELD.try_acquire_many(room).map_err(|_| NotHeld::Busy)?;
    let whole = tokio::time::timeout(BODY_PATIENCE, Limited::new(body, MAX_BODY).collect()).await;
    let whole = whole.map_err(|_| NotHeld::Cut)?.map_err(|_| NotHeld::Cut)?;
    Ok((whole.to_bytes(), permit))
}

/// Signs the requests of one route.
pub(super) struct Signer {
    config: Resign,
    provider: OnceCell<Option<SharedCredentialsProvider>>,
    kept: RwLock<Option<Credentials>>,
    /// Held by whoever asks for credentials; when it was last tried.
    asking: Mutex<Option<SystemTime>>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({}, {})", self.config.service, self.config.region)
    }
}

impl Signer {
    /// A signer; nothing is asked before the first request.
    pub(super) fn new(config: &Resign) -> Self {
        let (provider, kept, asking) = (OnceCell::new(), RwLock::new(None), Mutex::new(None));
        Self { config: config.clone(), provider, kept, asking }
    }

    fn kept(&self, until: SystemTime) -> Option<Credentials> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        kept.expiry().is_none_or(|expiry| expiry > until).then_some(kept)
    }

    /// Credentials that hold. Those that will not for long are renewed beside the request, not before it.
    async fn credentials(self: &Arc<Self>, now: SystemTime) -> Result<Credentials, &'static str> {
        if let Some(fresh) = self.kept(now + EARLY) {
            return Ok(fresh);
        }
        if let Some(old) = self.kept(now) {
            let signer = self.clone();
            tokio::spawn(async move {
                // Somebody else is at it, if this fails.
                let Ok(mut asked) = signer.asking.try_lock() else { return };
                if asked.is_none_or(|at| at + AGAIN <= now) {
                    *asked = Some(now);
                    if let Err(why) = signer.ask().await {
                        tracing::warn!("credentials that expire soon could not be renewed: {why}");
                    }
                }
            });
            return Ok(old);
        }
        let mut asked = self.asking.lock().await;
        if let Some(fresh) = self.kept(now) {
            return Ok(fresh);
        }
        *asked = Some(now);
        self.ask().await
    }

    /// Asks the usual chain. Its own words name roles, users and files, so they are not repeated.
    async fn ask(&self) -> Result<Credentials, &'static str> {
        let asked = async {
            let load = async {
                let region = Region::new(self.config.region.clone());
                aws_config::defaults(BehaviorVersion::latest())
                    .region(region)
                    .load()
                    .await
                    .credentials_provider()
            };
            let provider = self.provider.get_or_init(|| load).await;
            let provider = provider.as_ref().ok_or("there is no provider of credentials")?;
            provider.provide_credentials().await.map_err(|error| match error {
                CredentialsError::CredentialsNotLoaded(_) => "no credentials were found",
                CredentialsError::ProviderTimedOut(_) => "the provider of credentials did not answer in time",
                CredentialsError::InvalidConfiguration(_) => "the configuration of credentials is not valid",
                _ => "the provider of credentials refused",
            })
        };
        let credentials =
            tokio::time::timeout(PATIENCE, asked).await.map_err(|_| "no credentials came in time")??;
        *self.kept.write().unwrap_or_else(PoisonError::into_inner) = Some(credentials.clone());
        Ok(credentials)
    }

    /// Signs a request whose address and headers are those that go up.
    ///
    /// # Errors
    /// If there are no credentials, or the request cannot be signed; the message names no secret.
    pub(super) async fn sign(
        self: &Arc<Self>,
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
