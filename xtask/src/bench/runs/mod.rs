//! `cargo xtask bench`: how long runs take, and beside them what users would take instead.
//!
//! Contenders take turns, one sample of each per round, so that noise meets all of them alike. Every
//! round begins with another one, so that none profits from always following the same.

mod contenders;
mod memory;
mod plain_qemu;
mod plot;
mod podman;
mod process;
mod root_files;
mod series;
mod table;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};

use self::contenders::{Contender, Stage};
use self::plain_qemu::{Guest, PlainQemu};
use self::podman::Podman;
use self::root_files::RootFiles;
use self::series::Series;
use super::{CACHE, Pyro, host};
use crate::workspace;

/// It has git.
const ENVIRONMENT: &str = "debian:12";

/// What contenders other than pyro need, below the target directory.
const PLACE: &str = "bench-place";

/// How much is measured.
#[derive(Debug, Clone)]
pub(super) struct Extent {
    pub(super) rounds: u32,
    /// Rounds before those, which are not counted: page cache and templates are warm after one.
    pub(super) warming_rounds: u32,
    /// How many clones are started at once, for each series.
    pub(super) parallel: &'static [u32],
    pub(super) idle_vms: u32,
}

impl Extent {
    pub(super) fn full(rounds: u32) -> Self {
        Self { rounds, warming_rounds: 1, parallel: &[1, 2, 4, 8], idle_vms: 4 }
    }

    /// Everything once, to see that it works. The numbers mean nothing.
    pub(super) fn quick() -> Self {
        Self { rounds: 1, warming_rounds: 0, parallel: &[1, 2], idle_vms: 2 }
    }
}

/// What came out, in all its forms.
#[derive(Debug)]
pub(super) struct Results {
    pub(super) table: String,
    pub(super) json: Value,
    pub(super) plot: String,
}

/// Measures everything, and leaves nothing behind, also when it is interrupted.
pub(super) fn measure(pyro: &Pyro, extent: &Extent) -> Result<Results, String> {
    // A signal from the terminal reaches the contenders as well. They end by it and fail, and the way
    // out is that of every failure.
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))
            .map_err(|error| format!("cannot watch for signals: {error}"))?;
    }
    let outcome = prepare_and_measure(pyro, extent, &interrupted);
    if interrupted.load(Ordering::Relaxed) { Err(INTERRUPTED.to_owned()) } else { outcome }
}

const INTERRUPTED: &str = "interrupted";

fn prepare_and_measure(
    pyro: &Pyro,
    extent: &Extent,
    interrupted: &AtomicBool,
) -> Result<Results, String> {
    let pulled = pyro.pull(CACHE, ENVIRONMENT)?;
    let file = |key: &str| {
        pulled[key].as_str().map(PathBuf::from).ok_or_else(|| format!("`{key}` is no path"))
    };
    println!("    preparing the other contenders");
    let place = Place::prepare(pyro.target.join(PLACE))?;
    let root_files = RootFiles::unpack(file("rootfs_image")?, &place.path)?;
    let accelerator = accelerator(pyro)?;
    let guest = Guest {
        accelerator,
        kernel: file("kernel_image")?,
        image: root_files.image.clone(),
        command: "true",
    };
    let plain_qemu = PlainQemu::prepare(guest, &place.path)?;
    let podman = Podman::prepare(&root_files.archive, &place.path)?;
    let stage = Stage { pyro, root_files: &root_files, plain_qemu: &plain_qemu, podman: &podman };
    let mut contenders = contenders::all(&stage, extent);
    measure_in_turn(&mut contenders, extent, interrupted)?;
    let series: Vec<_> = contenders.into_iter().flat_map(|contender| contender.series).collect();
    let results = results(&series, extent, accelerator);
    podman.remove()?;
    place.remove()?;
    Ok(results)
}

fn measure_in_turn(
    contenders: &mut [Contender<'_>],
    extent: &Extent,
    interrupted: &AtomicBool,
) -> Result<(), String> {
    for round in 0..extent.warming_rounds + extent.rounds {
        let is_counted = round >= extent.warming_rounds;
        let first = usize::try_from(round).unwrap_or(0) % contenders.len();
        contenders.rotate_left(first);
        for contender in contenders.iter_mut() {
            contender.measure()?;
            if interrupted.load(Ordering::Relaxed) {
                return Err(INTERRUPTED.to_owned());
            }
            let name = if is_counted {
                format!("{}/{}", round - extent.warming_rounds + 1, extent.rounds)
            } else {
                "not counted".to_owned()
            };
            for series in &mut contender.series {
                let sample = series.samples.last().map(|&sample| series.unit.show(sample));
                println!("    {name} {}: {}", series.id, sample.unwrap_or_default());
                if !is_counted {
                    series.samples.clear();
                }
            }
        }
        contenders.rotate_right(first);
    }
    Ok(())
}

fn results(series: &[Series], extent: &Extent, accelerator: &str) -> Results {
    let ratios = table::ratios(series);
    let samples = series.iter().map(|series| (series.id.clone(), series.to_json()));
    let json = json!({
        "host": host::facts(),
        "accelerator": accelerator,
        "environment": ENVIRONMENT,
        "rounds": extent.rounds,
        "ratios": table::ratios_json(&ratios),
        "series": Value::Object(samples.collect()),
    });
    Results {
        table: table::table(series, &ratios),
        json,
        plot: plot::svg(series, &host::describe()),
    }
}

/// What pyro's VMs run on, so that plain QEMU does as well.
fn accelerator(pyro: &Pyro) -> Result<&'static str, String> {
    let report = workspace::output(pyro.command(CACHE).args(["doctor", "--json"]))?;
    let report: Value = serde_json::from_str(&report)
        .map_err(|error| format!("pyro doctor prints no JSON: {error}"))?;
    match report["runtime"]["accelerator"].as_str() {
        Some("kvm") => Ok("kvm"),
        Some("tcg") => Ok("tcg"),
        other => Err(format!("pyro doctor names no accelerator, but {other:?}")),
    }
}

/// A directory that is gone when this is dropped.
#[derive(Debug)]
struct Place {
    path: PathBuf,
}

impl Place {
    /// Empty, whatever a benchmark left that was killed.
    fn prepare(path: PathBuf) -> Result<Self, String> {
        podman::clean_up_after_interruption(&path);
        remove_tree(&path)?;
        fs_err::create_dir_all(&path).map_err(|error| error.to_string())?;
        Ok(Self { path })
    }

    fn remove(self) -> Result<(), String> {
        remove_tree(&self.path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // After a failure, which is the one to be reported.
        remove_tree(&self.path).ok();
    }
}

fn remove_tree(path: &Path) -> Result<(), String> {
    match fs_err::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.to_string()),
        Ok(()) | Err(_) => Ok(()),
    }
}
