//! A packet as Markdown, ready to paste into a ticket.

use super::packet::Packet;
use std::fmt;

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ready = if self.ready { "READY" } else { "NOT READY" };
        writeln!(f, "# Evidence of {}: {ready}\n", self.incident)?;
        if !self.missing.is_empty() {
            writeln!(f, "Missing:\n")?;
            self.missing.iter().try_for_each(|what| writeln!(f, "- {what}"))?;
            writeln!(f)?;
        }
        let limiter = self.limiter.as_deref().map(|l| format!(", limiter `{l}`")).unwrap_or_default();
        writeln!(f, "Whose limit: {} (`{}`{limiter}).", self.whose, self.verdict)?;
        writeln!(
            f,
            "How sure: {}, by {} (row `{}`): {}",
            self.confidence, self.evidence, self.rule, self.why
        )?;
        if let Some(rule) = self.contradicted_by {
            writeln!(f, "Against it: row `{rule}` says otherwise, by weaker proof.")?;
        }
        let contact = self.contact.as_deref().map(|c| format!(", contact {c}")).unwrap_or_default();
        writeln!(f, "Owner: {} ({}){contact}. Surface: {}.", self.owner, self.owner_kind, self.surface)?;
        self.identified(f)?;
        self.record(f)?;
        self.advice(f)
    }
}

impl Packet {
    fn identified(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n## What identifies it\n")?;
        writeln!(f, "| | |\n|---|---|")?;
        for (name, value) in &self.identifiers {
            writeln!(f, "| {name} | {} |", value.replace('|', "\\|"))?;
        }
        if let Some(message) = &self.message {
            writeln!(f, "\nMessage:\n\n{}", fenced(message))?;
        }
        if !self.states.is_empty() {
            writeln!(f, "\nIt states: {}.", self.states.join("; "))?;
        }
        if let Some(cause) = &self.cause {
            writeln!(f, "\nA gateway is cooling down; the upstream's refusal before it: {cause}.")?;
        }
        if !self.headers.is_empty() {
            let lines: Vec<String> =
                self.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
            writeln!(f, "\nHeaders of the current failure:\n\n{}", fenced(&lines.join("\n")))?;
        }
        Ok(())
    }

    fn record(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n## What happened\n")?;
        for name in ["last success", "first failure", "current failure"] {
            if let Some(line) = self.attempts.get(name) {
                writeln!(f, "- {name}: {line}")?;
            }
        }
        let (calls, refusals) = (self.failures, self.refusals);
        writeln!(f, "- {calls} calls failed, {refusals} refusals with their retries")?;
        if self.eased.is_some() {
            writeln!(f, "- a smaller call passed meanwhile: eased, not over")?;
        }
        if let Some((_, why)) = self.over {
            writeln!(f, "- over: {why}")?;
        }
        for change in &self.changes {
            writeln!(f, "- ROUTE CHANGED, which destroys evidence: {change}")?;
        }
        writeln!(f, "- status page: {}", self.status_page)?;
        if let Some(status) = &self.claude_status {
            writeln!(f, "- claude auth status: {status}")?;
        }
        writeln!(f, "\nMinimal reproduction (secrets are placeholders):\n\n{}", fenced(&self.reproduction))
    }

    fn advice(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n## What to do\n")?;
        writeln!(f, "First move: {}\nNext step: {}\n", self.first_move, self.next_step)?;
        self.rules.iter().try_for_each(|rule| writeln!(f, "- {rule}"))?;
        writeln!(f, "\nRunbook: {}", self.runbook_url)
    }
}

/// A block of text that ends nowhere but at its end, whatever stands in it.
fn fenced(text: &str) -> String {
    let mut longest = 2;
    let mut run = 0;
    for c in text.chars() {
        run = if c == '`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    let fence = "`".repeat(longest + 1);
    format!("{fence}text\n{text}\n{fence}")
}
