//! The results as text: a line per series, then the ratios that are promised.

use serde_json::{Value, json};

use super::series::{Group, Series, Unit};
use crate::bench::statistics::Percent;

/// A number that says whether pyro is where it shall be.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ratio {
    pub(super) name: &'static str,
    pub(super) value: f64,
    pub(super) target: Target,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

/// The median of the series of this identifier.
pub(super) fn median(series: &[Series], id: &str) -> f64 {
    series.iter().find(|series| series.id == id).map_or(f64::NAN, Series::median)
}

/// A ratio of medians that is promised: its name, what is divided by what, both by their identifiers, and the target.
pub(super) type Promise = (&'static str, &'static str, &'static str, Target);

pub(super) fn ratio(series: &[Series], (name, dividend, divisor, target): Promise) -> Ratio {
    Ratio { name, value: median(series, dividend) / median(series, divisor), target }
}

pub(super) fn table(groups: &[Group], series: &[Series], ratios: &[Ratio]) -> String {
    let mut text = String::new();
    for &group in groups {
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
    pub(super) fn is_met(&self) -> bool {
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
    use crate::bench::series::{Maker, Subject};

    #[test]
    fn the_table_has_a_line_for_each_series_and_ratio() {
        let command = Command::new("true");
        let subject = Subject { id: "id", maker: Maker::Pyro, label: "label" };
        let mut series = Series::new(subject, Group::Fresh, Unit::Milliseconds, &command);
        series.samples = vec![100.0, 300.0, 200.0];
        let all = [series];
        let ratio = |value| Ratio { name: "ratio", value, target: Target::AtMost(1.5) };
        let ratios = [ratio(median(&all, "id") / 100.0), ratio(median(&all, "other")), ratio(1.0)];
        let text = table(&[Group::Fresh], &all, &ratios);
        let line = text.lines().find(|line| line.contains("label")).unwrap();
        let columns: Vec<_> = line.split_whitespace().collect();
        assert_eq!(columns, ["label", "200", "300", "300", "100"]);
        assert_eq!(text.lines().filter(|line| line.contains("missed")).count(), 2, "{text}");
    }
}
