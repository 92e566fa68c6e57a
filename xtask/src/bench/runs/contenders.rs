//! What is measured: pyro in its ways of running a command, and what one would take instead.

use std::process::Command;

use super::Extent;
use super::memory::{self, IDLE};
use crate::bench::Pyro;
use crate::bench::contest::Contender;
use crate::bench::fresh::{self, ENVIRONMENT, GIT, GIT_VERSION, SHELL, other, pyro, run, whole};
use crate::bench::plain_qemu::PlainQemu;
use crate::bench::podman::Podman;
use crate::bench::process;
use crate::bench::root_files::RootFiles;
use crate::bench::series::{Group, Series, Subject, Unit};

/// Everything that contenders need.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    pub(super) pyro: &'a Pyro,
    pub(super) root_files: &'a RootFiles,
    pub(super) plain_qemu: &'a PlainQemu,
    pub(super) podman: &'a Podman,
}

/// What is timed up to its first byte.
const ECHO: [&str; 2] = ["echo", "ready"];

/// Executions in a live machine that are not counted: the first is that of a fresh one.
const WARMING_EXECUTIONS: usize = 1;

/// All contenders, in the order of the table.
pub(super) fn all<'a>(stage: &'a Stage<'a>, extent: &Extent) -> Vec<Contender<'a>> {
    let mut contenders = in_fresh_machines(stage);
    contenders.extend(live(stage));
    contenders.extend(extent.parallel.iter().map(|&count| parallel(stage, count)));
    contenders.push(idle(stage, extent.idle_vms));
    contenders
}

fn in_fresh_machines<'a>(stage: &'a Stage<'a>) -> Vec<Contender<'a>> {
    let clone = |words: &[&str]| run(stage.pyro, words);
    let podman = |words: &[&str]| stage.podman.run(words);
    let bubblewrap = |words: &[&str]| stage.root_files.bubblewrap(words);
    let boot = || {
        let mut command = run(stage.pyro, &ECHO);
        command.env("PYRO_START", "boot");
        command
    };
    let echo = pyro("pyro-run-echo", "pyro: first byte of echo");
    vec![
        first_byte(pyro("pyro-boot-echo", "pyro, booted: first byte of echo"), boot),
        plain_qemu(stage.plain_qemu),
        whole(pyro("pyro-run-sh", "pyro: sh -c true"), move || clone(&SHELL), ""),
        first_byte(echo, move || clone(&ECHO)),
        whole(other("podman-run-sh", "podman: sh -c true"), move || podman(&SHELL), ""),
        whole(other("bwrap-sh", "bubblewrap: sh -c true"), move || bubblewrap(&SHELL), ""),
        whole(pyro("pyro-run-git", "pyro: git --version"), move || clone(&GIT), GIT_VERSION),
        whole(other("podman-run-git", "podman: git --version"), move || podman(&GIT), GIT_VERSION),
        whole(
            other("bwrap-git", "bubblewrap: git --version"),
            move || bubblewrap(&GIT),
            GIT_VERSION,
        ),
    ]
}

fn first_byte<'a>(subject: Subject<'_>, command: impl Fn() -> Command + 'a) -> Contender<'a> {
    let series = Series::new(subject, Group::Fresh, Unit::Milliseconds, &command());
    let sample = move || {
        let ended = process::time(&mut command())?;
        match ended.first_byte_ms {
            Some(first_byte_ms) if ended.output == "ready\n" => Ok(vec![first_byte_ms]),
            _ => Err(format!("unexpected output instead of `ready`:\n{}", ended.output)),
        }
    };
    Contender { series: vec![series], sample: Box::new(sample) }
}

fn plain_qemu(qemu: &PlainQemu) -> Contender<'_> {
    let subject = other("qemu-boot-true", "plain QEMU, booted: true");
    let series = Series::new(subject, Group::Fresh, Unit::Milliseconds, &qemu.command());
    Contender { series: vec![series], sample: Box::new(|| Ok(vec![qemu.boot()?])) }
}

/// Commands in machines that are there. Those live only for the measurement, so that what they do
/// when idle meets no other contender.
fn live<'a>(stage: &'a Stage<'a>) -> [Contender<'a>; 2] {
    let commands = [SHELL.join(" "), GIT.join(" ")];
    let times = WARMING_EXECUTIONS + 1;
    let example = move || {
        let mut command = stage.pyro.example("exec_in_a_live_vm");
        command.arg(&stage.pyro.executable).args([ENVIRONMENT, &times.to_string()]);
        command.args(&commands);
        command
    };
    let series = |subject: Subject<'_>, command: &Command| {
        Series::new(subject, Group::Live, Unit::Milliseconds, command)
    };
    let vm = Contender {
        series: vec![
            series(pyro("pyro-exec-sh", "pyro: sh -c true"), &example()),
            series(pyro("pyro-exec-git", "pyro: git --version"), &example()),
        ],
        sample: Box::new(move || last_of_each(&process::time(&mut example())?.output)),
    };
    let exec = |words: &[&str]| stage.podman.exec(words);
    let container = Contender {
        series: vec![
            series(other("podman-exec-sh", "podman: sh -c true"), &exec(&SHELL)),
            series(other("podman-exec-git", "podman: git --version"), &exec(&GIT)),
        ],
        sample: Box::new(move || {
            let live = stage.podman.live()?;
            for _ in 0..WARMING_EXECUTIONS {
                process::time(&mut exec(&SHELL))?;
                process::time(&mut exec(&GIT))?;
            }
            let shell = process::time(&mut exec(&SHELL))?.wall_ms;
            let git = process::time(&mut exec(&GIT))?.wall_ms;
            live.finish()?;
            Ok(vec![shell, git])
        }),
    };
    [vm, container]
}

/// What the example prints is a list of milliseconds for each command.
fn last_of_each(json: &str) -> Result<Vec<f64>, String> {
    let lists: Vec<Vec<f64>> = serde_json::from_str(json)
        .map_err(|error| format!("the example prints something else ({error}):\n{json}"))?;
    let last = lists.iter().map(|list| list.last().copied());
    last.collect::<Option<_>>().ok_or_else(|| format!("no numbers from the example:\n{json}"))
}

/// Clones that are started at once, until all of them have ended.
fn parallel<'a>(stage: &'a Stage<'a>, count: u32) -> Contender<'a> {
    let id = format!("pyro-parallel-{count}");
    let label = format!("pyro: {count} at once");
    let command = run(stage.pyro, &SHELL);
    let series = Series::new(pyro(&id, &label), Group::Parallel, Unit::RunsPerSecond, &command);
    let sample = move || Ok(vec![fresh::rate_at_once(stage.pyro, &SHELL, count)?]);
    Contender { series: vec![series], sample: Box::new(sample) }
}

fn idle<'a>(stage: &'a Stage<'a>, count: u32) -> Contender<'a> {
    let idle = || run(stage.pyro, &IDLE);
    let series = |id: &str, label: &str| {
        let label = format!("{label}, mean of {count}");
        Series::new(pyro(id, &label), Group::Memory, Unit::Megabytes, &idle())
    };
    Contender {
        series: vec![
            series("pyro-idle-qemu", "QEMU of an idle VM"),
            series("pyro-idle-supervisor", "its supervisor"),
            series("pyro-idle-client", "its client"),
        ],
        sample: Box::new(move || {
            let private = memory::of_idle_vms(&idle, count)?;
            Ok(vec![private.qemu, private.supervisor, private.client])
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_execution_of_each_command_counts() {
        assert_eq!(last_of_each("[[9.0, 1.5], [8.0, 2.5]]\n").unwrap(), [1.5, 2.5]);
        assert!(last_of_each("[[], [1.0]]").is_err());
        assert!(last_of_each("error: no VM").is_err());
    }
}
