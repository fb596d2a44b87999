//! The table of verdicts: read it from top to bottom; the first row that holds decides.
//!
//! Sections stand in the order of proof: what the answering party says of itself, codes that only
//! one party emits, the header family, then words, then the configured route, then nothing. Rows of
//! the first section stand above their rung on purpose: a success is no failure whatever its
//! headers say, and the plain client errors borrow the words of limits. `docs/verdicts.md` is
//! printed from here.

mod answered;
mod codes;
mod first;
mod headers;
mod last;
mod words;

use super::cond::{Cond, Fact, Pick};
use super::verdict::{Class, Confidence, Rule, Rung};

/// Some rows that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// What they have in common.
    pub title: &'static str,
    /// The rows.
    pub rules: &'static [Rule],
}

/// The whole table.
pub static SECTIONS: [Section; 8] = [
    Section { title: "A success, no answer, or an error of the request itself", rules: first::RULES },
    Section { title: "Who answered says so", rules: answered::RULES },
    Section { title: "Codes that only one party emits", rules: codes::RULES },
    Section { title: "The response's header family", rules: headers::RULES },
    Section { title: "Words of Anthropic and of Claude Code", rules: words::ANTHROPIC },
    Section { title: "Words of gateways, clouds and other providers", rules: words::OTHERS },
    Section { title: "No limit at all", rules: last::NO_LIMIT },
    Section { title: "The route, then nothing", rules: last::ROUTE },
];

/// Every rule, in order.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    SECTIONS.iter().flat_map(|section| section.rules)
}

/// The row that always holds.
pub(super) fn last() -> &'static Rule {
    &last::ROUTE[last::ROUTE.len() - 1]
}

/// One row.
const fn rule(
    id: &'static str,
    rung: Rung,
    class: Class,
    confidence: Confidence,
    why: &'static str,
    when: Cond,
    limiter: Pick,
) -> Rule {
    Rule { id, rung, class, confidence, why, when, limiter, cooldown: false }
}

/// A row of a gateway that answers for upstreams which refused before.
const fn cooldown(row: Rule) -> Rule {
    Rule { cooldown: true, ..row }
}

/// Statuses that refuse the request itself: what their text says of load is what the request said.
const REFUSED_AS_SUCH: Cond = Cond::Status(&[400, 401, 403, 404, 405, 413, 415, 422]);

/// Status 429.
const IS_429: Cond = Cond::Status(&[429]);

/// The text speaks of a limit, in words that only refusals use.
const LIMIT_WORDS: Cond = Cond::Says(&[
    "rate limit",
    "rate_limit",
    "rate-limit",
    "too many requests",
    "quota exceeded",
    "exceeded your current quota",
    "exceeded your quota",
    "usage limit",
    "session limit",
    "weekly limit",
    "limit reached",
    "limit exceeded",
    "throttled",
    "resource_exhausted",
    "premium request",
    "(tpm)",
    "(rpm)",
    "tokens per min",
    "requests per min",
]);

/// A page for people: boxes write them, and quote the address that was asked for. No model API does.
const PAGE: Cond = Cond::Says(&["<html", "<!doctype html"]);

/// A refusal by status or by words: what an address or a brand alone does not make.
const LIMITED: Cond =
    Cond::All(&[Cond::Not(&Cond::StatusClass(5)), Cond::Not(&PAGE), Cond::Any(&[IS_429, LIMIT_WORDS])]);

/// The answer bears the provider's own limit headers or its request id: a provider answered.
const PROVIDER_ANSWERED: Cond = Cond::Any(&[
    Cond::Is(Fact::KeyHeaders),
    Cond::Is(Fact::PlanHeaders),
    Cond::Bears(crate::observation::Mark::Anthropic),
]);

/// 429, or refused inside a stream, or no status is known.
const REFUSED: Cond = Cond::Is(Fact::Refused);
