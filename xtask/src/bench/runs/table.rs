//! The results as text: a line per series, then the ratios that are promised.

use serde_json::{Value, json};

use super::series::{Group, Series, Unit};
use crate::bench::statistics::Percent;

/// A number that says whether pyro is where it shall be.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ratio {
    name: &'static str,
    value: f64,
    target: Target,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Target {
    AtLeast(f64),
    AtMost(f64),
}

/// What is divided by what, both by their identifiers: the medians.
const RATIOS: [(&str, &str, &str, Target); 4] = [
    (
        "cold boot / clone, first byte of output",
        "pyro-boot-echo",
        "pyro-run-echo",
        Target::AtLeast(12.0),
    ),
    ("clone / podman run, sh -c true", "pyro-run-sh", "podman-run-sh", Target::AtMost(1.5)),
    ("clone / podman run, git --version", "pyro-run-git", "podman-run-git", Target::AtMost(3.0)),
    ("exec in a live VM / bubblewrap, sh -c true", "pyro-exec-sh", "bwrap-sh", Target::AtMost(3.0)),
];

/// What an idle VM may have of the host's memory for itself: its QEMU and its supervisor.
const IDLE_MEMORY: (&str, [&str; 2], Target) = (
    "private MB of an idle VM: QEMU and supervisor",
    ["pyro-idle-qemu", "pyro-idle-supervisor"],
    Target::AtMost(40.0),
);

pub(super) fn ratios(series: &[Series]) -> Vec<Ratio> {
    let median =
        |id: &str| series.iter().find(|series| series.id == id).map_or(f64::NAN, Series::median);
    let mut ratios: Vec<_> = RATIOS
        .iter()
        .map(|&(name, dividend, divisor, target)| Ratio {
            name,
            value: median(dividend) / median(divisor),
            target,
        })
        .collect();
    let (name, parts, target) = IDLE_MEMORY;
    ratios.push(Ratio { name, value: parts.into_iter().map(median).sum(), target });
    ratios
}

pub(super) fn table(series: &[Series], ratios: &[Ratio]) -> String {
    let mut text = String::new();
    for group in Group::ALL {
        text += &row(group.title(), &["p50", "p95", "p99", "best"].map(str::to_owned));
        for series in series.iter().filter(|series| series.group == group) {
            let numbers = [
                series.median(),
                series.percentile(Percent(95)),
                series.percentile(Percent(99)),
                series.best(),
            ];
            let label = format!("  {}", series.label);
            text += &row(&label, &numbers.map(|number| series.unit.show(number)));
        }
        text += "\n";
    }
    text += &row("ratios of medians", &["is".to_owned(), "target".to_owned()]);
    for ratio in ratios {
        let (bound, target) = match ratio.target {
            Target::AtLeast(target) => (">=", target),
            Target::AtMost(target) => ("<=", target),
        };
        let verdict = if ratio.is_met() { "met" } else { "missed" };
        let columns =
            [Unit::Megabytes.show(ratio.value), format!("{bound} {target}"), verdict.into()];
        text += &row(&format!("  {}", ratio.name), &columns);
    }
    text
}

pub(super) fn ratios_json(ratios: &[Ratio]) -> Value {
    let entry = |ratio: &Ratio| {
        let (bound, target) = match ratio.target {
            Target::AtLeast(target) => ("at_least", target),
            Target::AtMost(target) => ("at_most", target),
        };
        json!({ "name": ratio.name, "value": ratio.value, bound: target, "met": ratio.is_met() })
    };
    ratios.iter().map(entry).collect()
}

impl Ratio {
    fn is_met(&self) -> bool {
        match self.target {
            Target::AtLeast(target) => self.value >= target,
            Target::AtMost(target) => self.value <= target,
        }
    }
}

fn row(label: &str, columns: &[String]) -> String {
    let mut text = format!("{label:<48}");
    for column in columns {
        text += &format!("{column:>10}");
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::bench::runs::series::{Maker, Subject};

    fn series(id: &str, samples: &[f64]) -> Series {
        let command = Command::new("true");
        let subject = Subject { id, maker: Maker::Pyro, label: id };
        let mut series = Series::new(subject, Group::Fresh, Unit::Milliseconds, &command);
        series.samples = samples.to_vec();
        series
    }

    #[test]
    fn ratios_are_those_of_the_medians_and_know_their_targets() {
        let all = [
            series("pyro-boot-echo", &[1200.0, 1300.0, 9000.0]),
            series("pyro-run-echo", &[100.0]),
            series("pyro-run-sh", &[100.0]),
            series("podman-run-sh", &[50.0]),
            series("pyro-idle-qemu", &[30.0]),
            series("pyro-idle-supervisor", &[2.0]),
        ];
        let ratios = ratios(&all);
        assert!((ratios[0].value - 13.0).abs() < 1e-9 && ratios[0].is_met());
        assert!((ratios[1].value - 2.0).abs() < 1e-9 && !ratios[1].is_met());
        assert!((ratios[4].value - 32.0).abs() < 1e-9 && ratios[4].is_met());
    }

    #[test]
    fn a_ratio_without_its_series_is_not_met() {
        assert!(!ratios(&[]).iter().any(Ratio::is_met));
    }

    #[test]
    fn the_table_has_a_line_for_each_series_and_ratio() {
        let all = [series("pyro-run-sh", &[100.0, 300.0, 200.0])];
        let text = table(&all, &ratios(&all));
        let line = text.lines().find(|line| line.contains("pyro-run-sh")).unwrap();
        let columns: Vec<_> = line.split_whitespace().collect();
        assert_eq!(columns, ["pyro-run-sh", "200", "300", "300", "100"]);
        assert_eq!(text.lines().filter(|line| line.contains("missed")).count(), 5, "{text}");
    }
}
