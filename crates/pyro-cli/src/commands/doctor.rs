//! `pyro doctor`.

use std::path::Path;
use std::process::ExitCode;

use pyro_core::{
    Check, CheckStatus, DoctorReport, Fix, LeftoverKind, NetworkingReport, PinInfo, PyroError,
    RuntimeReport,
};

use crate::arguments::OutputArguments;
use crate::folding::whole;
use crate::terminal::{self, BOLD, GREEN, RED, YELLOW, escaped};

/// Where the reason of a check begins, and what belongs to it.
const REASON_COLUMN: usize = 22;

/// Whether to change anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Look,
    Repair,
}

pub(crate) fn doctor(mode: Mode, output: OutputArguments) -> ExitCode {
    match examine(mode) {
        Ok(report) => {
            let printed = if output.json {
                terminal::print_json(&report)
            } else {
                terminal::print(&text(mode, &report))
            };
            let code = if report.runtime_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE };
            terminal::exit_code(printed, code, 1)
        }
        Err(failure) => {
            terminal::fail(&failure, output.json);
            ExitCode::FAILURE
        }
    }
}

fn examine(mode: Mode) -> Result<DoctorReport, PyroError> {
    let pyro = super::pyro(None)?;
    super::block_on(async {
        match mode {
            Mode::Look => pyro.doctor().await,
            Mode::Repair => pyro.repair().await,
        }
    })
}

fn text(mode: Mode, report: &DoctorReport) -> String {
    let mut text = match mode {
        Mode::Look => String::new(),
        // What could not be put right has a check of its own.
        Mode::Repair if report.fixed.is_empty() && has_check(report, "fix") => String::new(),
        Mode::Repair => fixed(&report.fixed),
    };
    for check in &report.checks {
        text += &line(check);
        for detail in details(check, report) {
            text += &below(&escaped(&detail));
        }
        if let Some(remedy) = &check.remedy {
            text += &below(&format!("remedy: {}", remedy_text(&escaped(remedy))));
        }
    }
    let verdict = if report.runtime_ok { "VMs can run here" } else { "VMs can NOT run here" };
    format!("{text}\n{BOLD}{verdict}{BOLD:#}\n")
}

fn has_check(report: &DoctorReport, name: &str) -> bool {
    report.checks.iter().any(|check| check.name == name)
}

fn line(check: &Check) -> String {
    let (style, mark) = match check.status {
        CheckStatus::Pass => (GREEN, "PASS"),
        CheckStatus::Warn => (YELLOW, "WARN"),
        CheckStatus::Fail => (RED, "FAIL"),
    };
    // It may have the words of other programs, and names of files.
    let reason = escaped(&check.reason);
    let text = format!("  {style}{mark}{style:#} {:<14} {reason}", check.name);
    terminal::line(REASON_COLUMN, &text)
}

/// Commands are there to be copied.
fn remedy_text(remedy: &str) -> String {
    let is_command = ["chmod ", "pyro ", "sudo "].iter().any(|word| remedy.starts_with(word));
    if is_command { whole(remedy) } else { remedy.to_owned() }
}

fn below(text: &str) -> String {
    terminal::line(REASON_COLUMN + 2, &format!("{:REASON_COLUMN$}{text}", ""))
}

/// What people want to know beyond a check's reason.
fn details(check: &Check, report: &DoctorReport) -> Vec<String> {
    match check.name {
        "network" => network(&report.networking),
        "environments" => environments(&report.runtime),
        "leftovers" => report
            .leftovers
            .iter()
            .map(|leftover| format!("{}: {}", left(leftover.kind), leftover.path.display()))
            .collect(),
        _ => Vec::new(),
    }
}

fn network(networking: &NetworkingReport) -> Vec<String> {
    let mut lines = Vec::new();
    if !networking.resolvers.is_empty() {
        lines.push(format!("names are looked up by {}", networking.resolvers.join(", ")));
    }
    let pins = &networking.pins;
    lines.extend(pins.iter().map(|pin| format!("pinned by {}: {}", pin.source, pinned(pin))));
    lines
}

fn environments(runtime: &RuntimeReport) -> Vec<String> {
    let states = runtime.environments.iter().map(|environment| {
        let state = match (environment.installed, &environment.damage) {
            (_, Some(_)) => "damaged",
            (true, None) => "installed",
            (false, None) => "not pulled",
        };
        format!("{:<18} {state}", environment.name)
    });
    states.collect()
}

/// What was put right, a line each.
fn fixed(fixes: &[Fix]) -> String {
    if fixes.is_empty() {
        return "There was nothing to put right.\n\n".to_owned();
    }
    let shown = |path: &Path| escaped(&path.display().to_string());
    let said = fixes.iter().map(|fix| match fix {
        Fix::Removed { kind: LeftoverKind::Template, path } => {
            format!("removed a template that nobody can use: {}\n", shown(path))
        }
        Fix::Removed { kind, path } => format!("removed {}: {}\n", left(*kind), shown(path)),
        Fix::Made { path } => format!("made the directory {}\n", shown(path)),
    });
    said.collect::<String>() + "\n"
}

fn left(kind: LeftoverKind) -> &'static str {
    match kind {
        LeftoverKind::Vm => "a VM whose supervisor was killed",
        LeftoverKind::ControlGroup => "a control group whose supervisor was killed",
        LeftoverKind::Template => "a template whose maker was killed",
        LeftoverKind::Build => "a build that was killed",
        LeftoverKind::Spare => "a spare whose supervisor was killed",
    }
}

/// What an operator allows, in one line.
fn pinned(pin: &PinInfo) -> String {
    let mut parts = Vec::new();
    if !pin.network {
        parts.push("no network".to_owned());
    }
    if let Some(allow) = &pin.allow {
        parts.push(format!("at most {}", allow.join(", ")));
    }
    if !pin.deny.is_empty() {
        parts.push(format!("not {}", pin.deny.join(", ")));
    }
    if !pin.publish {
        parts.push("no published ports".to_owned());
    }
    if parts.is_empty() { "nothing".to_owned() } else { parts.join("; ") }
}
