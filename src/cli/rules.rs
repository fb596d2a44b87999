//! `plimsoll rules`: the Prometheus rules, for the label name that your routing uses.

use super::{print, say};
use crate::config::is_owner_label;
use std::process::ExitCode;

/// The rules, with `%OWNER%` where the owner label stands. The same text is the shipped file.
pub(crate) const TEMPLATE: &str = include_str!("../../alerts/plimsoll.rules.yaml.tmpl");

/// Flags of `rules`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  plimsoll rules --owner-label team > plimsoll.rules.yaml")]
pub(super) struct Args {
    /// Name of the label that carries the owner; the kind's is this and `_kind`.
    #[arg(long, default_value = "owner", value_name = "NAME")]
    owner_label: String,
}

pub(super) fn main(args: &Args) -> ExitCode {
    match rules(&args.owner_label) {
        Some(rules) => {
            print(rules.trim_end());
            ExitCode::SUCCESS
        }
        None => {
            say(&format!("`{}` is no label name, or one that the alerts carry already", args.owner_label));
            ExitCode::from(2)
        }
    }
}

/// The rules for an owner label of this name.
pub(crate) fn rules(label: &str) -> Option<String> {
    is_owner_label(label).then(|| TEMPLATE.replace("%OWNER%", label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_rules_are_the_template_for_the_default_label() {
        let shipped = include_str!("../../alerts/plimsoll.rules.yaml");
        assert_eq!(rules("owner").unwrap(), shipped, "run: plimsoll rules > alerts/plimsoll.rules.yaml");
    }

    #[test]
    fn a_label_name_cannot_break_out_of_the_rules() {
        assert_eq!(rules("owner\"}) or vector(1"), None);
        assert_eq!(rules("model"), None, "an alert has that label already");
        assert!(rules("team").unwrap().contains("team_kind"));
    }
}
