//! From an account, a route and a kind to the owner that the configuration names.
//!
//! Rules are tried in the order in which they stand in the configuration and the first match
//! wins: a person can follow that with a finger. What nothing matches is `unnamed`, and shown as
//! such, never guessed.

use crate::limit::Knobs;
use crate::observation::Account;
use crate::route::{Owner, OwnerId, OwnerKind, RouteName};
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// A name or a pattern with `*` for any run of characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// A pattern; only `*` is special.
    pub fn new(pattern: &str) -> Self {
        Self(pattern.to_owned())
    }

    /// True if the whole of `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
        let parts: Vec<&str> = parts.collect();
        let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
        for part in middle {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

/// One configured owner: what it matches, and whom to call.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnerRule {
    /// The owner's name.
    pub id: OwnerId,
    /// The kinds it may own; empty means any.
    pub kinds: Vec<OwnerKind>,
    /// Organisations it owns; empty means any.
    pub organizations: Vec<Pattern>,
    /// AWS accounts and Google Cloud projects it owns; empty means any.
    pub projects: Vec<Pattern>,
    /// Regions and locations it owns; empty means any.
    pub regions: Vec<Pattern>,
    /// Workspaces it owns; empty means any.
    pub workspaces: Vec<Pattern>,
    /// Routes it owns; empty means any.
    pub routes: Vec<Pattern>,
    /// Its own runbook.
    pub runbook_url: Option<String>,
    /// Its dashboard.
    pub dashboard_url: Option<String>,
    /// Whom to call, as people write it.
    pub contact: Option<String>,
    /// How early and how carefully it wants to be warned, where that is its own.
    pub knobs: Option<Knobs>,
}

impl OwnerRule {
    /// An owner of this name that owns anything and has nobody to call.
    pub fn named(id: &str) -> Self {
        Self {
            id: OwnerId::new(id),
            kinds: Vec::new(),
            organizations: Vec::new(),
            projects: Vec::new(),
            regions: Vec::new(),
            workspaces: Vec::new(),
            routes: Vec::new(),
            runbook_url: None,
            dashboard_url: None,
            contact: None,
            knobs: None,
        }
    }

    /// `name` is the workspace's, where an API has told it.
    fn matches(
        &self,
        kind: OwnerKind,
        account: &Account,
        name: Option<&str>,
        route: Option<&RouteName>,
    ) -> bool {
        let any = |patterns: &[Pattern], text: Option<&str>| {
            patterns.is_empty() || text.is_some_and(|text| patterns.iter().any(|p| p.matches(text)))
        };
        (self.kinds.is_empty() || self.kinds.contains(&kind))
            && any(&self.organizations, account.organization.as_deref())
            && (any(&self.workspaces, account.workspace.as_deref())
                || name.is_some() && any(&self.workspaces, name))
            && any(&self.projects, account.project.as_deref())
            && any(&self.regions, account.region.as_deref())
            && any(&self.routes, route.map(RouteName::as_str))
    }
}

/// Names of workspaces by their ids, as the Admin API tells them. Answers show the id alone, and people write
/// the name into a configuration; so everything that resolves owners shares one such table. Clones are the same table.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<ArcSwap<BTreeMap<Arc<str>, Arc<str>>>>);

impl Names {
    /// Puts these in place of those before. True if they differ.
    pub fn replace(&self, names: &[(Arc<str>, Arc<str>)]) -> bool {
        let names: BTreeMap<Arc<str>, Arc<str>> = names.iter().cloned().collect();
        let before = self.0.swap(Arc::new(names.clone()));
        *before != names
    }

    fn of(&self, account: &Account) -> Option<Arc<str>> {
        let id = account.workspace.as_ref()?;
        self.0.load().get(id).cloned()
    }
}

/// The configured owners, in order.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    rules: Vec<OwnerRule>,
    names: OnceLock<Names>,
}

/// By what is configured: the table of names is the process's.
impl PartialEq for Owners {
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules
    }
}

impl Owners {
    /// Owners in the order in which they are tried.
    pub fn new(rules: Vec<OwnerRule>) -> Self {
        Self { rules, names: OnceLock::new() }
    }

    /// From now on names of workspaces are looked up here. The first word holds.
    pub fn share(&self, names: &Names) {
        self.names.get_or_init(|| names.clone());
    }

    fn name(&self, account: &Account) -> Option<Arc<str>> {
        self.names.get()?.of(account)
    }

    /// Every configured owner.
    pub fn iter(&self) -> impl Iterator<Item = &OwnerRule> {
        self.rules.iter()
    }

    /// The owner of limits of `kind` for this account on this route.
    pub fn resolve(&self, kind: OwnerKind, account: &Account, route: &RouteName) -> Owner {
        self.find(kind, account, Some(route))
    }

    /// The owner of limits of `kind` for this account, whatever the route: of what a quota API tells. An owner that is
    /// matched by its routes alone is not found here.
    pub fn resolve_account(&self, kind: OwnerKind, account: &Account) -> Owner {
        self.find(kind, account, None)
    }

    fn find(&self, kind: OwnerKind, account: &Account, route: Option<&RouteName>) -> Owner {
        let name = self.name(account);
        let named = |rule: &&OwnerRule| rule.matches(kind, account, name.as_deref(), route);
        let id = self.rules.iter().find(named).map(|rule| rule.id.clone());
        Owner { id: id.unwrap_or_else(OwnerId::unnamed), kind }
    }

    /// The owner of a verdict. The shape of traffic and a provider's overload are nobody's quota:
    /// if no owner is configured for those kinds, the people of the route are told, because it is
    /// their traffic that fails.
    pub fn resolve_for(
        &self,
        kind: OwnerKind,
        home: OwnerKind,
        account: &Account,
        route: &RouteName,
    ) -> Owner {
        let name = self.name(account);
        let own = self.rules.iter().find(|rule| {
            rule.kinds.contains(&kind) && rule.matches(kind, account, name.as_deref(), Some(route))
        });
        match own {
            Some(rule) => Owner { id: rule.id.clone(), kind },
            None => Owner { id: self.resolve(home, account, route).id, kind },
        }
    }

    /// How early and how carefully an owner wants to be warned, where it says so itself.
    pub fn knobs(&self, id: &OwnerId) -> Option<Knobs> {
        self.get(id)?.knobs
    }

    /// The configured owner of this name.
    pub fn get(&self, id: &OwnerId) -> Option<&OwnerRule> {
        self.rules.iter().find(|rule| rule.id == *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, text, wanted) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c", "abc", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxc", false),
            ("*", "", true),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(text), wanted, "{pattern} on {text}");
        }
    }

    #[test]
    fn the_first_matching_owner_wins_and_nothing_is_guessed() {
        let owners = Owners::new(vec![
            OwnerRule { workspaces: vec![Pattern::new("wrkspc_1")], ..OwnerRule::named("search") },
            OwnerRule { routes: vec![Pattern::new("batch-*")], ..OwnerRule::named("batch") },
        ]);
        let account = |ws: &str| Account { workspace: Some(ws.into()), ..Account::default() };
        let (api, batch) = (RouteName::new("api"), RouteName::new("batch-1"));
        let kind = OwnerKind::AnthropicWorkspace;
        assert_eq!(owners.resolve(kind, &account("wrkspc_1"), &batch).id.as_str(), "search");
        assert_eq!(owners.resolve(kind, &account("wrkspc_2"), &batch).id.as_str(), "batch");
        assert!(owners.resolve(kind, &account("wrkspc_2"), &api).id.is_unnamed());
        assert!(
            owners.resolve(kind, &Account::default(), &api).id.is_unnamed(),
            "an unseen workspace matches nothing"
        );
    }

    #[test]
    fn a_workspace_is_found_by_the_name_that_an_api_told() {
        let rule = OwnerRule { workspaces: vec![Pattern::new("Search*")], ..OwnerRule::named("search") };
        let (owners, names) = (Owners::new(vec![rule]), Names::default());
        owners.share(&names);
        let account = Account { workspace: Some("wrkspc_1".into()), ..Account::default() };
        let found = || owners.resolve_account(OwnerKind::AnthropicWorkspace, &account).id;
        assert!(found().is_unnamed());
        assert!(names.replace(&[("wrkspc_1".into(), "Search (prod)".into())]));
        assert_eq!(found().as_str(), "search");
        assert!(!names.replace(&[("wrkspc_1".into(), "Search (prod)".into())]), "nothing new");
    }

    #[test]
    fn a_burst_goes_to_the_people_whose_traffic_it_is() {
        let owners = Owners::new(vec![OwnerRule {
            kinds: vec![OwnerKind::AnthropicWorkspace],
            ..OwnerRule::named("search")
        }]);
        let owner = owners.resolve_for(
            OwnerKind::TrafficShape,
            OwnerKind::AnthropicWorkspace,
            &Account::default(),
            &RouteName::new("api"),
        );
        assert_eq!((owner.id.as_str(), owner.kind), ("search", OwnerKind::TrafficShape));
    }
}
