//! What the doctor can put right by itself: nothing that needs root, and nothing that anybody uses. Each thing is removed
//! by the code that removes it in daily work, under the same locks; this only does all of it at once, and tells.

use std::collections::BTreeSet;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use pyro_environments::Store;
use serde::Serialize;

use crate::config::Config;
use crate::leftovers::{self, Leftover, LeftoverKind};
use crate::vms::VmsDirectory;
use crate::{ErrorKind, PyroError, environments, spares};

/// Something that was put right.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Fix {
    /// What a killed process had left, or a template that no environment could use.
    Removed { kind: LeftoverKind, path: PathBuf },
    /// A directory that was missing.
    Made { path: PathBuf },
}

/// What became of a repair.
#[derive(Debug, Default)]
pub(crate) struct Repaired {
    pub fixed: Vec<Fix>,
    /// Why there is not more. The rest was done in any case.
    pub failures: Vec<PyroError>,
}

pub(crate) async fn repair(config: &Config, store: &Store) -> Repaired {
    let mut repaired = Repaired::default();
    for (directory, mode) in directories(config) {
        match make(&directory, mode) {
            Ok(true) => repaired.fixed.push(Fix::Made { path: directory }),
            Ok(false) => {}
            Err(failure) => repaired.failures.push(failure),
        }
    }
    let before = repaired.note(leftovers::find(config, store).await).unwrap_or_default();
    spares::remove_abandoned(config);
    repaired.note(VmsDirectory::at(config.vms_directory()).census().await);
    let builds = store.remove_abandoned_builds().map_err(|error| {
        PyroError::from_error(ErrorKind::EnvironmentUnavailable, &error)
            .context("cannot remove what interrupted pulls have left")
    });
    let builds = repaired.note(builds).unwrap_or_default();
    let templates = environments::remove_unusable_templates(config, store);
    let templates = repaired.note(templates).unwrap_or_default();

    // Those that are gone now; whoever else came by may have been faster.
    let gone = before.into_iter().filter(|leftover| leftover.path.symlink_metadata().is_err());
    let removed = gone.map(|Leftover { kind, path, .. }| (kind, path));
    let builds = builds.into_iter().map(|path| (LeftoverKind::Build, path));
    let templates = templates.into_iter().map(|path| (LeftoverKind::Template, path));
    // What was found as well as told is one thing.
    let removed: BTreeSet<_> = removed.chain(builds).chain(templates).collect();
    repaired.fixed.extend(removed.into_iter().map(|(kind, path)| Fix::Removed { kind, path }));
    repaired
}

impl Repaired {
    fn note<T>(&mut self, result: Result<T, PyroError>) -> Option<T> {
        result.map_err(|failure| self.failures.push(failure)).ok()
    }
}

/// Where things lie, with modes as whoever needs them first gives them: what runs is nobody else's business.
fn directories(config: &Config) -> [(PathBuf, u32); 6] {
    [
        (config.cache_dir.clone(), 0o777),
        (config.templates_directory(), 0o777),
        (config.state_dir.clone(), 0o700),
        (config.vms_directory(), 0o700),
        (config.spares_directory(), 0o700),
        (config.keepers_directory(), 0o700),
    ]
}

/// Makes a directory and those above it, less what the umask takes away; false where it is there.
fn make(directory: &Path, mode: u32) -> Result<bool, PyroError> {
    if directory.is_dir() {
        return Ok(false);
    }
    let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(directory);
    made.map(|()| true).map_err(|error| {
        PyroError::from_error(ErrorKind::Internal, &error)
            .context(format!("cannot make the directory `{}`", directory.display()))
            .hint("set `PYRO_ENVIRONMENT_CACHE_DIR` and `PYRO_STATE_DIR` to directories of yours")
    })
}
