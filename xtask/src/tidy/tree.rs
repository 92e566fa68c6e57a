//! The text files of the checkout.
//!
//! Walked rather than asked of git, so that a tree without its history can be checked as well.

use std::io;
use std::path::{Path, PathBuf};

/// Directories that hold no sources; a fuzzer writes what it likes.
const NOT_OURS: [&str; 3] = [".git", "target", "corpus"];

/// A text file.
#[derive(Debug)]
pub(super) struct File {
    /// Relative to the root, with slashes.
    pub(super) path: String,
    pub(super) text: String,
}

impl File {
    pub(super) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// The directory it is in, relative to the root.
    pub(super) fn directory(&self) -> &Path {
        Path::new(&self.path).parent().unwrap_or(Path::new(""))
    }

    pub(super) fn has_extension(&self, extension: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|found| found == extension)
    }
}

/// Every text file below `root`, ordered by path.
pub(super) fn files(root: &Path) -> Result<Vec<File>, String> {
    let mut paths = Vec::new();
    walk(root, &mut paths).map_err(|error| error.to_string())?;
    paths.sort_unstable();
    let mut files = Vec::new();
    for path in paths {
        let bytes = fs_err::read(&path).map_err(|error| error.to_string())?;
        // What is no text has no lines to check.
        let Ok(text) = String::from_utf8(bytes) else { continue };
        let relative = path.strip_prefix(root).expect("the walk started at the root");
        files.push(File { path: relative.to_string_lossy().into_owned(), text });
    }
    Ok(files)
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let is_ours = !NOT_OURS.iter().any(|name| entry.file_name() == *name);
        if kind.is_dir() && is_ours {
            walk(&entry.path(), found)?;
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    Ok(())
}
