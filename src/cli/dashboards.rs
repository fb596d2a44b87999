//! `plimsoll dashboards`: Grafana's dashboards of this version, so that a file of another one is never looked for.

use super::{print, say};
use crate::config::is_owner_label;
use crate::dashboards::{Dashboard, all};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Flags of `dashboards`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  plimsoll dashboards                        which there are
  plimsoll dashboards owner > owner.json     one of them, to import into Grafana
  plimsoll dashboards --write ./dashboards   all of them, for Grafana's file provisioning")]
pub(super) struct Args {
    /// The dashboard to print; all are listed without it.
    name: Option<String>,
    /// The label that carries the owner of alerts, as `alerts.owner_label` and `plimsoll rules` have it.
    #[arg(long, value_name = "NAME", default_value = "owner")]
    owner_label: String,
    /// Write all of them into this folder.
    #[arg(long, value_name = "DIR", conflicts_with = "name")]
    write: Option<PathBuf>,
}

pub(super) fn main(args: &Args) -> ExitCode {
    let (all, label) = (all(), args.owner_label.as_str());
    if !is_owner_label(label) {
        say(&format!(
            "`{label}` is no label name, or one that alerts carry already; choose another of letters, digits and `_`"
        ));
        return ExitCode::from(2);
    }
    match (&args.name, &args.write) {
        (_, Some(dir)) => write(&all, dir, label),
        (Some(name), None) => match all.iter().find(|dashboard| dashboard.name == name) {
            Some(dashboard) => {
                print(&format!("{:#}", dashboard.json(label)));
                ExitCode::SUCCESS
            }
            None => {
                let names: Vec<&str> = all.iter().map(|dashboard| dashboard.name).collect();
                say(&format!("no dashboard is called `{name}`; there are {}", names.join(", ")));
                ExitCode::from(2)
            }
        },
        (None, None) => {
            for dashboard in &all {
                print(&format!("{:<10} {}", dashboard.name, dashboard.text));
            }
            ExitCode::SUCCESS
        }
    }
}

fn write(all: &[Dashboard], dir: &Path, label: &str) -> ExitCode {
    for dashboard in all {
        let file = dir.join(format!("{}.json", dashboard.name));
        let written = std::fs::create_dir_all(dir)
            .and_then(|()| std::fs::write(&file, format!("{:#}\n", dashboard.json(label))));
        if let Err(error) = written {
            say(&format!("{}: {error}", file.display()));
            return ExitCode::FAILURE;
        }
        print(&file.display().to_string());
    }
    ExitCode::SUCCESS
}
