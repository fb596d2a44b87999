//! Conditions of the verdict rules, as data: a person can read them, a page is printed from them,
//! and all phrases of all rules are looked for in one pass over the text.
//!
//! Conditions are data rather than code so that the table is the documentation, so that a rule out of
//! reach can be found by a test, and because some hundred phrases searched one by one would cost more
//! than a verdict may.

use super::verdict::{Class, Confidence, Evidence, Rule};
use crate::observation::{Client, Mark};
use crate::route::Surface;
use daachorse::DoubleArrayAhoCorasick;
use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

/// What must hold for a rule.
#[derive(Clone, Copy, Debug)]
pub enum Cond {
    /// All of these.
    All(&'static [Cond]),
    /// At least one of these.
    Any(&'static [Cond]),
    /// Not this.
    Not(&'static Cond),
    /// One of these phrases stands in message or body, compared as
    /// [`crate::dialects::error_text::plain`] text without any blanks: terminals and logs break lines
    /// in the middle of words.
    Says(&'static [&'static str]),
    /// The message of an error that says it is no limit begins with one of these: a sentence of the
    /// provider's own. Elsewhere in such a message any words may be a caller's.
    Opens(&'static [&'static str]),
    /// The HTTP status is one of these.
    Status(&'static [u16]),
    /// The HTTP status is of this class (4 for 4xx).
    StatusClass(u16),
    /// The error's type is one of these.
    Type(&'static [&'static str]),
    /// The error's code is one of these.
    Code(&'static [&'static str]),
    /// The error's whole message is one of these.
    MessageIs(&'static [&'static str]),
    /// AWS's exception is one of these, in the header.
    Exception(&'static [&'static str]),
    /// The head bears this party's mark.
    Bears(Mark),
    /// The call went to one of these surfaces.
    On(&'static [Surface]),
    /// This program called.
    From(Client),
    /// The path holds one of these.
    Path(&'static [&'static str]),
    /// Something that numbers say.
    Is(Fact),
}

/// What the numbers and the head as a whole say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The status is a success and no error came in body or stream.
    Success,
    /// No response came.
    NoResponse,
    /// The status is not known.
    StatusUnknown,
    /// An error object was found.
    Error,
    /// A refusal of the rate kind: 429, or one inside a stream, or the status is not known.
    Refused,
    /// The error came inside an answer whose status was a success.
    InStream,
    /// The unified (plan) header family is there.
    PlanHeaders,
    /// The limit headers of an API key are there.
    KeyHeaders,
    /// A plan window is used up, or the plan is refused as a whole.
    WindowUsedUp,
    /// A bucket of an API key is empty.
    BucketEmpty,
    /// A bucket of an API key has less than half left.
    BucketTight,
    /// A bucket of the OpenAI family is empty.
    OpenAiBucketEmpty,
    /// Credits pay for what the plan does not cover.
    OverageInUse,
    /// All headers were seen, so that a missing one says something.
    HeadersSeen,
    /// Own traffic has just risen steeply.
    SteepRise,
    /// The error says that it is no limit, by type, code or status: its words may be a caller's, quoted.
    Quotes,
    /// Anthropic's own headers, request id or form of an error.
    FromAnthropic,
    /// AWS's request id or exception (of a service, not of its API Gateway), or Anthropic's form.
    FromAws,
    /// Google's form of an error, or Anthropic's.
    FromGoogle,
    /// Some provider's own headers, or its form of an error.
    FromProvider,
    /// The same, or the form of an error that most model APIs have.
    FromModelApi,
    /// A gateway's log, which shows neither headers nor body, says that what stands behind it answered.
    UpstreamAnswered,
    /// The body has the form that web frameworks write.
    FrameworkShape,
    /// The error is JSON-RPC's.
    JsonRpc,
    /// A tool that the provider runs itself was refused, inside a success.
    ServerTool,
}

impl Fact {
    const fn text(self) -> &'static str {
        match self {
            Self::Success => "the status is a success and no error came",
            Self::NoResponse => "no response came",
            Self::StatusUnknown => "the status is not known",
            Self::Error => "an error object was found",
            Self::Refused => "the call was refused (429, in a stream, or status not known)",
            Self::InStream => "the error came inside a success",
            Self::PlanHeaders => "the unified (plan) headers are there",
            Self::KeyHeaders => "an API key's limit headers are there",
            Self::WindowUsedUp => "a plan window is used up",
            Self::BucketEmpty => "a bucket in the headers is empty",
            Self::BucketTight => "a bucket in the headers has less than half left",
            Self::OpenAiBucketEmpty => "an `x-ratelimit-remaining-*` is 0",
            Self::OverageInUse => "credits pay",
            Self::HeadersSeen => "all headers were seen",
            Self::SteepRise => "own traffic rose steeply",
            Self::Quotes => "the error says that it is no limit",
            Self::FromAnthropic => "Anthropic's headers, request id or form of an error are there",
            Self::FromAws => "AWS's request id or exception, or Anthropic's form of an error, are there",
            Self::FromGoogle => "Google's or Anthropic's form of an error is there",
            Self::FromProvider => "a provider's own headers or form of an error are there",
            Self::FromModelApi => "a model API's own headers or form of an error are there",
            Self::UpstreamAnswered => "a gateway's log says that the upstream answered",
            Self::FrameworkShape => "the body has the form of a web framework",
            Self::JsonRpc => "the error is JSON-RPC's",
            Self::ServerTool => "a tool that the provider runs was refused",
        }
    }
}

impl fmt::Display for Cond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |f: &mut fmt::Formatter<'_>, parts: &[Cond], word: &str| {
            for (n, part) in parts.iter().enumerate() {
                let before = if n == 0 { "" } else { word };
                match part {
                    Cond::All(_) | Cond::Any(_) => write!(f, "{before}({part})")?,
                    _ => write!(f, "{before}{part}")?,
                }
            }
            Ok(())
        };
        let quoted = |words: &[&str]| words.iter().map(|w| format!("“{w}”")).collect::<Vec<_>>().join(", ");
        match self {
            Self::All(parts) => join(f, parts, " and "),
            Self::Any(parts) => join(f, parts, " or "),
            Self::Not(part) => write!(f, "not ({part})"),
            Self::Says(phrases) => write!(f, "says {}", quoted(phrases)),
            Self::Opens(sentences) => write!(f, "the message begins with {}", quoted(sentences)),
            Self::Status(statuses) => {
                let list: Vec<String> = statuses.iter().map(u16::to_string).collect();
                write!(f, "status {}", list.join(", "))
            }
            Self::StatusClass(class) => write!(f, "status {class}xx"),
            Self::Type(types) => write!(f, "type {}", quoted(types)),
            Self::Code(codes) => write!(f, "code {}", quoted(codes)),
            Self::MessageIs(messages) => write!(f, "the whole message is {}", quoted(messages)),
            Self::Exception(names) => write!(f, "exception {}", quoted(names)),
            Self::Bears(mark) => write!(f, "headers of {mark:?}"),
            Self::On(surfaces) => {
                let list: Vec<&str> = surfaces.iter().map(|s| s.as_str()).collect();
                write!(f, "surface {}", list.join(", "))
            }
            Self::From(client) => write!(f, "called by {client:?}"),
            Self::Path(parts) => write!(f, "path holds {}", quoted(parts)),
            Self::Is(fact) => f.write_str(fact.text()),
        }
    }
}

/// Which limiter a rule names.
#[derive(Clone, Copy, Debug)]
pub enum Pick {
    /// None.
    Nothing,
    /// This one.
    Is(&'static str),
    /// The plan window that refuses.
    Window,
    /// The empty bucket; else the one with least left.
    Bucket,
    /// The first whose words stand in the text.
    Words(&'static [(&'static [&'static str], &'static str)]),
}

/// Words of 64 bits that the set of phrases takes.
const SET: usize = 12;

/// Which phrases of the table stand in a text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said([u64; SET]);

impl Said {
    fn has(&self, phrase: u16) -> bool {
        let phrase = usize::from(phrase);
        self.0.get(phrase / 64).is_some_and(|word| word & (1 << (phrase % 64)) != 0)
    }

    fn any(&self, phrases: &[u16]) -> bool {
        phrases.iter().any(|phrase| self.has(*phrase))
    }
}

/// A condition with its phrases as numbers.
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Says(Vec<u16>),
    Plain(&'static Cond),
}

/// Limiters by the phrases that name them.
type Picks = Vec<(Vec<u16>, &'static str)>;

/// The table, ready to be asked.
pub(super) struct Table {
    /// Absent only if it could not be built, which a test rules out.
    phrases: Option<DoubleArrayAhoCorasick<u16>>,
    rules: Vec<(&'static Rule, Node, Picks)>,
}

/// The compiled table.
pub(super) static TABLE: LazyLock<Table> = LazyLock::new(|| Table::new(super::rules::all()));

impl Table {
    fn new(rules: impl Iterator<Item = &'static Rule>) -> Self {
        let mut numbers: HashMap<String, u16> = HashMap::new();
        let mut number = |phrase: &'static str| {
            let next = u16::try_from(numbers.len()).unwrap_or(u16::MAX);
            *numbers.entry(phrase.replace(' ', "")).or_insert(next)
        };
        let rules = rules
            .map(|rule| {
                let node = node(&rule.when, &mut number);
                let picks = match rule.limiter {
                    Pick::Words(rows) => rows
                        .iter()
                        .map(|(words, limiter)| (words.iter().map(|w| number(w)).collect(), *limiter))
                        .collect(),
                    _ => Vec::new(),
                };
                (rule, node, picks)
            })
            .collect();
        // A double array: as fast as a DFA, at a tenth of its memory.
        let phrases = DoubleArrayAhoCorasick::with_values(numbers).ok();
        debug_assert!(phrases.is_some());
        Self { phrases, rules }
    }

    /// Which phrases stand in a plain text.
    pub(super) fn said(&self, plain: &str) -> Said {
        let mut said = Said::default();
        // Byte by byte: a blank is one byte, and never part of another character.
        let compact = plain.bytes().filter(|byte| *byte != b' ');
        let found = self.phrases.iter().flat_map(|all| all.find_overlapping_iter_from_iter(compact.clone()));
        for phrase in found.map(|found| usize::from(found.value())) {
            if let Some(word) = said.0.get_mut(phrase / 64) {
                *word |= 1 << (phrase % 64);
            }
        }
        said
    }

    /// The first rule that holds.
    pub(super) fn first(&self, evidence: &Evidence<'_>) -> Option<Hit> {
        let at = self.rules.iter().position(|(rule, node, _)| holds(node, &View::of(rule, evidence)))?;
        let (rule, _, picks) = &self.rules[at];
        let named = picks.iter().find(|(words, _)| evidence.said.any(words)).map(|(_, limiter)| *limiter);
        // A success and a dead upstream are facts: nothing said beside them contradicts them.
        let weighed = rule.class != Class::NotALimit || rule.confidence != Confidence::Exact;
        let speaks_against = |other: &Rule| {
            other.confidence >= Confidence::High
                && other.rung != rule.rung
                && other.class.party() != rule.class.party()
        };
        let against = self.rules[at + 1..]
            .iter()
            .filter(|(other, ..)| weighed && speaks_against(other))
            .find(|(rule, node, _)| holds(node, &View::of(rule, evidence)))
            .map(|(other, ..)| *other);
        Some(Hit { rule, named, against })
    }
}

/// What the table says of some evidence.
pub(super) struct Hit {
    /// The first rule that holds.
    pub(super) rule: &'static Rule,
    /// The limiter that its words name.
    pub(super) named: Option<&'static str>,
    /// A sure rule further down that says otherwise by weaker proof.
    pub(super) against: Option<&'static Rule>,
}

fn node(cond: &'static Cond, number: &mut impl FnMut(&'static str) -> u16) -> Node {
    match cond {
        Cond::All(parts) => Node::All(parts.iter().map(|c| node(c, number)).collect()),
        Cond::Any(parts) => Node::Any(parts.iter().map(|c| node(c, number)).collect()),
        Cond::Not(part) => Node::Not(Box::new(node(part, number))),
        Cond::Says(phrases) => Node::Says(phrases.iter().map(|p| number(p)).collect()),
        other => Node::Plain(other),
    }
}

/// No phrase.
static NOTHING: Said = Said([0; SET]);

/// What one rule sees of the evidence.
struct View<'e> {
    evidence: &'e Evidence<'e>,
    said: &'e Said,
    /// Type and code count.
    named: bool,
}

impl<'e> View<'e> {
    /// Words that may be a caller's are hidden from every rule that would make a limit of them, and so are
    /// types and codes that stand in such words. A rule that finds no limit may read everything.
    fn of(rule: &Rule, evidence: &'e Evidence<'e>) -> Self {
        let all = rule.class == Class::NotALimit || !evidence.quotes;
        let said = if all { &evidence.said } else { &NOTHING };
        Self { evidence, said, named: all || evidence.own }
    }
}

fn holds(node: &Node, view: &View<'_>) -> bool {
    match node {
        Node::All(parts) => parts.iter().all(|part| holds(part, view)),
        Node::Any(parts) => parts.iter().any(|part| holds(part, view)),
        Node::Not(part) => !holds(part, view),
        Node::Says(phrases) => view.said.any(phrases),
        Node::Plain(cond) => plain_holds(cond, view),
    }
}

fn plain_holds(cond: &Cond, view: &View<'_>) -> bool {
    let e = view.evidence;
    let one_of = |set: &[&str], value: Option<&str>| value.is_some_and(|v| set.contains(&v));
    match cond {
        Cond::Opens(sentences) => sentences.iter().any(|sentence| e.opening.starts_with(sentence)),
        Cond::Status(statuses) => e.status.is_some_and(|s| statuses.contains(&s)),
        Cond::StatusClass(class) => e.status.is_some_and(|s| s / 100 == *class),
        Cond::Type(types) => view.named && one_of(types, e.error.kind.as_deref()),
        Cond::Code(codes) => view.named && one_of(codes, e.error.code.as_deref()),
        Cond::MessageIs(messages) => one_of(messages, e.error.message.as_deref().map(str::trim)),
        Cond::Exception(names) => one_of(names, e.limits.exception.as_deref()),
        Cond::Bears(mark) => e.limits.marks.has(*mark),
        Cond::On(surfaces) => surfaces.contains(&e.surface),
        Cond::From(client) => e.client == *client,
        Cond::Path(parts) => parts.iter().any(|part| e.path.contains(part)),
        Cond::Is(fact) => e.fact(*fact),
        Cond::All(_) | Cond::Any(_) | Cond::Not(_) | Cond::Says(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialects::error_text::plain;

    fn phrases(cond: &'static Cond, found: &mut Vec<&'static str>) {
        match cond {
            Cond::All(parts) | Cond::Any(parts) => parts.iter().for_each(|c| phrases(c, found)),
            Cond::Not(part) => phrases(part, found),
            Cond::Says(list) => found.extend(*list),
            _ => {}
        }
    }

    /// A phrase that is not plain text itself could never be found.
    #[test]
    fn every_phrase_is_plain_and_the_set_has_room() {
        let mut all = Vec::new();
        for rule in super::super::rules::all() {
            phrases(&rule.when, &mut all);
            if let Pick::Words(rows) = rule.limiter {
                rows.iter().for_each(|(words, _)| all.extend(*words));
            }
        }
        for phrase in &all {
            assert_eq!(plain(phrase).trim(), phrase.trim(), "{phrase:?} is not plain");
            assert!(phrase.chars().count() > 1, "{phrase:?} says nothing");
        }
        all.sort_unstable();
        all.dedup();
        assert!(all.len() <= SET * 64, "{}", all.len());
    }

    /// A phrase that holds another of its own list says nothing that the other does not.
    #[test]
    fn no_phrase_of_a_list_holds_another_of_it() {
        fn lists(cond: &'static Cond, found: &mut Vec<&'static [&'static str]>) {
            match cond {
                Cond::All(parts) | Cond::Any(parts) => parts.iter().for_each(|c| lists(c, found)),
                Cond::Not(part) => lists(part, found),
                Cond::Says(list) => found.push(list),
                _ => {}
            }
        }
        let mut all = Vec::new();
        super::super::rules::all().for_each(|rule| lists(&rule.when, &mut all));
        let held = |list: &'static [&'static str], phrase: &&'static str| {
            list.iter().any(|other| !std::ptr::eq(other, phrase) && phrase.contains(other))
        };
        let idle: Vec<_> = all.iter().flat_map(|list| list.iter().filter(|p| held(list, p))).collect();
        assert!(idle.is_empty(), "{idle:#?}");
    }

    /// The automaton is the largest thing that a verdict keeps.
    #[test]
    fn the_automaton_is_bounded() {
        let bytes = TABLE.phrases.as_ref().unwrap().heap_bytes();
        assert!(bytes < 512 << 10, "{bytes}");
    }

    #[test]
    fn overlapping_phrases_are_all_found() {
        let said = TABLE
            .said("this request would exceed your organization's rate limit of 5 input tokens per minute");
        let count = said.0.iter().map(|w| w.count_ones()).sum::<u32>();
        assert!(count >= 3, "{count}");
    }
}
