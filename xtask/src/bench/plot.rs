//! The results as a picture: one self-contained SVG, readable on light and on dark pages.
//!
//! Times are dots on a logarithmic axis, because they differ by factors of a thousand; rates and
//! sizes are bars from zero. Whiskers reach from the best sample to what 95 % of them keep to.

use super::series::{Group, Maker, Series};
use crate::bench::statistics::Percent;

const WIDTH: f64 = 960.0;
const LABEL_WIDTH: f64 = 260.0;
/// Where the numbers stand, right of the axis.
const NUMBER_WIDTH: f64 = 90.0;
const MARGIN: f64 = 24.0;
const ROW: f64 = 26.0;
const HEADING: f64 = 40.0;
const AXIS: f64 = 34.0;

const STYLE: &str = "\
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.heading { font-weight: 600; font-size: 15px }
.small { font-size: 11px; fill: #59636e }
.page { fill: #ffffff }
.grid { stroke: #d8dee4; stroke-width: 1 }
.whisker { stroke-width: 2 }
.pyro { fill: #cf4a0c; stroke: #cf4a0c }
.other { fill: #6e7781; stroke: #6e7781 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.small { fill: #9198a1 }
.page { fill: #0d1117 }
.grid { stroke: #30363d }
.pyro { fill: #ff8a4c; stroke: #ff8a4c }
.other { fill: #9198a1; stroke: #9198a1 }
}
";

/// Maps values to horizontal positions.
#[derive(Debug, Clone, Copy)]
enum Axis {
    /// Between two powers of ten, by their exponents.
    Logarithmic { first: f64, last: f64 },
    /// From zero.
    Linear { last: f64 },
}

/// The picture of all series of these groups that have samples; `subtitle` says what was measured on.
pub(super) fn svg(title: &str, groups: &[Group], series: &[Series], subtitle: &str) -> String {
    let series: Vec<_> = series.iter().filter(|series| !series.samples.is_empty()).collect();
    let times = |group| matches!(group, Group::Fresh | Group::Live);
    let in_time: Vec<_> = series.iter().copied().filter(|series| times(series.group)).collect();
    // Both groups of times have the same axis, so that they can be compared across.
    let time_axis = Axis::logarithmic(&in_time);
    let mut body = String::new();
    let mut y = MARGIN + 20.0;
    body += &text(MARGIN, y, "heading", title);
    y += 20.0;
    body += &text(MARGIN, y, "small", subtitle);
    y += 16.0;
    let legend = "median, whiskers from the best sample to the 95th percentile";
    body += &text(MARGIN, y, "small", legend);
    for &group in groups {
        let rows: Vec<_> = series.iter().copied().filter(|series| series.group == group).collect();
        if rows.is_empty() {
            continue;
        }
        let axis = if times(group) { time_axis } else { Axis::linear(&rows) };
        body += &panel(group, &rows, axis, y);
        y += HEADING + rows_height(&rows) + AXIS;
    }
    let height = y + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
         role=\"img\" aria-label=\"benchmark of pyro\">\n<style>\n{STYLE}</style>\n\
         <rect class=\"page\" width=\"{WIDTH}\" height=\"{height:.0}\"/>\n{body}</svg>\n"
    )
}

fn panel(group: Group, rows: &[&Series], axis: Axis, top: f64) -> String {
    let mut body = text(MARGIN, top + HEADING - 8.0, "heading", group.title());
    let first_row = top + HEADING;
    let bottom = first_row + rows_height(rows) + 4.0;
    for tick in axis.ticks() {
        let x = axis.position(tick);
        body += &format!(
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{first_row:.1}\" y2=\"{bottom:.1}\"/>\n"
        );
        body += &anchored(x, bottom + 14.0, "small", "middle", &tick.to_string());
    }
    for (row, y) in rows.iter().zip(std::iter::successors(Some(first_row), |y| Some(y + ROW))) {
        body += &mark(row, axis, y + ROW / 2.0);
    }
    body
}

/// One series: its label, its mark, its median in digits.
fn mark(series: &Series, axis: Axis, y: f64) -> String {
    let class = match series.maker {
        Maker::Pyro => "pyro",
        Maker::Other => "other",
    };
    let median = series.median();
    let x = axis.position(median);
    let ends = [series.best(), series.percentile(Percent(95))].map(|value| axis.position(value));
    let [from, to] = [ends[0].min(ends[1]), ends[0].max(ends[1])];
    let mut body = anchored(LABEL_WIDTH - 12.0, y + 4.5, "", "end", &series.label);
    body += &match axis {
        Axis::Logarithmic { .. } => {
            format!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"/>\n")
        }
        Axis::Linear { .. } => {
            let (top, width) = (y - 7.0, x - LABEL_WIDTH);
            format!(
                "<rect class=\"{class}\" x=\"{LABEL_WIDTH}\" y=\"{top:.1}\" width=\"{width:.1}\" \
                 height=\"14\" fill-opacity=\"0.5\"/>\n"
            )
        }
    };
    body += &format!(
        "<line class=\"whisker {class}\" x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\n"
    );
    body + &anchored(WIDTH - MARGIN, y + 4.5, "", "end", &series.unit.show(median))
}

impl Axis {
    fn logarithmic(series: &[&Series]) -> Self {
        let best = series.iter().map(|series| series.best()).fold(f64::INFINITY, f64::min);
        let worst = high_ends(series).fold(0.0, f64::max);
        let (first, last) = (best.max(1e-3).log10().floor(), worst.max(1e-3).log10().ceil());
        // At least one decade, also around a single value.
        Self::Logarithmic { first: first.min(last - 1.0), last }
    }

    fn linear(series: &[&Series]) -> Self {
        let best = series.iter().map(|series| series.best());
        let largest = high_ends(series).chain(best).fold(0.0, f64::max);
        let step = step(largest);
        Self::Linear { last: (largest / step).ceil().max(1.0) * step }
    }

    fn position(self, value: f64) -> f64 {
        let share = match self {
            Self::Logarithmic { first, last } => (value.log10() - first) / (last - first),
            Self::Linear { last } => value / last,
        };
        LABEL_WIDTH + share.clamp(0.0, 1.0) * (WIDTH - MARGIN - NUMBER_WIDTH - LABEL_WIDTH)
    }

    fn ticks(self) -> Vec<f64> {
        let (first, step, last) = match self {
            Self::Logarithmic { first, last } => (first, 1.0, last),
            Self::Linear { last } => (0.0, step(last), last),
        };
        let ticks = std::iter::successors(Some(first), |tick| Some(tick + step));
        // A step beyond the last may still be rounding.
        let ticks = ticks.take_while(|tick| *tick < last + step / 2.0);
        match self {
            Self::Logarithmic { .. } => ticks.map(|exponent| 10_f64.powf(exponent)).collect(),
            Self::Linear { .. } => ticks.map(|tick| (tick * 1e6).round() / 1e6).collect(),
        }
    }
}

fn high_ends(series: &[&Series]) -> impl Iterator<Item = f64> {
    series.iter().map(|series| series.percentile(Percent(95)).max(series.median()))
}

/// 1, 2 or 5 times a power of ten, so that an axis up to `largest` has at most ten ticks.
fn step(largest: f64) -> f64 {
    let power = 10_f64.powf((largest.max(1e-3) / 10.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    steps.into_iter().find(|step| largest / step <= 10.0).unwrap_or(largest)
}

fn rows_height(rows: &[&Series]) -> f64 {
    rows.iter().map(|_| ROW).sum()
}

fn text(x: f64, y: f64, class: &str, content: &str) -> String {
    anchored(x, y, class, "start", content)
}

fn anchored(x: f64, y: f64, class: &str, anchor: &str, content: &str) -> String {
    let content = content.replace('&', "&amp;").replace('<', "&lt;");
    format!(
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>\n"
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::bench::series::{Subject, Unit};

    fn series(group: Group, unit: Unit, samples: &[f64]) -> Series {
        let command = Command::new("true");
        let subject = Subject { id: "id", maker: Maker::Pyro, label: "a < b & c" };
        let mut series = Series::new(subject, group, unit, &command);
        series.samples = samples.to_vec();
        series
    }

    #[test]
    fn a_logarithmic_axis_spans_whole_decades() {
        let series = series(Group::Fresh, Unit::Milliseconds, &[4.0, 600.0]);
        let axis = Axis::logarithmic(&[&series]);
        assert_eq!(axis.ticks(), [1.0, 10.0, 100.0, 1000.0]);
        let middle = axis.position(1000_f64.sqrt());
        assert!((middle - f64::midpoint(axis.position(1.0), axis.position(1000.0))).abs() < 1e-6);
    }

    #[test]
    fn a_linear_axis_begins_at_zero_and_holds_everything() {
        let series = series(Group::Memory, Unit::Megabytes, &[31.0, 42.0]);
        let axis = Axis::linear(&[&series]);
        assert_eq!(axis.ticks().first(), Some(&0.0));
        assert_eq!(axis.ticks().last(), Some(&45.0));
        assert!(axis.ticks().len() <= 11);
    }

    #[test]
    fn a_fraction_has_ticks_too() {
        let series = series(Group::Parallel, Unit::RunsPerSecond, &[0.27]);
        assert_eq!(Axis::linear(&[&series]).ticks(), [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]);
    }

    #[test]
    fn every_series_is_shown_and_its_label_is_no_markup() {
        let all = [
            series(Group::Fresh, Unit::Milliseconds, &[612.0]),
            series(Group::Memory, Unit::Megabytes, &[31.5]),
            series(Group::Live, Unit::Milliseconds, &[]),
        ];
        let svg = svg("title", &[Group::Fresh, Group::Memory, Group::Live], &all, "here");
        assert_eq!(svg.matches("a &lt; b &amp; c").count(), 2);
        assert!(svg.contains(">612<") && svg.contains(">31.5<"), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
