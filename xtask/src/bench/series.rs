//! A series: the samples of one number, with what it says and how it came about.

use std::process::Command;

use serde_json::{Value, json};

use crate::bench::statistics::{Percent, median, minimum, percentile};
use crate::workspace;

#[derive(Debug, Clone)]
pub(super) struct Series {
    /// Unique, and stable from version to version: what is kept of old benchmarks is found by it.
    pub(super) id: String,
    pub(super) group: Group,
    pub(super) maker: Maker,
    pub(super) label: String,
    pub(super) unit: Unit,
    /// The command line that is measured.
    pub(super) command: String,
    pub(super) samples: Vec<f64>,
}

/// What a series is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) id: &'a str,
    pub(super) maker: Maker,
    pub(super) label: &'a str,
}

/// Series that are compared with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    Fresh,
    Live,
    Parallel,
    Memory,
    Download,
    Upload,
    Connections,
    RoundTrip,
    BusyInDownload,
    BusyInUpload,
    AtOnce,
    Sustained,
}

/// Whose number it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maker {
    Pyro,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Milliseconds,
    RunsPerSecond,
    Megabytes,
    MegabytesPerSecond,
    ConnectionsPerSecond,
    Percent,
}

impl Group {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Fresh => "a command in a fresh machine, ms",
            Self::Live => "a command in a running one, ms",
            Self::Parallel => "clones in parallel, runs per second",
            Self::Memory => "private memory of an idle VM, MB",
            Self::Download => "from the host to the guest, MB/s",
            Self::Upload => "from the guest to the host, MB/s",
            Self::Connections => "connections one after the other, per second",
            Self::RoundTrip => "a byte there and back, ms",
            Self::BusyInDownload => "the guest's CPU at work while it receives, % of the time",
            Self::AtOnce => "git --version, that many at once, runs per second",
            Self::Sustained => "one after the other by each client, runs per second",
            Self::BusyInUpload => "the guest's CPU at work while it sends, % of the time",
        }
    }
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::RunsPerSecond => "runs/s",
            Self::Megabytes => "MB",
            Self::MegabytesPerSecond => "MB/s",
            Self::ConnectionsPerSecond => "connections/s",
            Self::Percent => "%",
        }
    }

    /// Turns a sample into a number that is the worse the greater it is, and back.
    fn signed(self, value: f64) -> f64 {
        match self {
            Self::Milliseconds | Self::Megabytes | Self::Percent => value,
            Self::RunsPerSecond | Self::MegabytesPerSecond | Self::ConnectionsPerSecond => -value,
        }
    }

    /// As many digits as mean something.
    pub(super) fn show(self, value: f64) -> String {
        match self {
            Self::Milliseconds if value >= 10.0 => format!("{value:.0}"),
            Self::Milliseconds if value < 1.0 => format!("{value:.2}"),
            Self::Milliseconds | Self::Megabytes | Self::MegabytesPerSecond => {
                format!("{value:.1}")
            }
            Self::RunsPerSecond => format!("{value:.2}"),
            Self::ConnectionsPerSecond | Self::Percent => format!("{value:.0}"),
        }
    }
}

impl Series {
    pub(super) fn new(subject: Subject<'_>, group: Group, unit: Unit, command: &Command) -> Self {
        Self {
            id: subject.id.to_owned(),
            group,
            maker: subject.maker,
            label: subject.label.to_owned(),
            unit,
            command: command_line(command),
            samples: Vec::new(),
        }
    }

    pub(super) fn median(&self) -> f64 {
        median(&self.samples)
    }

    pub(super) fn best(&self) -> f64 {
        self.unit.signed(minimum(&self.worst_last()))
    }

    /// What this share of the samples reach: of times and sizes the high end, of rates the low one.
    pub(super) fn percentile(&self, share: Percent) -> f64 {
        self.unit.signed(percentile(&self.worst_last(), share))
    }

    /// The samples as numbers that are the worse the greater they are.
    fn worst_last(&self) -> Vec<f64> {
        self.samples.iter().map(|&sample| self.unit.signed(sample)).collect()
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "label": self.label,
            "unit": self.unit.name(),
            "command": self.command,
            "samples": self.samples,
        })
    }
}

/// A command with the variables it gets, as one would type it in the root of the workspace.
fn command_line(command: &Command) -> String {
    let mut words: Vec<_> = command
        .get_envs()
        .filter_map(|(name, value)| {
            Some(format!("{}={}", name.to_string_lossy(), value?.to_string_lossy()))
        })
        .collect();
    let arguments = command.get_args().map(std::ffi::OsStr::to_string_lossy);
    words.push(command.get_program().to_string_lossy().into_owned());
    words.extend(arguments.map(|word| {
        let is_plain = !word.is_empty() && !word.contains([' ', ';', '|', '"', '$']);
        if is_plain { word.into_owned() } else { format!("'{word}'") }
    }));
    words.join(" ").replace(&format!("{}/", workspace::root().display()), "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_typed_in_the_root_of_the_workspace() {
        let mut command = Command::new(workspace::root().join("target/release/pyro"));
        command.env("PYRO_START", "boot").args(["run", "debian:12", "--", "sh", "-c", "read x; y"]);
        assert_eq!(
            command_line(&command),
            "PYRO_START=boot target/release/pyro run debian:12 -- sh -c 'read x; y'"
        );
    }

    #[test]
    fn the_best_rate_is_the_highest_and_the_best_time_the_lowest() {
        let command = Command::new("true");
        for (unit, best, worst) in [(Unit::Milliseconds, 1.0, 3.0), (Unit::RunsPerSecond, 3.0, 1.0)]
        {
            let subject = Subject { id: "a", maker: Maker::Pyro, label: "a" };
            let mut series = Series::new(subject, Group::Fresh, unit, &command);
            series.samples = vec![2.0, 1.0, 3.0];
            assert!((series.best() - best).abs() < 1e-9);
            assert!((series.percentile(Percent(95)) - worst).abs() < 1e-9);
            assert!((series.median() - 2.0).abs() < 1e-9);
        }
    }

    #[test]
    fn small_numbers_keep_a_digit() {
        assert_eq!(Unit::Milliseconds.show(612.4), "612");
        assert_eq!(Unit::Milliseconds.show(4.26), "4.3");
        assert_eq!(Unit::RunsPerSecond.show(1.0 / 3.0), "0.33");
    }
}
