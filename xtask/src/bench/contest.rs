//! What is measured beside something else.
//!
//! Contenders take turns, one sample of each per round, so that noise meets all of them alike. Every
//! round begins with another one, so that none profits from always following the same.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::series::{Group, Series};
use super::table::{self, Ratio};
use super::{host, plot};

/// One thing that is measured, in every round once.
pub(super) struct Contender<'a> {
    /// One measurement can give numbers for several.
    pub(super) series: Vec<Series>,
    pub(super) sample: Box<dyn Fn() -> Result<Vec<f64>, String> + 'a>,
}

/// How often.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rounds {
    pub(super) counted: u32,
    /// Rounds before those, which are not counted: page cache and templates are warm after one.
    warming: u32,
}

/// What came out, in all its forms.
#[derive(Debug)]
pub(super) struct Results {
    pub(super) table: String,
    pub(super) json: Value,
    pub(super) plot: String,
}

impl Results {
    /// What `series` say. `facts` is an object, and tells what else is to be known of them.
    pub(super) fn of(
        title: &str,
        groups: &[Group],
        series: &[Series],
        ratios: &[Ratio],
        mut facts: Value,
    ) -> Self {
        let samples = series.iter().map(|series| (series.id.clone(), series.to_json()));
        facts["host"] = host::facts();
        facts["ratios"] = table::ratios_json(ratios);
        facts["series"] = Value::Object(samples.collect());
        Self {
            table: table::table(groups, series, ratios),
            json: facts,
            plot: plot::svg(title, groups, series, &host::describe()),
        }
    }
}

impl Rounds {
    /// The numbers mean nothing.
    pub(super) const ONE: Self = Self { counted: 1, warming: 0 };

    pub(super) fn after_one(counted: u32) -> Self {
        Self { counted, warming: 1 }
    }
}

impl Contender<'_> {
    /// Measures once, and keeps what comes out.
    fn measure(&mut self) -> Result<(), String> {
        let samples = (self.sample)()?;
        if samples.len() != self.series.len() {
            let (expected, found) = (self.series.len(), samples.len());
            return Err(format!("{found} numbers for {expected} series"));
        }
        for (series, sample) in self.series.iter_mut().zip(samples) {
            series.samples.push(sample);
        }
        Ok(())
    }
}

const INTERRUPTED: &str = "interrupted";

/// Does `work`, which is told of signals, and leaves nothing behind when it fails.
pub(super) fn until_interrupted<T>(
    work: impl FnOnce(&AtomicBool) -> Result<T, String>,
) -> Result<T, String> {
    // A signal from the terminal reaches the contenders as well. They end by it and fail, and the way
    // out is that of every failure.
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))
            .map_err(|error| format!("cannot watch for signals: {error}"))?;
    }
    let outcome = work(&interrupted);
    if interrupted.load(Ordering::Relaxed) { Err(INTERRUPTED.to_owned()) } else { outcome }
}

/// All series, in the order of the contenders, with their samples.
pub(super) fn measure_in_turn(
    mut contenders: Vec<Contender<'_>>,
    rounds: Rounds,
    interrupted: &AtomicBool,
) -> Result<Vec<Series>, String> {
    for round in 0..rounds.warming + rounds.counted {
        let is_counted = round >= rounds.warming;
        let first = usize::try_from(round).unwrap_or(0) % contenders.len();
        contenders.rotate_left(first);
        for contender in &mut contenders {
            contender.measure()?;
            if interrupted.load(Ordering::Relaxed) {
                return Err(INTERRUPTED.to_owned());
            }
            let name = if is_counted {
                format!("{}/{}", round - rounds.warming + 1, rounds.counted)
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
    Ok(contenders.into_iter().flat_map(|contender| contender.series).collect())
}

/// A directory that is gone when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
}

impl Place {
    /// Empty, whatever a benchmark left that was killed.
    pub(super) fn prepare(path: PathBuf) -> Result<Self, String> {
        remove_tree(&path)?;
        fs_err::create_dir_all(&path).map_err(|error| error.to_string())?;
        Ok(Self { path })
    }

    pub(super) fn remove(self) -> Result<(), String> {
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
