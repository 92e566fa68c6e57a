//! What is measured: runs in spares, and what one would have without.

use std::time::Instant;

use super::Extent;
use super::keeper::Keeper;
use crate::bench::contest::Contender;
use crate::bench::fresh::{self, GIT, GIT_VERSION, SHELL, other, pyro, run, whole};
use crate::bench::podman::Podman;
use crate::bench::process;
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

/// Whether there are spares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum With {
    Spares,
    Nothing,
}

/// All contenders, in the order of the table.
pub(super) fn all<'a>(stage: &'a Stage<'a>, extent: &Extent) -> Vec<Contender<'a>> {
    let mut contenders = in_fresh_machines(stage);
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

fn in_fresh_machines<'a>(stage: &'a Stage<'a>) -> Vec<Contender<'a>> {
    let clone = |words: &[&str]| run(stage.pyro, words);
    let podman = |words: &[&str]| stage.podman.run(words);
    let bubblewrap = |words: &[&str]| stage.root_files.bubblewrap(words);
    let shell = [(pyro("pyro-spare-sh", "pyro, spare: sh -c true"), Until::Exit)];
    let git = [
        (pyro("pyro-spare-git", "pyro, spare: git --version"), Until::Exit),
        (pyro("pyro-spare-git-first-byte", "the same, to its first byte"), Until::FirstByte),
    ];
    let clone_git = pyro("pyro-run-git", "pyro, clone: git --version");
    let podman_git = other("podman-run-git", "podman: git --version");
    let bubblewrap_git = other("bwrap-git", "bubblewrap: git --version");
    vec![
        claimed(stage.pyro, &shell, &SHELL),
        whole(pyro("pyro-run-sh", "pyro, clone: sh -c true"), move || clone(&SHELL), ""),
        whole(other("podman-run-sh", "podman: sh -c true"), move || podman(&SHELL), ""),
        whole(other("bwrap-sh", "bubblewrap: sh -c true"), move || bubblewrap(&SHELL), ""),
        claimed(stage.pyro, &git, &GIT),
        whole(clone_git, move || clone(&GIT), GIT_VERSION),
        whole(podman_git, move || podman(&GIT), GIT_VERSION),
        whole(bubblewrap_git, move || bubblewrap(&GIT), GIT_VERSION),
    ]
}

/// What of a process is timed, from its start.
#[derive(Debug, Clone, Copy)]
enum Until {
    FirstByte,
    Exit,
}

/// A run in a machine that is there when it starts.
fn claimed<'a>(
    pyro: &'a Pyro,
    timed: &[(Subject<'_>, Until)],
    words: &'static [&'static str],
) -> Contender<'a> {
    let series = |(subject, _): &(Subject<'_>, Until)| {
        Series::new(*subject, Group::Fresh, Unit::Milliseconds, &run(pyro, words))
    };
    let series = timed.iter().map(series).collect();
    let ends: Vec<_> = timed.iter().map(|(_, until)| *until).collect();
    let sample = move || {
        let keeper = Keeper::start(pyro, 1)?;
        let ended = process::time(&mut run(pyro, words))?;
        keeper.assert_taken()?;
        keeper.stop()?;
        let time = |until: &Until| match until {
            Until::FirstByte => ended.first_byte_ms.ok_or_else(|| "no output".to_owned()),
            Until::Exit => Ok(ended.wall_ms),
        };
        ends.iter().map(time).collect()
    };
    Contender { series, sample: Box::new(sample) }
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
        let rate = fresh::rate_at_once(pyro, &GIT, count)?;
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
