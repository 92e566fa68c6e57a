//! The root file system of the environment in the forms that contenders need, so that all of them
//! run the same programs: an image, an archive, a directory. And `bwrap`, which needs no more.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::workspace;

#[derive(Debug)]
pub(super) struct RootFiles {
    /// Squashfs, as pyro's VMs have it.
    pub(super) image: PathBuf,
    /// Tar, for podman.
    pub(super) archive: PathBuf,
    /// Unpacked, for bubblewrap.
    directory: PathBuf,
}

impl RootFiles {
    /// Unpacks `image` below `place`.
    pub(super) fn unpack(image: PathBuf, place: &Path) -> Result<Self, String> {
        let archive = place.join("root.tar");
        let directory = place.join("root");
        fs_err::create_dir_all(&directory).map_err(|error| error.to_string())?;
        let file = fs_err::File::create(&archive).map_err(|error| error.to_string())?;
        let mut convert = Command::new("sqfs2tar");
        convert.arg(&image).stdout(file.into_file());
        workspace::status(&mut convert)?;
        let mut unpack = Command::new("tar");
        unpack.arg("--extract").arg("--file").arg(&archive).arg("--directory").arg(&directory);
        // Nobody but root can make device files and give files away; none of what is run needs that.
        unpack.args(["--no-same-owner", "--exclude=./dev/*"]);
        workspace::status(&mut unpack)?;
        Ok(Self { image, archive, directory })
    }

    /// A command in namespaces of its own, with this root.
    pub(super) fn bubblewrap(&self, words: &[&str]) -> Command {
        let mut command = Command::new("bwrap");
        command
            .args(["--unshare-all", "--die-with-parent", "--ro-bind"])
            .arg(&self.directory)
            .args(["/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"])
            .args(words);
        command
    }
}
