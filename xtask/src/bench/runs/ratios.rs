//! The ratios that are promised of runs.

use crate::bench::series::Series;
use crate::bench::table::{self, Promise, Ratio, Target};

const RATIOS: [Promise; 4] = [
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
    let median = |id: &str| table::median(series, id);
    let mut ratios: Vec<_> = RATIOS.iter().map(|&promise| table::ratio(series, promise)).collect();
    let (name, parts, target) = IDLE_MEMORY;
    ratios.push(Ratio { name, value: parts.into_iter().map(median).sum(), target });
    ratios
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::bench::series::{Group, Maker, Subject, Unit};

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
}
