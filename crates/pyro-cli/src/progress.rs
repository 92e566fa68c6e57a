//! Progress of long work, on standard error: a moving line on a terminal, a line per step elsewhere.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use pyro_core::{
    Accelerator, LaunchReport, Measure, Progress, PublishedPort, PyroError, StartKind, Step,
};

use crate::arguments::OutputArguments;
use crate::moving_line::MovingLine;
use crate::terminal::{self, YELLOW, escaped, paragraph, remark};

/// Shows progress as it is reported.
pub(crate) struct Display {
    output: OutputArguments,
    /// Not where a program reads the outcome.
    line: Option<MovingLine>,
    /// The steps that were shown: without a moving line each is shown once, though downloading and
    /// installing alternate.
    shown: Mutex<HashSet<String>>,
}

impl Display {
    pub(crate) fn new(output: OutputArguments) -> Self {
        let is_wanted = !output.quiet && !output.json;
        let line = is_wanted.then(MovingLine::at_terminal).flatten();
        Self { output, line, shown: Mutex::default() }
    }

    pub(crate) fn show(&self, progress: Progress) {
        match progress {
            Progress::Pull(step) => self.step(&Step::of_pull(&step)),
            Progress::Launch(phase) => {
                // Without a terminal a start of a few seconds is not worth a line in a log.
                if self.line.is_some() || self.output.verbose {
                    self.step(&Step::of_launch(phase));
                }
            }
            Progress::SpareFailed { reason } => {
                if !self.output.quiet {
                    self.say(&spare_failed_text(&reason));
                }
            }
            Progress::VmReady { vm_id, accelerator, report } => {
                self.clear();
                if let StartKind::ColdBootInstead { reason } = &report.start
                    && !self.output.quiet
                {
                    terminal::say(&fallback_text(reason));
                }
                if !self.output.quiet {
                    terminal::say(&published_text(&report));
                }
                if self.output.verbose {
                    terminal::say(&report_text(&vm_id, accelerator, &report));
                }
            }
            Progress::HostCompat { reason } => {
                self.clear();
                terminal::say(&host_compat_text(&reason));
            }
        }
    }

    /// Shows what another process is doing.
    pub(crate) fn show_text(&self, text: &str) {
        self.step(&Step { text: text.to_owned(), measure: Measure::Unknown });
    }

    /// Takes the moving line away, for good.
    pub(crate) fn clear(&self) {
        if let Some(line) = &self.line {
            line.clear();
        }
    }

    fn say(&self, text: &str) {
        match &self.line {
            Some(line) => line.above(|| terminal::say(text)),
            None => terminal::say(text),
        }
    }

    fn step(&self, step: &Step) {
        if self.output.quiet {
            return;
        }
        if let Some(line) = &self.line {
            line.show(step);
            return;
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.insert(step.text.clone()) {
            terminal::say(&format!("pyro: {}\n", step.text));
        }
    }
}

/// The ports that lead to the guest: some were chosen just now.
fn published_text(report: &LaunchReport) -> String {
    let lines = report.published.iter().map(|PublishedPort { host, guest }| {
        format!("pyro: 127.0.0.1:{host} leads to the guest's port {guest}\n")
    });
    lines.collect()
}

fn report_text(vm_id: &str, accelerator: Accelerator, report: &LaunchReport) -> String {
    let how = match report.start {
        StartKind::Restored => "restored from its template",
        StartKind::Spare => "a spare",
        StartKind::ColdBoot | StartKind::ColdBootInstead { .. } => "booted",
    };
    let mut text = format!("pyro: vm {vm_id} is up ({}, {how})\n", accelerator.name());
    for step in &report.steps {
        text += &format!("  {:>6} ms  {}\n", step.since_launch.as_millis(), step.name);
    }
    text += &format!("  in the guest, kernel {}:\n", escaped(&report.boot.kernel_release));
    for phase in &report.boot.phases {
        let since = phase.since_kernel_start.as_millis();
        text += &format!("  {since:>6} ms  {}\n", escaped(&phase.name));
    }
    if report.boot_attempts > 1 {
        text += &format!("  the boot took {} attempts\n", report.boot_attempts);
    }
    text
}

fn fallback_text(reason: &PyroError) -> String {
    warning("the VM was booted instead of restored from a template, which is slower")
        + &because(&reason.one_line())
}

fn spare_failed_text(reason: &PyroError) -> String {
    warning("a spare failed when it was claimed, and another VM is made instead")
        + &because(&reason.one_line())
}

fn host_compat_text(reason: &PyroError) -> String {
    let mut text =
        warning("no VM can be had, running the command on this host WITHOUT any boundary")
            + &because(&reason.message);
    for cause in &reason.causes {
        text += &remark(4, &format!("  caused by: {}", paragraph(cause)));
    }
    text
}

fn warning(text: &str) -> String {
    remark(9, &format!("{YELLOW}warning:{YELLOW:#} {text}"))
}

fn because(reason: &str) -> String {
    remark(4, &format!("  because: {}", paragraph(reason)))
}
