//! The QEMU program on this host: where it is and which version.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The one program used. Debian's package `qemu-system-x86` has it.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// Why QEMU's version cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    #[error("cannot run `{}`", path.display())]
    CannotRun { path: PathBuf, source: io::Error },
    #[error("`{} --version` printed no version", path.display())]
    NoVersion { path: PathBuf },
}

/// Asks the program at `path` for its version, like `7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)`.
pub fn version(path: &Path) -> Result<String, VersionError> {
    let output = Command::new(path)
        .arg("--version")
        .env_clear()
        .output()
        .map_err(|source| VersionError::CannotRun { path: path.to_owned(), source })?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .next()
        .and_then(|line| line.split_once("version "))
        .map(|(_, version)| version.trim().to_owned())
        .ok_or_else(|| VersionError::NoVersion { path: path.to_owned() })
}

/// Finds `program` in a `PATH`-like list of directories.
///
/// Administrators' directories are searched as well: an ordinary user's `PATH` leaves them out, and
/// some of the programs needed (`mke2fs`) live there.
pub fn find(program: &str, search_path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(search_path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|path| {
            rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_tells_its_version() {
        let path = find(PROGRAM, OsStr::new("/usr/bin")).expect("the tests need QEMU");
        let version = version(&path).unwrap();
        assert!(version.starts_with(|first: char| first.is_ascii_digit()), "{version}");
    }

    #[test]
    fn a_program_without_a_version_is_an_error() {
        let path = find("true", OsStr::new("/usr/bin")).unwrap();
        let answer = version(&path);
        // GNU true does print one, with another wording before the number.
        assert!(answer.is_err(), "{answer:?}");
    }

    #[test]
    fn a_missing_program_is_not_found() {
        assert_eq!(find("no-such-program", OsStr::new("/usr/bin:/bin")), None);
    }
}
