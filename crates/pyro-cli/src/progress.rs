//! Progress of long work, on standard error: a moving line on a terminal, a line per step elsewhere.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use pyro_core::{
    Accelerator, LaunchReport, Measure, Progress, PublishedPort, PyroError, StartKind, Step,
};

use crate::arguments::OutputArguments;
use crate::terminal::{self, YELLOW, escaped, paragraph};

/// How often a moving line is drawn while nothing happens, so that it is seen to live.
const TICK: Duration = Duration::from_millis(100);

/// Shows progress as it is reported.
pub(crate) struct Display {
    output: OutputArguments,
    bar: Option<ProgressBar>,
    /// The steps that were shown: without a moving line each is shown once, though downloading and
    /// installing alternate.
    shown: Mutex<HashSet<String>>,
}

impl Display {
    pub(crate) fn new(output: OutputArguments) -> Self {
        // With a style from the start: the default one would be seen for a moment.
        let bar = ProgressBar::no_length().with_style(style("{spinner}"));
        // Hidden where standard error is no terminal.
        let bar = (!output.quiet && !bar.is_hidden()).then_some(bar);
        Self { output, bar, shown: Mutex::default() }
    }

    pub(crate) fn show(&self, progress: Progress) {
        match progress {
            Progress::Pull(step) => self.step(&Step::of_pull(&step)),
            Progress::Launch(phase) => {
                // Without a terminal a start of a few seconds is not worth a line in a log.
                if self.bar.is_some() || self.output.verbose {
                    self.step(&Step::of_launch(phase));
                }
            }
            Progress::SpareFailed { reason } => {
                if !self.output.quiet {
                    terminal::say(&spare_failed_text(&reason));
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
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn step(&self, step: &Step) {
        if self.output.quiet {
            return;
        }
        let is_new = {
            let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            shown.insert(step.text.clone())
        };
        match &self.bar {
            Some(bar) => {
                draw(bar, step);
                bar.enable_steady_tick(TICK);
            }
            None if is_new => terminal::say(&format!("pyro: {}\n", step.text)),
            None => {}
        }
    }
}

fn draw(bar: &ProgressBar, step: &Step) {
    let (template, message) = match &step.measure {
        Measure::Unknown => {
            bar.unset_length();
            ("{spinner} {msg} {elapsed:.dim}", step.text.clone())
        }
        Measure::Growing { bytes } => {
            bar.unset_length();
            ("{spinner} {msg} {elapsed:.dim}", format!("{} ({})", step.text, HumanBytes(*bytes)))
        }
        Measure::Bytes { done, total } => {
            bar.set_length(*total);
            bar.set_position(*done);
            (
                "{spinner} {msg} {bar:24} {bytes}/{total_bytes} {bytes_per_sec:.dim}",
                step.text.clone(),
            )
        }
        Measure::Count { done, total, detail } => {
            bar.set_length(*total);
            bar.set_position(*done);
            let text = format!("{} {done}/{total} {detail}", step.text);
            ("{spinner} {wide_msg}", text)
        }
    };
    bar.set_style(style(template));
    bar.set_message(message);
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are valid")
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
    format!(
        "{YELLOW}warning:{YELLOW:#} the VM was booted instead of restored from a template, which is \
         slower\n  because: {}\n",
        paragraph(&reason.one_line())
    )
}

fn spare_failed_text(reason: &PyroError) -> String {
    format!(
        "{YELLOW}warning:{YELLOW:#} a spare failed when it was claimed, and another VM is made instead\n  \
         because: {}\n",
        paragraph(&reason.one_line())
    )
}

fn host_compat_text(reason: &PyroError) -> String {
    let mut text = format!(
        "{YELLOW}warning:{YELLOW:#} no VM can be had, running the command on this host WITHOUT any \
         boundary\n  because: {}\n",
        paragraph(&reason.message)
    );
    for cause in &reason.causes {
        text += &format!("  caused by: {}\n", paragraph(cause));
    }
    text
}
