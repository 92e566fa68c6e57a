//! `cargo xtask bench`: how long runs take, and beside them what users would take instead.

mod contenders;
mod memory;
mod ratios;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use serde_json::json;

use self::contenders::Stage;
pub(super) use self::memory::IDLE;
use super::contest::{self, Results, Rounds};
use super::fresh::ENVIRONMENT;
use super::others::Others;
use super::plain_qemu::{Guest, PlainQemu};
use super::series::{Group, Series};
use super::{CACHE, Pyro};

/// What contenders other than pyro need, below the target directory.
const PLACE: &str = "bench-place";

const GROUPS: [Group; 4] = [Group::Fresh, Group::Live, Group::Parallel, Group::Memory];

/// How much is measured.
#[derive(Debug, Clone)]
pub(super) struct Extent {
    pub(super) rounds: Rounds,
    /// How many clones are started at once, for each series.
    pub(super) parallel: &'static [u32],
    pub(super) idle_vms: u32,
}

impl Extent {
    pub(super) fn full(rounds: u32) -> Self {
        Self { rounds: Rounds::after_one(rounds), parallel: &[1, 2, 4, 8], idle_vms: 4 }
    }

    /// Everything once, to see that it works. The numbers mean nothing.
    pub(super) fn quick() -> Self {
        Self { rounds: Rounds::ONE, parallel: &[1, 2], idle_vms: 2 }
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
    let file = |key: &str| {
        pulled[key].as_str().map(PathBuf::from).ok_or_else(|| format!("`{key}` is no path"))
    };
    let others = Others::prepare(pyro, PLACE, file("rootfs_image")?)?;
    let root_files = &others.root_files;
    let accelerator = pyro.accelerator()?;
    let guest = Guest {
        accelerator,
        kernel: file("kernel_image")?,
        image: root_files.image.clone(),
        command: "true".to_owned(),
        network: None,
    };
    let plain_qemu = PlainQemu::prepare(guest, &others.place.path)?;
    let stage = Stage { pyro, root_files, plain_qemu: &plain_qemu, podman: &others.podman };
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
    });
    Results::of("What a command costs", &GROUPS, series, &ratios::ratios(series), facts)
}
