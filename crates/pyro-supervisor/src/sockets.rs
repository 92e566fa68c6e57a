//! Sockets in directories, as spares and those who keep them have: one refuses connections from when its process is
//! gone, however that ended, and then anybody may remove it.

use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// What a process may take from a socket's making to its proper name, beyond any doubt.
const MAKING_MAX: Duration = Duration::from_mins(1);

/// Sockets that are looked at in one directory: more than fit into a host.
const SOCKETS_MAX: usize = 256;

/// The names in a directory at which somebody may listen, in order; nothing where there is none.
pub fn names(directory: &Path) -> Vec<String> {
    let mut names = all_names(directory);
    // One that is being made.
    names.retain(|name| !is_unfinished(name));
    names
}

/// The sockets in a directory that nobody listens at any more. Nothing is removed, and nobody is disturbed.
pub fn abandoned(directory: &Path) -> Vec<PathBuf> {
    let mut names = all_names(directory);
    names.retain(|name| refuses(directory, name));
    let paths = names.into_iter().map(|name| directory.join(name));
    paths.filter(|path| is_socket(path) && !is_being_made(path)).collect()
}

/// Removes the sockets that nobody listens at any more.
pub fn remove_abandoned(directory: &Path) {
    for path in abandoned(directory) {
        // Somebody else may have done it at this moment.
        fs_err::remove_file(path).ok();
    }
}

fn all_names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs_err::read_dir(directory) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<_> = names.take(SOCKETS_MAX).collect();
    names.sort();
    names
}

/// Whether it is yet to get its proper name.
fn is_unfinished(name: &str) -> bool {
    name.starts_with('.')
}

/// Whatever else there is refuses, too, and was not put there by us.
fn is_socket(path: &Path) -> bool {
    fs_err::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// Before it listens it refuses, too.
fn is_being_made(path: &Path) -> bool {
    let is_unfinished = path.file_name().and_then(|name| name.to_str()).is_some_and(is_unfinished);
    let is_old = || {
        let made_at = fs_err::symlink_metadata(path).ok()?.modified().ok()?;
        Some(made_at.elapsed().ok()? > MAKING_MAX)
    };
    is_unfinished && is_old() != Some(true)
}

/// Never waits: whoever has more connections waiting than it may have lives.
fn refuses(directory: &Path, name: &str) -> bool {
    let tried = || {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(directory, flags, Mode::empty())?;
        // The kernel allows 107 bytes for the path of a socket, and this one is always shorter.
        let path = format!("/proc/self/fd/{}/{name}", opened.as_raw_fd());
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(socket, &SocketAddrUnix::new(path)?)
    };
    tried() == Err(Errno::CONNREFUSED)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_sockets_that_nobody_listens_at_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let _living = UnixListener::bind(path("living")).unwrap();
        let _beginning = UnixListener::bind(path(".beginning")).unwrap();
        for name in ["dead", ".dying", ".old"] {
            drop(UnixListener::bind(path(name)).unwrap());
        }
        // What is none of ours is left alone.
        fs_err::write(path("notes"), "").unwrap();
        let long_ago = std::time::SystemTime::now() - MAKING_MAX * 2;
        let long_ago = long_ago.duration_since(std::time::UNIX_EPOCH).unwrap();
        let seconds = long_ago.as_secs().try_into().unwrap();
        let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, path(".old"), &times, rustix::fs::AtFlags::empty())
            .unwrap();
        assert_eq!(names(directory.path()), ["dead", "living", "notes"]);
        assert_eq!(abandoned(directory.path()), [path(".old"), path("dead")]);
        remove_abandoned(directory.path());
        assert_eq!(all_names(directory.path()), [".beginning", ".dying", "living", "notes"]);
    }
}
