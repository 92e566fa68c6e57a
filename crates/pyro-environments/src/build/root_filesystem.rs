//! Building the root filesystem of an environment: mmdebstrap writes a tar
//! archive, which tar2sqfs turns into an image as it comes.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use super::process::run_build;
use super::{Build, clean_command};
use crate::pull::error::PullError;
use crate::pull::progress::Artefact;
use crate::store::Package;
use crate::sys::signal_on_parent_death;

/// What nobody reads in a VM is left out while packages are unpacked, and
/// when more are installed in the VM. Licences are kept, and so are the
/// directories of manual pages: some packages (Java's) fail without them.
///
/// `force-unsafe-io`: the tree is thrown away if anything goes wrong, and the
/// image is flushed as a whole.
const DPKG_OPTIONS: [&str; 9] = [
    "force-unsafe-io",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
    "path-exclude=/usr/share/man/*",
    "path-include=/usr/share/man/man[1-9]/",
];

/// Writes the image to `image` and returns what is in it.
pub(crate) fn build_root_filesystem(
    build: &Build<'_>,
    image: &Path,
) -> Result<Vec<Package>, PullError> {
    let mut mmdebstrap = build.mmdebstrap()?;
    mmdebstrap
        .arg(format!("--variant={}", build.definition.variant))
        .arg(format!("--include={}", build.definition.include.join(",")))
        .args(["--format=tar", "--aptopt=Acquire::Languages \"none\""])
        .args(DPKG_OPTIONS.map(|option| format!("--dpkgopt={option}")))
        .arg(Build::hook("setup", "setup"))
        .arg(Build::hook("customize", "customize"));
    build.finish_mmdebstrap(&mut mmdebstrap);
    let packer = tar2sqfs(build, image)?;
    let transcript = run_build(build, mmdebstrap, Artefact::RootFilesystem, Some(packer))?;
    Ok(transcript.packages())
}

/// lz4 unpacks several times faster than zstd, which counts in an emulated
/// guest, for an image that is half as large again.
fn tar2sqfs(build: &Build<'_>, image: &Path) -> Result<Command, PullError> {
    let program = build.tools.require("tar2sqfs")?;
    let mut command = clean_command(&program, build.tools.search_path());
    command
        .env("SOURCE_DATE_EPOCH", build.definition.source_date_epoch.to_string())
        .args(["--quiet", "--no-skip", "--compressor", "lz4"])
        .arg(image);
    signal_on_parent_death(&mut command, Signal::KILL);
    Ok(command)
}
