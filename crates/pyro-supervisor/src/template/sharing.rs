//! One copy of a template's memory for all VMs that run from it.
//!
//! A VM's memory is a private mapping of a sealed memfd. The first VM fills one from the template's
//! file; the next ones borrow it from a VM that lives, whatever process that belongs to: the newest
//! one writes its process, when that started, and its descriptor into the file `holder`. When all are gone the kernel frees
//! the memory, and the file points nowhere, which is found out by looking.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use super::store::Template;
use crate::background;
use crate::memory::{self, Holder};
use crate::packed::UnpackError;

/// For whoever fills the memory at this moment. It takes a tenth of a second; whoever waits longer
/// waits for a process that is stopped, and is better off with a copy of its own.
const FILLING_DEADLINE: Duration = Duration::from_secs(2);

/// The length of the file `holder`: a line, filled up with spaces.
const HOLDER_BYTES: usize = 64;

const HOLDER: &str = "holder";

/// The memory of a template, which may have to be filled before a machine runs from it.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    pub(crate) file: OwnedFd,
    filling: Filling,
    lock: Option<File>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filling {
    /// A VM lent it.
    Done,
    ToDo,
}

/// The memory of `template`, borrowed if some VM has it. Others borrow it from this process, once it is
/// filled, for as long as the descriptor is open.
pub(crate) async fn memory_of(template: &Template, mib: u32) -> io::Result<SharedMemory> {
    let name = memory_name(&template.memory)?;
    // Without the lock many that start at once would fill as many copies.
    let lock = lock(template).await;
    Ok(match holder(template).and_then(|holder| holder.borrow(&name, mib)) {
        // Nobody need wait for who borrows.
        Some(file) => SharedMemory { file, filling: Filling::Done, lock: None },
        None => SharedMemory { file: memory::unfilled(&name, mib)?, filling: Filling::ToDo, lock },
    })
}

impl SharedMemory {
    /// Begins to fill it from the template's file, if nobody has filled it, and ends by letting others
    /// borrow it.
    pub(crate) fn fill(
        &mut self,
        template: &Template,
    ) -> io::Result<impl Future<Output = Result<(), UnpackError>>> {
        let filled = match self.filling {
            Filling::Done => None,
            Filling::ToDo => {
                let memory = File::from(self.file.try_clone()?);
                let image = template.memory.try_clone()?;
                Some(background::run(move || memory::freeze(&memory, &image)))
            }
        };
        Ok(async {
            if let Some(filled) = filled {
                filled.await?;
            }
            self.offer(template);
            Ok(())
        })
    }

    fn offer(&mut self, template: &Template) {
        // Without a holder the next VM fills a copy of its own, which is no more than slower.
        become_holder(template, self.file.as_fd()).ok();
        drop(self.lock.take());
    }
}

/// Tells this file from one that had its name before.
fn memory_name(image: &File) -> io::Result<String> {
    let metadata = image.metadata()?;
    let (inode, seconds, nanoseconds) = (metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
    Ok(format!("pyro-template-{inode}-{seconds}.{nanoseconds}"))
}

/// The lock is let go when the file is closed, also by a wait that nobody waits for any more.
async fn lock(template: &Template) -> Option<File> {
    // Opened anew: a lock belongs to a file as it was opened, and the template's goes on being open.
    let path = format!("/proc/self/fd/{}", template.memory.as_raw_fd());
    let file = fs_err::File::open(path).ok()?.into_file();
    let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file));
    tokio::time::timeout(FILLING_DEADLINE, locked).await.ok()?.ok()?.ok()
}

fn holder(template: &Template) -> Option<Holder> {
    let holder = fs_err::read_to_string(template.directory.join(HOLDER)).ok()?;
    if holder.len() > HOLDER_BYTES {
        return None;
    }
    let mut words = holder.split_whitespace();
    let pid = words.next()?.parse().ok()?;
    let started = words.next()?.parse().ok()?;
    let fd = words.next()?.parse().ok()?;
    Some(Holder { pid, started, fd })
}

fn become_holder(template: &Template, memory: BorrowedFd<'_>) -> io::Result<()> {
    let Holder { pid, started, fd } = Holder::this_process(memory)?;
    let holder = format!("{:<HOLDER_BYTES$}", format!("{pid} {started} {fd}"));
    // In place, because a file that is renamed afterwards stays where this process is killed before.
    // Whoever reads half of one and half of another finds no such process.
    let mut options = fs_err::OpenOptions::new();
    let file =
        options.write(true).create(true).truncate(false).open(template.directory.join(HOLDER))?;
    file.file().write_all_at(holder.as_bytes(), 0)
}

#[cfg(test)]
mod tests {
    use super::super::key::TemplateKey;
    use super::super::store::tests::{make, store};
    use super::*;

    #[test]
    fn a_holder_takes_the_place_of_another_without_a_further_file() {
        let (_directory, store) = store();
        let key = TemplateKey::for_test('a');
        make(&store, &key);
        let template = store.open(&key).unwrap().unwrap();
        let path = template.directory.join(HOLDER);
        fs_err::write(&path, "1 2 3 and whatever else there was").unwrap();
        let before = fs_err::metadata(&path).unwrap().ino();
        become_holder(&template, template.memory.as_fd()).unwrap();
        // A rename would have come by way of another name.
        assert_eq!(fs_err::metadata(&path).unwrap().ino(), before);
        let found = holder(&template).unwrap();
        assert_eq!((found.pid, found.fd), (std::process::id(), template.memory.as_raw_fd()));
    }
}
