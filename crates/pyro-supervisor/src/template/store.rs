//! Templates on disk.
//!
//! ```text
//! <root>/<key>/            memory, scratch, state: packed images
//!        partial/<key>/    the same, while it is made
//!        locks/<key>.lock  held by whoever makes it
//! ```
//!
//! A directory appears by rename, flushed and complete. Whoever opened its files may go on reading
//! when it is deleted, so nobody need lock it for reading.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::key::TemplateKey;
use crate::background;
use crate::packed;

/// All templates together, in bytes on disk: some thirty of the default shape.
const TEMPLATES_BYTES_MAX: u64 = 4 << 30;

/// A template that was not used for this long is deleted.
const UNUSED_MAX: Duration = Duration::from_hours(30 * 24);

const PARTIAL: &str = "partial";
const LOCKS: &str = "locks";

/// The directory of all templates.
#[derive(Debug, Clone)]
pub(crate) struct TemplateStore {
    root: PathBuf,
}

/// The files of one template, open.
#[derive(Debug)]
pub(crate) struct Template {
    pub(crate) directory: PathBuf,
    pub(crate) memory: File,
    pub(crate) scratch: File,
    pub(crate) state: File,
}

/// A template in the making. Nobody sees it before it is published.
#[derive(Debug)]
pub(crate) struct PartialTemplate {
    pub(crate) files: Template,
}

/// The right to make one template; ends with the process at the latest.
#[derive(Debug)]
pub(crate) struct MakerLock {
    _file: File,
}

/// Whether the right to make a template is free.
#[derive(Debug)]
pub(crate) enum MakerLockState {
    Ours(MakerLock),
    /// Another process has it: [`wait_for`] it.
    Taken(File),
}

impl TemplateStore {
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Opens the template, if it is there.
    pub(crate) fn open(&self, key: &TemplateKey) -> io::Result<Option<Template>> {
        let directory = self.directory(key);
        let open =
            |name: &str| fs_err::File::open(directory.join(name)).map(fs_err::File::into_file);
        let opened = || -> io::Result<Template> {
            Ok(Template {
                directory: directory.clone(),
                memory: open("memory")?,
                scratch: open("scratch")?,
                state: open("state")?,
            })
        };
        match opened() {
            Ok(template) => {
                // When it was used last decides what is deleted first; failing to note it is no harm.
                template.state.set_modified(SystemTime::now()).ok();
                Ok(Some(template))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for the right to make `key`.
    pub(crate) fn lock(&self, key: &TemplateKey) -> io::Result<MakerLockState> {
        let file = self.lock_file(&key.to_string())?;
        match file.try_lock() {
            Ok(()) => Ok(MakerLockState::Ours(MakerLock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(MakerLockState::Taken(file)),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Begins to make `key`. What a dead maker left of it is deleted.
    pub(crate) fn begin(
        &self,
        key: &TemplateKey,
        _lock: &MakerLock,
    ) -> io::Result<PartialTemplate> {
        let directory = self.root.join(PARTIAL).join(key.to_string());
        remove_if_there(&directory)?;
        fs_err::create_dir_all(&directory)?;
        let create = |name: &str| {
            let path = directory.join(name);
            let file =
                fs_err::OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
            Ok::<_, io::Error>(file.into_file())
        };
        let [memory, scratch, state] = [create("memory")?, create("scratch")?, create("state")?];
        Ok(PartialTemplate { files: Template { directory, memory, scratch, state } })
    }

    /// Makes a filled template visible, in place of whatever had its name.
    pub(crate) fn publish(
        &self,
        key: &TemplateKey,
        partial: &PartialTemplate,
        lock: &MakerLock,
    ) -> io::Result<()> {
        self.remove(key, lock)?;
        fs_err::rename(&partial.files.directory, self.directory(key))
    }

    /// Deletes a template that turned out to be of no use.
    pub(crate) fn remove(&self, key: &TemplateKey, _lock: &MakerLock) -> io::Result<()> {
        remove_if_there(&self.directory(key))
    }

    /// Deletes what dead makers left, what was not used for long, and what was used least recently
    /// beyond the space for templates.
    pub(crate) fn prune(&self) -> io::Result<()> {
        for name in directory_names(&self.root.join(PARTIAL))? {
            let lock = self.lock_file(&name)?;
            if lock.try_lock().is_ok() {
                remove_if_there(&self.root.join(PARTIAL).join(&name))?;
            }
        }
        let mut templates = Vec::new();
        for name in directory_names(&self.root)? {
            if name == PARTIAL || name == LOCKS {
                continue;
            }
            let directory = self.root.join(&name);
            // Another process may delete it at this moment.
            if let Ok((used_at, bytes)) = usage(&directory) {
                templates.push((used_at, bytes, directory));
            }
        }
        templates.sort_by_key(|(used_at, ..)| std::cmp::Reverse(*used_at));
        let mut kept_bytes = 0;
        for (used_at, bytes, directory) in templates {
            kept_bytes += bytes;
            let is_old = used_at.elapsed().is_ok_and(|unused| unused > UNUSED_MAX);
            if is_old || kept_bytes > TEMPLATES_BYTES_MAX {
                remove_if_there(&directory)?;
            }
        }
        Ok(())
    }

    fn directory(&self, key: &TemplateKey) -> PathBuf {
        self.root.join(key.to_string())
    }

    fn lock_file(&self, name: &str) -> io::Result<File> {
        let directory = self.root.join(LOCKS);
        fs_err::create_dir_all(&directory)?;
        let path = directory.join(format!("{name}.lock"));
        let file =
            fs_err::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        Ok(file.into_file())
    }
}

/// Waits until nobody makes the template any more. Blocks the thread.
pub(crate) fn wait_for(taken: File) -> io::Result<MakerLock> {
    taken.lock()?;
    Ok(MakerLock { _file: taken })
}

impl PartialTemplate {
    /// Packs the parts of a frozen machine into the template and flushes them. When the future is
    /// dropped, the rest goes into files that the drop of this value has deleted.
    pub(crate) async fn fill(&self, memory: File, scratch: File, state: File) -> io::Result<()> {
        let files = &self.files;
        let parts = [
            (memory, files.memory.try_clone()?),
            (scratch, files.scratch.try_clone()?),
            (state, files.state.try_clone()?),
        ];
        background::run(move || {
            for (from, to) in &parts {
                packed::pack(from, to)?;
                to.sync_all()?;
            }
            Ok(())
        })
        .await
    }
}

impl Drop for PartialTemplate {
    fn drop(&mut self) {
        // Published, it has another name. What cannot be deleted is deleted by the next maker.
        remove_if_there(&self.files.directory).ok();
    }
}

fn remove_if_there(directory: &Path) -> io::Result<()> {
    match fs_err::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn directory_names(directory: &Path) -> io::Result<Vec<String>> {
    match fs_err::read_dir(directory) {
        Ok(entries) => {
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn usage(directory: &Path) -> io::Result<(SystemTime, u64)> {
    let used_at = fs_err::metadata(directory.join("state"))?.modified()?;
    let mut bytes = 0;
    for name in ["memory", "scratch", "state"] {
        bytes += fs_err::metadata(directory.join(name))?.len();
    }
    Ok((used_at, bytes))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn store() -> (tempfile::TempDir, TemplateStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = TemplateStore::at(&directory.path().join("templates"));
        (directory, store)
    }

    fn lock(store: &TemplateStore, key: &TemplateKey) -> MakerLock {
        match store.lock(key).unwrap() {
            MakerLockState::Ours(lock) => lock,
            MakerLockState::Taken(_) => panic!("nobody else is here"),
        }
    }

    fn make(store: &TemplateStore, key: &TemplateKey) {
        let lock = lock(store, key);
        let partial = store.begin(key, &lock).unwrap();
        (&partial.files.memory).write_all(b"memory").unwrap();
        store.publish(key, &partial, &lock).unwrap();
    }

    #[test]
    fn a_template_is_seen_only_when_it_is_published() {
        let (_directory, store) = store();
        let key = TemplateKey::for_test('a');
        let lock = lock(&store, &key);
        let partial = store.begin(&key, &lock).unwrap();
        assert!(store.open(&key).unwrap().is_none());
        store.publish(&key, &partial, &lock).unwrap();
        drop(partial);
        assert!(store.open(&key).unwrap().is_some());
    }

    #[test]
    fn one_process_makes_a_template_and_another_knows() {
        let (_directory, store) = store();
        let key = TemplateKey::for_test('a');
        let _lock = lock(&store, &key);
        assert!(matches!(store.lock(&key).unwrap(), MakerLockState::Taken(_)));
        assert!(matches!(
            store.lock(&TemplateKey::for_test('b')).unwrap(),
            MakerLockState::Ours(_)
        ));
    }

    #[tokio::test]
    async fn a_template_that_is_given_up_while_it_is_filled_leaves_nothing() {
        let (_directory, store) = store();
        let key = TemplateKey::for_test('a');
        let lock = lock(&store, &key);
        let partial = store.begin(&key, &lock).unwrap();
        let parts = [(); 3].map(|()| tempfile::tempfile().unwrap());
        parts[0].set_len(1 << 20).unwrap();
        let [memory, scratch, state] = parts;
        // Polled once, so that another thread is at it.
        let filled = tokio::time::timeout(Duration::ZERO, partial.fill(memory, scratch, state));
        filled.await.ok();
        drop(partial);
        assert_eq!(fs_err::read_dir(store.root.join(PARTIAL)).unwrap().count(), 0);
        assert!(store.open(&key).unwrap().is_none());
    }

    #[test]
    fn pruning_deletes_what_a_dead_maker_left_and_leaves_a_live_one_alone() {
        let (_directory, store) = store();
        let [live, dead] = ['a', 'b'].map(TemplateKey::for_test);
        let live_lock = lock(&store, &live);
        let live_partial = store.begin(&live, &live_lock).unwrap();
        let dead_lock = lock(&store, &dead);
        let dead_partial = store.begin(&dead, &dead_lock).unwrap();
        let dead_directory = dead_partial.files.directory.clone();
        // As a killed process would: the directory stays, the lock goes.
        std::mem::forget(dead_partial);
        drop(dead_lock);

        store.prune().unwrap();

        assert!(live_partial.files.directory.exists());
        assert!(!dead_directory.exists());
    }

    #[test]
    fn pruning_deletes_what_was_not_used_for_long() {
        let (_directory, store) = store();
        let [old, new] = ['a', 'b'].map(TemplateKey::for_test);
        make(&store, &old);
        make(&store, &new);
        let state = fs_err::File::open(store.directory(&old).join("state")).unwrap();
        state.file().set_modified(SystemTime::now() - 2 * UNUSED_MAX).unwrap();

        store.prune().unwrap();

        assert!(store.open(&old).unwrap().is_none());
        assert!(store.open(&new).unwrap().is_some());
    }
}
