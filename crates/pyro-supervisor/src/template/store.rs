//! Templates on disk.
//!
//! ```text
//! <root>/<key>/            memory, scratch, state: packed images; environment: what it was made of
//!        partial/<key>/    the same, while it is made
//!        deleted/<key>/    the same, while it is deleted
//!        locks/<key>.lock  held by whoever makes or deletes it
//! ```
//!
//! A directory appears and vanishes by rename, flushed and complete. Whoever opened its files may go
//! on reading when it is deleted, so nobody need lock it for reading.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::key::TemplateKey;
use crate::background;
use crate::packed;

pub(super) const PARTIAL: &str = "partial";
pub(super) const DELETED: &str = "deleted";
pub(super) const LOCKS: &str = "locks";

/// A lock's file that was just opened may be deleted before it is locked; nobody has such bad luck
/// this often.
const LOCK_ATTEMPTS_MAX: u32 = 16;

/// The directory of all templates.
#[derive(Debug, Clone)]
pub(crate) struct TemplateStore {
    pub(super) root: PathBuf,
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

/// The right to make or delete one template; ends with the process at the latest.
#[derive(Debug)]
pub(crate) struct MakerLock {
    path: PathBuf,
    _file: File,
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

    /// The right to make `key`, or nothing while someone else has it.
    pub(crate) fn try_lock(&self, key: &TemplateKey) -> io::Result<Option<MakerLock>> {
        self.lock_with(key, |file| match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        })
    }

    /// Waits for the right to make `key`. Blocks the thread.
    pub(crate) fn lock(&self, key: &TemplateKey) -> io::Result<MakerLock> {
        let lock = self.lock_with(key, |file| file.lock().map(|()| true))?;
        Ok(lock.expect("whoever waits for a lock gets it"))
    }

    /// Begins to make `key` of the environment with this digest. What a dead maker left of it is
    /// deleted.
    pub(crate) fn begin(
        &self,
        key: &TemplateKey,
        environment: &str,
        _lock: &MakerLock,
    ) -> io::Result<PartialTemplate> {
        let directory = self.root.join(PARTIAL).join(key.to_string());
        remove_if_there(&directory)?;
        fs_err::create_dir_all(&directory)?;
        fs_err::write(directory.join("environment"), environment)?;
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

    /// Deletes a template.
    pub(crate) fn remove(&self, key: &TemplateKey, _lock: &MakerLock) -> io::Result<()> {
        let (directory, parent) = (self.directory(key), self.root.join(DELETED));
        if !directory.exists() {
            return Ok(());
        }
        let aside = parent.join(key.to_string());
        remove_if_there(&aside)?;
        fs_err::create_dir_all(parent)?;
        // Out of sight first: a VM that is restored at this moment writes into the directory.
        fs_err::rename(directory, &aside)?;
        remove_if_there(&aside)
    }

    /// Deletes a template, unless another one has taken its place.
    pub(crate) fn remove_if_same(
        &self,
        key: &TemplateKey,
        template: &Template,
        lock: &MakerLock,
    ) -> io::Result<()> {
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let theirs = template.memory.metadata().map(identity)?;
        match fs_err::metadata(self.directory(key).join("memory")).map(identity) {
            Ok(ours) if ours == theirs => self.remove(key, lock),
            Ok(_) => Ok(()),
            // Half of it is missing: it is of no use to anybody.
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.remove(key, lock),
            Err(error) => Err(error),
        }
    }

    pub(super) fn directory(&self, key: &TemplateKey) -> PathBuf {
        self.root.join(key.to_string())
    }

    /// Whether nobody makes or deletes `key` at this moment. Looks, and makes nothing.
    pub(super) fn is_unlocked(&self, key: &TemplateKey) -> io::Result<bool> {
        let lock = match fs_err::File::open(self.lock_path(key)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            opened => opened?.into_file(),
        };
        // Shared, so that two who look do not take each other for a maker.
        match lock.try_lock_shared() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn lock_path(&self, key: &TemplateKey) -> PathBuf {
        self.root.join(LOCKS).join(format!("{key}.lock"))
    }

    /// Locks with `lock`, which says whether it could.
    fn lock_with(
        &self,
        key: &TemplateKey,
        lock: impl Fn(&File) -> io::Result<bool>,
    ) -> io::Result<Option<MakerLock>> {
        fs_err::create_dir_all(self.root.join(LOCKS))?;
        let path = self.lock_path(key);
        for _ in 0..LOCK_ATTEMPTS_MAX {
            let mut options = fs_err::OpenOptions::new();
            let file = options.write(true).create(true).truncate(false).open(&path)?.into_file();
            if !lock(&file)? {
                return Ok(None);
            }
            // The lock on a file that was deleted in between protects nothing.
            if is_at(&file, &path)? {
                return Ok(Some(MakerLock { path, _file: file }));
            }
        }
        Err(io::Error::other(format!("`{}` vanishes again and again", path.display())))
    }
}

impl MakerLock {
    /// Deletes the lock's file, for a template that is gone. Whoever waits for it makes a new one.
    pub(super) fn delete(self) -> io::Result<()> {
        fs_err::remove_file(&self.path)
    }
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

pub(super) fn remove_if_there(directory: &Path) -> io::Result<()> {
    match fs_err::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let opened = file.metadata()?;
    match fs_err::metadata(path) {
        Ok(present) => Ok((present.dev(), present.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{Read, Write};
    use std::time::Duration;

    use super::*;

    /// The digest of the environment of which [`make`] makes templates.
    pub(in super::super) const ENVIRONMENT: &str = "an environment";

    pub(in super::super) fn store() -> (tempfile::TempDir, TemplateStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = TemplateStore::at(&directory.path().join("templates"));
        (directory, store)
    }

    pub(in super::super) fn lock(store: &TemplateStore, key: &TemplateKey) -> MakerLock {
        store.try_lock(key).unwrap().expect("nobody else is here")
    }

    pub(in super::super) fn make(store: &TemplateStore, key: &TemplateKey) {
        let lock = lock(store, key);
        let partial = store.begin(key, ENVIRONMENT, &lock).unwrap();
        (&partial.files.memory).write_all(b"memory").unwrap();
        store.publish(key, &partial, &lock).unwrap();
    }

    #[test]
    fn a_template_is_seen_only_when_it_is_published() {
        let (_directory, store) = store();
        let key = TemplateKey::for_test('a');
        let lock = lock(&store, &key);
        let partial = store.begin(&key, ENVIRONMENT, &lock).unwrap();
        assert!(store.open(&key).unwrap().is_none());
        store.publish(&key, &partial, &lock).unwrap();
        drop(partial);
        assert!(store.open(&key).unwrap().is_some());
    }

    #[test]
    fn a_template_that_was_made_anew_is_not_deleted_for_the_old_ones_fault() {
        let (_directory, store) = store();
        let key = TemplateKey::for_test('a');
        make(&store, &key);
        let old = store.open(&key).unwrap().unwrap();
        make(&store, &key);
        let lock = lock(&store, &key);
        store.remove_if_same(&key, &old, &lock).unwrap();
        let new = store.open(&key).unwrap().expect("the new one is still there");
        store.remove_if_same(&key, &new, &lock).unwrap();
        assert!(store.open(&key).unwrap().is_none());
    }

    #[test]
    fn one_process_makes_a_template_and_another_knows() {
        let (_directory, store) = store();
        let key = TemplateKey::for_test('a');
        let _lock = lock(&store, &key);
        assert!(store.try_lock(&key).unwrap().is_none());
        assert!(store.try_lock(&TemplateKey::for_test('b')).unwrap().is_some());
    }

    #[test]
    fn whoever_waits_for_a_lock_that_is_deleted_gets_the_one_that_counts() {
        let (_directory, store) = store();
        let key = TemplateKey::for_test('a');
        let first = lock(&store, &key);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| store.lock(&key).unwrap());
            first.delete().unwrap();
            let _second = waiting.join().unwrap();
            assert!(store.try_lock(&key).unwrap().is_none());
        });
    }

    #[tokio::test]
    async fn a_template_that_is_given_up_while_it_is_filled_leaves_nothing() {
        let (_directory, store) = store();
        let key = TemplateKey::for_test('a');
        let lock = lock(&store, &key);
        let partial = store.begin(&key, ENVIRONMENT, &lock).unwrap();
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
    fn a_template_that_is_deleted_can_be_read_to_its_end() {
        let (_directory, store) = store();
        let key = TemplateKey::for_test('a');
        make(&store, &key);
        let mut template = store.open(&key).unwrap().unwrap();
        store.remove(&key, &lock(&store, &key)).unwrap();
        assert!(store.open(&key).unwrap().is_none());
        let mut content = String::new();
        template.memory.read_to_string(&mut content).unwrap();
        assert_eq!(content, "memory");
    }
}
