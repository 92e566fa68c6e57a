//! Commands in machines that are fresh for each of them, as both benchmarks of runs measure them.

use std::process::Command;
use std::time::Instant;

use super::contest::Contender;
use super::process::{self, Input, Running};
use super::series::{Group, Maker, Series, Subject, Unit};
use super::{CACHE, Pyro};

/// It has git.
pub(super) const ENVIRONMENT: &str = "debian:12";

/// The commands measured: the least that a shell can do, and a program one would run.
pub(super) const SHELL: [&str; 3] = ["sh", "-c", "true"];
pub(super) const GIT: [&str; 2] = ["git", "--version"];

/// What `GIT` prints first.
pub(super) const GIT_VERSION: &str = "git version";

pub(super) fn pyro<'a>(id: &'a str, label: &'a str) -> Subject<'a> {
    Subject { id, maker: Maker::Pyro, label }
}

pub(super) fn other<'a>(id: &'a str, label: &'a str) -> Subject<'a> {
    Subject { id, maker: Maker::Other, label }
}

pub(super) fn run(pyro: &Pyro, words: &[&str]) -> Command {
    let mut command = pyro.command(CACHE);
    command.args(["run", ENVIRONMENT, "--"]).args(words);
    command
}

/// A process from its start to its exit. Its output must begin with `output`.
pub(super) fn whole<'a>(
    subject: Subject<'_>,
    command: impl Fn() -> Command + 'a,
    output: &'a str,
) -> Contender<'a> {
    let series = Series::new(subject, Group::Fresh, Unit::Milliseconds, &command());
    let sample = move || {
        let ended = process::time(&mut command())?;
        if !ended.output.starts_with(output) {
            return Err(format!("unexpected output instead of `{output}`:\n{}", ended.output));
        }
        Ok(vec![ended.wall_ms])
    };
    Contender { series: vec![series], sample: Box::new(sample) }
}

/// Runs per second of that many that are started together, until all have ended.
pub(super) fn rate_at_once(pyro: &Pyro, words: &[&str], count: u32) -> Result<f64, String> {
    let started = Instant::now();
    let start = |_| Running::start(&mut run(pyro, words), Input::Nothing);
    let running = (0..count).map(start).collect::<Result<Vec<_>, _>>()?;
    for process in running {
        process.finish()?;
    }
    Ok(f64::from(count) / started.elapsed().as_secs_f64())
}
