//! Spares for one sample: made before it, and gone after it, so that they meet no other contender.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::ENVIRONMENT;
use crate::bench::{CACHE, Pyro};
use crate::workspace;

/// For all of them to stand. One takes some seconds of a CPU.
const DEADLINE: Duration = Duration::from_mins(2);

const PAUSE: Duration = Duration::from_millis(50);

/// Ends the spares when it is dropped.
#[derive(Debug)]
pub(in crate::bench) struct Keeper<'a> {
    pyro: &'a Pyro,
}

impl<'a> Keeper<'a> {
    /// Returns when that many stand.
    #[allow(clippy::disallowed_methods, reason = "spares tell nobody that they stand")]
    pub(in crate::bench) fn start(pyro: &'a Pyro, count: u32) -> Result<Self, String> {
        let count_text = count.to_string();
        let mut warm = pyro.command(CACHE);
        warm.args(["warm", "--quiet", "--json", "--count", &count_text, "--for=30m", ENVIRONMENT]);
        let keeper = Self { pyro };
        workspace::output(&mut warm)?;
        let deadline = Instant::now() + DEADLINE;
        while keeper.spares()?.len() < usize::try_from(count).unwrap_or(usize::MAX) {
            if Instant::now() > deadline {
                return Err(format!("no {count} spares within {} s", DEADLINE.as_secs()));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(keeper)
    }

    /// The private memory of each that stands, in megabytes.
    #[allow(clippy::cast_precision_loss, reason = "far below 2^53 bytes")]
    pub(super) fn spares(&self) -> Result<Vec<f64>, String> {
        let text =
            workspace::output(self.pyro.command(CACHE).args(["warm", "--status", "--json"]))?;
        let status: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let spares = status["spares"].as_array().ok_or("`spares` is no list")?;
        Ok(spares
            .iter()
            .filter_map(|spare| Some(spare["private_bytes"].as_u64()? as f64 / 1e6))
            .collect())
    }

    /// That a run took the only spare there was.
    pub(super) fn assert_taken(&self) -> Result<(), String> {
        if self.spares()?.is_empty() { Ok(()) } else { Err("the run took no spare".to_owned()) }
    }

    pub(in crate::bench) fn stop(self) -> Result<(), String> {
        let stopped = stop(self.pyro);
        std::mem::forget(self);
        stopped
    }
}

impl Drop for Keeper<'_> {
    fn drop(&mut self) {
        // After a failure, which is the one to be reported.
        stop(self.pyro).ok();
    }
}

fn stop(pyro: &Pyro) -> Result<(), String> {
    workspace::output(pyro.command(CACHE).args(["warm", "--stop", "--json"])).map(drop)
}
