//! The executables that a build needs, and the packages that provide them.

use std::env::split_paths;
use std::ffi::OsStr;
use std::path::PathBuf;

use rustix::fs::{Access, access};

use crate::pull::error::PullError;

/// Each tool with its Debian package.
const PACKAGES: [(&str, &str); 11] = [
    ("mmdebstrap", "mmdebstrap"),
    ("tar2sqfs", "squashfs-tools-ng"),
    ("unshare", "util-linux"),
    ("newuidmap", "uidmap"),
    ("newgidmap", "uidmap"),
    ("sh", "dash"),
    ("true", "coreutils"),
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
    ("fakechroot", "fakechroot"),
    ("fakeroot", "fakeroot"),
];

/// The executables of this host.
#[derive(Debug)]
pub(crate) struct Tools<'a> {
    search_path: &'a OsStr,
}

impl<'a> Tools<'a> {
    /// Checks for what every build needs.
    pub(crate) fn check(search_path: &'a OsStr) -> Result<Self, PullError> {
        let tools = Self { search_path };
        for tool in ["mmdebstrap", "tar2sqfs", "apt-get", "dpkg-deb"] {
            tools.require(tool)?;
        }
        Ok(tools)
    }

    pub(crate) fn search_path(&self) -> &'a OsStr {
        self.search_path
    }

    pub(crate) fn find(&self, tool: &str) -> Option<PathBuf> {
        split_paths(self.search_path)
            .map(|directory| directory.join(tool))
            .find(|path| path.is_file() && access(path, Access::EXEC_OK).is_ok())
    }

    pub(crate) fn require(&self, tool: &'static str) -> Result<PathBuf, PullError> {
        let package = || {
            PACKAGES.iter().find(|(name, _)| *name == tool).map_or(tool, |&(_, package)| package)
        };
        self.find(tool).ok_or_else(|| PullError::ToolMissing { tool, package: package() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_named_with_the_package_that_has_it() {
        let empty = tempfile::tempdir().unwrap();
        let tools = Tools { search_path: empty.path().as_os_str() };
        let error = tools.require("tar2sqfs").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`tar2sqfs` is not installed (Debian package `squashfs-tools-ng`)"
        );
        assert_eq!(error.hints(), ["install it: `sudo apt-get install squashfs-tools-ng`"]);
    }

    #[test]
    fn a_file_that_cannot_be_executed_is_no_tool() {
        let directory = tempfile::tempdir().unwrap();
        fs_err::write(directory.path().join("tar2sqfs"), "").unwrap();
        let tools = Tools { search_path: directory.path().as_os_str() };
        assert_eq!(tools.find("tar2sqfs"), None);
    }
}
