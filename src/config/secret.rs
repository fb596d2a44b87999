//! A secret that can be compared and not be shown.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use secrecy::{ExposeSecret, SecretString};
use std::ops::Deref;

/// A secret of the configuration. Two are equal if their hashes are, so that a reload sees one that was rotated; it
/// prints as nothing.
#[derive(Clone, Debug)]
pub struct Secret(SecretString);

impl Deref for Secret {
    type Target = SecretString;

    fn deref(&self) -> &SecretString {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        let hash = |secret: &Self| digest(&SHA256, secret.0.expose_secret().as_bytes());
        verify_slices_are_equal(hash(self).as_ref(), hash(other).as_ref()).is_ok()
    }
}

impl Eq for Secret {}
