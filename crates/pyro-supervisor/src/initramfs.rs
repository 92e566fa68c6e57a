//! The guest's first file system: the agent as `/init`, and the kernel's modules.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use cpio::newc::{Builder, trailer};
use pyro_protocol::layout::MODULES_DIRECTORY;

/// The guest's PID 1, a static executable.
pub(crate) const AGENT: &[u8] = include_bytes!(env!("PYRO_AGENT"));

/// Its SHA-256, taken when it was built: every start of a VM needs it for the name of its template.
pub(crate) const AGENT_DIGEST: &str = env!("PYRO_AGENT_DIGEST");

/// Why the archive could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitramfsError {
    #[error("cannot read the kernel module `{}`", path.display())]
    CannotRead { path: PathBuf, source: io::Error },
    #[error("cannot write the initial file system to memory")]
    CannotWrite { source: io::Error },
}

/// Builds the archive in a file that lives in memory. Modules are loaded in the order given.
pub(crate) fn build(modules: &[PathBuf]) -> Result<OwnedFd, InitramfsError> {
    let cannot_write = |source| InitramfsError::CannotWrite { source };
    let memory = rustix::fs::memfd_create("initramfs", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|errno| cannot_write(errno.into()))?;
    let mut archive = Archive { file: File::from(memory), inode: 0 };
    archive.append("dev", S_IFDIR | 0o755, &[]).map_err(cannot_write)?;
    let directory = MODULES_DIRECTORY.trim_start_matches('/');
    archive.append(directory, S_IFDIR | 0o755, &[]).map_err(cannot_write)?;
    for (index, path) in modules.iter().enumerate() {
        let module = fs_err::read(path)
            .map_err(|source| InitramfsError::CannotRead { path: path.clone(), source })?;
        let name = format!("{directory}/{index:03}.ko");
        archive.append(&name, S_IFREG | 0o644, &module).map_err(cannot_write)?;
    }
    archive.append("init", S_IFREG | 0o755, AGENT).map_err(cannot_write)?;
    archive.finish().map_err(cannot_write)
}

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;

struct Archive {
    file: File,
    inode: u32,
}

impl Archive {
    fn append(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let length = u32::try_from(content.len()).map_err(io::Error::other)?;
        let entry = Builder::new(name).ino(self.inode).mode(mode).nlink(1);
        let mut writer = entry.write(&self.file, length);
        writer.write_all(content)?;
        writer.finish()?;
        Ok(())
    }

    fn finish(self) -> io::Result<OwnedFd> {
        trailer(&self.file)?;
        let mut file = self.file;
        file.rewind()?;
        Ok(file.into())
    }
}

#[cfg(test)]
mod tests {
    use cpio::newc::Reader;

    use super::*;

    fn names(archive: OwnedFd) -> Vec<String> {
        let mut archive = File::from(archive);
        let mut names = Vec::new();
        loop {
            let entry = Reader::new(archive).unwrap();
            if entry.entry().is_trailer() {
                return names;
            }
            names.push(entry.entry().name().to_owned());
            archive = entry.finish().unwrap();
        }
    }

    #[test]
    fn modules_are_named_in_the_order_given() {
        let directory = tempfile::tempdir().unwrap();
        let modules: Vec<_> = ["b.ko", "a.ko"].map(|name| directory.path().join(name)).into();
        for module in &modules {
            fs_err::write(module, b"module").unwrap();
        }
        let names = names(build(&modules).unwrap());
        assert_eq!(names, ["dev", "modules", "modules/000.ko", "modules/001.ko", "init"]);
    }

    #[test]
    fn a_missing_module_is_named() {
        let error = build(&[PathBuf::from("/nonexistent/virtio.ko")]).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/virtio.ko"));
    }
}
