//! `pyro env …`.

use std::process::ExitCode;

use pyro_core::{
    EnvironmentEntry, EnvironmentList, Progress, PruneReport, PruneScope, PullMode,
    PulledEnvironment, PyroError, parse_environment,
};

use super::{Ended, show};
use crate::arguments::{ArchiveArguments, EnvironmentCommand, OutputArguments};
use crate::progress::Display;
use crate::terminal::{self, BOLD};

pub(crate) fn execute(command: EnvironmentCommand) -> ExitCode {
    match command {
        EnvironmentCommand::List { output } => {
            show(output, list(), |list| terminal::lines(39, &list_text(list)))
        }
        EnvironmentCommand::Pull { environment, refresh, archive, output } => {
            let mode = if refresh { PullMode::Refresh } else { PullMode::IfMissing };
            match pull(&environment, mode, &archive, output) {
                Ok(Ended::ByItself(outcome)) => show(output, outcome, pulled_text),
                Ok(Ended::BySignal(signal)) => super::ended_by_signal(signal, output.json),
                Err(failure) => show(output, Err(failure), pulled_text),
            }
        }
        EnvironmentCommand::Inspect { environment, output } => {
            show(output, inspect(&environment), |entry| terminal::lines(17, &inspect_text(entry)))
        }
        EnvironmentCommand::Prune { all, output } => {
            let scope = if all { PruneScope::All } else { PruneScope::Stale };
            show(output, prune(scope), prune_text)
        }
    }
}

fn list() -> Result<EnvironmentList, PyroError> {
    super::pyro(None)?.list_environments()
}

fn inspect(name: &str) -> Result<EnvironmentEntry, PyroError> {
    let name = parse_environment(name)?;
    super::pyro(None)?.inspect_environment(name)
}

fn prune(scope: PruneScope) -> Result<PruneReport, PyroError> {
    super::pyro(None)?.prune_environments(scope)
}

fn pull(
    name: &str,
    mode: PullMode,
    archive: &ArchiveArguments,
    output: OutputArguments,
) -> Result<Ended<Result<PulledEnvironment, PyroError>>, PyroError> {
    let name = parse_environment(name)?;
    let pyro = super::pyro(Some(archive))?;
    let display = Display::new(output);
    let show = |progress: Progress| display.show(progress);
    let work = pyro.pull_environment(name, mode, &show);
    let ended = super::block_on(super::until_interrupted(&pyro, work));
    display.clear();
    ended
}

fn list_text(list: &EnvironmentList) -> String {
    let mut text =
        format!("{BOLD}{:<18} {:<10} {:>8}  DESCRIPTION{BOLD:#}\n", "NAME", "STATE", "SIZE");
    for entry in &list.environments {
        let size = entry.rootfs_bytes.map(megabytes).unwrap_or_default();
        text +=
            &format!("{:<18} {:<10} {size:>8}  {}\n", entry.name, state(entry), entry.description);
    }
    text
}

fn inspect_text(entry: &EnvironmentEntry) -> String {
    let mut text = format!("{BOLD}{}{BOLD:#} {}\n", entry.name, entry.version);
    let mut field = |name: &str, value: &str| text += &format!("  {name:<14} {value}\n");
    field("description", entry.description);
    field("packages", &entry.default_packages.join(" "));
    field("distribution", &format!("{} {}", entry.distribution, entry.distribution_version));
    field("platform", entry.platform);
    field("state", state(entry));
    if let Some(damage) = &entry.damage {
        field("damage", &format!("{damage}; `pyro env pull {}` repairs it", entry.name));
    }
    if let Some(digest) = &entry.source_digest {
        field("digest", digest);
    }
    if let Some(bytes) = entry.rootfs_bytes {
        field("size", &megabytes(bytes));
    }
    if let Some(release) = &entry.kernel_release {
        field("kernel", release);
    }
    if let Some(directory) = &entry.install_dir {
        field("directory", &directory.display().to_string());
    }
    text
}

fn pulled_text(pulled: &PulledEnvironment) -> String {
    let size = pulled.entry.rootfs_bytes.map(megabytes).unwrap_or_default();
    format!("{} is ready ({size})\n", pulled.entry.name)
}

fn prune_text(report: &PruneReport) -> String {
    let mut text = String::new();
    let directories =
        || report.deleted_environment_dirs.iter().chain(&report.deleted_template_dirs);
    for directory in directories() {
        text += &format!("deleted {}\n", directory.display());
    }
    let freed = megabytes(report.freed_bytes);
    text + &format!("{} directories deleted, {freed} freed\n", directories().count())
}

fn state(entry: &EnvironmentEntry) -> &'static str {
    match (&entry.damage, entry.installed) {
        (Some(_), _) => "damaged",
        (None, true) => "installed",
        (None, false) => "not pulled",
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1_000_000))
}
