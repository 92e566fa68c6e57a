//! Files that the host gives this VM, in parts; each is in its place whole, or not at all.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pyro_protocol::guest::FilePart;

use crate::console;

/// The file that is being given.
#[derive(Debug, Default)]
pub(crate) struct Files {
    incoming: Option<Incoming>,
}

#[derive(Debug)]
struct Incoming {
    path: String,
    /// What went wrong is told once all parts have come.
    file: io::Result<PartialFile>,
}

/// A file beside the one whose place it will take. It is removed when this is dropped.
#[derive(Debug)]
struct PartialFile {
    file: fs_err::File,
}

impl Files {
    /// Takes the next part of a file. With the last one it tells whether all of it is written.
    pub(crate) fn take(
        &mut self,
        path: String,
        bytes: &[u8],
        part: FilePart,
    ) -> Option<Result<(), String>> {
        let incoming = match self.incoming.take() {
            Some(incoming) if incoming.path == path => incoming,
            // The other one is given up.
            _ => Incoming { file: PartialFile::beside(&path), path },
        };
        let Incoming { path, file } = incoming;
        let file = file.and_then(|mut partial| {
            partial.file.write_all(bytes)?;
            Ok(partial)
        });
        match part {
            FilePart::More => {
                self.incoming = Some(Incoming { path, file });
                None
            }
            FilePart::Last => {
                let placed = file.and_then(|partial| partial.take_place_of(&path));
                Some(placed.map_err(|error| console::truncated(error.to_string())))
            }
        }
    }

    /// Forgets what has not come whole.
    pub(crate) fn give_up(&mut self) {
        self.incoming = None;
    }
}

impl PartialFile {
    fn beside(path: &str) -> io::Result<Self> {
        let target = Path::new(path);
        let invalid = |problem| io::Error::new(io::ErrorKind::InvalidInput, problem);
        let (Some(directory), Some(name), true) =
            (target.parent(), target.file_name(), target.is_absolute())
        else {
            return Err(invalid("it is no absolute path of a file"));
        };
        if target.is_dir() {
            return Err(invalid("a directory has this name"));
        }
        fs_err::create_dir_all(directory)?;
        let mut partial = name.to_owned();
        partial.push(".pyro-partial");
        let file = fs_err::File::create(directory.join(partial))?;
        fs_err::set_permissions(file.path(), Permissions::from_mode(0o644))?;
        Ok(Self { file })
    }

    fn take_place_of(self, path: &str) -> io::Result<()> {
        fs_err::rename(self.partial_path(), path)
    }

    fn partial_path(&self) -> PathBuf {
        self.file.path().to_owned()
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        // It is not there any more if it took its place.
        fs_err::remove_file(self.partial_path()).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new directory, removed at the end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let directory =
                std::env::temp_dir().join(format!("pyro-files-{name}-{}", std::process::id()));
            fs_err::create_dir(&directory).unwrap();
            Self(directory)
        }

        fn path(&self, name: &str) -> String {
            self.0.join(name).to_str().unwrap().to_owned()
        }

        fn names(&self) -> Vec<String> {
            let entries = fs_err::read_dir(&self.0).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            fs_err::remove_dir_all(&self.0).ok();
        }
    }

    #[test]
    fn a_file_comes_in_parts_and_takes_the_place_of_another() {
        let directory = Directory::new("parts");
        let path = directory.path("file");
        fs_err::write(&path, "what was there").unwrap();
        let mut files = Files::default();
        assert_eq!(files.take(path.clone(), b"one, ", FilePart::More), None);
        assert_eq!(fs_err::read_to_string(&path).unwrap(), "what was there");
        assert_eq!(files.take(path.clone(), b"two", FilePart::Last), Some(Ok(())));
        assert_eq!(fs_err::read_to_string(&path).unwrap(), "one, two");
        assert_eq!(fs_err::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(directory.names(), ["file"]);
    }

    #[test]
    fn missing_directories_are_made() {
        let directory = Directory::new("directories");
        let path = directory.path("a/b/file");
        assert_eq!(Files::default().take(path.clone(), b"", FilePart::Last), Some(Ok(())));
        assert_eq!(fs_err::read(&path).unwrap(), b"");
    }

    #[test]
    fn what_cannot_be_written_is_told_once() {
        let directory = Directory::new("refused");
        let mut files = Files::default();
        for path in ["relative".to_owned(), "/".to_owned(), directory.path("."), directory.path("")]
        {
            assert_eq!(files.take(path.clone(), b"text", FilePart::More), None);
            let told = files.take(path.clone(), b"text", FilePart::Last);
            assert!(matches!(told, Some(Err(_))), "{path}: {told:?}");
        }
        assert_eq!(directory.names(), [""; 0]);
    }

    #[test]
    fn a_file_that_is_given_up_leaves_nothing() {
        let directory = Directory::new("given-up");
        let mut files = Files::default();
        files.take(directory.path("one"), b"text", FilePart::More);
        files.take(directory.path("other"), b"text", FilePart::More);
        assert_eq!(directory.names(), ["other.pyro-partial"]);
        files.give_up();
        assert_eq!(directory.names(), [""; 0]);
    }
}
