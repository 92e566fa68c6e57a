//! `cargo xtask bench spares`: what it is worth that a VM is there before it is asked for, and what it costs.
//!
//! Beside runs in spares: the same in clones, in containers of podman and in bubblewrap's namespaces.

mod contenders;
mod keeper;

use std::sync::atomic::AtomicBool;

use serde_json::json;

use self::contenders::Stage;
pub(super) use self::keeper::Keeper;
use super::contest::{self, Results, Rounds};
use super::fresh::ENVIRONMENT;
use super::others::Others;
use super::series::{Group, Series};
use super::table::{self, Promise, Target};
use super::{CACHE, Pyro};

/// What contenders other than pyro need, below the target directory.
const PLACE: &str = "bench-spares-place";

const GROUPS: [Group; 4] = [Group::Fresh, Group::AtOnce, Group::Sustained, Group::Memory];

const RATIOS: [Promise; 5] = [
    (
        "podman run / run in a spare, git --version",
        "podman-run-git",
        "pyro-spare-git",
        Target::AtLeast(5.0),
    ),
    (
        "run in a spare / bubblewrap, git --version",
        "pyro-spare-git",
        "bwrap-git",
        Target::AtMost(4.0),
    ),
    ("clone / podman run, sh -c true", "pyro-run-sh", "podman-run-sh", Target::AtMost(1.0)),
    (
        "runs per second at once, 2: spares / clones",
        "pyro-spares-at-once-2",
        "pyro-clones-at-once-2",
        Target::AtLeast(2.0),
    ),
    (
        "sustained runs per second, 2 clients: with spares / without",
        "pyro-sustained-spares-2",
        "pyro-sustained-clones-2",
        Target::AtLeast(2.0),
    ),
];

/// How much is measured.
#[derive(Debug, Clone)]
pub(super) struct Extent {
    rounds: Rounds,
    /// How many clients there are, for each series.
    clients: &'static [u32],
    /// Of each client, one after the other.
    runs: u32,
}

impl Extent {
    pub(super) fn full(rounds: u32) -> Self {
        Self { rounds: Rounds::after_one(rounds), clients: &[1, 2, 4, 8], runs: 5 }
    }

    /// Everything once, to see that it works. The numbers mean nothing.
    pub(super) fn quick() -> Self {
        Self { rounds: Rounds::ONE, clients: &[2], runs: 2 }
    }
}

/// Measures everything, and leaves nothing behind, also when it is interrupted.
pub(super) fn measure(pyro: &Pyro, extent: &Extent) -> Result<Results, String> {
    contest::until_interrupted(|interrupted| prepare_and_measure(pyro, extent, interrupted))
}

fn prepare_and_measure(
    pyro: &Pyro,
    extent: &Extent,
    interrupted: &AtomicBool,
) -> Result<Results, String> {
    let pulled = pyro.pull(CACHE, ENVIRONMENT)?;
    let image = pulled["rootfs_image"].as_str().ok_or("`rootfs_image` is no path")?;
    let others = Others::prepare(pyro, PLACE, image.into())?;
    let accelerator = pyro.accelerator()?;
    let stage = Stage { pyro, root_files: &others.root_files, podman: &others.podman };
    let contenders = contenders::all(&stage, extent);
    let series = contest::measure_in_turn(contenders, extent.rounds, interrupted)?;
    let results = results(&series, extent, accelerator);
    others.remove()?;
    Ok(results)
}

fn results(series: &[Series], extent: &Extent, accelerator: &str) -> Results {
    let facts = json!({
        "accelerator": accelerator,
        "environment": ENVIRONMENT,
        "rounds": extent.rounds.counted,
        "runs_of_each_client": extent.runs,
    });
    let ratios = RATIOS.map(|promise| table::ratio(series, promise));
    Results::of("What a spare is worth", &GROUPS, series, &ratios, facts)
}
