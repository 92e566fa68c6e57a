//! What is measured: runs in spares, and what one would have without.

use std::process::Command;
use std::time::Instant;

use super::keeper::Keeper;
use super::{ENVIRONMENT, Extent};
use crate::bench::contest::Contender;
use crate::bench::podman::Podman;
use crate::bench::process::{self, Ended, Input, Running};
use crate::bench::root_files::RootFiles;
use crate::bench::series::{Group, Maker, Series, Subject, Unit};
use crate::bench::{CACHE, Pyro};

/// Everything that contenders need.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    pub(super) pyro: &'a Pyro,
    pub(super) root_files: &'a RootFiles,
    pub(super) podman: &'a Podman,
}

const SHELL: [&str; 3] = ["sh", "-c", "true"];
const GIT: [&str; 2] = ["git", "--version"];

/// Whether there are spares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum With {
    Spares,
    Nothing,
}

/// All contenders, in the order of the table.
pub(super) fn all<'a>(stage: &'a Stage<'a>, extent: &Extent) -> Vec<Contender<'a>> {
    let mut contenders = fresh(stage);
    for with in [With::Spares, With::Nothing] {
        contenders.extend(extent.clients.iter().map(|&count| at_once(stage.pyro, count, with)));
    }
    for with in [With::Spares, With::Nothing] {
        let runs = extent.runs;
        contenders
            .extend(extent.clients.iter().map(|&count| sustained(stage.pyro, count, runs, with)));
    }
    contenders.push(memory(stage.pyro));
    contenders
}

fn fresh<'a>(stage: &'a Stage<'a>) -> Vec<Contender<'a>> {
    let other = |id, label, command: Command| contender(id, Maker::Other, label, command);
    let podman = |words: &[&str]| stage.podman.run(words);
    let bubblewrap = |words: &[&str]| stage.root_files.bubblewrap(words);
    vec![
        claimed(stage.pyro, ("pyro-spare-sh", "pyro, spare: sh -c true"), &SHELL),
        clone(stage.pyro, ("pyro-run-sh", "pyro, clone: sh -c true"), &SHELL),
        other("podman-run-sh", "podman: sh -c true", podman(&SHELL)),
        other("bwrap-sh", "bubblewrap: sh -c true", bubblewrap(&SHELL)),
        claimed(stage.pyro, ("pyro-spare-git", "pyro, spare: git --version"), &GIT),
        claimed_first_byte(stage.pyro),
        clone(stage.pyro, ("pyro-run-git", "pyro, clone: git --version"), &GIT),
        other("podman-run-git", "podman: git --version", podman(&GIT)),
        other("bwrap-git", "bubblewrap: git --version", bubblewrap(&GIT)),
    ]
}

fn run(pyro: &Pyro, words: &[&str]) -> Command {
    let mut command = pyro.command(CACHE);
    command.args(["run", ENVIRONMENT, "--"]).args(words);
    command
}

/// From the start of the process to its exit, in a machine that is there when it starts.
fn claimed<'a>(
    pyro: &'a Pyro,
    (id, label): (&str, &str),
    words: &'static [&'static str],
) -> Contender<'a> {
    claimed_until(pyro, (id, label), words, |ended| Some(ended.wall_ms))
}

fn claimed_first_byte(pyro: &Pyro) -> Contender<'_> {
    let subject = ("pyro-spare-git-first-byte", "the same, to its first byte");
    claimed_until(pyro, subject, &GIT, |ended| ended.first_byte_ms)
}

fn claimed_until<'a>(
    pyro: &'a Pyro,
    (id, label): (&str, &str),
    words: &'static [&'static str],
    milliseconds: impl Fn(&Ended) -> Option<f64> + 'a,
) -> Contender<'a> {
    let subject = Subject { id, maker: Maker::Pyro, label };
    let series = Series::new(subject, Group::Fresh, Unit::Milliseconds, &run(pyro, words));
    let sample = move || {
        let keeper = Keeper::start(pyro, 1)?;
        let ended = process::time(&mut run(pyro, words))?;
        keeper.assert_taken()?;
        keeper.stop()?;
        Ok(vec![milliseconds(&ended).ok_or("no output")?])
    };
    Contender { series: vec![series], sample: Box::new(sample) }
}

fn clone<'a>(
    pyro: &'a Pyro,
    (id, label): (&str, &str),
    words: &'static [&'static str],
) -> Contender<'a> {
    contender(id, Maker::Pyro, label, run(pyro, words))
}

/// A process from its start to its exit.
fn contender<'a>(id: &str, maker: Maker, label: &str, command: Command) -> Contender<'a> {
    let subject = Subject { id, maker, label };
    let series = Series::new(subject, Group::Fresh, Unit::Milliseconds, &command);
    let command = std::cell::RefCell::new(command);
    let sample = move || Ok(vec![process::time(&mut command.borrow_mut())?.wall_ms]);
    Contender { series: vec![series], sample: Box::new(sample) }
}

/// That many runs started together, until all have ended; with as many spares as runs.
fn at_once(pyro: &Pyro, count: u32, with: With) -> Contender<'_> {
    let name = match with {
        With::Spares => "spares",
        With::Nothing => "clones",
    };
    let (id, label) = (format!("pyro-{name}-at-once-{count}"), format!("{count}, {name}"));
    let subject = Subject { id: &id, maker: maker(with), label: &label };
    let series = Series::new(subject, Group::AtOnce, Unit::RunsPerSecond, &run(pyro, &GIT));
    let sample = move || {
        let keeper = keeper(pyro, count, with)?;
        let started = Instant::now();
        let start = |_| Running::start(&mut run(pyro, &GIT), Input::Nothing);
        let running = (0..count).map(start).collect::<Result<Vec<_>, _>>()?;
        for process in running {
            process.finish()?;
        }
        let rate = f64::from(count) / started.elapsed().as_secs_f64();
        keeper.map_or(Ok(()), Keeper::stop)?;
        Ok(vec![rate])
    };
    Contender { series: vec![series], sample: Box::new(sample) }
}

/// That many clients, each with a run after the other and no pause between, until all have ended. So spares are
/// made while runs go on.
fn sustained(pyro: &Pyro, count: u32, runs: u32, with: With) -> Contender<'_> {
    let (name, described) = match with {
        With::Spares => ("spares", "with spares"),
        With::Nothing => ("clones", "without"),
    };
    let id = format!("pyro-sustained-{name}-{count}");
    let clients = if count == 1 { "client" } else { "clients" };
    let label = format!("{count} {clients}, {described}");
    let subject = Subject { id: &id, maker: maker(with), label: &label };
    let series = Series::new(subject, Group::Sustained, Unit::RunsPerSecond, &run(pyro, &GIT));
    let sample = move || {
        let keeper = keeper(pyro, count, with)?;
        let started = Instant::now();
        let client = || (0..runs).try_for_each(|_| process::time(&mut run(pyro, &GIT)).map(drop));
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..count).map(|_| scope.spawn(client)).collect();
            let ended = clients.into_iter().map(|client| client.join().map_err(|_| "a panic")?);
            ended.collect::<Result<(), String>>()
        })?;
        let rate = f64::from(count * runs) / started.elapsed().as_secs_f64();
        keeper.map_or(Ok(()), Keeper::stop)?;
        Ok(vec![rate])
    };
    Contender { series: vec![series], sample: Box::new(sample) }
}

/// Clones are what spares are compared with.
fn maker(with: With) -> Maker {
    match with {
        With::Spares => Maker::Pyro,
        With::Nothing => Maker::Other,
    }
}

fn keeper(pyro: &Pyro, count: u32, with: With) -> Result<Option<Keeper<'_>>, String> {
    match with {
        With::Spares => Keeper::start(pyro, count).map(Some),
        With::Nothing => Ok(None),
    }
}

fn memory(pyro: &Pyro) -> Contender<'_> {
    let subject = Subject { id: "pyro-spare-memory", maker: Maker::Pyro, label: "a spare" };
    let mut command = pyro.command(CACHE);
    command.args(["warm", "--status", "--json"]);
    let series = Series::new(subject, Group::Memory, Unit::Megabytes, &command);
    let sample = move || {
        let keeper = Keeper::start(pyro, 1)?;
        let megabytes = keeper.spares()?;
        keeper.stop()?;
        Ok(megabytes)
    };
    Contender { series: vec![series], sample: Box::new(sample) }
}
