//! Files that one VM has and others made from its template have not: read on the host, written by the agent.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use pyro_protocol::client::{GuestFile, GuestFileContent};
use pyro_protocol::guest::{FILE_PART_BYTES_MAX, FilePart, FromGuest, ToGuest};
use rustix::fs::{Mode, OFlags};

use crate::boot::{BootError, Vm};
use crate::link::LinkError;
use crate::untrusted;

/// A file whose content is at hand.
#[derive(Debug)]
pub(crate) struct ReadFile {
    path: String,
    bytes: Vec<u8>,
}

/// Why a VM has not got its files.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestFileError {
    #[error("cannot read `{}`", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("`{}` is no plain file", path.display())]
    NotPlain { path: PathBuf },
    #[error(
        "`{}` has {bytes} bytes, and {} is what a VM is given of one file",
        path.display(),
        GuestFile::HOST_FILE_BYTES_MAX
    )]
    TooLong { path: PathBuf, bytes: u64 },
    #[error("the guest cannot write its `{path}`: {reason}")]
    NotWritten { path: String, reason: String },
    #[error("the guest's agent cannot be given `{path}`")]
    NotGiven { path: String, source: BootError },
}

/// Reads what comes from the host.
pub(crate) fn read(files: &[GuestFile]) -> Result<Vec<ReadFile>, GuestFileError> {
    let read = |file: &GuestFile| {
        let bytes = match &file.content {
            GuestFileContent::Text(text) => text.clone().into_bytes(),
            GuestFileContent::HostFile(path) => host_file(path)?,
        };
        Ok(ReadFile { path: file.path.clone(), bytes })
    };
    files.iter().map(read).collect()
}

/// Has the agent write `files`, one after the other.
pub(crate) async fn write(vm: &mut Vm, files: Vec<ReadFile>) -> Result<(), GuestFileError> {
    for ReadFile { path, bytes } in files {
        let not_given = |source| GuestFileError::NotGiven { path: path.clone(), source };
        send(vm, &path, &bytes)
            .map_err(|source| not_given(BootError::NoConversation { source }))?;
        match vm.next_answer().await.map_err(not_given)? {
            FromGuest::FileWritten => {}
            FromGuest::FileNotWritten { reason } => {
                let reason = untrusted::text(reason);
                return Err(GuestFileError::NotWritten { path, reason });
            }
            FromGuest::Fatal { reason } => {
                let reason = untrusted::text(reason);
                return Err(not_given(BootError::AgentGaveUp { reason }));
            }
            FromGuest::Ready(_)
            | FromGuest::Started { .. }
            | FromGuest::StartFailed { .. }
            | FromGuest::GrantStdin { .. }
            | FromGuest::Exited { .. }
            | FromGuest::Pong
            | FromGuest::Goodbye => return Err(not_given(BootError::UnexpectedAnswer)),
        }
    }
    Ok(())
}

/// The queue of the link is not limited, but a file is.
fn send(vm: &mut Vm, path: &str, bytes: &[u8]) -> Result<(), LinkError> {
    let mut rest = bytes;
    loop {
        let (bytes, after) = rest.split_at(rest.len().min(FILE_PART_BYTES_MAX));
        let part = if after.is_empty() { FilePart::Last } else { FilePart::More };
        let (path, bytes) = (path.to_owned(), bytes.to_vec());
        vm.guest.send_message(&ToGuest::WriteFile { path, bytes, part })?;
        if part == FilePart::Last {
            return Ok(());
        }
        rest = after;
    }
}

fn host_file(path: &Path) -> Result<Vec<u8>, GuestFileError> {
    let unreadable = |source| GuestFileError::Unreadable { path: path.to_owned(), source };
    // A pipe without a writer must not be waited for.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file =
        rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| unreadable(errno.into()));
    let file = std::fs::File::from(file?);
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(GuestFileError::NotPlain { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    // Whatever its length says: it may grow while it is read.
    let bytes_max = GuestFile::HOST_FILE_BYTES_MAX;
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    let length = bytes.len() as u64;
    if length > bytes_max {
        let bytes = metadata.len().max(length);
        return Err(GuestFileError::TooLong { path: path.to_owned(), bytes });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_host_file(path: &Path) -> Result<Vec<ReadFile>, GuestFileError> {
        let content = GuestFileContent::HostFile(path.to_owned());
        read(&[GuestFile { path: "/etc/file".to_owned(), content }])
    }

    #[test]
    fn a_file_of_the_host_is_read_whole_up_to_its_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let length = usize::try_from(GuestFile::HOST_FILE_BYTES_MAX).unwrap();
        fs_err::write(&path, vec![b'x'; length]).unwrap();
        assert_eq!(read_host_file(&path).unwrap()[0].bytes.len(), length);
        fs_err::write(&path, vec![b'x'; length + 7]).unwrap();
        let error = read_host_file(&path).unwrap_err();
        assert!(matches!(error, GuestFileError::TooLong { bytes, .. } if bytes == 4_194_311));
        assert!(error.to_string().contains("4194304"), "{error}");
    }

    #[test]
    fn what_is_no_plain_file_is_refused_and_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RWXU).unwrap();
        for path in [&pipe, directory.path()] {
            let error = read_host_file(path).unwrap_err();
            assert!(matches!(error, GuestFileError::NotPlain { .. }), "{error}");
        }
        let error = read_host_file(&directory.path().join("missing")).unwrap_err();
        assert!(matches!(error, GuestFileError::Unreadable { .. }), "{error}");
    }
}
