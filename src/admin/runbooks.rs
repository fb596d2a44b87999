//! The runbooks, inside the binary: an alert's link opens even where nothing else can be reached.

macro_rules! runbooks {
    ($($name:literal),* $(,)?) => {
        /// Every runbook by name, sorted.
        pub static ALL: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../runbooks/", $name, ".md")))),*];
    };
}

runbooks![
    "PlimsollBucketExhausting",
    "PlimsollBucketPressure",
    "PlimsollBurst",
    "PlimsollConfigReloadFailed",
    "PlimsollEngineStalled",
    "PlimsollExportFailing",
    "PlimsollFolded",
    "PlimsollHeadersMissing",
    "PlimsollNoResponse",
    "PlimsollObservationsLost",
    "PlimsollOwnerUnknown",
    "PlimsollRouteChanged",
    "PlimsollSourceDown",
    "PlimsollSourceStale",
    "PlimsollSpend",
    "PlimsollThrottled",
    "anthropic_workspace",
    "aws_account",
    "claude_code_workspace",
    "claude_plan",
    "gateway_tenant",
    "gcp_project",
    "other_provider",
    "provider",
    "spend",
    "traffic_shape",
    "unknown",
];

/// The runbook of this name; `.md` at its end is accepted.
pub fn get(name: &str) -> Option<&'static str> {
    let name = name.strip_suffix(".md").unwrap_or(name);
    ALL.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// A list of what there is.
pub fn index() -> String {
    ALL.iter().map(|(name, _)| format!("/runbooks/{name}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::AlertName;
    use crate::owner::guidance;
    use crate::route::OwnerKind;

    #[test]
    fn every_alert_and_every_owner_has_its_runbook() {
        for kind in OwnerKind::ALL {
            assert!(get(guidance::of_kind(kind).runbook).is_some(), "{}", kind.as_str());
        }
        for alert in AlertName::ALL {
            assert!(get(alert.as_str()).is_some(), "{}", alert.as_str());
        }
    }

    #[test]
    fn every_runbook_has_the_sections_that_a_novice_needs() {
        let sections =
            ["Meaning", "Impact", "First move", "Stop rule", "Diagnosis", "Proof", "Mitigation", "Next step"];
        for (name, text) in ALL {
            for section in sections {
                assert!(text.contains(&format!("## {section}\n")), "{name} lacks {section}");
            }
        }
    }
}
