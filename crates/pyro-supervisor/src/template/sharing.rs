//! One copy of a template's memory for all VMs that run from it.
//!
//! A VM's memory is a private mapping of a sealed memfd. The first VM fills one from the template's
//! file; the next ones borrow it from a VM that lives, whatever process that belongs to: the newest
//! one writes its process and descriptor into the file `holder`. When all are gone the kernel frees
//! the memory, and the file points nowhere, which is found out by looking.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use super::store::Template;
use crate::background;
use crate::memory;
use crate::packed::UnpackError;

/// For whoever fills the memory at this moment. It takes a tenth of a second; whoever waits longer
/// waits for a process that is stopped, and is better off with a copy of its own.
const FILLING_DEADLINE: Duration = Duration::from_secs(2);

/// The longest text in the file `holder`.
const HOLDER_BYTES_MAX: usize = 32;

/// The memory of `template`, borrowed if some VM has it, or filled from its file. Others borrow it
/// from this process for as long as the descriptor is open.
pub(crate) async fn memory_of(template: &Template, mib: u32) -> Result<OwnedFd, UnpackError> {
    let failed = |source| UnpackError::Io { source };
    let name = memory_name(&template.memory).map_err(failed)?;
    // Without the lock many that start at once would fill as many copies.
    let lock = lock(template).await;
    let memory = if let Some(memory) = borrow_from_holder(template, &name, mib) {
        memory
    } else {
        let image = template.memory.try_clone().map_err(failed)?;
        background::run(move || memory::frozen(&image, &name)).await?
    };
    // Without a holder the next VM fills a copy of its own, which is no more than slower.
    become_holder(template, memory.as_fd()).ok();
    if let Some(lock) = lock {
        // Not by closing it: the lock belongs to the file as the template has it open.
        lock.unlock().ok();
    }
    Ok(memory)
}

/// Tells this file from one that had its name before.
fn memory_name(image: &File) -> io::Result<String> {
    let metadata = image.metadata()?;
    let (inode, seconds, nanoseconds) = (metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
    Ok(format!("pyro-template-{inode}-{seconds}.{nanoseconds}"))
}

async fn lock(template: &Template) -> Option<File> {
    let file = template.memory.try_clone().ok()?;
    let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file));
    tokio::time::timeout(FILLING_DEADLINE, locked).await.ok()?.ok()?.ok()
}

fn borrow_from_holder(template: &Template, name: &str, mib: u32) -> Option<OwnedFd> {
    let holder = fs_err::read_to_string(template.directory.join("holder")).ok()?;
    if holder.len() > HOLDER_BYTES_MAX {
        return None;
    }
    let (pid, fd) = holder.trim().split_once(' ')?;
    memory::borrowed(pid.parse().ok()?, fd.parse().ok()?, name, mib)
}

fn become_holder(template: &Template, memory: BorrowedFd<'_>) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(&template.directory)?;
    write!(file, "{} {}", std::process::id(), memory.as_raw_fd())?;
    file.persist(template.directory.join("holder"))?;
    Ok(())
}
