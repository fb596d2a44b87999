//! The JSON of `/v1/limits`: what a poller tells sidecars, so that a hundred of them cost no calls of a quota API.
//!
//! Limits and names of models only. Draws are left out: they are late, and who needs them asks the poller's `/metrics`.

use crate::limit::{Amount, Limiter, Timestamp, Window};
use crate::observation::{Account, Alias, Quota, Quotas};
use crate::route::{ModelGroup, Surface};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The source of what came from here; it is not handed on again.
pub const SOURCE: &str = "limits";

/// The document.
#[derive(Debug, Serialize, Deserialize)]
pub struct Document {
    /// Its version: 1.
    pub version: u32,
    /// What each source told.
    pub sources: Vec<Source>,
}

/// What one source told.
#[derive(Debug, Serialize, Deserialize)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// When, in Unix seconds.
    pub at: f64,
    /// Its limits.
    pub limits: Vec<Row>,
    /// Its names of models.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<Name>,
    /// Names of workspaces, by id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub workspaces: BTreeMap<String, String>,
}

/// One limit.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    surface: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    organization: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    workspace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    project: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    model: String,
    limiter: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    window: String,
    limit: u64,
}

/// Another name of a model.
#[derive(Debug, Serialize, Deserialize)]
pub struct Name {
    surface: String,
    name: String,
    group: String,
}

impl Document {
    /// What is known, without what came from another poller, and without money: who polls that alerts on it.
    pub fn of(told: &[Arc<Quotas>]) -> Self {
        let source = |told: &Arc<Quotas>| {
            let limits: Vec<Row> = told.rows.iter().filter_map(row).collect();
            let name = |alias: &Alias| Name {
                surface: alias.surface.as_str().to_owned(),
                name: alias.name.as_str().to_owned(),
                group: alias.group.as_str().to_owned(),
            };
            let models: Vec<Name> = told.aliases.iter().map(name).collect();
            let known = !limits.is_empty() || !models.is_empty();
            let workspaces =
                told.workspaces.iter().map(|(id, name)| (id.to_string(), name.to_string())).collect();
            let (name, at) = (told.source.to_string(), told.at.secs_f64());
            known.then_some(Source { name, at, limits, models, workspaces })
        };
        let own = told.iter().filter(|told| &*told.source != SOURCE);
        Self { version: 1, sources: own.filter_map(source).collect() }
    }

    /// As what a poll told. What cannot be read is counted, the rest goes on. As old as the oldest of it.
    pub fn quotas<'s>(sources: impl Iterator<Item = &'s Source>, now: Timestamp) -> (Quotas, u64) {
        let (mut rows, mut aliases, mut workspaces, mut unread) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let mut at = now;
        for source in sources {
            at = at.min(Timestamp::from_secs_f64(source.at));
            for row in &source.limits {
                match quota(row) {
                    Some(quota) => rows.push(quota),
                    None => unread += 1,
                }
            }
            let named = source.workspaces.iter();
            workspaces.extend(named.map(|(id, name)| (id.as_str().into(), name.as_str().into())));
            for Name { surface, name, group } in &source.models {
                match Surface::named(surface) {
                    Some(surface) => aliases.push(Alias {
                        surface,
                        name: ModelGroup::named(name),
                        group: ModelGroup::named(group),
                    }),
                    None => unread += 1,
                }
            }
        }
        (Quotas { source: SOURCE.into(), at, rows, aliases, workspaces }, unread)
    }
}

fn row(quota: &Quota) -> Option<Row> {
    if quota.limiter == Limiter::SPEND {
        return None;
    }
    let text = |part: &Option<Arc<str>>| part.as_deref().map(str::to_owned);
    Some(Row {
        surface: quota.surface.as_str().to_owned(),
        organization: text(&quota.account.organization),
        workspace: text(&quota.account.workspace),
        project: text(&quota.account.project),
        region: text(&quota.account.region),
        model: quota.model.as_str().to_owned(),
        limiter: quota.limiter.as_str().to_owned(),
        window: quota.window.as_str().to_owned(),
        limit: quota.limit?.get(),
    })
}

fn quota(row: &Row) -> Option<Quota> {
    let arc = |text: &Option<String>| text.as_deref().map(Into::into);
    let account = Account {
        organization: arc(&row.organization),
        workspace: arc(&row.workspace),
        project: arc(&row.project),
        region: arc(&row.region),
    };
    let (surface, window) = (Surface::named(&row.surface)?, Window::named(&row.window)?);
    let quota =
        Quota::of(surface, account, ModelGroup::named(&row.model), Limiter::named(&row.limiter), window);
    Some(Quota { limit: Some(Amount::new(row.limit)), ..quota })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_comes_through_as_it_was_and_what_is_not_known_spoils_only_itself() {
        let at = Timestamp::from_secs(1_790_000_000);
        let quota = Quota {
            surface: Surface::Bedrock,
            account: Account {
                project: Some("123456789012".into()),
                region: Some("us-east-1".into()),
                ..Account::default()
            },
            model: ModelGroup::named("global.claude-opus-5"),
            limiter: Limiter::TOKENS,
            window: Window::Minute,
            limit: Some(Amount::new(2_000_000)),
            drawn: None,
            refused: None,
            resets: None,
        };
        let alias =
            Alias { surface: Surface::Bedrock, name: ModelGroup::named("a1b2"), group: quota.model.clone() };
        let money = Quota { limiter: Limiter::SPEND, ..quota.clone() };
        let told = |source: &str| {
            let rows = vec![quota.clone(), money.clone()];
            let workspaces = vec![("wrkspc_1".into(), "Search".into())];
            Arc::new(Quotas { source: source.into(), at, rows, aliases: vec![alias.clone()], workspaces })
        };
        let json = serde_json::to_string(&Document::of(&[told("bedrock_limits"), told(SOURCE)])).unwrap();
        let mut read: Document = serde_json::from_str(&json).unwrap();
        read.sources[0].limits[0].window = "fortnight".to_owned();
        assert_eq!(Document::quotas(read.sources.iter(), at).1, 1);
        let read: Document = serde_json::from_str(&json).unwrap();
        let (quotas, unread) =
            Document::quotas(read.sources.iter(), at.plus(std::time::Duration::from_secs(9)));
        assert_eq!((quotas.rows, quotas.aliases, unread), (vec![quota], vec![alias], 0));
        assert_eq!(quotas.at, at, "its age is that of the poll, not of the copy");
    }
}
