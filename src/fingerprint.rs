//! The key of the keyed hashes that stand for credentials and ids in incidents and packets.

use aws_lc_rs::hmac;
use secrecy::{ExposeSecret, SecretString};
use std::sync::LazyLock;

static OF_PROCESS: LazyLock<SecretString> = LazyLock::new(|| {
    let mut random = [0; 32];
    if aws_lc_rs::rand::fill(&mut random).is_err() {
        tracing::warn!("no randomness for the credential hash");
    }
    random.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
});

/// A random key, the same for as long as the process lives: with another one after a reload every credential would
/// look like another.
pub fn of_process() -> &'static SecretString {
    &OF_PROCESS
}

/// The configured key, or a random one of this process.
pub fn key(configured: Option<&SecretString>) -> hmac::Key {
    if let Some(key) = configured {
        return hmac::Key::new(hmac::HMAC_SHA256, key.expose_secret().as_bytes());
    }
    let mut random = [0; 32];
    // Without randomness the hash is still keyed, only with a key everybody could guess; the
    // fingerprint stays in incidents of this process either way.
    if aws_lc_rs::rand::fill(&mut random).is_err() {
        tracing::warn!("no randomness for the credential hash");
    }
    hmac::Key::new(hmac::HMAC_SHA256, &random)
}
