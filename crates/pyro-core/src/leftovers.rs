//! What processes that were killed have left, for the doctor to show: nothing that does any harm, and all of
//! it goes with the next call that comes by. Looking deletes nothing and disturbs nobody.

use std::path::PathBuf;

use pyro_environments::Store;
use serde::Serialize;

use crate::config::Config;
use crate::vms::VmsDirectory;
use crate::{ErrorKind, PyroError};

/// Something that somebody left who was killed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Leftover {
    pub kind: LeftoverKind,
    pub path: PathBuf,
    /// The command that removes it.
    pub remedy: &'static str,
}

/// What was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftoverKind {
    /// The directory of a VM. The VM itself died with its supervisor.
    Vm,
    /// A control group, in which nothing runs.
    ControlGroup,
    /// A template that was not finished, or not deleted to its end.
    Template,
    /// An environment or a kernel, likewise.
    Build,
    /// The socket of a spare, or of a process that kept some.
    Spare,
}

impl LeftoverKind {
    /// The command that removes what is of this kind.
    fn remedy(self) -> &'static str {
        match self {
            Self::Vm | Self::ControlGroup => "pyro vm list",
            Self::Template | Self::Build => "pyro env prune",
            Self::Spare => "pyro warm --status",
        }
    }

    fn found(self, paths: Vec<PathBuf>) -> impl Iterator<Item = Leftover> {
        paths.into_iter().map(move |path| Leftover { kind: self, path, remedy: self.remedy() })
    }
}

/// Whatever there is, in order.
pub(crate) async fn find(config: &Config, store: &Store) -> Result<Vec<Leftover>, PyroError> {
    let unreadable = |error: std::io::Error| {
        PyroError::from_error(ErrorKind::EnvironmentUnavailable, &error)
            .context("cannot look for what killed processes have left")
    };
    let vms = VmsDirectory::at(config.vms_directory()).abandoned().await?;
    let mut spares = pyro_supervisor::spare::client::abandoned(&config.spares_directory());
    spares.extend(pyro_supervisor::sockets::abandoned(&config.keepers_directory()));
    let groups = pyro_qemu::confinement::abandoned_groups();
    let templates = pyro_supervisor::abandoned_templates(&config.templates_directory());
    let builds = store.abandoned_builds();
    let mut leftovers: Vec<_> = LeftoverKind::Vm
        .found(vms)
        .chain(LeftoverKind::ControlGroup.found(groups))
        .chain(LeftoverKind::Template.found(templates.map_err(unreadable)?))
        .chain(LeftoverKind::Build.found(builds.map_err(unreadable)?))
        .chain(LeftoverKind::Spare.found(spares))
        .collect();
    leftovers.sort();
    Ok(leftovers)
}
