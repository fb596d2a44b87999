//! Takes secrets and personal data out of text that people will send on.
//!
//! Headers are allow-listed where they are read, bodies are never kept; what is left to scrub is the
//! text of error messages, where providers and gateways print keys, tenants and addresses. The
//! patterns are those of the credentials that this field uses; what looks like one goes, even if it
//! was none. Ids of organisations are kept (support asks for them), or hashed where configured.

use aws_lc_rs::hmac;
use regex::{Captures, Regex};
use secrecy::SecretString;
use std::sync::LazyLock;

/// What stands in place of what was taken out.
struct Pattern {
    regex: Regex,
    instead: &'static str,
}

/// Patterns in the order in which they are applied: whole constructs before what stands in them.
const PATTERNS: [(&str, &str); 24] = [
    (r"-----BEGIN [A-Z ]+-----[\s\S]*?(?:-----END [A-Z ]+-----|$)", "[private key]"),
    (r"(?i)\b([a-z][a-z0-9+.-]{1,20})://[^\s/@:]*:[^\s/@]+@", "$1://[credentials]@"),
    (r#"(?i)(https?://[^\s?"'<>]+)\?[^\s"'<>]+"#, "$1?[query]"),
    (r"(?i)\b((?:set-)?cookie)(\s*:\s*)[^\n]+", "$1$2[secret]"),
    (r"(?i)\b(authorization\s*:\s*)(?:[a-z-]+\s+)?[^\s,]+", "$1[secret]"),
    (r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]{6,}", "$1 [credential]"),
    (r"(?i)AWS4-HMAC-SHA256\s+[^\n]+", "[aws signature]"),
    (
        r#"(?i)((?:\b|_)(?:x-)?(?:api[-_ ]?key|amz-security-token|goog-api-key|auth[-_]?token|access[-_]?token|refresh[-_]?token|client[-_]?secret|secret[-_]?access[-_]?key|session[-_]?token|password|passwd|secret|cookie|signature|user[-_]?id))(\\?["']?\s*[=:]\s*\\?["']?)[^\s"',;&}\]]+"#,
        "$1$2[secret]",
    ),
    (r"\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?", "[jwt]"),
    (r"\bsk-ant-[A-Za-z0-9_-]{4,}", "[anthropic key]"),
    (r"\bsk-[A-Za-z0-9_.-]{6,}", "[key]"),
    (
        r"\b(?:xai|gsk|hf|r8|nvapi|pplx|fw|csk|tgp|AQ|glpat|npm|dop|vercel|rk|pk)[-_][A-Za-z0-9_.-]{12,}",
        "[key]",
    ),
    (r"\b(?:gh[pousr]_|github_pat_)[A-Za-z0-9_]{12,}", "[github token]"),
    (r"\bxox[abeprs]-[A-Za-z0-9-]{8,}", "[slack token]"),
    (r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}", "[aws key id]"),
    (r"\bABSK[A-Za-z0-9+/=]{16,}", "[bedrock key]"),
    (r"\bbedrock-api-key-[A-Za-z0-9+/=_-]{8,}", "[bedrock key]"),
    (r"\bAIza[0-9A-Za-z_-]{20,}", "[google key]"),
    (r"\bya29\.[0-9A-Za-z_.-]{8,}", "[google token]"),
    (r"(?i)\b(rate limit exceeded for [a-z_ ]+:\s*)[^\n]+?(\.? limit type|\. limit|\n|$)", "$1[tenant]$2"),
    (r"(?i)\b((?:end )?(?:key|user|team|customer|organization)=)[^\s,;]+(?: \([^)]*\))?", "$1[tenant]"),
    (r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}", "[e-mail]"),
    (r"\b(?:user|ak)[-_][A-Za-z0-9]{12,}", "[user]"),
    (r"\b[0-9a-f]{32,}\b", "[hash]"),
];

/// Addresses and numbers of people; not in URLs of ours, which are never scrubbed.
const PERSONAL: [(&str, &str); 3] = [
    (r"\b(?:\d{1,3}\.){3}\d{1,3}\b", "[address]"),
    (r"(?i)\b(?:[0-9a-f]{1,4}:){4,7}[0-9a-f]{1,4}\b|\b(?:[0-9a-f]{1,4}:){2,6}:[0-9a-f]{1,4}\b", "[address]"),
    (r"\+\d[\d ().-]{7,}\d", "[phone]"),
];

/// Ids of organisations and projects.
const IDS: &str = r"(?x)
    \b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b
    | \b(?:org|proj|wrkspc)[-_][A-Za-z0-9]{8,}";

static COMPILED: LazyLock<Vec<Pattern>> = LazyLock::new(|| {
    let all = PATTERNS.iter().chain(&PERSONAL);
    all.filter_map(|(regex, instead)| Some(Pattern { regex: compile(regex)?, instead })).collect()
});

static ID: LazyLock<Option<Regex>> = LazyLock::new(|| compile(IDS));

/// A pattern that does not compile would take nothing out: a test counts them.
fn compile(pattern: &str) -> Option<Regex> {
    Regex::new(pattern).ok()
}

/// What becomes of ids of organisations, workspaces and projects.
#[derive(Clone)]
pub enum Ids {
    /// Kept: support asks for them.
    Kept,
    /// Hashed with the fleet's key.
    Hashed(Box<hmac::Key>),
}

impl Ids {
    /// Hashed with the fleet's key, or with a random one of this process.
    pub fn hashed(key: Option<&SecretString>) -> Self {
        Self::Hashed(Box::new(crate::fingerprint::key(key)))
    }
}

impl std::fmt::Debug for Ids {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kept => "Ids::Kept",
            Self::Hashed(_) => "Ids::Hashed",
        })
    }
}

/// Takes secrets and personal data out of texts.
#[derive(Clone, Debug)]
pub struct Scrubber {
    ids: Ids,
}

impl Scrubber {
    /// A scrubber that treats ids so.
    pub const fn new(ids: Ids) -> Self {
        Self { ids }
    }

    /// A text without secrets and personal data.
    pub fn text(&self, text: &str) -> String {
        let clean = |c: char| match c {
            '\n' => c,
            c if c.is_control() => ' ',
            c if crate::text::unseen(c) => '\u{fffd}',
            c => c,
        };
        let clean: String = text.chars().map(clean).collect();
        let scrubbed = COMPILED.iter().fold(clean, |text, Pattern { regex, instead }| {
            match regex.replace_all(&text, *instead) {
                std::borrow::Cow::Borrowed(_) => text,
                std::borrow::Cow::Owned(changed) => changed,
            }
        });
        match (&self.ids, &*ID) {
            (Ids::Hashed(_), Some(ids)) => {
                ids.replace_all(&scrubbed, |found: &Captures<'_>| self.id(&found[0])).into_owned()
            }
            _ => scrubbed,
        }
    }

    /// An id of an organisation, workspace or project.
    pub fn id(&self, id: &str) -> String {
        match &self.ids {
            Ids::Kept => id.to_owned(),
            Ids::Hashed(key) => {
                let tag = hmac::sign(key, id.as_bytes());
                let hex: String = tag.as_ref()[..6].iter().map(|b| format!("{b:02x}")).collect();
                format!("id:{hex}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Scrubber {
        Scrubber::new(Ids::Kept)
    }

    #[test]
    fn every_pattern_is_one() {
        assert_eq!(COMPILED.len(), PATTERNS.len() + PERSONAL.len());
        assert!(ID.is_some());
    }

    #[test]
    fn credentials_of_every_kind_go() {
        for secret in [
            "sk-ant-api03-AbC_def-123456789",
            "sk-proj-abcdefghijklmnop",
            "AKIAIOSFODNN7EXAMPLE",
            "ABSKQmVkcm9ja0FQSUtleS1leGFtcGxl",
            "AIzaSyA1234567890abcdefghijklmnopqrstu",
            "ya29.a0AfH6SMBxyz-12345",
            "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
            "gsk_abcdefghijklmnopqrstuv",
            "jane.doe@example.com",
            "3b5c3a9f0e1d2c3b4a5968778695a4b3c2d1e0f1a2b3c4d5e6f708192a3b4c5d",
            "xoxb-123456789012-abcdefgh",
            "198.51.100.23",
            "+49 170 1234567",
        ] {
            let scrubbed = kept().text(&format!("refused for {secret}; try again"));
            assert!(!scrubbed.contains(secret), "{scrubbed}");
            assert!(scrubbed.contains("refused for") && scrubbed.contains("try again"), "{scrubbed}");
        }
    }

    #[test]
    fn what_stands_behind_a_telling_name_goes() {
        for (text, gone) in [
            ("Authorization: Bearer hunter2hunter2", "hunter2"),
            ("{\"api_key\": \"hunter2\"}", "hunter2"),
            ("password=hunter2&x=1", "hunter2"),
            ("DB_PASSWORD=hunter2", "hunter2"),
            ("AWS_SECRET_ACCESS_KEY=hunter2", "hunter2"),
            ("ANTHROPIC_AUTH_TOKEN: hunter2", "hunter2"),
            ("Invalid API key: hunter2", "hunter2"),
            ("Authorization: Token hunter2", "hunter2"),
            ("Cookie: a=b; sessionid=hunter2", "hunter2"),
            ("redis://:hunter2@host", "hunter2"),
            ("postgresql://u:hunter2@db:5432/x", "hunter2"),
            ("{\"user_id\": \"hunter2\"}", "hunter2"),
            ("from 2001:db8:85a3:0:0:8a2e:370:7334 it", "8a2e"),
            ("Rate limit exceeded for end_user: Jane Doe. Limit type: requests", "Doe"),
            ("Rate limit exceeded for user: jane.doe. Limit type: requests", "doe"),
            ("https://joe:hunter2@proxy.example/v1", "hunter2"),
            ("GET https://x.example/v1?key=hunter2&prompt=hello", "hello"),
            ("Rate limit exceeded for team: team-a. Limit", "team-a"),
            ("Budget has been exceeded! Key=bob (sk-...X) Current", "bob"),
            ("-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----", "abc"),
        ] {
            let scrubbed = kept().text(text);
            assert!(!scrubbed.contains(gone), "{scrubbed}");
        }
    }

    #[test]
    fn the_words_of_a_refusal_stay_as_they_were() {
        let text = "This request would exceed your organization's rate limit of 30,000 input tokens per minute (org: 01234567-89ab-cdef-0123-456789abcdef, model: claude-opus-4-7).";
        assert_eq!(kept().text(text), text);
    }

    #[test]
    fn ids_are_hashed_where_that_is_configured() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"fleet");
        let hashing = Scrubber::new(Ids::Hashed(Box::new(key)));
        let id = "01234567-89ab-cdef-0123-456789abcdef";
        let scrubbed = hashing.text(&format!("(org: {id}, model: m)"));
        assert!(!scrubbed.contains(id));
        assert!(scrubbed.contains(&hashing.id(id)), "the same id has the same hash: {scrubbed}");
    }
}
