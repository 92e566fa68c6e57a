//! What runs are measured beside: podman and bubblewrap, on the files of the same environment.

use std::path::PathBuf;

use super::Pyro;
use super::contest::Place;
use super::podman::{self, Podman};
use super::root_files::RootFiles;

/// Gone when it is dropped, with all its files.
#[derive(Debug)]
pub(super) struct Others {
    pub(super) podman: Podman,
    pub(super) root_files: RootFiles,
    /// Last, because what is above lies in it.
    pub(super) place: Place,
}

impl Others {
    /// From an environment's `image`, in a directory of that name below the target directory.
    pub(super) fn prepare(pyro: &Pyro, name: &str, image: PathBuf) -> Result<Self, String> {
        println!("    preparing the other contenders");
        let path = pyro.target.join(name);
        podman::clean_up_after_interruption(&path);
        let place = Place::prepare(path)?;
        let root_files = RootFiles::unpack(image, &place.path)?;
        let podman = Podman::prepare(&root_files.archive, &place.path)?;
        Ok(Self { podman, root_files, place })
    }

    pub(super) fn remove(self) -> Result<(), String> {
        self.podman.remove()?;
        self.place.remove()
    }
}
